"""Maximum-entropy inclusion probabilities with prescribed moments and tokens, each corpus within its limits.

As in :mod:`tilt`, with one further multiplier for every limit: pi = logistic(l0 + l1 u + l2 (u^2 - 1) + a_g - b_g) in
group g, a_g >= 0 the multiplier of its least tokens and b_g >= 0 of its most. A limit that does not bind has the
multiplier 0. The dual stays convex; it is minimized by Newton steps in an active set: a multiplier that a step takes to
0 stays there until its gradient asks for it again.

Where limits and moments contradict each other, a quadratic penalty takes the place of the two moment constraints: the
solution has, with the limits kept, the means of u and u^2 - 1 nearest to 0.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ppl_assets.regimes.distribution import FloatArray, IntArray, sums_by
from ppl_assets.regimes.quotas import Mask
from ppl_assets.regimes.tilt import LENGTH_PASSES, NEWTON_STEPS, SOLVED, Bins, features_of, moments_of

LONGEST_STEP = 5.0
"""Most that one step changes the log odds by: beyond, the curvature it was computed from says nothing."""

MOST_LEVEL = 1e4
"""Where moments are exact, a multiplier beyond this belongs to a problem without a solution."""

SOFTNESS = (1.0, 0.1, 0.01)
"""Of the moments where the limits do not allow them: what is missing in units of the target's deviation is this times
the multiplier, from soft to hard, each the start of the next. With the last one something is left to choose."""


@dataclass(frozen=True, eq=False)
class LimitedTilt:
    """Inclusion probability of each cell, and how the dual ended.

    Attributes:
        inclusion: [C].
        at_least: [G], multipliers of the least tokens; 0 where that limit does not bind.
        at_most: [G], multipliers of the most tokens.
        residual: of the constraints, per selected chunk.
    """

    inclusion: FloatArray
    at_least: FloatArray
    at_most: FloatArray
    residual: float

    @property
    def is_solved(self) -> bool:
        """Whether every constraint holds."""
        return self.residual <= SOLVED


@dataclass(frozen=True, eq=False)
class Cells:
    """The bins of all groups, one group after the other.

    Attributes:
        bins: their sums, [C].
        group: int64 [C], number of each cell's group.
    """

    bins: Bins
    group: IntArray

    @classmethod
    def of(cls, parts: list[Bins]) -> "Cells":
        """The cells of groups 0, 1, ...; where all have one perplexity, moments ask nothing of them."""
        names = ("chunks", "first", "second", "tokens")
        chunks, first, second, tokens = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        if np.ptp(first / chunks) == 0:
            first, second = np.zeros(chunks.size), chunks
        group = np.repeat(np.arange(len(parts)), [part.chunks.size for part in parts])
        return cls(Bins(chunks, first, second, tokens, np.empty(0, np.int64)), group)

    def by_group(self, terms: FloatArray) -> FloatArray:
        """Sum of the terms over each group, [G]."""
        return sums_by(self.group, terms, int(self.group[-1]) + 1)


@dataclass(frozen=True, eq=False)
class Dual:
    """F(x) = sum n log(1 + exp(X x)) - wanted . x + x P x / 2, to be minimized with x >= 0 from ``bounded`` on."""

    columns: FloatArray
    weights: FloatArray
    wanted: FloatArray
    penalty: FloatArray
    bounded: int

    def value(self, x: FloatArray) -> float:
        """F(x)."""
        value = np.dot(self.weights, np.logaddexp(0.0, self.columns @ x)) - self.wanted @ x + x @ self.penalty @ x / 2
        return float(value)

    def change(self, move: FloatArray) -> float:
        """What a move changes the log odds by: the squared mean root, on which a heavy tail has little weight."""
        return float(np.average(np.sqrt(np.abs(self.columns @ move)), weights=self.weights)) ** 2 + 1e-300

    def minimized(self, x: FloatArray, enough: float) -> tuple[FloatArray, float]:
        """The minimum from a start, and the largest element of the gradient there, of multipliers that may move."""
        value = self.value(x)
        for _ in range(NEWTON_STEPS):
            inclusion = expit(self.columns @ x)
            gradient = self.columns.T @ (self.weights * inclusion) - self.wanted + self.penalty @ x
            free = np.ones(x.size, bool)
            free[self.bounded :] = (x[self.bounded :] > 0) | (gradient[self.bounded :] < 0)
            residual = float(np.abs(gradient[free]).max())
            if residual <= enough or (not self.penalty.any() and np.abs(x).max() > MOST_LEVEL):
                break
            move = self._move(x, inclusion, gradient, free)
            falling = np.flatnonzero(move < 0)[np.searchsorted(np.flatnonzero(move < 0), self.bounded) :]
            room = float((x[falling] / -move[falling]).min(initial=np.inf))
            length = min(1.0, room, LONGEST_STEP / self.change(move))
            while length > 1e-12:
                trial = x + length * move
                if length == room:
                    trial[falling[np.argmin(x[falling] / -move[falling])]] = 0.0
                reached = self.value(trial)
                if reached <= value + 1e-4 * length * float(gradient @ move) + 1e-14 * abs(value):
                    break
                length /= 2
            else:
                break
            x, value = trial, reached
        return x, residual

    def _move(self, x: FloatArray, inclusion: FloatArray, gradient: FloatArray, free: Mask) -> FloatArray:
        """The Newton step in the free multipliers, after holding those at 0 that it would take below."""
        free = free.copy()
        while True:
            part = self.columns[:, free]
            hessian = part.T @ (part * (self.weights * inclusion * (1 - inclusion))[:, None])
            hessian += self.penalty[np.ix_(free, free)]
            hessian += (1e-13 * np.trace(hessian) + 1e-300) * np.eye(hessian.shape[0])
            move = np.zeros(x.size)
            move[free] = np.linalg.solve(hessian, -gradient[free])
            below = free & (x <= 0) & (move < 0)
            below[: self.bounded] = False
            if not below.any():
                return move
            free &= ~below


def solve_limited(cells: Cells, tokens: float, least: FloatArray, most: FloatArray) -> LimitedTilt:
    """Inclusion probabilities whose expected tokens are ``tokens``, and each group's within its bounds.

    Args:
        cells: sums in units of the target.
        tokens: token budget.
        least: least tokens of each group, [G]; 0 for none.
        most: most tokens of each group, [G]; infinite for none.

    Returns:
        The probabilities, not solved where the limits do not allow the moments.
    """
    return _solve(cells, tokens, (least, most), 0.0, np.zeros(0))[0]


def nearest_limited(cells: Cells, tokens: float, least: FloatArray, most: FloatArray) -> LimitedTilt:
    """As :func:`solve_limited`, at the nearest moments that the limits allow, less what keeps them smooth."""
    x = np.zeros(0)
    for softness in SOFTNESS:
        tilt, x = _solve(cells, tokens, (least, most), softness, x)
    return tilt


def _solve(
    cells: Cells, tokens: float, bounds: tuple[FloatArray, FloatArray], softness: float, x: FloatArray
) -> tuple[LimitedTilt, FloatArray]:
    """The probabilities, and the multipliers that they come from, found from those given or from none."""
    bins, (least, most) = cells.bins, bounds
    is_fixed = least >= most * (1 - 1e-9)
    fixed, low, high = (
        np.flatnonzero(mask) for mask in (is_fixed, ~is_fixed & (least > 0), ~is_fixed & (most < np.inf))
    )
    # Where the least, or the most, of all groups are the whole budget, the number of chunks is theirs too.
    whole = next((bound for bound in bounds if abs(float(bound.sum()) - tokens) <= 1e-9 * tokens), None)
    total, lengths = float(bins.chunks.sum()), cells.by_group(bins.tokens) / cells.by_group(bins.chunks)
    chunks = total * tokens / float(bins.tokens.sum())
    of_group = cells.group[:, None]
    sides = np.hstack([of_group == fixed, of_group == low, -1.0 * (of_group == high)])
    for attempt in range(LENGTH_PASSES):
        chunks = min(chunks if whole is None else float((whole / lengths).sum()), total * (1 - 1e-9))
        features, wanted = features_of(bins, chunks)
        dual = Dual(
            np.hstack([features, sides]),
            bins.chunks,
            np.concatenate([wanted, *((least / lengths)[part] for part in (fixed, low)), -(most / lengths)[high]]),
            _penalty(bins, features, softness * chunks, sides.shape[1]),
            3 + fixed.size,
        )
        if not x.size:
            x = np.append([np.log(chunks / (total - chunks))], np.zeros(dual.wanted.size - 1))
        x, residual = dual.minimized(x, SOLVED * chunks / 10)
        inclusion = expit(dual.columns @ x)
        ratio = tokens / float(np.dot(inclusion, bins.tokens))
        now = cells.by_group(inclusion * bins.tokens) / np.maximum(cells.by_group(inclusion * bins.chunks), 1e-300)
        drift = np.abs(now / lengths - 1)[is_fixed | (least > 0) | (most < np.inf)].max(initial=0.0)
        if (residual > SOLVED * chunks and attempt > 1) or (abs(ratio - 1) < 1e-9 and drift < 1e-9):
            break
        chunks, lengths = chunks * ratio, np.where(now > 0, now, lengths)
    at_least, at_most = np.zeros(least.size), np.zeros(least.size)
    at_least[fixed], at_most[fixed] = np.maximum(x[3 : 3 + fixed.size], 0), np.maximum(-x[3 : 3 + fixed.size], 0)
    at_least[low], at_most[high] = x[3 + fixed.size : 3 + fixed.size + low.size], x[3 + fixed.size + low.size :]
    return LimitedTilt(inclusion, at_least, at_most, residual / chunks), x


def _penalty(bins: Bins, features: FloatArray, weight: float, sides: int) -> FloatArray:
    """The quadratic form of ``weight`` times the squared multipliers of u and u^2 - 1, in the features' coordinates."""
    # features = moments @ inverse, so plain multipliers are inverse @ level.
    inverse = np.linalg.lstsq(moments_of(bins), features, rcond=None)[0][1:]
    penalty = np.zeros((3 + sides, 3 + sides))
    penalty[:3, :3] = weight * inverse.T @ inverse
    return penalty
