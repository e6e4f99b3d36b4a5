"""All forms side by side, and the one whose optimum is the target.

Every form is fitted to the same observations (those with L < L0, which the anchored link needs), so that AICc and
left-out errors compare across forms and links alike.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from ppl_assets.law.across import AcrossForms, across_forms
from ppl_assets.law.fit import LawFit, fit
from ppl_assets.law.forms import FORMS, LINKS, LinkName, SigmaKind
from ppl_assets.law.leave_out import (
    HeldOutLargest,
    LeaveOneRunOut,
    held_out_largest,
    leave_one_regime_out,
    leave_one_run_out,
)
from ppl_assets.law.observations import FloatArray, Observations, Statistics
from ppl_assets.law.optimum import Optimum, find_optimum
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.uncertainty import BootstrapResult, akaike_weights, bootstrap, no_intervals

Target = Literal["best_form", "paper"]

DISAGREE_PCT = 0.1
"""Loss given away by a close rival's optimum, in % of loss, from which the two are said to disagree."""

FEWER_REFITS = 200
"""Most refits of a form that is shown for comparison alone. All 20 forms with 1000 each take 35 processor seconds."""


class Candidate(NamedTuple):
    """What tells one fit from the others."""

    form: str
    link: LinkName
    sigma_kind: SigmaKind = "deviation"
    statistics: Statistics = "raw"


@dataclass(frozen=True, eq=False)
class FormResult:
    """One form with one link: its fit, its errors, its optimum.

    Attributes:
        fit: the fit.
        left_out: its leave-one-run-out predictions, on which the choice rests.
        left_regimes: its leave-one-regime-out predictions: of a place that it has not seen in any run.
        largest: its prediction of the largest token count from all smaller ones.
        bootstrap: its refits; None where refused, none were asked for, or the runs are too few for intervals.
        optimum: its optimum.
        aicc_weight: Akaike weight among the forms of its link.
        is_chosen: whether its optimum is the target.
        choice_reason: why it was chosen, or not.
        chosen_among: number of surface forms that the choice was between; 1 where the study names the form.
        across: of the chosen form, its optimum together with those of the forms within one standard error of it.
    """

    fit: LawFit
    left_out: LeaveOneRunOut
    left_regimes: LeaveOneRunOut
    largest: HeldOutLargest
    bootstrap: BootstrapResult | None
    optimum: Optimum
    aicc_weight: float = 0.0
    is_chosen: bool = False
    choice_reason: str = ""
    chosen_among: int = 1
    across: AcrossForms | None = None

    @property
    def name(self) -> str:
        """Form, link and reading of sigma, in words."""
        variance = ", sigma as variance" if self.fit.sigma_kind == "variance" else ""
        logs = ", log moments" if self.key.statistics == "log" else ""
        return f"{self.fit.form} ({self.fit.link} link{variance}{logs})"

    @property
    def error_pct(self) -> float:
        """Mean over left-out runs of their root mean square error, % of loss; nan where one cannot be predicted."""
        return _mean_pct(self.left_out)

    @property
    def regime_error_pct(self) -> float:
        """The same over left-out regimes, with all their repeats."""
        return _mean_pct(self.left_regimes)

    @property
    def key(self) -> Candidate:
        """What tells it from the others."""
        return Candidate(self.fit.form, self.fit.link, self.fit.sigma_kind, self.fit.observations.statistics)


def candidates(with_logs: bool = False) -> list[Candidate]:
    """Every form with every link, the paper's also with sigma read as variance; with logs every surface in log moments.

    In log moments mu is the geometric mean of PPL and sigma its geometric deviation.
    """
    raw = [
        Candidate(form, link, kind)
        for link in LINKS
        for form in FORMS
        for kind in (("deviation", "variance") if form == "paper" else ("deviation",))
    ]
    if not with_logs:
        return raw
    return raw + [Candidate(form, link, statistics="log") for link in LINKS for form in FORMS if FORMS[form].names]


def fit_all(
    obs: Observations,
    region: SearchRegion,
    tokens: float | None = None,
    noise_pct: float | None = None,
    replicates: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
    robust: bool = False,
) -> list[FormResult]:
    """Fit, leave out, bootstrap and search with every form and link.

    Args:
        obs: the measurements; points with L >= L0 are set aside for every form and counted.
        region: where optima are looked for.
        tokens: D of the predictions; the largest observed where absent.
        noise_pct: measured seed noise, % of loss, if known.
        replicates: bootstrap refits of a form that the target may rest on, of others at most FEWER_REFITS; 0 for none.
        seed: seed of the bootstrap, the same for every form.
        confidence: level of the intervals.
        robust: Huber's loss in place of squares, in every fit, refit and prediction of what was left out.
    """
    common = obs.subset(obs.loss < obs.base_loss)
    views = {"raw": (common, region)}
    if common.has_logs:
        helpful = common.subset(~np.isin(common.run, obs.harmful_runs))
        views["log"] = (common.in_logs(), SearchRegion.of(helpful.in_logs()))
    results = []
    for candidate in candidates(common.has_logs):
        seen, where = views[candidate.statistics]
        law = replace(fit(seen, *candidate[:3], robust, noise_pct), set_aside=len(obs) - len(common))
        results.append(
            FormResult(
                fit=law,
                left_out=leave_one_run_out(seen, *candidate[:3], law.huber),
                left_regimes=leave_one_regime_out(seen, *candidate[:3], law.huber),
                largest=held_out_largest(seen, *candidate[:3], law.huber),
                bootstrap=None,
                optimum=find_optimum(law, where, None, noise_pct, tokens),
            )
        )
    decisive = _decisive(results)
    for place, result in enumerate(results):
        if replicates and result.fit.is_usable and not no_intervals(result.fit):
            seen, where = views[result.key.statistics]
            number = replicates if result.key in decisive else min(replicates, FEWER_REFITS)
            refits = bootstrap(seen, result.fit, replicates=number, seed=seed, confidence=confidence)
            best = find_optimum(result.fit, where, refits, noise_pct, tokens)
            results[place] = replace(result, bootstrap=refits, optimum=best)
    return _weighted(results)


def _decisive(results: list[FormResult]) -> set[Candidate]:
    """Forms that the target rests on or may rest on: the one chosen, those within one standard error, the paper's."""
    chosen = choose(results)
    near = {r.key for r in _pool(results)[0] if _is_close(r, chosen)}
    return {chosen.key, *near, Candidate("paper", "paper", "deviation"), Candidate("paper", "paper", "variance")}


def _weighted(results: list[FormResult]) -> list[FormResult]:
    weights: dict[Candidate, float] = {}
    for link in LINKS:
        of_link = [r for r in results if r.fit.link == link]
        shares = akaike_weights(np.array([r.fit.aicc for r in of_link]))
        weights |= {r.key: float(w) for r, w in zip(of_link, shares, strict=True)}
    return [replace(r, aicc_weight=weights[r.key]) for r in results]


def choose(results: list[FormResult], target: Target = "best_form", sigma: SigmaKind = "deviation") -> FormResult:
    """The result whose optimum is the target, with the reason in plain words.

    best_form: the leader is the converged form with the least mean leave-one-run-out error; a form is close where its
    error exceeds the leader's by less than one standard error of their difference over runs; of the close ones the one
    with the fewest coefficients is taken, then the least error. That is the one-standard-error rule of Breiman et al.
    1984 with the standard error of the paired difference in place of the least error's own: it is usually smaller, so
    fewer forms are close. In 144 simulated studies of 12 runs and 36 points this found the true form in 76 %, leave-
    one-out alone in 73 %, AICc among the close ones in 68 %, AICc alone in 65 %: AICc believes the points of a run to
    be independent evidence. By left-out regimes, of which there are fewer, it is found in 3 % less. The chosen form's
    own error is the least of several and a little too good. A tokens-only form has no optimum and is never chosen while
    another can be. A form in log moments is compared but never chosen: trials and selection are drawn by raw moments,
    so its optimum is no target; where it predicts clearly better, the reason says so.

    paper: the paper's form and link with the reading of sigma asked for, whatever its error.

    Args:
        results: every form that was fitted.
        target: best_form or paper.
        sigma: how the paper's form reads sigma; best_form weighs both readings by their errors.

    Raises:
        ValueError: where ``results`` is empty or lacks the paper's form.
    """
    if target == "paper":
        return _paper(results, sigma)
    pool, note = _pool(results)
    if not pool:
        first = _first(results)
        return replace(first, is_chosen=True, choice_reason=f"No form could be fitted: {first.fit.reason}.")
    lead = min(pool, key=_error)
    close = [r for r in pool if r is lead or _is_close(r, lead)]
    chosen = min(close, key=lambda r: (len(r.fit.surface_coefficients), _error(r)))
    among = len({r.fit.form for r in pool if r.fit.form != "d_only"})
    return replace(_marked(chosen, _reason(chosen, lead, close, results, note), pool), chosen_among=max(among, 1))


def judged(results: list[FormResult], chosen: FormResult) -> list[FormResult]:
    """All results, the chosen one marked, each with the reason why it was chosen or not."""
    return [chosen if r.key == chosen.key else replace(r, choice_reason=_why_not(r, chosen)) for r in results]


def _first(results: list[FormResult]) -> FormResult:
    if not results:
        raise ValueError("there are no results to choose from: fit at least one form")
    return results[0]


def _paper(results: list[FormResult], sigma: SigmaKind) -> FormResult:
    found = [r for r in results if r.key == Candidate("paper", "paper", sigma)]
    if not found:
        raise ValueError(
            f"target = 'paper', but the paper's form with sigma as {sigma} is not among the results: "
            "fit it or take 'best_form'"
        )
    paper, best = found[0], choose(results)
    reason = f"The study asks for the paper's form, with sigma read as {sigma}."
    if best.key != paper.key and best.fit.is_usable:
        reason += (
            f" Left-out runs are predicted to {paper.error_pct:.2f} % by it and to "
            f"{best.error_pct:.2f} % by {best.name}, which would have been chosen."
        )
    return _marked(paper, reason, _pool(results)[0])


def _marked(chosen: FormResult, reason: str, pool: list[FormResult]) -> FormResult:
    """The chosen result with its reason, and what the forms within one standard error of it say together with it."""
    near = [r for r in pool if r.key != chosen.key and np.isfinite(_error(r)) and _is_close(r, chosen)]
    across = across_forms({r.name: r.optimum for r in (chosen, *near)})
    return replace(chosen, is_chosen=True, choice_reason=reason, across=across)


def _pool(results: list[FormResult]) -> tuple[list[FormResult], str]:
    """Forms that may be chosen, best class that is not empty, and a note where that class is second-rate."""
    results = [r for r in results if r.key.statistics == "raw"]
    with_surface = [r for r in results if r.fit.form != "d_only" and np.isfinite(_error(r))]
    converged = [r for r in with_surface if r.fit.status == "converged"]
    if converged:
        return converged, ""
    floorless = [r for r in with_surface if r.fit.status in ("e_at_bound", "e_near_min")]
    if floorless:
        return floorless, " No form identified its floor E."
    usable = [r for r in results if r.fit.is_usable and np.isfinite(r.fit.aicc)]
    return usable, " No form with a surface could be tested on left-out runs."


def _mean_pct(left_out: LeaveOneRunOut) -> float:
    return 100.0 * float(np.mean(left_out.by_run)) if len(left_out.run) else float("nan")


def _error(result: FormResult) -> float:
    """Mean leave-one-run-out error, % of loss; infinite where a run could not be predicted."""
    return result.error_pct if np.isfinite(result.error_pct) else float("inf")


def _is_close(result: FormResult, lead: FormResult) -> bool:
    difference: FloatArray = result.left_out.by_run - lead.left_out.by_run
    if not np.isfinite(difference).all() or len(difference) < 2:
        return not np.isfinite(_error(lead))
    return float(difference.mean()) <= float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _reason(chosen: FormResult, lead: FormResult, close: list[FormResult], results: list[FormResult], note: str) -> str:
    text = (
        f"{chosen.name} predicts left-out runs to {chosen.error_pct:.2f} % on average (median "
        f"{chosen.left_out.median_pct:.2f} %, 90th percentile {chosen.left_out.p90_pct:.2f} %; regimes left out with "
        f"all their runs: {chosen.regime_error_pct:.2f} %)"
    )
    if chosen is lead and len(close) == 1:
        text += ", clearly better than every other form that could be chosen."
    elif chosen is lead:
        text += (
            f", best of the forms that could be chosen; {len(close) - 1} further ones are within its standard error "
            "and no simpler."
        )
    else:
        text += (
            f", within the standard error of the best that could be chosen, {lead.name} with "
            f"{lead.error_pct:.2f} %, and has no more coefficients than any other within it."
        )
    return (
        text
        + _excluded(lead, results)
        + _tokens_only(chosen, results)
        + _log_moments(chosen, results)
        + _disagreement(chosen, close)
        + note
    )


def _excluded(lead: FormResult, results: list[FormResult]) -> str:
    """The best form in raw moments that its status kept from being chosen, where it predicts better than the lead."""
    better = [
        r
        for r in results
        if r.key.statistics == "raw" and r.fit.form != "d_only" and r.fit.is_usable and _error(r) < _error(lead)
    ]
    if not better:
        return ""
    best = min(better, key=_error)
    return f" {best.name} errs less, {best.error_pct:.2f} %, but could not be chosen: its status is {best.fit.status}."


def _log_moments(chosen: FormResult, results: list[FormResult]) -> str:
    """Whether a form in log moments predicts better; empty where none was fitted."""
    logs = [r for r in results if r.key.statistics == "log" and np.isfinite(_error(r))]
    if not logs:
        return ""
    best = min(logs, key=_error)
    figures = f"{best.name} predicts left-out runs to {best.error_pct:.2f} %"
    if _error(best) >= _error(chosen):
        return f" Log moments say no more: {figures}."
    surely = "" if _is_close(chosen, best) else ", clearly better, but subsets are drawn by raw moments"
    return f" In log moments {figures}{surely}."


def _tokens_only(chosen: FormResult, results: list[FormResult]) -> str:
    plain = [r for r in results if r.fit.form == "d_only" and r.fit.is_usable]
    if not plain:
        return ""
    best = min(plain, key=_error)
    if _error(best) <= _error(chosen):
        return " Tokens alone predict left-out runs as well: mean and spread may not matter here."
    return f" Tokens alone: {best.error_pct:.2f} %."


def _disagreement(chosen: FormResult, close: list[FormResult]) -> str:
    """Rivals that predict as well and want another place, by what that place costs under the chosen form."""
    own = chosen.optimum
    far = []
    for rival in close:
        at = rival.optimum
        if rival is chosen or not (np.isfinite(at.mu) and np.isfinite(own.mu)):
            continue
        cost = 100.0 * (float(chosen.fit.predict(at.mu, at.sigma, own.tokens)) / own.predicted_loss - 1.0)
        if cost > DISAGREE_PCT:
            far.append(f"{rival.name} at ({at.mu:.4g}, {at.sigma:.4g}), {cost:.2f} % worse here")
    if not far:
        return ""
    return f" Close forms put the optimum elsewhere than ({own.mu:.4g}, {own.sigma:.4g}): {'; '.join(far)}."


def _why_not(result: FormResult, chosen: FormResult) -> str:
    if not result.fit.is_usable:
        return f"Refused: {result.fit.reason}."
    if result.fit.form == "d_only":
        return "It has no place for mean and spread; it is the yardstick."
    text = f"Left-out runs: {result.error_pct:.2f} % against {chosen.error_pct:.2f} %"
    text += f"; AICc {result.fit.aicc - chosen.fit.aicc:+.1f}."
    return text if result.fit.status == "converged" else f"{text} Its status is {result.fit.status}."
