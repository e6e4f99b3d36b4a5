"""The paper's greedy selection (Liu et al. 2025, arXiv 2512.21515), exact, in O(log N) a pick.

Each step takes the chunk that gives the least J(S) = w_mu (mu(S) - mu*)^2 + w_sigma (sigma^2(S) - sigma*^2)^2. In the
candidate's perplexity J is a quartic, so its least value over the unused chunks is next to one of at most three roots
of a cubic in the sorted scores; union-find over the used ranks finds the neighbours.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ppl_assets.regimes.candidates import Candidates, SelectionError
from ppl_assets.regimes.distribution import IntArray
from ppl_assets.regimes.drawn import Target

NEIGHBOURS = 2
"""Unused chunks compared on each side of a root: one is enough in exact arithmetic, two where rounding makes ties."""


@dataclass(frozen=True)
class Objective:
    """J in units u = (ppl - mu*) / sigma*: a mean(u)^2 + b (var(u) - 1)^2."""

    mean_weight: float
    variance_weight: float

    @classmethod
    def of(cls, target: Target, kind: Literal["relative", "paper"], w_mu: float, w_sigma: float) -> "Objective":
        """Weights of the relative J (1 and 1) or of the paper's (w_mu sigma*^2 and w_sigma sigma*^4).

        Raises:
            SelectionError: an unknown kind, or weights that are negative or both zero.
        """
        if kind not in ("relative", "paper"):
            raise SelectionError(f"objective = {kind!r} is not known; use relative or paper")
        if not (w_mu >= 0 and w_sigma >= 0 and w_mu + w_sigma > 0):
            raise SelectionError(
                f"weights {w_mu} and {w_sigma} are not accepted: give two that are not negative, one positive"
            )
        if kind == "relative":
            return cls(1.0, 1.0)
        return cls(w_mu * target.sigma**2, w_sigma * target.sigma**4)

    def after(self, u: float, count: int, first: float, second: float) -> float:
        """J of a subset with these sums after u joins it."""
        size = count + 1
        mean = (first + u) / size
        excess = (second + u * u) / size - mean * mean - 1.0
        return self.mean_weight * mean * mean + self.variance_weight * excess * excess

    def stationary(self, count: int, first: float, second: float) -> list[float]:
        """Values u at which J's derivative is zero: at most three.

        With m = count + 1 and k = count, m^3 J'(u) / 2 =
        a m^2 (u + first) + 2 b (k u - first) (k u^2 - 2 first u + m second - first^2 - m^2).
        """
        k, m = float(count), float(count + 1)
        a, b = self.mean_weight, 2.0 * self.variance_weight
        constant = m * second - first * first - m * m
        return real_roots(
            b * k * k / m**2,
            -3.0 * b * k * first / m**2,
            b * (2.0 * first * first + constant * k) / m**2 + a,
            -b * constant * first / m**2 + a * first,
        )


def real_roots(c3: float, c2: float, c1: float, c0: float) -> list[float]:
    """Real roots of c3 x^3 + c2 x^2 + c1 x + c0 with c2 = 0 where c3 = 0, by Cardano and Viete.

    A constant has no root: minus infinity, next to which the lowest score lies.
    """
    if c3 == 0.0:
        return [-c0 / c1] if c1 != 0.0 else [-math.inf]
    shift = c2 / (3.0 * c3)
    p = c1 / c3 - 3.0 * shift * shift
    q = 2.0 * shift**3 - shift * c1 / c3 + c0 / c3
    inside = (q / 2.0) ** 2 + (p / 3.0) ** 3
    if inside > 0.0:
        size = math.cbrt(abs(q) / 2.0 + math.sqrt(inside))
        roots = [math.copysign(size - (p / (3.0 * size) if size else 0.0), -q)]
    else:
        radius = 2.0 * math.sqrt(max(-p, 0.0) / 3.0)
        cosine = 3.0 * q / (p * radius) if p * radius != 0.0 else 0.0
        angle = math.acos(min(1.0, max(-1.0, cosine))) / 3.0
        roots = [radius * math.cos(angle - 2.0 * math.pi * turn / 3.0) for turn in range(3)]
    return [_polished(root - shift, c3, c2, c1, c0) for root in roots]


def _polished(x: float, c3: float, c2: float, c1: float, c0: float) -> float:
    """Two Newton steps."""
    for _ in range(2):
        slope = (3.0 * c3 * x + 2.0 * c2) * x + c1
        if slope == 0.0:
            break
        x -= (((c3 * x + c2) * x + c1) * x + c0) / slope
    return x


def _view(values: Any) -> Any:
    """An array whose elements read as Python numbers: faster one by one than numpy scalars."""
    return memoryview(values)


class _Unused:
    """Ranks not used yet: the next one up and down from any rank, by union-find with path halving."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._up = _view(np.arange(count + 2))
        self._down = _view(np.arange(count + 2))

    def up(self, rank: int) -> int:
        """Least unused rank >= ``rank``; count where there is none."""
        parent = self._up
        while parent[rank] != rank:
            parent[rank] = parent[parent[rank]]
            rank = parent[rank]
        return rank

    def down(self, rank: int) -> int:
        """Greatest unused rank <= ``rank``; -1 where there is none."""
        parent, place = self._down, rank + 1
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place - 1

    def use(self, rank: int) -> None:
        """Take a rank out."""
        self._up[rank] = rank + 1
        self._down[rank + 1] = rank


def greedy_dos(
    candidates: Candidates,
    target: Target,
    seed: int,
    *,
    objective: Literal["relative", "paper"] = "relative",
    w_mu: float = 1.0,
    w_sigma: float = 1.0,
) -> IntArray:
    """Positions in the order picked, until the next pick would exceed the token budget.

    Equal J goes to the lower perplexity, equal perplexity to the smaller hash of (key, seed).

    Args:
        candidates: N chunks.
        target: mean, deviation and token budget.
        seed: decides ties only.
        objective: ``relative`` (see :func:`relative_objective`) or the paper's with weights.
        w_mu: the paper's weight of the squared error of the mean.
        w_sigma: the paper's weight of the squared error of the variance.

    Raises:
        SelectionError: unknown objective or weights.
    """
    rule = Objective.of(target, objective, w_mu, w_sigma)
    ranked = np.lexsort((candidates.uniforms(seed), candidates.ppl))
    u = _view((candidates.ppl[ranked] - target.mu) / target.sigma)
    tokens = _view(candidates.tokens[ranked])
    unused = _Unused(candidates.count)
    picks: list[int] = []
    first = second = 0.0
    left = target.tokens
    while len(picks) < candidates.count:
        rank = _best(rule, u, unused, len(picks), first, second)
        if tokens[rank] > left:
            break
        unused.use(rank)
        picks.append(rank)
        left -= tokens[rank]
        first, second = first + u[rank], second + u[rank] * u[rank]
    return ranked[np.array(picks, np.int64)]


def _best(rule: Objective, u: Any, unused: _Unused, count: int, first: float, second: float) -> int:
    """Rank of the unused chunk with the least J after it joins."""
    size = len(u)
    best, best_rank = math.inf, -1
    for root in rule.stationary(count, first, second):
        place = bisect_left(u, root)
        right, left = unused.up(place), unused.down(place - 1)
        for _ in range(NEIGHBOURS):
            if left >= 0:
                value = rule.after(u[left], count, first, second)
                if value < best or (value == best and left < best_rank):
                    best, best_rank = value, left
                left = unused.down(left - 1)
            if right < size:
                value = rule.after(u[right], count, first, second)
                if value < best or (value == best and right < best_rank):
                    best, best_rank = value, right
                right = unused.up(right + 1)
    return unused.up(bisect_left(u, u[best_rank]))
