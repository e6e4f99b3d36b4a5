"""Exchange chunks of a subset for others until its moments are the ones asked for.

Coordinates are u = (ppl - mu*) / sigma*, so a subset is on target where mean(u) = 0 and var(u) = 1. One exchange moves
two sums, and among half a million pairs one lies within about 1/700 of any wanted move: a handful is enough.
"""

from dataclasses import dataclass, replace

import numpy as np

from ppl_assets.regimes.distribution import FloatArray, IntArray

ALL_PAIRS = 1 << 19
"""Up to this many pairs are all compared; beyond it, pools of POOL by POOL."""

POOL = 512
EXTREMES = 192
FAR_RANKS = 16_384
"""Part of a pool that is taken by distance from the mean, at log-spaced ranks among the FAR_RANKS farthest: a heavy
tail is decided by a few chunks, and the body cannot make up for them."""

GOOD_ENOUGH = 1e-15
IDLE_POOLS = 6
"""Pools without progress after which an exchange is given up."""

KICKS = 24
KICK_ABOVE = 1e-9
"""Where no single exchange helps and J is still above this, up to KICKS disturbed restarts are tried."""


@dataclass(frozen=True)
class Sums:
    """Sums over a subset: number of chunks, u, u^2, tokens."""

    count: float
    first: float
    second: float
    tokens: int = 0

    @classmethod
    def of(cls, u: FloatArray, tokens: IntArray) -> "Sums":
        """Sums of the chunks given."""
        return cls(u.size, float(u.sum()), float(np.dot(u, u)), int(tokens.sum()))

    def plus(self, other: "Sums") -> "Sums":
        """Sums of the union of two disjoint subsets."""
        return Sums(
            self.count + other.count,
            self.first + other.first,
            self.second + other.second,
            self.tokens + other.tokens,
        )

    @property
    def objective(self) -> float:
        """Relative J = mean(u)^2 + (var(u) - 1)^2."""
        mean = self.first / self.count
        return mean**2 + (self.second / self.count - mean**2 - 1.0) ** 2


@dataclass(frozen=True, eq=False)
class Split:
    """A subset and what is left of the pool, as positions into ``u`` and ``tokens``."""

    inner: IntArray
    outer: IntArray
    sums: Sums
    swaps: int = 0


def refine(
    u: FloatArray,
    tokens: IntArray,
    inner: IntArray,
    outer: IntArray,
    *,
    fixed: Sums | None = None,
    window: tuple[int, int] | None = None,
    rounds: int = 400,
    kicks: int = KICKS,
) -> Split:
    """Swap members of ``inner`` and ``outer`` until the moments of ``inner`` with ``fixed`` are (0, 1).

    Args:
        u: float64 [N], standardized perplexity.
        tokens: int64 [N].
        inner: int64 [n], the subset; its order and that of ``outer`` decide which chunks are compared first.
        outer: int64 [m], the chunks that may come in.
        fixed: sums of chunks that belong to the subset and stay.
        window: the subset's tokens (fixed ones included) stay above the first and at most the second number; without
            it only chunks of equal length are swapped.
        rounds: most pair searches.
        kicks: most disturbed restarts where no exchange helps.

    Returns:
        The best split found; deterministic.
    """
    own = Sums.of(u[inner], tokens[inner])
    split = Split(inner.copy(), outer.copy(), own.plus(fixed) if fixed else own)
    if inner.size == 0 or outer.size == 0:
        return split
    best = split = _descend(u, tokens, split, window, rounds)
    for kick in range(kicks):
        if best.sums.objective <= KICK_ABOVE:
            break
        split = _descend(u, tokens, _kicked(u, tokens, best, kick, window), window, 40)
        if split.sums.objective < best.sums.objective:
            best = split
    return best


def _descend(u: FloatArray, tokens: IntArray, split: Split, window: tuple[int, int] | None, rounds: int) -> Split:
    """Apply the best exchange of each pool until none helps."""
    every = split.inner.size * split.outer.size <= ALL_PAIRS
    far = (None, None) if every else (_extremes(u[split.inner]), _extremes(u[split.outer]))
    idle = 0
    for number in range(rounds):
        if split.sums.objective <= GOOD_ENOUGH or idle >= (1 if every else IDLE_POOLS):
            break
        out = _pool(split.inner.size, far[0], number)
        come = _pool(split.outer.size, far[1], number)
        leaving, coming, value = _best_pair(u, tokens, split, out, come, window)
        if value < split.sums.objective * (1 - 1e-6):
            split, idle = _exchange(u, tokens, split, leaving, coming), 0
        else:
            idle += 1
    return split


def _best_pair(
    u: FloatArray, tokens: IntArray, split: Split, out: IntArray, come: IntArray, window: tuple[int, int] | None
) -> tuple[int, int, float]:
    """Places in ``inner`` and ``outer`` of the pair whose exchange gives the least J, and that J."""
    leaving, coming = u[split.inner[out]], u[split.outer[come]]
    count = split.sums.count
    mean = np.subtract.outer(-leaving, -coming)
    mean += split.sums.first
    mean /= count
    np.multiply(mean, mean, out=mean)
    value = np.subtract.outer(-(leaving**2), -(coming**2))
    value += split.sums.second - count
    value /= count
    value -= mean
    np.multiply(value, value, out=value)
    value += mean
    change = np.subtract.outer(-tokens[split.inner[out]], -tokens[split.outer[come]])
    if window is None:
        value[change != 0] = np.inf
    elif change.any():
        after = split.sums.tokens + change
        value[(after <= window[0]) | (after > window[1])] = np.inf
    place = int(np.argmin(value))
    row, column = divmod(place, come.size)
    return int(out[row]), int(come[column]), float(value[row, column])


def _exchange(u: FloatArray, tokens: IntArray, split: Split, leaving: int, coming: int) -> Split:
    """The split after one exchange; the arrays are this call's own and are changed in place."""
    old, new = split.inner[leaving], split.outer[coming]
    split.inner[leaving], split.outer[coming] = new, old
    sums = replace(
        split.sums,
        first=split.sums.first + float(u[new] - u[old]),
        second=split.sums.second + float(u[new] ** 2 - u[old] ** 2),
        tokens=split.sums.tokens + int(tokens[new] - tokens[old]),
    )
    return replace(split, sums=sums, swaps=split.swaps + 1)


def _kicked(u: FloatArray, tokens: IntArray, split: Split, kick: int, window: tuple[int, int] | None) -> Split:
    """A copy of the split with two exchanges that nobody asked for, as far as the token window allows them."""
    moved = replace(split, inner=split.inner.copy(), outer=split.outer.copy())
    for step in range(2):
        leaving = (7 * kick + 3 * step) % moved.inner.size
        coming = (11 * kick + 5 * step) % moved.outer.size
        change = int(tokens[moved.outer[coming]] - tokens[moved.inner[leaving]])
        after = moved.sums.tokens + change
        if change == 0 or (window is not None and window[0] < after <= window[1]):
            moved = _exchange(u, tokens, moved, leaving, coming)
    return moved


def _extremes(u: FloatArray) -> IntArray:
    """Places of members far from the mean, at ranks that thin out: the farthest all, then fewer and fewer."""
    wanted = min(FAR_RANKS, u.size)
    farthest = np.argpartition(-np.abs(u), wanted - 1)[:wanted]
    farthest = farthest[np.argsort(-np.abs(u[farthest]), kind="stable")]
    ranks = np.unique(np.geomspace(1, wanted, EXTREMES).astype(np.int64) - 1)
    return farthest[ranks].astype(np.int64)


def _pool(size: int, far: IntArray | None, number: int) -> IntArray:
    """Places of one pool: all, or the extremes and a window that moves on with each pool."""
    if far is None:
        return np.arange(size)
    width = min(size, POOL - EXTREMES)
    return np.concatenate([far, (np.arange(width) + number * width) % size])
