"""What of a corpus may be selected: least and most shares of the selected tokens, and the candidates of one corpus.

Belongs here: what limits are, and whether they can be kept at all. Does not belong here: how a subset that keeps them
is drawn (``limited.py``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppl_assets.regimes.candidates import Candidates, ChunkSource, SelectionError
from ppl_assets.regimes.distribution import Block, FloatArray, IntArray


@dataclass(frozen=True)
class Limit:
    """The share of the selected tokens that one corpus may have.

    Attributes:
        corpus: its name in the study.
        least: between 0 and 1.
        most: between ``least`` and 1.
    """

    corpus: str
    least: float = 0.0
    most: float = 1.0


Limits = Sequence[Limit]
"""Limits of some corpora; the group of the chunks of number i is i + 1, of all others 0."""


class OneGroup(ChunkSource):
    """The candidates of one group, at their positions among all; every pass reads all of them."""

    def __init__(self, whole: ChunkSource, group: int) -> None:
        self._whole, self._group = whole, group

    def blocks(self) -> Iterator[Block]:
        """The group's part of every block."""
        for block in self._whole.blocks():
            inside = np.flatnonzero(groups_of(block) == self._group)
            if inside.size:
                yield Block(
                    block.start, block.ppl[inside], block.tokens[inside], block.key[inside], where=block.at(inside)
                )


def groups_of(block: Block) -> NDArray[np.int16]:
    """Groups of a block's chunks.

    Raises:
        SelectionError: the candidates have none.
    """
    if block.group is None:
        raise SelectionError("shares of corpora are limited, and these candidates do not say which corpus they are of")
    return block.group


def group_tokens(candidates: ChunkSource, groups: int) -> FloatArray:
    """Tokens of the candidates of each group, [groups]."""
    sums = np.zeros(groups)
    for block in candidates.blocks():
        sums += np.bincount(groups_of(block), weights=block.tokens, minlength=groups)
    return sums


def taken_tokens(candidates: ChunkSource, index: IntArray, groups: int) -> FloatArray:
    """Tokens of each group among the chunks at these positions, [groups].

    Args:
        candidates: N chunks.
        index: int64 [n], positions, in any order.
        groups: number of groups.
    """
    sums, wanted = np.zeros(groups), np.sort(index)
    for block in candidates.blocks():
        begin, end = np.searchsorted(wanted, (block.start, block.start + block.ppl.size))
        places = wanted[begin:end] - block.start
        sums += np.bincount(groups_of(block)[places], weights=block.tokens[places], minlength=groups)
    return sums


def token_bounds(limits: Limits, tokens: float) -> tuple[FloatArray, FloatArray]:
    """Least and most tokens of each group in a selection of ``tokens``; 0 and infinity where it has no limit."""
    least = np.array([0.0, *(limit.least * tokens for limit in limits)])
    most = np.array([np.inf, *(limit.most * tokens if limit.most < 1 else np.inf for limit in limits)])
    return least, most


def are_kept(limits: Limits, taken: FloatArray) -> bool:
    """Whether shares of the tokens taken lie within their limits.

    Args:
        limits: one a group, from the second on.
        taken: tokens of each group, [G + 1].
    """
    least, most = token_bounds(limits, float(taken.sum()))
    return bool(np.all(taken >= least - 1e-6) and np.all(taken <= most + 1e-6))


def require_room(candidates: ChunkSource, limits: Limits, tokens: int) -> FloatArray:
    """Tokens that each group holds, after refusing limits that no selection of this size can keep, [G + 1].

    Raises:
        SelectionError: a corpus holds less than its least share, or all together may not give the budget.
    """
    held = group_tokens(candidates, len(limits) + 1)
    least, most = token_bounds(limits, tokens)
    for limit, has, wanted in zip(limits, held[1:], least[1:], strict=True):
        if has < wanted:
            raise SelectionError(
                f"corpora.{limit.corpus}.min_share = {limit.least:g} asks for {wanted:,.0f} of {tokens:,} tokens, and "
                f"its candidates have {has:,.0f}: lower min_share or the budget"
            )
    room = float(np.minimum(held, most).sum())
    if room + candidates.longest <= tokens:
        narrow = ", ".join(f"corpora.{limit.corpus}.max_share = {limit.most:g}" for limit in limits if limit.most < 1)
        raise SelectionError(
            f"{narrow} leave {room:,.0f} candidate tokens for a budget of {tokens:,}: raise one of them, or lower the "
            "budget"
        )
    return held


def fill_within(candidates: Candidates, order: IntArray, budget: int, limits: Limits) -> IntArray:
    """The first chunks of an order that fit into the budget and keep the limits to within a chunk.

    Every corpus' least share is set aside first, from the first of its chunks in the order.

    Args:
        candidates: N chunks with their groups.
        order: positions, the most wanted first; a position may stand in it several times.
        budget: tokens.
        limits: one a group, from the second on.

    Raises:
        SelectionError: the limits cannot be kept at this budget.
    """
    require_room(candidates, limits, budget)
    least, most = token_bounds(limits, budget)
    tokens = candidates.tokens[order]
    group = np.zeros(0, np.int16) if candidates.group is None else candidates.group[order]
    is_reserved, is_allowed = np.zeros(order.size, bool), np.ones(order.size, bool)
    for number, (low, high) in enumerate(zip(least, most, strict=True)):
        own = np.flatnonzero(group == number)
        reached = np.cumsum(tokens[own])
        is_reserved[own[: int(np.searchsorted(reached, low))]] = True
        is_allowed[own[reached > high]] = False
    rest = np.flatnonzero(is_allowed & ~is_reserved)
    left = budget - int(tokens[is_reserved].sum())
    is_reserved[rest[: int(np.searchsorted(np.cumsum(tokens[rest]), left, side="right"))]] = True
    return order[is_reserved]
