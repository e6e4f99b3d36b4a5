"""What all plausible forms of the law together say about ln L: one mean, one covariance, and draws from it.

A form's predictions are linear in its constants near its fit (delta method): covariance J C J^T, C from the noise that
the points of a run share and the noise of each. Forms count by how well they predict regimes that they have not seen.
The mixture's covariance is sum p_f (J_f C_f J_f^T + d_f d_f^T), d_f the form's distance from the mixture's mean: what a
form does not know, and what the forms disagree on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppl_assets.law.fit import LawFit, fit
from ppl_assets.law.forms import FORMS, LINKS, LinkName, SigmaKind
from ppl_assets.law.observations import FloatArray, LabelArray, Observations
from ppl_assets.law.uncertainty import NoiseParts, noise_parts

LEAST_WEIGHT = 0.01
"""A form below this weight is left out: it costs time and moves nothing."""

PRIOR = 0.3
"""Deviation, in ln L, of what one column may add beyond the fit where the trials say nothing: 30 % of a loss."""

LEAST_FREEDOM = 2
"""A form that spends all but this many of the regimes cannot be judged by the regimes it has not seen."""


@dataclass(frozen=True, eq=False)
class PlausibleForm:
    """A fit, its weight and its covariance.

    Attributes:
        fit: the fit.
        weight: share among the plausible forms.
        noise: its residuals' parts.
        root: [1 + p, k] C = root root^T is the covariance of (E, coefficients).
    """

    fit: LawFit
    weight: float
    noise: NoiseParts
    root: FloatArray

    def slopes(self, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
        """[n, k] J root: rows whose products are covariances of ln L."""
        return _jacobian(self.fit, mu, sigma, tokens) @ self.root


@dataclass(frozen=True, eq=False)
class Plausible:
    """The plausible forms, heaviest first; weights sum to 1. Empty where no form with a surface could be fitted."""

    forms: tuple[PlausibleForm, ...]

    @property
    def run_noise(self) -> float:
        """Deviation of ln L that the points of a run share, averaged over the forms as a variance."""
        return float(np.sqrt(sum(form.weight * form.noise.run**2 for form in self.forms)))

    @property
    def point_noise(self) -> float:
        """Deviation of ln L from point to point within a run."""
        return float(np.sqrt(sum(form.weight * form.noise.point**2 for form in self.forms)))

    def mean(self, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
        """[n] ln L averaged over the forms."""
        return sum((form.weight * _log_loss(form.fit, mu, sigma, tokens) for form in self.forms), np.zeros(len(mu)))

    def features(self, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
        """[n, q] rows F with F F^T the mixture's covariance of ln L: a linear model with unit prior on q constants."""
        mean, columns = self.mean(mu, sigma, tokens), []
        for form in self.forms:
            share = np.sqrt(form.weight)
            columns.append(share * form.slopes(mu, sigma, tokens))
            columns.append(share * (_log_loss(form.fit, mu, sigma, tokens) - mean)[:, None])
        return np.concatenate(columns, axis=1)

    def draws(
        self, mu: FloatArray, sigma: FloatArray, tokens: FloatArray, number: int, rng: np.random.Generator
    ) -> FloatArray:
        """[about number, n] ln L drawn from the mixture; the noise level is drawn too, from its own uncertainty."""
        parts = []
        for form in self.forms:
            count = max(1, round(number * form.weight))
            level = np.sqrt(form.noise.freedom / rng.chisquare(form.noise.freedom, size=(count, 1)))
            normal = level * rng.standard_normal((count, form.root.shape[1]))
            parts.append(_log_loss(form.fit, mu, sigma, tokens) + normal @ form.slopes(mu, sigma, tokens).T)
        return np.concatenate(parts)


def shapes() -> list[tuple[str, LinkName, SigmaKind]]:
    """Every form with a surface, with every link."""
    return [(form, link, "deviation") for link in LINKS for form in FORMS if FORMS[form].names]


def plausible_forms(
    obs: Observations, of: Sequence[tuple[str, LinkName, SigmaKind]] | None = None, measured_noise: float | None = None
) -> Plausible:
    """Fit the forms and weigh them by their leave-one-regime-out errors.

    weight ~ S^(-R/2), S the mean over the R regimes of a regime's squared error when all its runs are left out: the
    likelihood ratio of R independent errors. AICc would count the points of a run as independent. The left-out errors
    are those of the linearized fit, e_r' = (1 - H_rr)^-1 e_r: no refits.

    Args:
        obs: the measurements.
        of: form, link and reading of sigma; :func:`shapes` where absent.
        measured_noise: seed noise of ln L from repeated regimes; no form's run noise is taken to be below it.
    """
    common = obs.subset(obs.loss < obs.base_loss)
    fits = [fit(common, *shape) for shape in of or shapes()]
    regimes = int(common.regime_index.max(initial=-1)) + 1
    usable = [law for law in fits if law.is_usable and regimes - len(law.surface_coefficients) > LEAST_FREEDOM]
    if not usable:
        return Plausible(())
    errors = np.array([left_out_square(law) for law in usable])
    weights = (errors.min() / errors) ** (regimes / 2.0)
    weights = np.where(weights / weights.sum() < LEAST_WEIGHT, 0.0, weights)
    weights /= weights.sum()
    found = []
    for place in np.argsort(-weights, kind="stable"):
        if weights[place] > 0:
            noise = _noise(usable[place], measured_noise)
            found.append(PlausibleForm(usable[place], float(weights[place]), noise, _root(usable[place], noise)))
    return Plausible(tuple(found))


def left_out_square(law: LawFit) -> float:
    """Mean over regimes of the mean squared error of ln L when the regime is left out of the linearized fit."""
    used = law.observations
    jacobian = _jacobian(law, used.mu, used.sigma, used.tokens)
    norms = np.linalg.norm(jacobian, axis=0)
    basis, s, _ = np.linalg.svd(jacobian / np.where(norms > 0, norms, 1.0), full_matrices=False)
    basis = basis[:, s > 1e-10 * s[0]]
    index, squares = used.regime_index, []
    for regime in range(int(index.max()) + 1):
        rows = index == regime
        hat = basis[rows] @ basis[rows].T
        values, vectors = np.linalg.eigh(hat)
        spread = vectors / np.maximum(1.0 - values, 1e-3)  # a regime that alone holds a constant says little of it
        squares.append(float(np.mean((spread @ (vectors.T @ law.residuals[rows])) ** 2)))
    return max(float(np.mean(squares)), 1e-18)


def _noise(law: LawFit, measured: float | None) -> NoiseParts:
    parts = noise_parts(law)
    point = max(parts.point, 1e-6)
    return NoiseParts(max(parts.run, measured or 0.0), point, parts.freedom)


def _jacobian(law: LawFit, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
    """Slopes of ln L in (E, coefficients); none in an E that came to its bound."""
    jacobian = law.jacobian(mu, sigma, tokens)
    if law.status == "e_at_bound":
        jacobian[:, 0] = 0.0
    return jacobian


def _root(law: LawFit, noise: NoiseParts) -> FloatArray:
    """[1 + p, 1 + p] root of (J^T V^-1 J + prior)^-1, V a shared offset a run plus independent points."""
    used = law.observations
    jacobian = _jacobian(law, used.mu, used.sigma, used.tokens)
    scale = np.sqrt(np.mean(jacobian**2, axis=0))
    scale[scale == 0] = 1.0
    white = whitened(jacobian / scale, used.run, noise)
    _, s, vt = np.linalg.svd(white, full_matrices=False)
    return (vt.T / np.sqrt(s**2 + PRIOR**-2)) / scale[:, None]


def whitened(rows: FloatArray, run: LabelArray, noise: NoiseParts) -> FloatArray:
    """V^-1/2 rows, V = point^2 I + run^2 for points of one run.

    V^-1/2 of a run of n points takes (1 - k) of the run's mean off and divides by point, k^2 = 1 / (1 + n run^2 /
    point^2).
    """
    index = np.unique(run, return_inverse=True)[1].reshape(-1)
    count = np.bincount(index).astype(float)
    means = np.stack([np.bincount(index, column) / count for column in rows.T], axis=1)
    kept = 1.0 / np.sqrt(1.0 + count * (noise.run / noise.point) ** 2)
    return (rows - ((1.0 - kept)[:, None] * means)[index]) / noise.point


def _log_loss(law: LawFit, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
    return np.log(np.maximum(law.predict(mu, sigma, tokens), 1e-12))
