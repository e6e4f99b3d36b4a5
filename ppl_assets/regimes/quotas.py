"""From inclusion probabilities to whole chunks: quotas a stratum, members by priority, tokens within the budget."""

import numpy as np
from numpy.typing import NDArray

from ppl_assets.regimes.candidates import Candidates, FloatArray, IntArray, SelectionError

Mask = NDArray[np.bool_]

SORTED_PLACES = 1 << 18
"""More than all pools of one refinement together look at."""


def stratified(stratum: IntArray, expected: FloatArray, priority: FloatArray, *, offset: float) -> Mask:
    """Choose chunks by quotas that follow the expected numbers within one, and by the smallest priority in a stratum.

    Args:
        stratum: int [N], stratum of each chunk.
        expected: float [S], expected members of each stratum; at most its size.
        priority: float [N].
        offset: start of the cumulative rounding, in [0, 1).

    Returns:
        bool [N].
    """
    total = round(float(expected.sum()))
    ends = np.minimum(np.floor(np.cumsum(expected) + offset + 1e-9), total)
    ends[-1] = total
    quotas = np.diff(ends, prepend=0).astype(np.int64)
    # One sort of 64-bit words, stratum above and priority below, is four times faster than a two-key sort at 10^7.
    scaled = np.clip((priority + 72.0) / 144.0, 0.0, 1 - 2.0**-52)
    word = (stratum.astype(np.uint64) << np.uint64(50)) | (scaled * 2.0**50).astype(np.uint64)
    order = np.argsort(word, kind="stable")
    sizes = np.bincount(stratum, minlength=expected.size)
    place = np.arange(order.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(order.size, bool)
    chosen[order[place < np.repeat(quotas, sizes)]] = True
    return chosen


def at_budget(tokens: IntArray, chosen: Mask, priority: FloatArray, budget: int) -> Mask:
    """Remove the least or add the most wanted chunks until the tokens are within one chunk below the budget."""
    total = int(tokens[chosen].sum())
    if total == budget:
        return chosen
    if total > budget:
        leaving = np.flatnonzero(chosen)
        leaving = leaving[np.argsort(-priority[leaving])]
        gone = np.cumsum(tokens[leaving])
        chosen[leaving[: int(np.searchsorted(gone, total - budget)) + 1]] = False
    else:
        coming = np.flatnonzero(~chosen)
        coming = coming[np.argsort(priority[coming])]
        chosen[coming[np.cumsum(tokens[coming]) <= budget - total]] = True
    return chosen


def first_of(values: FloatArray) -> IntArray:
    """Places in ascending order of value as far as anyone looks: SORTED_PLACES of them, then the rest as they come."""
    if values.size <= SORTED_PLACES:
        return np.argsort(values)
    places = np.argpartition(values, SORTED_PLACES)
    first = places[:SORTED_PLACES]
    places[:SORTED_PLACES] = first[np.argsort(values[first])]
    return places


def fill_budget(candidates: Candidates, order: IntArray, budget: int) -> IntArray:
    """The first chunks of an order of positions that fit into the budget together."""
    return order[: int(np.searchsorted(np.cumsum(candidates.tokens[order]), budget, side="right"))]


def require_budget(candidates: Candidates, tokens: int) -> None:
    """Refuse a budget that no chunk fits into.

    Raises:
        SelectionError: with the budget and the shortest chunk.
    """
    if tokens < candidates.shortest:
        raise SelectionError(
            f"a budget of {tokens} tokens is below one chunk: the shortest candidate has {candidates.shortest} tokens; "
            "give more tokens or shorter chunks"
        )
