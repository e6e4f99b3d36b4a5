"""Rows of fixed width that documents share without seeing each other.

Belongs here: which chunk goes into which row, and the arrays that a row becomes. Does not belong here: models and
losses. A *sequence* is what one chunk becomes: the optional prefix followed by its tokens. Its last token is predicted
but never fed, so a sequence of ``n + 1`` tokens fills ``n`` places of a row and every place has a target.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NO_TARGET = -100
"""Target of a place that only fills a row."""

PACKED_WIDTH = 512
"""Least width of a packed row. Masked attention costs its square; narrower rows leave more of themselves empty."""


@dataclass(frozen=True)
class RowPlan:
    """One forward pass: the items of each row.

    Attributes:
        rows: item numbers in each row, in order.
        width: places a row.
        packed: whether rows hold several items or padding; otherwise each row is one item of exactly ``width``.
    """

    rows: list[list[int]]
    width: int
    packed: bool


@dataclass(frozen=True)
class TokenRows:
    """The arrays of one forward pass.

    Attributes:
        inputs: int64 [rows, width], token ids that are fed.
        targets: int64 [rows, width], token ids that are predicted; :data:`NO_TARGET` where nothing is.
        positions: int64 [rows, width], places counted from 0 in each item; None where each row is one item.
    """

    inputs: np.ndarray
    targets: np.ndarray
    positions: np.ndarray | None


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Best-fit decreasing: each item, longest first, goes into the fullest row that still holds it.

    Args:
        lengths: tokens of each item.
        row_tokens: places a row.

    Returns:
        Item numbers of each row. Every item is in exactly one row; no row exceeds ``row_tokens``.

    Raises:
        ValueError: an item is empty or longer than a row.
    """
    for item, length in enumerate(lengths):
        if not 0 < length <= row_tokens:
            raise ValueError(f"item {item} has {length} tokens; a row of {row_tokens} holds 1 to {row_tokens}")
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = defaultdict(list)  # free places -> rows with so many
    free: list[int] = []  # the keys of open_rows, sorted
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(free, lengths[item])
        if place < len(free):
            room = free[place]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
                del free[place]
        else:
            room, row = row_tokens, len(rows)
            rows.append([])
        rows[row].append(item)
        left = room - lengths[item]
        if left:
            if left not in open_rows:
                insort(free, left)
            open_rows[left].append(row)
    return rows


def plan_rows(lengths: Sequence[int], row_tokens: int, packs: bool = True, one_row: bool = False) -> list[RowPlan]:
    """Divide items into forward passes of about ``row_tokens`` places.

    Items of a frequent length form plain ``[rows, length]`` batches: causal attention without any mask, no padding and
    no neighbours. What is left over is packed.

    Args:
        lengths: places of each item, at least 1.
        row_tokens: places of one forward pass; a longer item gets a pass of its own.
        packs: whether the model keeps packed items apart; otherwise every length is batched by itself.
        one_row: packed passes hold a single row, as variable-length attention kernels want it.

    Returns:
        Plans that together hold every item once.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for item, length in enumerate(lengths):
        by_length[length].append(item)
    plans: list[RowPlan] = []
    odd: list[int] = []
    for length in sorted(by_length, reverse=True):
        items = by_length[length]
        if packs and len(by_length) > 1 and 2 * len(items) * length < row_tokens:
            odd.extend(items)
            continue
        count = max(1, row_tokens // length)
        plans.extend(
            RowPlan([[i] for i in items[at : at + count]], length, False) for at in range(0, len(items), count)
        )
    if not odd:
        return plans
    longest = max(lengths[item] for item in odd)
    width = max(longest, row_tokens if one_row else min(PACKED_WIDTH, row_tokens))
    rows = [[odd[i] for i in row] for row in pack([lengths[item] for item in odd], width)]
    count = 1 if one_row else max(1, row_tokens // width)
    for at in range(0, len(rows), count):
        held = rows[at : at + count]
        plans.append(RowPlan(held, max(sum(lengths[i] for i in row) for row in held), True))
    return plans


def sequence(chunk: np.ndarray, prefix_id: int | None) -> np.ndarray:
    """The chunk after its prefix, int64 [n + 1] or [n]."""
    tokens = np.asarray(chunk, dtype=np.int64)
    return tokens if prefix_id is None else np.concatenate([np.array([prefix_id], dtype=np.int64), tokens])


def build_rows(plan: RowPlan, sequences: Sequence[np.ndarray]) -> TokenRows:
    """The arrays of a plan.

    Padding is fed as token 0 with positions of its own after the last item, so no item attends to it.

    Args:
        plan: from :func:`plan_rows`, whose lengths were ``len(sequence) - 1``.
        sequences: int64 arrays, one an item.
    """
    shape = (len(plan.rows), plan.width)
    if not plan.packed:
        stacked = np.stack([sequences[row[0]] for row in plan.rows])
        return TokenRows(stacked[:, :-1], stacked[:, 1:], None)
    inputs, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, NO_TARGET, dtype=np.int64)
    for number, row in enumerate(plan.rows):
        at = 0
        for item in row:
            end = at + len(sequences[item]) - 1
            inputs[number, at:end] = sequences[item][:-1]
            targets[number, at:end] = sequences[item][1:]
            positions[number, at:end] = np.arange(end - at)
            at = end
        positions[number, at:] = np.arange(plan.width - at)
    return TokenRows(inputs, targets, positions)
