"""Rows of tokens that documents share without seeing each other.

Belongs here: which chunk goes into which forward pass, and the arrays that a pass becomes. Does not belong here: models
and losses. A *sequence* is what one chunk becomes: the optional prefix followed by its tokens. Its last token is
predicted but never fed, so a sequence of ``n + 1`` tokens fills ``n`` places of a row and every place has a target.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NARROWEST = 16
"""Fixed rows come in widths of the budget and its halves, down to a sixteenth."""


@dataclass(frozen=True)
class RowPlan:
    """One forward pass.

    Attributes:
        items: item numbers, in their order in the pass.
        packed: one row that they share, each attending to itself alone; otherwise each is a row of its own, all of one
            length.
    """

    items: list[int]
    packed: bool


@dataclass(frozen=True)
class TokenRows:
    """The arrays of one forward pass.

    Attributes:
        inputs: int64 [rows, width], token ids that are fed; one row where documents share it.
        targets: int64 [tokens], token ids predicted at the first ``tokens`` places; the rest only fills the row.
        positions: int64 [1, width], places counted from 0 in each document; None where each row is one document.
        starts: int32 [documents + 1], where each document begins; None where each row is one.
        lengths: places of each item, in order; they sum to ``tokens``.
        longest: no document is longer.
    """

    inputs: np.ndarray
    targets: np.ndarray
    positions: np.ndarray | None
    starts: np.ndarray | None
    lengths: list[int]
    longest: int


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Best-fit decreasing: each item, longest first, goes into the fullest row that still holds it.

    Args:
        lengths: tokens of each item.
        row_tokens: places a row.

    Returns:
        Item numbers of each row, longest first. Every item is in exactly one row; no row exceeds ``row_tokens``.

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


def plan_rows(lengths: Sequence[int], row_tokens: int, packs: bool = True) -> list[RowPlan]:
    """Divide items into forward passes of at most ``row_tokens`` places.

    Args:
        lengths: places of each item, at least 1.
        row_tokens: places of one forward pass; a longer item gets a pass of its own.
        packs: whether the model keeps documents of one row apart; otherwise every length is batched by itself.

    Returns:
        Plans that together hold every item once.
    """
    if packs:
        long = [item for item, length in enumerate(lengths) if length > row_tokens]
        rest = [item for item, length in enumerate(lengths) if length <= row_tokens]
        rows = pack([lengths[item] for item in rest], row_tokens)
        return [RowPlan([item], True) for item in long] + [RowPlan([rest[i] for i in row], True) for row in rows]
    by_length: dict[int, list[int]] = defaultdict(list)
    for item, length in enumerate(lengths):
        by_length[length].append(item)
    plans: list[RowPlan] = []
    for length in sorted(by_length, reverse=True):
        items, count = by_length[length], max(1, row_tokens // length)
        plans.extend(RowPlan(items[at : at + count], False) for at in range(0, len(items), count))
    return plans


def fixed_width(filled: int, row_tokens: int) -> int:
    """The least of ``row_tokens``, its half, its quarter and so on that holds ``filled`` places.

    A longer pass is rounded up to a whole number of ``row_tokens``.
    """
    if filled > row_tokens:
        return -(-filled // row_tokens) * row_tokens
    width = row_tokens
    while width % 2 == 0 and width // 2 >= max(filled, row_tokens // NARROWEST):
        width //= 2
    return width


def sequence(chunk: np.ndarray, prefix_id: int | None) -> np.ndarray:
    """The chunk after its prefix, int64 [n + 1] or [n]."""
    tokens = np.asarray(chunk, dtype=np.int64)
    return tokens if prefix_id is None else np.concatenate([np.array([prefix_id], dtype=np.int64), tokens])


def build_rows(plan: RowPlan, sequences: Sequence[np.ndarray], width: int = 0, longest: int = 0) -> TokenRows:
    """The arrays of a plan.

    Args:
        plan: from :func:`plan_rows`, whose lengths were ``len(sequence) - 1``.
        sequences: int64 arrays, one an item.
        width: places of a shared row; what is left over is filled with token 0, as documents of its own. 0: as many
            places as there are tokens.
        longest: longest document that a row may hold; 0: that this one does hold.
    """
    held = [sequences[item] for item in plan.items]
    lengths = [len(tokens) - 1 for tokens in held]
    longest = longest or max(lengths)
    if not plan.packed:
        stacked = np.stack(held)
        return TokenRows(stacked[:, :-1], stacked[:, 1:].reshape(-1), None, None, lengths, longest)
    filled = sum(lengths)
    width = width or filled
    documents = lengths + [min(longest, width - at) for at in range(filled, width, longest)]
    inputs = np.zeros((1, width), dtype=np.int64)
    inputs[0, :filled] = np.concatenate([tokens[:-1] for tokens in held])
    targets = np.concatenate([tokens[1:] for tokens in held])
    positions = np.concatenate([np.arange(length, dtype=np.int64) for length in documents])[None]
    return TokenRows(inputs, targets, positions, np.cumsum([0, *documents], dtype=np.int32), lengths, longest)
