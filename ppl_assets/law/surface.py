"""The shape of a strength surface inside a region: its highest point, its stationary points, bowl or saddle.

For the paper's form a stationary point is a minimum of the loss if and only if, with A = a0 + a1 s, B = b0 + b1 mu,

    A = -b1 mu ln s,   B = -a1 s ln mu,   A > 0,   B > 0,   A B > (a1 s + b1 mu)^2

which is the Hessian of g = A ln mu + B ln s in (ln mu, ln s) being negative definite; other forms take that Hessian.
"""

from dataclasses import dataclass

import numpy as np

from ppl_assets.law.fit import LawFit
from ppl_assets.law.observations import FloatArray, MaskArray
from ppl_assets.law.region import SearchRegion, Slopes

NEWTON_STEPS = 25
ZOOM_ROUNDS = 5
CANDIDATES = 4
"""Grid points nearest to a stationary point, by length of the Newton step, from which one is looked for."""

NEAR_STEPS = 3.0
"""Longest Newton step, in grid steps, of a grid point that is near to one: some point is, if one lies inside."""


@dataclass(frozen=True)
class Conditions:
    """Whether a point is a minimum of the loss over (mu, sigma).

    Attributes:
        mu: mean perplexity of the point.
        sigma: its standard deviation.
        curvature: eigenvalues of the Hessian of g in (ln mu, ln sigma), lower first; a bowl has both negative.
        A: a0 + a1 s of the paper's form, else None.
        B: b0 + b1 mu of the paper's form, else None.
        cross: a1 s + b1 mu of the paper's form, else None.
        is_bowl: the paper's conditions A > 0, B > 0, A B > cross^2, or both curvatures negative.
    """

    mu: float
    sigma: float
    curvature: tuple[float, float]
    A: float | None
    B: float | None
    cross: float | None
    is_bowl: bool


def conditions(fit: LawFit, mu: float, sigma: float) -> Conditions:
    """Second-order conditions at a stationary point of g."""
    slopes = Slopes.at(fit.form, np.log([mu]), np.log([sigma]), fit.sigma_kind)
    low, high = (float(v) for v in np.linalg.eigvalsh(slopes.hessian(fit.surface_coefficients)[0]))
    if fit.form != "paper":
        return Conditions(mu, sigma, (low, high), None, None, None, high < 0)
    a0, a1, b0, b1 = (float(c) for c in fit.surface_coefficients)
    s = sigma if fit.sigma_kind == "deviation" else sigma**2
    a, b, cross = a0 + a1 * s, b0 + b1 * mu, a1 * s + b1 * mu
    return Conditions(mu, sigma, (low, high), a, b, cross, a > 0 and b > 0 and a * b > cross**2)


@dataclass(frozen=True, eq=False)
class Peaks:
    """Highest points of R surfaces over a region's grid.

    Attributes:
        u: [R] ln mu.
        v: [R] ln sigma.
        is_bowl: [R] whether it is an interior maximum of g: neighbours inside, stationary within 1.5 grid steps,
            Hessian negative definite.
    """

    u: FloatArray
    v: FloatArray
    is_bowl: MaskArray


def peaks(slopes: Slopes, coefficients: FloatArray, region: SearchRegion) -> Peaks:
    """Highest grid points of surfaces with coefficients [R, k], moved by one Newton step where they are bowls."""
    u, v = region.points
    best = (coefficients @ slopes.value.T).argmax(axis=1)
    gradient, hessian = slopes.of_each(coefficients, best)
    determinant = hessian[:, 0, 0] * hessian[:, 1, 1] - hessian[:, 0, 1] ** 2
    scale = np.square(hessian).sum(axis=(1, 2))
    definite = (hessian[:, 0, 0] < 0) & (determinant > 1e-12 * scale)
    safe = np.where(definite[:, None, None], hessian, -np.eye(2))
    step = -np.linalg.solve(safe, gradient[..., None])[..., 0]
    near = (np.abs(step) <= 1.5 * region.step).all(axis=1)
    is_bowl = definite & near & region.surrounded[best] & (coefficients.shape[1] > 0)
    moved = np.where(is_bowl[:, None], step, 0.0)
    return Peaks(u[best] + moved[:, 0], v[best] + moved[:, 1], is_bowl)


def highest(fit: LawFit, region: SearchRegion) -> tuple[float, float]:
    """(ln mu, ln sigma) of the greatest g in the region: grid, then a zoom that never leaves it."""
    u, v = region.points
    best = int(np.argmax(fit.g(np.exp(u), np.exp(v))))
    at, step = np.array([u[best], v[best]]), region.step
    offsets = np.stack(np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9), indexing="ij"), axis=-1).reshape(-1, 2)
    for _ in range(ZOOM_ROUNDS):
        trial = at + offsets * step
        mu, sigma = np.exp(trial[:, 0]), np.exp(trial[:, 1])
        value = np.where(region.contains(mu, sigma), fit.g(mu, sigma), -np.inf)
        if np.isfinite(value).any():
            at = trial[int(np.argmax(value))]
        step = step / 4
    return float(at[0]), float(at[1])


def stationary_points(fit: LawFit, region: SearchRegion, slopes: Slopes) -> list[Conditions]:
    """Stationary points of g in the region, by Newton from the grid points nearest to one."""
    c = fit.surface_coefficients
    if not len(c):
        return []
    u, v = region.points
    gradient, hessian = slopes.gradient(c), slopes.hessian(c)
    regular = np.abs(np.linalg.det(hessian)) > 1e-12 * np.square(hessian).sum(axis=(1, 2)) + 1e-300
    step = np.full_like(gradient, np.inf)
    step[regular] = np.linalg.solve(hessian[regular], gradient[regular][..., None])[..., 0]
    length = np.abs(step / region.step).max(axis=1)
    found: list[Conditions] = []
    starts = [start for start in np.argsort(length)[:CANDIDATES] if length[start] <= NEAR_STEPS]
    for start in starts:
        point = stationary_point(fit, float(u[start]), float(v[start]))
        if point is None or not region.contains(np.exp(point[:1]), np.exp(point[1:]))[0]:
            continue
        known = any(np.hypot(np.log(f.mu) - point[0], np.log(f.sigma) - point[1]) < 1e-4 for f in found)
        if not known:
            found.append(conditions(fit, float(np.exp(point[0])), float(np.exp(point[1]))))
    return found


def stationary_point(fit: LawFit, u: float, v: float) -> FloatArray | None:
    """[2] the stationary point (ln mu, ln sigma) that Newton reaches from a start; None where it does not settle."""
    at, c = np.array([u, v]), fit.surface_coefficients
    for _ in range(NEWTON_STEPS):
        slopes = Slopes.at(fit.form, at[:1], at[1:], fit.sigma_kind)
        hessian = slopes.hessian(c)[0]
        if abs(np.linalg.det(hessian)) <= 1e-14 * np.square(hessian).sum():
            return None
        step = -np.linalg.solve(hessian, slopes.gradient(c)[0])
        at = at + step * min(1.0, 0.5 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(at).max() > 50:
            return None
        if np.abs(step).max() < 1e-8:
            return at
    return None
