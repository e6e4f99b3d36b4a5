"""Budgets and quotas: whole numbers of chunks a stratum, and what a token budget holds."""

import numpy as np
from numpy.typing import NDArray

from ppl_assets.regimes.candidates import Candidates, ChunkSource, SelectionError
from ppl_assets.regimes.distribution import FloatArray, IntArray

Mask = NDArray[np.bool_]

STRATUM_CHUNKS = 48
"""Least chunks a stratum: with 16, rounding the quotas moved 7 % of the picks as a 10 % budget grew by half."""


def quotas_of(expected: FloatArray, sizes: FloatArray, *, offset: float) -> IntArray:
    """Whole numbers that follow the expected ones within one, by cumulative rounding, int64 [S]; at most the sizes.

    Args:
        expected: float [S], expected members of each stratum; at most its size.
        sizes: float [S], chunks of each stratum.
        offset: start of the rounding, in [0, 1).
    """
    total = round(float(expected.sum()))
    ends = np.minimum(np.floor(np.cumsum(expected) + offset + 1e-9), total)
    ends[-1] = total
    return np.minimum(np.diff(ends, prepend=0), sizes).astype(np.int64)


def first_of_each(group: NDArray[np.integer], quota: IntArray) -> Mask:
    """Mark the first ``quota`` of each group in the order given, bool [n].

    Args:
        group: integers [n], from 0 to S - 1.
        quota: int64 [S].
    """
    sizes = np.bincount(group, minlength=quota.size)
    order = np.argsort(group, kind="stable")
    place = np.arange(order.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(order.size, bool)
    chosen[order[place < np.repeat(quota, sizes)]] = True
    return chosen


def fill_budget(candidates: Candidates, order: IntArray, budget: int) -> IntArray:
    """The first chunks of an order of positions that fit into the budget together."""
    return order[: int(np.searchsorted(np.cumsum(candidates.tokens[order]), budget, side="right"))]


def require_budget(candidates: ChunkSource, tokens: int) -> None:
    """Refuse a budget that no chunk fits into.

    Raises:
        SelectionError: with the budget and the shortest chunk.
    """
    if tokens < candidates.shortest:
        raise SelectionError(
            f"a budget of {tokens} tokens is below one chunk: the shortest candidate has {candidates.shortest} tokens; "
            "give more tokens or shorter chunks"
        )
