"""Order a subset so that its prefixes have its moments: one training run then gives a point at every token count.

Prefixes are built from the shortest measured one up: each takes the chunks that it adds evenly over the sorted scores,
with a random start, then exchanges some with the chunks left (:mod:`swaps`) until the whole prefix has the subset's
mean and deviation. Between two measured prefixes the same is done at the middle, again and again.
"""

import numpy as np

from ppl_assets.regimes.candidates import FloatArray, IntArray, SelectionError, hashed_uniforms
from ppl_assets.regimes.swaps import Sums, refine

FINEST = 4
"""Shortest stretch of chunks that is still split."""

MOST_SPLITS = 512
"""A long order is split into stretches of at least 1/512 of it: what is within one moves no measured prefix by 1 %."""

GROUP = 8
"""Neighbouring scores among which the seed chooses."""


def prefix_order(
    ppl: FloatArray, tokens: IntArray, *, seed: int, prefixes: IntArray | list[int]
) -> tuple[IntArray, float]:
    """An order in which every prefix, from the shortest measured one on, is like the whole as nearly as it can be.

    One chunk of a heavy tail may hold a quarter of a short prefix' variance; prefixes around its place then differ, and
    the error returned says by how much.

    Args:
        ppl: float64 [n], perplexity of the subset's chunks.
        tokens: int64 [n], their lengths.
        seed: any integer.
        prefixes: token counts that will be measured.

    Returns:
        int64 [n], positions in training order; and the largest relative error of mean and deviation over the measured
        prefixes (see :func:`prefix_error`).

    Raises:
        SelectionError: the subset is empty, or a prefix holds no chunk.
    """
    ppl, tokens = np.asarray(ppl, np.float64), np.asarray(tokens, np.int64)
    if ppl.size == 0:
        raise SelectionError("an empty subset has no order; draw at least one chunk")
    wanted = sorted({int(count) for count in prefixes})
    mean_length = tokens.sum() / ppl.size
    cuts = sorted({min(max(int(count / mean_length), 1), ppl.size) for count in wanted})
    sigma = ppl.std()
    hashed = hashed_uniforms(np.arange(ppl.size), seed)
    shuffled = np.argsort(hashed)
    if sigma == 0:
        return shuffled, 0.0
    u = (ppl - ppl.mean()) / sigma
    done, parts, left = Sums(0, 0.0, 0.0), [], shuffled
    for cut in [*cuts, ppl.size]:
        if cut > done.count:
            taken, left = _take(u, tokens, left, cut - int(done.count), done, kicks=12)
            parts.append(_within(u, tokens, taken, done, max(FINEST, ppl.size // MOST_SPLITS)))
            done = done.plus(Sums.of(u[taken], tokens[taken]))
    order = np.concatenate(parts)
    return order, prefix_error(ppl[order], tokens[order], wanted)


def prefix_error(ppl: FloatArray, tokens: IntArray, prefixes: list[int]) -> float:
    """Largest relative error of a measured prefix' mean and deviation from the whole's.

    A prefix is the chunks whose tokens fit into its count; a prefix of the whole has no error.

    Args:
        ppl: float64 [n], in training order.
        tokens: int64 [n], in training order.
        prefixes: token counts.

    Raises:
        SelectionError: a prefix is shorter than the first chunk.
    """
    ends = np.searchsorted(np.cumsum(tokens), np.asarray(prefixes, np.int64), side="right")
    if ends.size and ends.min() == 0:
        raise SelectionError(
            f"a prefix of {min(prefixes)} tokens holds no chunk: the first has {tokens[0]}; measure at more tokens"
        )
    mu, sigma, worst = ppl.mean(), ppl.std(), 0.0
    for end in ends:
        part = ppl[:end]
        worst = max(worst, abs(part.mean() / mu - 1.0), abs(part.std() / sigma - 1.0) if sigma > 0 else 0.0)
    return float(worst)


def prefix_errors(ppl: FloatArray) -> FloatArray:
    """[n] relative error of every prefix' mean and deviation from the whole's, the larger of the two.

    Args:
        ppl: float64 [n], in training order.
    """
    counts = np.arange(1, ppl.size + 1)
    mu, sigma = float(ppl.mean()), float(ppl.std())
    shifted = ppl - mu  # sums of squares around the whole's mean lose no digits
    means = np.cumsum(shifted) / counts
    deviations = np.sqrt(np.maximum(np.cumsum(shifted**2) / counts - means**2, 0.0))
    by_deviation = np.abs(deviations / sigma - 1.0) if sigma > 0 else np.zeros(ppl.size)
    return np.maximum(np.abs(means / mu), by_deviation)


def steady_tokens(ppl: FloatArray, tokens: IntArray, within: float) -> int:
    """Tokens of the shortest prefix from which on every prefix' moments are ``within`` of the whole's.

    Not only measured ones: every chunk ends a prefix. A chunk u deviations away moves the deviation of the n chunks
    that it joins by (u^2 - 1) / 2n of itself, so in any order a prefix beside it is off by at least half of that.

    Args:
        ppl: float64 [n], in training order.
        tokens: int64 [n], in training order.
        within: relative error allowed.
    """
    off = np.flatnonzero(prefix_errors(ppl) > within)
    first = int(off[-1]) + 1 if off.size else 0
    return int(tokens[: min(first, ppl.size - 1) + 1].sum())


def _take(
    u: FloatArray, tokens: IntArray, pool: IntArray, wanted: int, done: Sums, kicks: int = 0
) -> tuple[IntArray, IntArray]:
    """Choose ``wanted`` of the pool so that they and what is done have moments (0, 1); the chosen and the rest."""
    if wanted >= pool.size:
        return pool, pool[:0]
    # Even over the sorted scores: within every group of neighbours the pool's own order, which is random, decides.
    rank = np.empty(pool.size, np.int64)
    rank[np.argsort(u[pool], kind="stable")] = np.arange(pool.size)
    group = rank // GROUP
    sizes = np.bincount(group)
    offset = float(hashed_uniforms(pool[:1], wanted)[0])
    ends = np.minimum(np.floor(np.cumsum(sizes) * (wanted / pool.size) + offset), wanted)
    ends[-1] = wanted
    quota = np.diff(ends, prepend=0)
    by_group = np.argsort(group, kind="stable")
    place = np.arange(pool.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(pool.size, bool)
    chosen[by_group[place < np.repeat(quota, sizes)]] = True
    expected = done.tokens + wanted * float(tokens[pool].mean())
    longest = int(tokens[pool].max())
    now = done.tokens + int(tokens[pool[chosen]].sum())
    window = (min(round(expected) - longest, now - 1), max(round(expected) + longest, now))
    split = refine(u, tokens, pool[chosen], pool[~chosen], fixed=done, window=window, rounds=60, kicks=kicks)
    return split.inner, split.outer


def _within(u: FloatArray, tokens: IntArray, stretch: IntArray, done: Sums, finest: int) -> IntArray:
    """Order a stretch that follows what is done: halve it, with each half on target, down to ``finest`` chunks."""
    if stretch.size <= finest:
        return stretch
    first, second = _take(u, tokens, stretch, stretch.size // 2, done)
    after = done.plus(Sums.of(u[first], tokens[first]))
    return np.concatenate([_within(u, tokens, first, done, finest), _within(u, tokens, second, after, finest)])
