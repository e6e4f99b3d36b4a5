"""Where an optimum may be looked for: inside the hull of the trials in (ln mu, ln sigma) and the reachable set.

Outside the hull every form of the law runs off to its floor somewhere, so nothing is searched or promised there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from ppl_assets.law.forms import FORMS, SigmaKind
from ppl_assets.law.observations import FloatArray, IntArray, MaskArray, Observations

Reachable = Callable[[FloatArray, FloatArray], MaskArray]

GRID = 61
"""Points a side of the search grid over the hull's box."""

MIN_WIDTH = 0.05
"""Least width of the hull in log units: 5 % in mu or sigma, well above the 1 % that both drift within a run."""

MIN_CELLS = 9
"""Fewer grid points than this inside the region do not hold a neighbourhood."""

DIFFERENCE = 1e-3
"""Step of the central differences in log units."""


def everywhere(mu: FloatArray, _sigma: FloatArray) -> MaskArray:
    """A reachable set without limits, for callers that have none."""
    return np.ones(np.shape(mu), dtype=bool)


@dataclass(frozen=True, eq=False)
class SearchRegion:
    """Hull of the trials in (ln mu, ln sigma), cut by the reachable set.

    Attributes:
        mu: [m] mean perplexity of the trials.
        sigma: [m] their standard deviation.
        inside: predicate of the reachable set: arrays of mu and sigma to flags, any shape.
    """

    mu: FloatArray
    sigma: FloatArray
    inside: Reachable = everywhere

    @classmethod
    def of(cls, obs: Observations, inside: Reachable = everywhere) -> SearchRegion:
        """The region of these measurements, one point a run; without runs that ended no better than the base model.

        No form can follow a loss at or above the base model's, so nothing may be promised near such a place.
        """
        return cls(*obs.subset(~np.isin(obs.run, obs.harmful_runs)).run_means(), inside)

    @cached_property
    def _hull(self) -> scipy.spatial.ConvexHull | None:
        points = np.unique(np.stack([np.log(self.mu), np.log(self.sigma)], axis=1).round(9), axis=0)
        if len(points) < 3:
            return None
        try:
            return scipy.spatial.ConvexHull(points)
        except scipy.spatial.QhullError:
            return None

    @property
    def corners(self) -> FloatArray | None:
        """[k, 2] (mu, sigma) of the hull's corners, counter-clockwise; None where the trials lie on a line."""
        return None if self._hull is None else np.exp(self._hull.points[self._hull.vertices])

    @cached_property
    def width(self) -> float:
        """Least width of the hull over all directions, log units; 0 where it is a line or a point."""
        if self._hull is None:
            return 0.0
        reach = self._hull.equations[:, :2] @ self._hull.points[self._hull.vertices].T + self._hull.equations[:, 2:]
        return float((-reach.min(axis=1)).min())

    @cached_property
    def problem(self) -> str:
        """Why nothing can be searched here, in one sentence; empty where it can."""
        if self.width < MIN_WIDTH:
            return (
                f"the trials span a strip {100 * self.width:.1f} % wide in (mu, sigma), less than the "
                f"{100 * MIN_WIDTH:.0f} % that tells a surface from a line: "
                "add regimes that differ in both mean perplexity and spread"
            )
        if int(self.cells.sum()) < MIN_CELLS:
            return "what the trials cover and what the corpus can give at this budget do not meet: run trials inside it"
        return ""

    def contains(self, mu: FloatArray, sigma: FloatArray) -> MaskArray:
        """Whether points, any shape, lie in the region."""
        mu, sigma = np.broadcast_arrays(np.asarray(mu, float), np.asarray(sigma, float))
        return self.covered(mu, sigma) & np.asarray(self.inside(mu, sigma), dtype=bool)

    def covered(self, mu: FloatArray, sigma: FloatArray) -> MaskArray:
        """Whether points lie in the hull of the trials, reachable or not."""
        if self._hull is None:
            return np.zeros(np.shape(mu), dtype=bool)
        u, v = np.log(np.asarray(mu)), np.log(np.asarray(sigma))
        planes = self._hull.equations
        return np.asarray((np.stack([u, v], axis=-1) @ planes[:, :2].T + planes[:, 2] <= 1e-9).all(axis=-1))

    def distance(self, mu: float, sigma: float) -> float:
        """How far a point lies outside the hull of the trials, log units; 0 inside.

        The largest violation over the hull's sides: exact beside a side, at a corner up to 30 % less. Where the trials
        lie on a line, the distance to the nearest trial.
        """
        at = np.log([mu, sigma])
        if self._hull is None:
            return float(np.hypot(np.log(self.mu) - at[0], np.log(self.sigma) - at[1]).min())
        planes = self._hull.equations
        return max(0.0, float((planes[:, :2] @ at + planes[:, 2]).max()))

    @cached_property
    def axes(self) -> tuple[FloatArray, FloatArray]:
        """[GRID] ln mu and [GRID] ln sigma over the hull's box."""
        u, v = np.log(self.mu), np.log(self.sigma)
        return np.linspace(u.min(), u.max(), GRID), np.linspace(v.min(), v.max(), GRID)

    @cached_property
    def cells(self) -> MaskArray:
        """[GRID, GRID] which grid points lie in the region, ln mu along the first axis."""
        u, v = np.meshgrid(*self.axes, indexing="ij")
        return self.contains(np.exp(u), np.exp(v))

    @cached_property
    def points(self) -> tuple[FloatArray, FloatArray]:
        """[M] ln mu and ln sigma of the grid points in the region."""
        u, v = np.meshgrid(*self.axes, indexing="ij")
        return u[self.cells], v[self.cells]

    @cached_property
    def surrounded(self) -> MaskArray:
        """[M] whether all eight neighbours of a grid point in the region lie in it too."""
        padded = np.pad(self.cells, 1)
        around = np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).all(axis=(2, 3)))
        return around[self.cells]

    @property
    def step(self) -> FloatArray:
        """[2] distance of grid points in ln mu and ln sigma."""
        u, v = self.axes
        return np.array([u[1] - u[0], v[1] - v[0]])


@dataclass(frozen=True, eq=False)
class Slopes:
    """Columns of g and their derivatives in u = ln mu and v = ln sigma; each is [M, k], linear in the coefficients."""

    value: FloatArray
    u: FloatArray
    v: FloatArray
    uu: FloatArray
    uv: FloatArray
    vv: FloatArray

    @classmethod
    def at(cls, form: str, u: FloatArray, v: FloatArray, sigma_kind: SigmaKind = "deviation") -> Slopes:
        """Central differences of a form's columns at points [M]."""
        h = DIFFERENCE

        def f(du: int, dv: int) -> FloatArray:
            return FORMS[form].columns(np.exp(u + du * h), np.exp(v + dv * h), sigma_kind)

        value, east, west, north, south = f(0, 0), f(1, 0), f(-1, 0), f(0, 1), f(0, -1)
        return cls(
            value=value,
            u=(east - west) / (2 * h),
            v=(north - south) / (2 * h),
            uu=(east - 2 * value + west) / h**2,
            vv=(north - 2 * value + south) / h**2,
            uv=(f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / (4 * h**2),
        )

    def gradient(self, c: FloatArray) -> FloatArray:
        """[..., M, 2] gradient of g for coefficients [..., k]."""
        return np.stack([c @ self.u.T, c @ self.v.T], axis=-1)

    def hessian(self, c: FloatArray) -> FloatArray:
        """[..., M, 2, 2] Hessian of g."""
        uu, uv, vv = c @ self.uu.T, c @ self.uv.T, c @ self.vv.T
        return np.stack([np.stack([uu, uv], axis=-1), np.stack([uv, vv], axis=-1)], axis=-2)

    def of_each(self, c: FloatArray, at: IntArray) -> tuple[FloatArray, FloatArray]:
        """[R, 2] gradient and [R, 2, 2] Hessian of R surfaces, coefficients [R, k], each at its own point of [M]."""
        u, v, uu, uv, vv = ((c * columns[at]).sum(axis=1) for columns in (self.u, self.v, self.uu, self.uv, self.vv))
        return np.stack([u, v], axis=-1), np.stack([np.stack([uu, uv], axis=-1), np.stack([uv, vv], axis=-1)], axis=-2)
