"""How sure a fitted law is: run-level bootstrap, delta-method intervals, the surface's significance, Akaike weights.

Points of one run share subset, seed and order, so the unit of everything here is the run, never the point.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from ppl_assets.law.fit import LawFit, fit
from ppl_assets.law.forms import LinkName, design
from ppl_assets.law.observations import FloatArray, IntArray, Observations
from ppl_assets.law.profile import solve

Interval = tuple[float, float]

LEAST_FREEDOM = 3
"""Degrees of freedom between runs from which there are intervals. With fewer the noise level is known so badly (with 1
it is Cauchy's, whose 95 % reach 12.7 deviations) that the ends of an interval are chance."""


@dataclass(frozen=True, eq=False)
class BootstrapResult:
    """Fully converged refits of resampled runs.

    Attributes:
        fit: the fit that was resampled.
        E: [R] floors.
        coefficients: [R, p].
        failed: replicates dropped because their refit did not come to rest.
        confidence: level of the intervals.
    """

    fit: LawFit
    E: FloatArray
    coefficients: FloatArray
    failed: int
    confidence: float

    @property
    def status(self) -> Literal["complete", "partial", "failed"]:
        """complete: at most one refit in twenty was dropped; failed: none is left."""
        if not len(self.E):
            return "failed"
        return "complete" if self.failed <= 0.05 * (self.failed + len(self.E)) else "partial"

    def interval(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Percentile interval over the first axis of ``values`` [R, ...]."""
        tail = 50.0 * (1.0 - self.confidence)
        low, high = np.percentile(values, [tail, 100.0 - tail], axis=0)
        return low, high

    def coefficient_intervals(self) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends [p] for the coefficients."""
        return self.interval(self.coefficients)

    def floor_interval(self) -> Interval:
        """Interval of E, nats a token."""
        low, high = self.interval(self.E)
        return float(low), float(high)

    def predict(self, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
        """[R, m] loss at points [m] in every replicate, nats a token."""
        form, link = self.fit.parts
        columns = design(form, link, mu, sigma, tokens, self.fit.sigma_kind)
        return link.loss(self.coefficients @ columns.T, self.E[:, None], self.fit.observations.base_loss)


def bootstrap(
    obs: Observations,
    form: str | LawFit,
    link: LinkName = "paper",
    replicates: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> BootstrapResult:
    """Refit resampled runs, each refit from scratch and to convergence.

    Every run keeps its place, and gets the residual curve of a run drawn at random, with a random sign, scaled to the
    noise that the fit's freedom implies, times a noise level drawn anew for each replicate from its own uncertainty
    (chi-square). Drawing the runs themselves with replacement would leave a third of a dozen out of each replicate:
    extremes are extrapolated then and intervals at the corners come out far too wide.

    Args:
        obs: the measurements; ignored where ``form`` is a fit.
        form: form's name, or a fit to resample.
        link: link of the form; ignored where ``form`` is a fit.
        replicates: number of refits.
        seed: seed of the draws.
        confidence: level of the intervals.

    Raises:
        ValueError: where the fit was refused, or :func:`no_intervals` says why there can be none.
    """
    base = form if isinstance(form, LawFit) else fit(obs, form, link)
    why_not = base.reason if not base.is_usable else no_intervals(base)
    if why_not:
        raise ValueError(f"nothing to resample: {why_not}")
    used, (shape, how) = base.observations, base.parts
    columns = design(shape, how, used.mu, used.sigma, used.tokens, base.sigma_kind)
    rng = np.random.default_rng(seed)
    losses = np.exp(np.log(used.loss) - base.residuals + _exchanged(base, replicates, rng))
    found = solve(columns, losses, np.ones_like(losses), how, used.base_loss, base.huber)
    good = found.converged & np.isfinite(found.coefficients).all(axis=1)
    return BootstrapResult(base, found.floor[good], found.coefficients[good], int((~good).sum()), confidence)


@dataclass(frozen=True)
class NoiseParts:
    """Noise of ln L: an offset that a run's points share, and what is left from point to point.

    Attributes:
        run: deviation of the shared offset.
        point: deviation within a run.
        freedom: degrees of freedom of ``run``, :func:`run_freedom`, at least 1.
    """

    run: float
    point: float
    freedom: int


def run_freedom(base: LawFit) -> int:
    """Degrees of freedom between runs: runs - surface coefficients - 1."""
    return base.runs - len(base.surface_coefficients) - 1


def no_intervals(base: LawFit) -> str:
    """Why this fit can have no intervals, in one sentence; empty where it can."""
    freedom = run_freedom(base)
    if freedom >= LEAST_FREEDOM:
        return ""
    return (
        f"{base.runs} runs leave {max(freedom, 0)} degrees of freedom beside {len(base.surface_coefficients)} surface "
        f"coefficients, and an interval needs {LEAST_FREEDOM}: run {LEAST_FREEDOM - freedom} more"
    )


def noise_parts(base: LawFit) -> NoiseParts:
    """Split the residuals of ln L by run, each part divided by its own degrees of freedom.

    The surface and the constant are paid for by the run means; E and aD by what varies within the runs.
    """
    index = base.observations.run_index
    means, within = _run_means(base)
    count = np.bincount(index)
    freedom = max(run_freedom(base), 1)
    spare = max(base.points - base.runs - 2, 1)
    between = float((count * means**2).sum() / count.mean()) / freedom
    point = float((within**2).sum()) / spare
    return NoiseParts(max(between - point / float(count.mean()), 0.0) ** 0.5, point**0.5, freedom)


def _run_means(base: LawFit) -> tuple[FloatArray, FloatArray]:
    """[R] mean residual of each run and [n] what each point deviates from it."""
    index = base.observations.run_index
    means = np.bincount(index, base.residuals) / np.bincount(index)
    return means, base.residuals - means[index]


def _exchanged(base: LawFit, replicates: int, rng: np.random.Generator) -> FloatArray:
    """[B, n] noise of ln L: residual curves of other runs, rescaled by part; see :func:`bootstrap`."""
    used, index = base.observations, base.observations.run_index
    runs = len(used.runs)
    means, within = _run_means(base)
    freedom = noise_parts(base).freedom
    offsets = means * np.sqrt(runs / freedom)
    curves = within * np.sqrt((base.points - runs) / max(base.points - runs - 2, 1))
    bank = np.empty((runs, len(used)))
    for donor in range(runs):
        rows = np.flatnonzero(index == donor)
        rows = rows[np.argsort(used.tokens[rows])]
        bank[donor] = offsets[donor] + np.interp(np.log(used.tokens), np.log(used.tokens[rows]), curves[rows])
    donors = rng.integers(runs, size=(replicates, runs))[:, index]
    signs = rng.choice([-1.0, 1.0], size=(replicates, runs))[:, index]
    level = np.sqrt(freedom / rng.chisquare(freedom, size=(replicates, 1)))
    return signs * level * bank[donors, np.arange(len(used))]


def _scaled_jacobian(base: LawFit) -> tuple[FloatArray, FloatArray]:
    """Jacobian of ln L at the fit's points, columns of unit length, and their lengths; E's column only where free."""
    used = base.observations
    jacobian = base.jacobian(used.mu, used.sigma, used.tokens)
    if base.status == "e_at_bound":
        jacobian[:, 0] = 0.0
    norms = np.linalg.norm(jacobian, axis=0)
    norms[norms == 0] = 1.0
    return jacobian / norms, norms


def delta_interval(
    base: LawFit, mu: FloatArray, sigma: FloatArray, tokens: FloatArray, confidence: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Delta-method interval of predicted losses [m], nats a token.

    Noise is a shared offset a run plus independent points (:func:`noise_parts`); t quantile with the offset's degrees
    of freedom. nan where :func:`no_intervals` says why there can be none.
    """
    if no_intervals(base):
        shape = np.broadcast_shapes(*(np.shape(np.atleast_1d(v)) for v in (mu, sigma, tokens)))
        return np.full(shape, np.nan), np.full(shape, np.nan)
    used, noise = base.observations, noise_parts(base)
    scaled, norms = _scaled_jacobian(base)
    u, s, vt = np.linalg.svd(scaled, full_matrices=False)
    keep = s > 1e-10 * s[0]
    u = u[:, keep]
    sums = np.array([u[used.run_index == run].sum(axis=0) for run in range(len(used.runs))])
    covariance = noise.run**2 * sums.T @ sums + noise.point**2 * np.eye(u.shape[1])
    mu, sigma, tokens = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in (mu, sigma, tokens)))
    slope = base.jacobian(mu, sigma, tokens) / norms @ (vt[keep].T / s[keep])  # [m, kept]
    deviation = np.sqrt(np.einsum("mi,ij,mj->m", slope, covariance, slope))
    half = scipy.stats.t.ppf(0.5 + confidence / 2, noise.freedom) * deviation
    predicted = base.predict(mu, sigma, tokens)
    return predicted * np.exp(-half), predicted * np.exp(half)


def effect_p_value(base: LawFit, tokens_only: LawFit) -> float:
    """Chance of a surface this good where the loss depends on tokens only: F test on regime-mean residuals of ln L.

    F = ((S0 - S1) / k) / (S1 / (R - 1 - k)), S the sum over points of their regime's squared mean residual, R regimes,
    k surface coefficients. By regime and not by run: what a surface leaves over is mostly its own misfit, which the
    repeats of a place share, so they are no further evidence. Counted by run the test fired in 6 to 23 % of shuffled
    studies at a nominal 5 %, by regime in 1 to 5 % (``benchmarks/placebo.py``). Returns 1 without freedom to tell.
    """
    index = base.observations.regime_index
    regimes, k = int(index.max(initial=-1)) + 1, len(base.surface_coefficients)
    freedom = regimes - 1 - k
    if k == 0 or freedom < 1 or not tokens_only.is_usable:
        return 1.0
    without, with_surface = (_between(law, index) for law in (tokens_only, base))
    if without <= with_surface:
        return 1.0
    return float(scipy.stats.f.sf((without - with_surface) / k / max(with_surface / freedom, 1e-300), k, freedom))


def _between(base: LawFit, index: IntArray) -> float:
    """Sum over points of their group's squared mean residual of ln L; ``index`` [n] numbers the groups."""
    count = np.bincount(index)
    return float((np.bincount(index, base.residuals) ** 2 / count).sum())


def between_runs(base: LawFit) -> float:
    """Root mean square over points of their run's mean residual of ln L."""
    return float(np.sqrt(_between(base, base.observations.run_index) / base.points))


def akaike_weights(aicc: FloatArray) -> FloatArray:
    """exp(-delta / 2), normalized, over fits of the same observations; unknown values weigh nothing."""
    known = np.where(np.isfinite(aicc), aicc, np.inf)
    if not np.isfinite(known).any():
        return np.zeros_like(known)
    weight = np.exp(-0.5 * (known - known.min()))
    return weight / weight.sum()
