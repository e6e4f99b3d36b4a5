"""The engine: profile the floor E, solve the rest by least squares, polish both; many data sets at once.

Minimizes sum_i m_i (ln L_i - ln Lhat_i)^2 over E in [0, min L) and c, Lhat = link(X c, E). Given E it is linear in y,
with weights (dL/dy / L)^2 at the observed loss, which make a residual of y a residual of ln L to first order:
((L - E) / L)^2 for the paper's link, ((L - E)(L0 - L) / ((L0 - E) L))^2 for the anchored one. Gauss-Newton steps at the
fitted losses make the profile exact; the last step is Levenberg-Marquardt on (E, c) together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppl_assets.law.forms import Link
from ppl_assets.law.observations import FloatArray, MaskArray

GRID = 40
"""Floors tried first, even in ln(min L - E)."""

NEAREST = 1e-6
"""Least (min L - E) / min L tried: nearer, one point decides the fit."""

ZOOM, ZOOM_ROUNDS = 9, 2
INNER_STEPS = 3
POLISH_STEPS = 60
CHUNK = 32
"""Data sets solved at once: 32 x 40 floors x 84 points are 0.9 MB an array, which stays in the cache (256: 1.5 times
slower)."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Best fits of R data sets.

    Attributes:
        floor: [R] E, nats a token.
        coefficients: [R, p].
        objective: [R] weighted sum of squared residuals of ln L (Huber's loss where robust).
        converged: [R] whether the polish came to rest.
    """

    floor: FloatArray
    coefficients: FloatArray
    objective: FloatArray
    converged: MaskArray


def solve(
    columns: FloatArray,
    loss: FloatArray,
    multiplicity: FloatArray,
    link: Link,
    base_loss: float,
    huber: float | None = None,
) -> Solution:
    """Fit R data sets that share their columns.

    Args:
        columns: [n, p] X.
        loss: [R, n] measured losses, nats a token.
        multiplicity: [R, n] how often each point counts; 0 leaves it out.
        link: what y is.
        base_loss: L0, nats a token.
        huber: residual of ln L from which a point counts linearly; None for least squares.
    """
    basis, back = _orthonormal(columns)
    parts = []
    for start in range(0, len(loss), CHUNK):
        rows = slice(start, start + CHUNK)
        problem = _Problem.of(basis, loss[rows], multiplicity[rows], link, base_loss)
        parts.append(_polish(problem, *_profile(problem), huber))
    return Solution(
        floor=np.concatenate([p.floor for p in parts]),
        coefficients=np.concatenate([p.coefficients for p in parts]) @ back.T,
        objective=np.concatenate([p.objective for p in parts]),
        converged=np.concatenate([p.converged for p in parts]),
    )


def _orthonormal(columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """[n, p] orthonormal basis of the columns and [p, p] the way back: X back = basis. Lost directions get zero."""
    norms = np.linalg.norm(columns, axis=0)
    norms[norms == 0] = 1.0
    u, s, vt = np.linalg.svd(columns / norms, full_matrices=False)
    inverse = np.where(s > 1e-13 * s[0], 1.0 / np.where(s > 0, s, 1.0), 0.0)
    return u, (vt.T * inverse) / norms[:, None]


@dataclass(frozen=True, eq=False)
class _Problem:
    basis: FloatArray  # [n, p] orthonormal
    loss: FloatArray  # [R, n]
    multiplicity: FloatArray  # [R, n]
    top: FloatArray  # [R] least loss that counts
    link: Link
    base_loss: float

    @classmethod
    def of(
        cls, basis: FloatArray, loss: FloatArray, multiplicity: FloatArray, link: Link, base_loss: float
    ) -> "_Problem":
        counts = multiplicity * (loss < base_loss) if link.anchored else multiplicity
        top = np.where(counts > 0, loss, np.inf).min(axis=1)
        if not np.isfinite(top).all():
            raise ValueError("a data set has no point that counts; leave it out")
        # A point that does not count takes a harmless loss, so that its logarithms stay finite.
        return cls(basis, np.where(counts > 0, loss, top[:, None]), counts, top, link, base_loss)

    def inner(self, floor: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coefficients [R, G, p] and exact objective [R, G] for floors [R, G].

        Weighted least squares at the observed losses, then Gauss-Newton steps at the fitted ones, kept where they gain:
        with a misfit of 3 % the first alone put E at 1.15 where the best was 3.04.
        """
        y = self.link.response(self.loss[:, None], floor[..., None], self.base_loss)  # [R, G, n]
        slope, _ = self.link.slopes(y, floor[..., None], self.base_loss)
        c = self._weighted(np.square(slope / self.loss[:, None]), y)
        y, slope, residual, objective = self._at(floor, c)
        for _ in range(INNER_STEPS):
            flat = np.abs(slope) < 1e-12
            moved = self._weighted(slope**2, y + np.where(flat, 0.0, residual / np.where(flat, 1.0, slope)))
            new = self._at(floor, moved)
            better = new[3] < objective
            c = np.where(better[..., None], moved, c)
            y, slope, residual = (
                np.where(better[..., None], after, before)
                for after, before in zip(new[:3], (y, slope, residual), strict=True)
            )
            objective = np.where(better, new[3], objective)
        return c, objective

    def _at(self, floor: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """y, d ln Lhat / dy and ln L - ln Lhat [R, G, n], objective [R, G], infinite where it overflows."""
        y = c @ self.basis.T
        loss, slope = self.link.loss_and_slope(y, floor[..., None], self.base_loss)
        loss = loss + 1e-300
        residual = np.log(self.loss[:, None] / loss)
        total = (self.multiplicity[:, None] * residual**2).sum(axis=-1)
        return y, slope / loss, residual, np.where(np.isfinite(total), total, np.inf)

    def _weighted(self, weight: FloatArray, y: FloatArray) -> FloatArray:
        """Weighted least squares of y [R, G, n] on the orthonormal columns: normal equations, condition = weights'."""
        p = self.basis.shape[1]
        weight = self.multiplicity[:, None] * weight
        weight = weight / np.maximum(weight.max(axis=-1, keepdims=True), 1e-300)
        outer = (self.basis[:, :, None] * self.basis[:, None, :]).reshape(-1, p * p)
        normal = (weight @ outer).reshape(*y.shape[:-1], p, p)
        trace = np.trace(normal, axis1=-2, axis2=-1)[..., None, None]
        right = ((weight * y) @ self.basis)[..., None]
        return np.linalg.solve(normal + (1e-14 * trace + 1e-300) * np.eye(p), right)[..., 0]

    def residual(self, floor: FloatArray, coefficients: FloatArray) -> FloatArray:
        """[R, n] ln L - ln Lhat; ``floor`` [R], ``coefficients`` [R, p]."""
        y = coefficients @ self.basis.T
        return np.log(self.loss) - np.log(self.link.loss(y, floor[:, None], self.base_loss) + 1e-300)


def _profile(problem: _Problem) -> tuple[FloatArray, FloatArray]:
    """Best floor [R] of a grid in ln(min L - E) zoomed twice, with its coefficients [R, p]."""
    rows = np.arange(len(problem.loss))
    offsets = np.linspace(0.0, np.log(NEAREST), GRID)
    step, at = abs(float(offsets[1])), np.zeros(len(rows))
    for _ in range(1 + ZOOM_ROUNDS):
        points = np.clip(at[:, None] + offsets, np.log(NEAREST), 0.0)
        floor = problem.top[:, None] * -np.expm1(points)
        coefficients, objective = problem.inner(floor)
        best = objective.argmin(axis=1)
        at = points[rows, best]
        offsets = np.linspace(-step, step, ZOOM)
        step = float(offsets[1] - offsets[0])
    return floor[rows, best], coefficients[rows, best]


def _polish(problem: _Problem, floor: FloatArray, c: FloatArray, huber: float | None) -> Solution:
    """Levenberg-Marquardt on (E, c), E kept in [0, min L); a data set stops when its step or gain is rounding."""
    highest = problem.top * (1.0 - NEAREST)
    damping = np.full(len(floor), 1e-6)
    done: NDArray[np.bool_] = np.zeros(len(floor), dtype=bool)
    objective = _objective(problem, floor, c, huber)
    for _ in range(POLISH_STEPS):
        step, promised = _step(problem, floor, c, damping, huber, highest)
        new_floor = np.clip(floor + step[:, 0], 0.0, highest)
        new_c = c + step[:, 1:]
        new_objective = _objective(problem, new_floor, new_c, huber)
        better = (new_objective <= objective) & ~done
        gain = np.where(better, objective - new_objective, 0.0)
        size = np.abs(step[:, 1:]).max(axis=1) / (1.0 + np.abs(c).max(axis=1)) + np.abs(step[:, 0]) / problem.top
        floor = np.where(better, new_floor, floor)
        c = np.where(better[:, None], new_c, c)
        objective = np.where(better, new_objective, objective)
        damping = np.where(better, damping * 0.1, damping * 10.0)
        at_rest = (promised <= 1e-13 * objective + 1e-28) & (damping <= 1.0)
        done |= at_rest | (better & (gain <= 1e-14 * objective) & (size < 1e-7)) | (size < 1e-11) | (damping > 1e10)
        if done.all():
            break
        damping = np.clip(damping, 1e-14, 1e12)
    return Solution(floor, c, objective, done)


def _step(
    problem: _Problem, floor: FloatArray, c: FloatArray, damping: FloatArray, huber: float | None, highest: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Damped Gauss-Newton step [R, 1 + p] and the gain [R] that the gradient promises for it."""
    y = c @ problem.basis.T
    loss = problem.link.loss(y, floor[:, None], problem.base_loss)
    by_y, by_floor = problem.link.slopes(y, floor[:, None], problem.base_loss)
    residual = np.log(problem.loss) - np.log(loss + 1e-300)
    weight = problem.multiplicity if huber is None else problem.multiplicity * _huber_weight(residual, huber)
    jacobian = np.concatenate([(by_floor / loss)[..., None], (by_y / loss)[..., None] * problem.basis], axis=2)
    weighted = (jacobian * weight[..., None]).transpose(0, 2, 1)
    gradient = (weighted @ residual[..., None])[..., 0]
    normal = weighted @ jacobian
    stuck = ((floor <= 0) & (gradient[:, 0] < 0)) | ((floor >= highest) & (gradient[:, 0] > 0))
    normal[stuck, 0, :] = normal[stuck, :, 0] = 0.0
    gradient[stuck, 0] = 0.0
    diagonal = np.diagonal(normal, axis1=1, axis2=2)
    scale = np.maximum(diagonal, 1e-14 * diagonal.max(axis=1, keepdims=True) + 1e-300)
    scale = np.where(diagonal > 0, scale, 1.0)
    root = np.sqrt(scale)
    damped = normal / (root[:, :, None] * root[:, None, :]) + (damping[:, None, None] + 1e-14) * np.eye(1 + c.shape[1])
    step = np.linalg.solve(damped, (gradient / root)[..., None])[..., 0] / root
    return step, np.abs((step * gradient).sum(axis=1))


def _huber_weight(residual: FloatArray, delta: float) -> FloatArray:
    return np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300))


def _objective(problem: _Problem, floor: FloatArray, c: FloatArray, huber: float | None) -> FloatArray:
    """[R] sum of m r^2, or of twice Huber's loss."""
    r = np.abs(problem.residual(floor, c))
    cost = r**2 if huber is None else np.where(r <= huber, r**2, huber * (2 * r - huber))
    total = (problem.multiplicity * cost).sum(axis=1)
    return np.where(np.isfinite(total), total, np.inf)
