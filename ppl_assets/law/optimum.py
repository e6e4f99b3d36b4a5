"""The optimum of a fitted law: which kind it is, where it lies, how sure that is, and what it may cost.

The loss is least where g is greatest, whatever D. It is looked for only in the search region; the location of an
optimum on a flat surface is unknown and its regret tiny, so both are always reported.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ppl_assets.law.edge import beyond
from ppl_assets.law.fit import LawFit, fit
from ppl_assets.law.indistinguishable import Indistinguishable, spread_over_refits
from ppl_assets.law.observations import Statistics
from ppl_assets.law.region import SearchRegion, Slopes
from ppl_assets.law.surface import Conditions, conditions, highest, peaks, stationary_point, stationary_points
from ppl_assets.law.uncertainty import (
    BootstrapResult,
    Interval,
    between_runs,
    effect_p_value,
    no_intervals,
    noise_parts,
)

OptimumKind = Literal["interior_bowl", "weak_bowl", "boundary", "saddle", "flat", "refused"]

SURE, LIKELY = 0.95, 0.5
"""Share of bootstrap refits that must agree for an interior and for a weak bowl."""

SIGNIFICANT = 0.05
"""Greatest p-value of the surface's run-level F test at which its shape is believed."""

NAN = float("nan")


@dataclass(frozen=True)
class Optimum:
    """Where the loss is least in the search region, and what is known about it.

    Attributes:
        kind: interior_bowl, weak_bowl, boundary, saddle, flat or refused.
        sentence: what that means here, in plain words.
        mu: mean perplexity; nan where refused.
        sigma: standard deviation.
        mu_interval: of the location over bootstrap refits; nan without a bootstrap.
        sigma_interval: the same.
        predicted_loss: at (mu, sigma) and ``tokens``, nats a token.
        predicted_interval: bootstrap percentiles, or the delta method's without a bootstrap; nan with too few runs.
        regret_pct: median over refits of the loss given away by (mu, sigma) against the refit's own best, % of loss.
        regret_bound_pct: its 95 % quantile.
        range_pct: greatest over least predicted loss in the region, minus one, %; at the largest measured token count
            where ``tokens`` is beyond it.
        noise_pct: noise it was compared with, %.
        effect_p: p-value of the surface against tokens only.
        bowl_share: share of refits with a bowl inside the region; nan without a bootstrap.
        side: for a boundary, where the loss still falls, in words; else empty.
        further_trial: (mu, sigma) of the trial that would settle it, where one can be run.
        conditions: second-order conditions of the stationary point in the region, if there is one.
        tokens: D of the predictions.
        equals: where else in the region the optimum may as well lie; None without a bootstrap.
        statistics: what mu and sigma are; log: geometric mean and deviation.
    """

    kind: OptimumKind
    sentence: str
    mu: float = NAN
    sigma: float = NAN
    mu_interval: Interval = (NAN, NAN)
    sigma_interval: Interval = (NAN, NAN)
    predicted_loss: float = NAN
    predicted_interval: Interval = (NAN, NAN)
    regret_pct: float = NAN
    regret_bound_pct: float = NAN
    range_pct: float = NAN
    noise_pct: float = NAN
    effect_p: float = NAN
    bowl_share: float = NAN
    side: str = ""
    further_trial: tuple[float, float] | None = None
    conditions: Conditions | None = None
    tokens: float = NAN
    equals: Indistinguishable | None = None
    statistics: Statistics = "raw"


def find_optimum(
    law: LawFit,
    region: SearchRegion,
    bootstrap: BootstrapResult | None = None,
    noise_pct: float | None = None,
    tokens: float | None = None,
) -> Optimum:
    """Find and classify the optimum of a fit.

    Args:
        law: the fit.
        region: where to search.
        bootstrap: its refits; without them a bowl is at most weak.
        noise_pct: measured seed noise, % of loss; the residuals' where absent.
        tokens: D of the predictions; the largest observed where absent.
    """
    if not law.is_usable:
        return Optimum("refused", f"There is no optimum without a law: {law.reason}.")
    if region.problem:
        return Optimum("refused", f"There is no optimum: {region.problem}.")
    if not law.parts[0].names:
        return Optimum("flat", f"There is no optimum: in this form {law.parts[0].sentence}.")
    budget = float(law.observations.tokens.max() if tokens is None else tokens)
    evidence = _Evidence.of(law, region, noise_pct, budget)
    slopes = Slopes.at(law.form, *region.points, law.sigma_kind)
    u, v, decisive, is_bowl = _locate(law, region, slopes, evidence.is_flat)
    spread = spread_over_refits(law, region, slopes, bootstrap, (u, v), budget, evidence.noise_pct)
    kind = "flat" if evidence.is_flat else _kind(decisive, is_bowl, spread.bowl_share, evidence.p_value)
    side, further = beyond(law, region, u, v) if kind in ("boundary", "saddle") else ("", None)
    found = Optimum(
        kind=kind,
        sentence="",
        mu=float(np.exp(u)),
        sigma=float(np.exp(v)),
        mu_interval=spread.mu,
        sigma_interval=spread.sigma,
        predicted_loss=float(law.predict(np.exp(u), np.exp(v), budget)),
        predicted_interval=spread.loss,
        regret_pct=spread.regret_pct,
        regret_bound_pct=spread.regret_bound_pct,
        range_pct=evidence.range_pct,
        noise_pct=evidence.noise_pct,
        effect_p=evidence.p_value,
        bowl_share=spread.bowl_share,
        side=side,
        further_trial=further,
        conditions=decisive,
        tokens=budget,
        equals=spread.equals,
        statistics=law.observations.statistics,
    )
    why_not = no_intervals(law)
    sentence = _sentence(found)
    return replace(found, sentence=f"{sentence} There are no intervals: {why_not}." if why_not else sentence)


@dataclass(frozen=True)
class _Evidence:
    """Whether the surface is more than noise.

    Flat: the predicted loss varies by less than twice the noise over the region, or the form explains the runs'
    differences no better than chance and these are less than twice the noise.
    """

    range_pct: float
    noise_pct: float
    p_value: float
    is_flat: bool

    @classmethod
    def of(cls, law: LawFit, region: SearchRegion, noise_pct: float | None, tokens: float) -> "_Evidence":
        u, v = region.points
        # A surface fades as D grows, so it is judged where it was measured: the selection may be far longer.
        losses = law.predict(np.exp(u), np.exp(v), min(tokens, float(law.observations.tokens.max())))
        range_pct = 100.0 * float(losses.max() / losses.min() - 1.0)
        parts = noise_parts(law)
        noise = 100.0 * float(np.hypot(parts.run, parts.point)) if noise_pct is None else noise_pct
        tokens_only = fit(law.observations, "d_only", law.link)
        p_value, between = effect_p_value(law, tokens_only), 100.0 * between_runs(tokens_only)
        is_flat = range_pct < 2 * noise or (p_value > SIGNIFICANT and between < 2 * noise)
        return cls(range_pct, noise, p_value, is_flat)


def _locate(
    law: LawFit, region: SearchRegion, slopes: Slopes, is_flat: bool
) -> tuple[float, float, Conditions | None, bool]:
    """The optimum's (ln mu, ln sigma), the stationary point that decides its kind, and whether it is a bowl."""
    own = peaks(slopes, law.surface_coefficients[None], region)
    if own.is_bowl[0] and not is_flat:
        return *_settle(law, region, float(own.u[0]), float(own.v[0])), True
    u, v = highest(law, region)
    return u, v, None if is_flat else _decisive(stationary_points(law, region, slopes)), False


def _settle(law: LawFit, region: SearchRegion, u: float, v: float) -> tuple[float, float, Conditions]:
    """The stationary point (ln mu, ln sigma) next to a bowl's highest grid point, with its conditions."""
    point = stationary_point(law, u, v)
    if point is not None and np.abs(point - [u, v]).max() < 3 * region.step.max():
        u, v = float(point[0]), float(point[1])
    return u, v, conditions(law, float(np.exp(u)), float(np.exp(v)))


def _decisive(inner: list[Conditions]) -> Conditions | None:
    """The stationary point to speak of where the optimum lies on the edge: a saddle before any other."""
    saddles = [point for point in inner if point.curvature[0] < 0 < point.curvature[1]]
    return next(iter(saddles or inner), None)


def _kind(point: Conditions | None, is_bowl: bool, share: float, p_value: float) -> OptimumKind:
    if is_bowl:
        if np.isnan(share):
            return "weak_bowl"
        return (
            "interior_bowl"
            if share >= SURE and p_value <= SIGNIFICANT
            else "weak_bowl"
            if share >= LIKELY
            else "boundary"
        )
    is_saddle = point is not None and point.curvature[0] < 0 < point.curvature[1]
    return "saddle" if is_saddle else "boundary"


def _sentence(found: Optimum) -> str:
    """The optimum in plain words."""
    doubt = ""
    if found.kind != "flat" and found.effect_p > SIGNIFICANT and not _is_demoted(found):
        doubt = (
            f" The runs differ beyond the noise, but this form explains that no better than chance "
            f"(p = {found.effect_p:.2g})."
        )
    return _verdict(found) + doubt


def _is_demoted(found: Optimum) -> bool:
    """Whether a bowl is weak although enough refits agree: its surface is not significant."""
    return found.kind == "weak_bowl" and found.bowl_share >= SURE


def _verdict(found: Optimum) -> str:
    names = ("mean perplexity", "standard deviation")
    if found.statistics == "log":
        names = ("geometric mean perplexity", "geometric deviation")
    place = f"{names[0]} {found.mu:.4g} and {names[1]} {found.sigma:.4g}"
    if found.kind == "flat":
        if found.effect_p > SIGNIFICANT:
            why = f"the runs' differences are explained without them as well (p = {found.effect_p:.2g})"
        else:
            why = f"they move it by {found.range_pct:.2f} %, less than twice the noise of {found.noise_pct:.2f} %"
        return f"The loss does not depend on mean and spread beyond noise: {why}; the location {place} means little."
    share = "" if np.isnan(found.bowl_share) else f"{100 * found.bowl_share:.0f} % of the refits"
    if found.kind == "interior_bowl":
        return f"The loss has its minimum inside what was tried, at {place}; {share} agree."
    if _is_demoted(found):
        return (
            f"The fit has its minimum inside what was tried, at {place}, and {share} agree, but this form explains the "
            f"runs no better than chance (p = {found.effect_p:.2g})."
        )
    if found.kind == "weak_bowl":
        agree = f"only {share} agree" if share else "no refits were made to confirm it"
        return f"The fit has its minimum inside what was tried, at {place}, but {agree}."
    settle = (
        f"a trial at mean {found.further_trial[0]:.4g} and deviation {found.further_trial[1]:.4g} would settle it"
        if found.further_trial
        else "the corpus has no subset further that way, so no trial can settle it"
    )
    if found.kind == "saddle":
        return (
            f"The surface is a saddle inside what was tried, so the least loss lies on the edge, at {place}, "
            f"and falls further {found.side}: {settle}."
        )
    if found.conditions is not None and found.conditions.is_bowl and share:
        return f"The fit's minimum at {place} is inside, but {share} agree: take it as an edge; {settle}."
    return f"The least loss lies on the edge of what was tried, at {place}, and falls further {found.side}: {settle}."
