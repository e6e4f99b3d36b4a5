"""One fit of the law: a form, a link, a floor, coefficients, and an honest word on what came of it.

    paper link      L = E + Dc exp(-g(mu, sigma)) D^-aD
    anchored link   L = E + (L0 - E) / (1 + (D q(mu, sigma))^a),   a ln q = ln_q + g(mu, sigma)

Source: Liu et al., arXiv 2512.21515, for form and link "paper".
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppl_assets.law.forms import FORMS, LINKS, Form, Link, LinkName, SigmaKind, coefficient_names, design
from ppl_assets.law.observations import FloatArray, Observations
from ppl_assets.law.profile import NEAREST, Solution, solve

Status = Literal["converged", "e_at_bound", "e_near_min", "ill_conditioned", "refused"]

MIN_POINTS = 12
"""Fewer points than this cannot hold a law of five to nine constants."""

MAX_CONDITION = 1e8
"""Condition number of the scaled columns at run means beyond which coefficients are rounding."""

NEAR_MIN = 0.01
"""E this share of the observed range of losses below the least loss, or nearer: one point decides it."""

HUBER = 1.345
"""Huber's constant: 95 % efficiency where the noise is normal."""


@dataclass(frozen=True, eq=False)
class LawFit:
    """A fitted law, or why there is none.

    Attributes:
        form: name of the strength surface; see ``forms.FORMS``.
        link: paper or anchored.
        sigma_kind: whether the form reads sigma as deviation or as variance.
        status: converged; e_at_bound (E came to 0: not identified); e_near_min (E at the least loss: one point
            decides it); ill_conditioned; refused (no numbers).
        reason: one sentence on the status.
        E: floor, nats a token; nan where refused.
        names: [p] names of the coefficients: ln_Dc or ln_q, the surface's, aD.
        coefficients: [p] their values; in the anchored link all but aD carry the factor a.
        rms_pct: root mean square residual of ln L, %.
        aicc: corrected Akaike criterion of ln L. It counts points as independent, which points of one run are not,
            and compares only fits of the same observations.
        condition_number: of the columns, scaled to unit length, with mu and sigma at their run's means.
        residuals: [n] ln L - ln Lhat of the points used.
        observations: the points used.
        points: their number.
        runs: number of runs they come from.
        set_aside: points left out because the loss had not yet fallen below L0 (anchored link only).
        huber: residual of ln L from which a point counts linearly; None for least squares.
    """

    form: str
    link: LinkName
    sigma_kind: SigmaKind
    status: Status
    reason: str
    E: float
    names: tuple[str, ...]
    coefficients: FloatArray
    rms_pct: float
    aicc: float
    condition_number: float
    residuals: FloatArray
    observations: Observations
    points: int
    runs: int
    set_aside: int
    huber: float | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it can predict: everything but refused."""
        return self.status != "refused"

    @property
    def token_exponent(self) -> float:
        """Exponent of D: aD, or a of the anchored link."""
        return float(self.coefficients[-1])

    @property
    def surface_coefficients(self) -> FloatArray:
        """[k] coefficients of g."""
        return self.coefficients[1:-1]

    @property
    def parts(self) -> tuple[Form, Link]:
        """Form and link themselves."""
        return FORMS[self.form], LINKS[self.link]

    def g(self, mu: FloatArray | float, sigma: FloatArray | float) -> FloatArray:
        """Strength surface at mu and deviation sigma: the loss is lower where it is greater, at every D."""
        mu, sigma = np.broadcast_arrays(np.asarray(mu, dtype=float), np.asarray(sigma, dtype=float))
        return FORMS[self.form].columns(mu, sigma, self.sigma_kind) @ self.surface_coefficients

    def predict(
        self, mu: FloatArray | float, sigma: FloatArray | float, tokens: FloatArray | float | int
    ) -> FloatArray:
        """Test loss, nats a token, at mu, deviation sigma and tokens; shapes broadcast; nan where refused."""
        mu, sigma, tokens = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (mu, sigma, tokens)))
        form, link = self.parts
        y = design(form, link, mu, sigma, tokens, self.sigma_kind) @ self.coefficients
        return link.loss(y, np.asarray(self.E), self.observations.base_loss)

    def jacobian(self, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
        """[n, 1 + p] slopes of ln L in (E, coefficients) at points [n]."""
        form, link = self.parts
        columns = design(form, link, mu, sigma, tokens, self.sigma_kind)
        y, floor, base = columns @ self.coefficients, np.asarray(self.E), self.observations.base_loss
        by_y, by_floor = link.slopes(y, floor, base)
        loss = link.loss(y, floor, base)
        return np.concatenate([(by_floor / loss)[:, None], (by_y / loss)[:, None] * columns], axis=1)


def fit(
    obs: Observations,
    form: str,
    link: LinkName = "paper",
    sigma_kind: SigmaKind = "deviation",
    robust: bool = False,
    noise_pct: float | None = None,
) -> LawFit:
    """Fit one form with one link.

    Args:
        obs: the measurements, warm-up and diverged points already left out.
        form: a name in ``forms.FORMS``.
        link: paper or anchored.
        sigma_kind: whether the form reads sigma as deviation or as variance.
        robust: Huber's loss with delta = 1.345 times the noise.
        noise_pct: seed noise, % of loss, for ``robust``; the residuals' median absolute deviation where absent.

    Raises:
        KeyError: where the form or link is unknown; the message lists what is accepted.
    """
    if form not in FORMS or link not in LINKS:
        raise KeyError(f"form {form!r} with link {link!r}: accepted are {list(FORMS)} with {list(LINKS)}")
    shape, how = FORMS[form], LINKS[link]
    used = obs.subset(obs.loss < obs.base_loss) if how.anchored else obs
    names = coefficient_names(shape, how)
    aside = len(obs) - len(used)
    why_not = refusal(used, shape, aside)
    if why_not:
        return _refused(form, link, sigma_kind, why_not, names, used, aside)
    columns = design(shape, how, used.mu, used.sigma, used.tokens, sigma_kind)
    found, huber = _solved(columns, used, how, robust, noise_pct)
    floor, coefficients = float(found.floor[0]), found.coefficients[0]
    residuals = _residuals(columns, coefficients, floor, used, how)
    condition = condition_number(used, shape, how, sigma_kind)
    status, reason = _judge(floor, used, condition, bool(found.converged[0]))
    mean_square = float(np.mean(residuals**2))
    return LawFit(
        form=form,
        link=link,
        sigma_kind=sigma_kind,
        status=status,
        reason=reason,
        E=floor,
        names=names,
        coefficients=coefficients,
        rms_pct=100.0 * mean_square**0.5,
        aicc=_aicc(mean_square, len(used), len(names) + 2),
        condition_number=condition,
        residuals=residuals,
        observations=used,
        points=len(used),
        runs=len(used.runs),
        set_aside=aside,
        huber=huber,
    )


def refusal(used: Observations, form: Form, set_aside: int = 0) -> str:
    """Why these points cannot carry this form, in one sentence; empty where they can."""
    aside = f" after setting {set_aside} aside" if set_aside else ""
    constants = len(form.names) + 3
    if len(used) < MIN_POINTS:
        return f"{len(used)} points{aside}: at least {MIN_POINTS} are needed, run more trials or measure more often"
    if len(used) <= constants:
        return f"{len(used)} points{aside} for {constants} constants: run more trials or take a simpler form"
    if len(used.runs) < len(form.names) + 1:
        return (
            f"{len(used.runs)} runs{aside} for {len(form.names)} surface coefficients and a constant: "
            f"run at least {len(form.names) + 1} regimes or take a simpler form"
        )
    return ""


def condition_number(used: Observations, form: Form, link: Link, sigma_kind: SigmaKind) -> float:
    """Ratio of the greatest to the least singular value of the unit-length columns at run means.

    Run means, because the 1 % that mu and sigma drift within a run must not pass for a regime of its own.
    """
    mu, sigma = used.run_means()
    index = used.run_index
    columns = design(form, link, mu[index], sigma[index], used.tokens, sigma_kind)
    values = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")


def _solved(
    columns: FloatArray, used: Observations, link: Link, robust: bool, noise_pct: float | None
) -> tuple[Solution, float | None]:
    """The engine's solution of one data set, a second time with Huber's loss where asked for, and Huber's delta."""
    loss, once = used.loss[None], np.ones((1, len(used)))
    found = solve(columns, loss, once, link, used.base_loss)
    if not robust:
        return found, None
    residuals = _residuals(columns, found.coefficients[0], float(found.floor[0]), used, link)
    scale = 1.4826 * np.median(np.abs(residuals)) if noise_pct is None else noise_pct / 100.0
    huber = max(HUBER * float(scale), 1e-12)
    return solve(columns, loss, once, link, used.base_loss, huber), huber


def _residuals(columns: FloatArray, c: FloatArray, floor: float, used: Observations, link: Link) -> FloatArray:
    return np.log(used.loss) - np.log(link.loss(columns @ c, np.asarray(floor), used.base_loss))


def _aicc(mean_square: float, n: int, k: int) -> float:
    """AICc = n ln(SSE/n) + 2k + 2k(k+1)/(n-k-1), k counting E, the coefficients and the variance."""
    if n - k - 1 <= 0:
        return float("inf")
    return float(n * np.log(max(mean_square, 1e-30)) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _judge(floor: float, used: Observations, condition: float, converged: bool) -> tuple[Status, str]:
    least, most = float(used.loss.min()), float(used.loss.max())
    if not np.isfinite(condition) or condition > MAX_CONDITION:
        return "ill_conditioned", (
            f"the regimes cannot tell the coefficients apart (condition number {condition:.1e}, "
            f"accepted up to {MAX_CONDITION:.0e}): predictions inside the trials hold, coefficients mean nothing"
        )
    if not converged:
        return "ill_conditioned", "the fit did not come to rest: its constants trade off against each other"
    if floor <= 1e-9 * least:
        return "e_at_bound", "the floor E came to its bound: it is not identified, only that it is >= 0"
    if least - floor <= max(NEAR_MIN * (most - least), 2 * NEAREST * least):
        return "e_near_min", f"the floor E = {floor:.4g} sits at the least loss {least:.4g}: one point decides it"
    return "converged", f"converged with E = {floor:.4g} nats a token below the least loss {least:.4g}"


def _refused(
    form: str,
    link: LinkName,
    sigma_kind: SigmaKind,
    reason: str,
    names: tuple[str, ...],
    used: Observations,
    aside: int,
) -> LawFit:
    nan = float("nan")
    return LawFit(
        form=form,
        link=link,
        sigma_kind=sigma_kind,
        status="refused",
        reason=reason,
        E=nan,
        names=names,
        coefficients=np.full(len(names), nan),
        rms_pct=nan,
        aicc=nan,
        condition_number=nan,
        residuals=np.full(len(used), nan),
        observations=used,
        points=len(used),
        runs=len(used.runs),
        set_aside=aside,
    )
