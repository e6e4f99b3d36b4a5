"""Which (mean, deviation) of perplexity a subset of a given size can have at all.

For subsets of n of N chunks the attainable (mean, second moment) form a convex set whose extreme points are contiguous
bands and pairs of tails of the sorted scores (Lyapunov; Neyman and Pearson). So at each mean the least variance is the
band with that mean, and the greatest is the two tails with that mean; both come from prefix sums.

Prefix sums are over the atoms of a :class:`Distribution`; a part of an atom counts as that share of its sums. Moments
are over chunks. The budget is in tokens: n = N * tokens / total tokens, which is exact where chunks are equally
long and the expectation where they are not. n need not be whole: its fraction counts as a part of a chunk.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_assets.regimes.candidates import ChunkSource, SelectionError
from ppl_assets.regimes.distribution import Distribution, FloatArray

BISECTIONS = 80
"""Halvings of an interval of ranks: 10^7 / 2^80 is below rounding."""

LEAST_SIGMA_RATIO = 1e-3
"""The margin is a share of a logarithmic range, which must end where the least deviation is 0 (ties)."""

NEAREST_LEVELS = 1025
"""Means compared in each of two passes of the search for the nearest point."""


@dataclass(frozen=True, eq=False)
class ReachableRegion:
    """The exact reachable set of subsets of ``chunks`` chunks; make one with :meth:`at_share`."""

    scores: Distribution
    chunks: float

    @classmethod
    def at_share(cls, candidates: ChunkSource | Distribution, tokens: float) -> "ReachableRegion":
        """The region for subsets of ``tokens`` tokens; more than there are counts as all of them.

        Raises:
            SelectionError: the budget is not positive.
        """
        if not tokens > 0:
            raise SelectionError(f"a subset of {tokens} tokens has no moments; give a positive token budget")
        scores = candidates.distribution if isinstance(candidates, ChunkSource) else candidates
        return cls(scores, scores.count * min(1.0, tokens / scores.total_tokens))

    @cached_property
    def mu_range(self) -> tuple[float, float]:
        """Mean of the lowest and of the highest band: the least and the greatest mean reachable."""
        ends = np.array([0.0, self.scores.count - self.chunks])
        low, high = self.scores.mu + self.scores.scale * self._band(ends)[0]
        return float(low), float(high)

    def sigma_bounds(self, mu: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Least and greatest standard deviation at each mean; NaN where no subset has that mean.

        Args:
            mu: mean perplexities, any shape; both results have it.
        """
        mu = np.asarray(mu, np.float64)
        low, high = self.mu_range
        slack = 1e-12 * max(abs(low), abs(high))
        mean = (np.clip(mu, low, high) - self.scores.mu) / self.scores.scale
        bounds = []
        for family, rising, end in (
            (self._band, True, self.scores.count - self.chunks),
            (self._tails, False, self.chunks),
        ):
            left, right = np.zeros(mu.shape), np.full(mu.shape, end)
            for _ in range(BISECTIONS):
                middle = (left + right) / 2
                go_right = (family(middle)[0] < mean) == rising
                left, right = np.where(go_right, middle, left), np.where(go_right, right, middle)
            first, second = family((left + right) / 2)
            sigma = self.scores.scale * np.sqrt(np.maximum(second - first * first, 0.0))
            bounds.append(np.where((mu >= low - slack) & (mu <= high + slack), sigma, np.nan))
        least, greatest = bounds
        return np.minimum(least, greatest), greatest

    def inner_bounds(self, mu: ArrayLike, margin: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """As :meth:`sigma_bounds`, moved in on both sides by ``margin`` of the range of ln sigma at that mean."""
        low, high = self.sigma_bounds(mu)
        floor = np.maximum(low, LEAST_SIGMA_RATIO * high)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(floor > 0, (high / floor) ** margin, 1.0)
        return (low if margin == 0 else floor * step), high / step

    def inner_mu_range(self, margin: float) -> tuple[float, float]:
        """As :attr:`mu_range`, moved in on both sides by ``margin`` of the range of ln mu."""
        low, high = self.mu_range
        step = (high / low) ** margin
        return low * step, high / step

    def contains(self, mu: float, sigma: float, margin: float = 0.0) -> bool:
        """Whether the point is reachable and at least ``margin`` (a share of the log ranges) from the boundary."""
        low_mu, high_mu = self.inner_mu_range(margin)
        slack = 1e-9
        if not low_mu * (1 - slack) <= mu <= high_mu * (1 + slack):
            return False
        low, high = self.inner_bounds(np.clip(mu, *self.mu_range), margin)
        # A variance near 0 is a difference of sums: its root is known to the root of rounding.
        return bool(low * (1 - slack) - 1e-7 * self.scores.scale <= sigma <= high * (1 + slack))

    def nearest(self, mu: float, sigma: float, margin: float = 0.0) -> tuple[float, float, float]:
        """The point at least ``margin`` inside that is nearest in (ln mu, ln sigma).

        Returns:
            Its mean, its deviation, and the distance in natural logs; the point itself and 0 where it is inside.
        """
        if self.contains(mu, sigma, margin):
            return float(mu), float(sigma), 0.0
        low_mu, high_mu = self.inner_mu_range(margin)
        start, end = np.log(low_mu), np.log(high_mu)
        best = (low_mu, 0.0, np.inf)
        for _ in range(2):
            levels = np.exp(np.linspace(start, end, NEAREST_LEVELS))
            low, high = self.inner_bounds(np.clip(levels, *self.mu_range), margin)
            clipped = np.clip(sigma, low, high)
            with np.errstate(divide="ignore"):
                distance = np.hypot(np.log(levels / mu), np.log(clipped / sigma))
            place = int(np.argmin(distance))
            best = (float(levels[place]), float(clipped[place]), float(distance[place]))
            start, end = np.log(levels[max(place - 1, 0)]), np.log(levels[min(place + 1, NEAREST_LEVELS - 1)])
        return best

    def boundary(self, n: int) -> FloatArray:
        """The outline at ``n`` means equally spaced in ln mu: array [n, 3] of mean, least and greatest deviation."""
        mu = np.geomspace(*self.mu_range, n)
        return np.column_stack([mu, *self.sigma_bounds(mu)])

    def band_at(self, quantile: float) -> float:
        """Mean perplexity of the contiguous band centred at a quantile of the candidates, as far as it fits."""
        room = self.scores.count - self.chunks
        start = np.clip(quantile * self.scores.count - self.chunks / 2, 0.0, room)
        return float(self.scores.mu + self.scores.scale * self._band(np.asarray(start))[0])

    def _sums(self, rank: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Sums of z and z^2 over the ``rank`` lowest chunks, rank a real number."""
        below, first, second = self.scores.prefix_sums
        atom = np.clip(np.searchsorted(below, rank, side="right") - 1, 0, below.size - 2)
        part = (rank - below[atom]) / self.scores.chunks[atom]
        return (
            first[atom] * (1 - part) + first[atom + 1] * part,
            second[atom] * (1 - part) + second[atom + 1] * part,
        )

    def _band(self, start: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean of z and z^2 over the band that starts at a rank; the mean rises with it."""
        low, high = self._sums(start), self._sums(np.minimum(start + self.chunks, self.scores.count))
        return (high[0] - low[0]) / self.chunks, (high[1] - low[1]) / self.chunks

    def _tails(self, below: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean of z and z^2 over the ``below`` lowest and the rest of the chunks highest; the mean falls with it."""
        all_first, all_second = (sums[-1] for sums in self.scores.prefix_sums[1:])
        low, high = self._sums(below), self._sums(self.scores.count - self.chunks + below)
        return (low[0] + all_first - high[0]) / self.chunks, (low[1] + all_second - high[1]) / self.chunks


def budget_reaching(candidates: ChunkSource, mu: float, sigma: float, margin: float = 0.0) -> int:
    """The largest token budget at which (mu, sigma) is reachable; 0 where no subset of two chunks has these moments.

    A smaller subset reaches more: scaling the inclusion weights of a feasible subset down keeps its moments.
    """

    def reaches(tokens: float) -> bool:
        return ReachableRegion.at_share(candidates, tokens).contains(mu, sigma, margin)

    low, high = 2.0 * candidates.total_tokens / candidates.count, float(candidates.total_tokens)
    if reaches(high):
        return candidates.total_tokens
    if low >= high or not reaches(low):
        return 0
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return int(low)
