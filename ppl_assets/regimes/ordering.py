"""Order a subset so that its prefixes have its moments: one training run then gives a point at every token count.

Prefixes are built from the shortest measured one up: each takes the chunks that it adds evenly over the sorted scores,
with a random start, then exchanges some with the chunks left (:mod:`swaps`) until the whole prefix has the subset's
mean and deviation. Between two measured prefixes the same is done at the middle, again and again.
"""

import numpy as np

from ppl_assets.regimes.candidates import SelectionError, hashed_uniforms
from ppl_assets.regimes.distribution import FloatArray, IntArray
from ppl_assets.regimes.quotas import Mask, first_of_each
from ppl_assets.regimes.swaps import Sums, refine
from ppl_assets.regimes.token_counts import chunks_reaching

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
        SelectionError: the subset is empty.
    """
    ppl, tokens = np.asarray(ppl, np.float64), np.asarray(tokens, np.int64)
    if ppl.size == 0:
        raise SelectionError("an empty subset has no order; draw at least one chunk")
    total = int(tokens.sum())
    wanted = sorted({min(int(count), total) for count in prefixes})
    sigma = ppl.std()
    hashed = hashed_uniforms(np.arange(ppl.size), seed)
    shuffled = np.argsort(hashed)
    if sigma == 0:
        return shuffled, 0.0
    u = (ppl - ppl.mean()) / sigma
    done, parts, left = Sums(0, 0.0, 0.0), [], shuffled
    for count in [*wanted, total]:
        if count > done.tokens:
            taken, left = _reaching(u, tokens, left, count, done)
            part = _within(u, tokens, taken, done, max(FINEST, ppl.size // MOST_SPLITS))
            done = done.plus(Sums.of(u[taken], tokens[taken]))
            parts.append(_long_one_last(part, tokens, done.tokens - count))
    order = np.concatenate(parts)
    return order, prefix_error(ppl[order], tokens[order], wanted)


def prefix_error(ppl: FloatArray, tokens: IntArray, prefixes: list[int]) -> float:
    """Largest relative error of a measured prefix' mean and deviation from the whole's.

    A prefix ends with the chunk that reaches its count, as a run that is measured there does.

    Args:
        ppl: float64 [n], in training order.
        tokens: int64 [n], in training order.
        prefixes: token counts.
    """
    mu, sigma, worst = ppl.mean(), ppl.std(), 0.0
    for end in chunks_reaching(tokens, prefixes):
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


def _reaching(u: FloatArray, tokens: IntArray, pool: IntArray, count: int, done: Sums) -> tuple[IntArray, IntArray]:
    """Choose chunks that with what is done reach ``count`` tokens and have moments (0, 1); the chosen and the rest."""
    goal, held = count - done.tokens, int(tokens[pool].sum())
    if goal >= held:
        return pool, pool[:0]
    chosen = _spread(u, pool, max(1, round(goal * pool.size / held)))
    now, longest = int(tokens[pool[chosen]].sum()), int(tokens[pool].max())
    if now < goal:
        coming = np.flatnonzero(~chosen)
        chosen[coming[: int(np.searchsorted(np.cumsum(tokens[pool[coming]]), goal - now)) + 1]] = True
    else:
        leaving = np.flatnonzero(chosen)
        chosen[leaving[: int(np.searchsorted(np.cumsum(tokens[pool[leaving]]), now - goal, side="right"))]] = False
    window = (count - 1, count + longest - 1)
    split = refine(u, tokens, pool[chosen], pool[~chosen], fixed=done, window=window, rounds=60, kicks=12)
    return split.inner, split.outer


def _long_one_last(part: IntArray, tokens: IntArray, excess: int) -> IntArray:
    """The stretch with a chunk longer than ``excess`` at its end, so that no earlier one reaches the count."""
    long = np.flatnonzero(tokens[part] > excess)
    if not long.size or long[-1] == part.size - 1:
        return part
    return np.append(np.delete(part, long[-1]), part[long[-1]])


def _halves(u: FloatArray, tokens: IntArray, stretch: IntArray, done: Sums) -> tuple[IntArray, IntArray]:
    """The stretch in two halves, so that what is done and the first have moments (0, 1)."""
    chosen = _spread(u, stretch, stretch.size // 2)
    now, longest = done.tokens + int(tokens[stretch[chosen]].sum()), int(tokens[stretch].max())
    expected = round(done.tokens + (stretch.size // 2) * float(tokens[stretch].mean()))
    window = (min(expected - longest, now - 1), max(expected + longest, now))
    split = refine(u, tokens, stretch[chosen], stretch[~chosen], fixed=done, window=window, rounds=60, kicks=0)
    return split.inner, split.outer


def _spread(u: FloatArray, pool: IntArray, wanted: int) -> Mask:
    """Mark ``wanted`` of the pool, evenly over its sorted scores; bool [pool]."""
    # Even over the sorted scores: within every group of neighbours the pool's own order, which is random, decides.
    rank = np.empty(pool.size, np.int64)
    rank[np.argsort(u[pool], kind="stable")] = np.arange(pool.size)
    group = rank // GROUP
    sizes = np.bincount(group)
    offset = float(hashed_uniforms(pool[:1], wanted)[0])
    ends = np.minimum(np.floor(np.cumsum(sizes) * (wanted / pool.size) + offset), wanted)
    ends[-1] = wanted
    return first_of_each(group, np.diff(ends, prepend=0))


def _within(u: FloatArray, tokens: IntArray, stretch: IntArray, done: Sums, finest: int) -> IntArray:
    """Order a stretch that follows what is done: halve it, with each half on target, down to ``finest`` chunks."""
    if stretch.size <= finest:
        return stretch
    first, second = _halves(u, tokens, stretch, done)
    after = done.plus(Sums.of(u[first], tokens[first]))
    return np.concatenate([_within(u, tokens, first, done, finest), _within(u, tokens, second, after, finest)])
