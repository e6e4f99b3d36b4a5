"""What a person should know before trusting the law, one plain sentence each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppl_assets.law.choice import FormResult
from ppl_assets.law.observations import LabelArray, Observations, at_largest
from ppl_assets.law.optimum import SIGNIFICANT
from ppl_assets.law.region import SearchRegion

Severity = Literal["error", "warn"]

FEW_RUNS = 9
"""A 3 x 3 face grid: the least design that shows a curvature in both directions."""

SHORT_SPAN = 16.0
"""Least largest-over-smallest token count that separates E, Dc and aD."""

HARD = 1e6
"""Condition number from which single coefficients are not to be read."""

LEAST_LOG_PRODUCT = 4.0
"""With mu, sigma > 1 a bowl of the paper's form needs ln mu* ln sigma* > 2 + p/q + q/p >= 4 (p = a1 s, q = b1 mu)."""

BELIEVED = ("surface_beyond_noise", "surface_significant", "better_than_tokens_alone", "optimum_near_measured")
"""Findings without which the law does not decide where the subset should sit."""

FULL_TRAINING = "full_training"
"""Finding that fails where the law is one of adapters; the selection repeats its sentence."""

BEYOND = 0.1
"""Distance in log units, 10 %, from which the corpus' own moments lie outside what the trials covered."""


UNSHOWN_PCT = 1.0
"""Most that an optimum may promise below the best regime measured, % of loss, or twice the noise: between the places of
a 3 x 3 grid 0.4 % are sound where the loss varies by 4 %."""

EXTRAPOLATED = 2.0
"""Times the largest measured token count from which a prediction is called an extrapolation."""


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        name: what was checked, snake_case.
        passed: whether all is well.
        severity: error where the selection should not be trusted, warn where it should be read with care.
        sentence: what was found, in plain words.
    """

    name: str
    passed: bool
    severity: Severity
    sentence: str


def checks(
    results: list[FormResult],
    chosen: FormResult,
    obs: Observations,
    region: SearchRegion,
    noise_pct: float | None = None,
    corpus: tuple[float, float] | None = None,
    screening: bool = False,
    earlier_runs: int = 0,
) -> list[Finding]:
    """Judge the measurements, the chosen fit and its optimum.

    Args:
        results: of ``fit_all``.
        chosen: of ``choose``.
        obs: the measurements given to ``fit_all``.
        region: the region given to ``fit_all``.
        noise_pct: measured seed noise, % of loss, if known.
        corpus: (mu, sigma) of all candidates as they are now, if known.
        screening: whether losses of low-rank adapters are among the measurements.
        earlier_runs: how many of the runs are not of the present design.
    """
    found = [*_measurements(obs, noise_pct), _training_helps(obs), _of_this_design(obs, earlier_runs)]
    found += [_full_training(screening), _fitted(chosen)]
    if corpus is not None:
        found.append(_covers(region, *corpus))
    if chosen.fit.is_usable:
        found += [
            *_fit(chosen),
            *_refits(chosen),
            *_optimum(chosen),
            _better_than_tokens(results, chosen),
            _bowl_possible(chosen, region),
        ]
    return found


def _measurements(obs: Observations, noise_pct: float | None) -> Iterator[Finding]:
    runs = len(obs.runs)
    yield Finding(
        "enough_runs",
        runs >= FEW_RUNS,
        "warn",
        f"{runs} trial runs were measured; {FEW_RUNS} are the least that show curvature in mean and spread.",
    )
    span = float(obs.tokens.max() / obs.tokens.min()) if len(obs) else 0.0
    yield Finding(
        "token_span",
        span >= SHORT_SPAN * (1 - 1e-6),
        "warn",
        f"Token counts span {span:.1f} times; {SHORT_SPAN:.0f} times are needed to tell the floor from the slope.",
    )
    yield Finding(
        "noise_measured",
        noise_pct is not None,
        "warn",
        "No regime was repeated, so the seed noise is guessed from the residuals."
        if noise_pct is None
        else f"Repeated regimes differ by {noise_pct:.2f} % of loss between seeds.",
    )


def _training_helps(obs: Observations) -> Finding:
    """Whether every measurement lies below the base model's loss; what does not is in no fit."""
    harmful, above = obs.harmful_runs, int((obs.loss >= obs.base_loss).sum())
    if len(harmful):
        named = ", ".join(f"({mu:.4g}, {sigma:.4g})" for mu, sigma in _places(obs, harmful[:4]))
        named += ", ..." * (len(harmful) > 4)
        sentence = (
            f"{len(harmful)} of {len(obs.runs)} runs ended no better than the base model, at (mean, deviation) "
            f"{named}: such text harms, no form can follow it, and no optimum is looked for there."
        )
    elif above:
        sentence = f"In {above} of {len(obs)} measurements the loss was not below the base model's; no fit has them."
    else:
        sentence = "Every measurement lies below the base model's loss."
    return Finding("training_helps", not above, "warn", sentence)


def _places(obs: Observations, runs: LabelArray) -> list[tuple[float, float]]:
    """Where runs lie, (mu, sigma)."""
    means = [obs.subset(np.asarray(obs.run == label)).run_means() for label in runs]
    return [(float(mu[0]), float(sigma[0])) for mu, sigma in means]


def _of_this_design(obs: Observations, earlier: int) -> Finding:
    return Finding(
        "trials_of_this_design",
        earlier == 0,
        "warn",
        f"{earlier} of the {len(obs.runs)} runs are of earlier designs, of other places or of other text with the same "
        "moments: the law takes both for one; run the trials of the present design."
        if earlier
        else "Every run is of the present design.",
    )


def _full_training(screening: bool) -> Finding:
    return Finding(
        FULL_TRAINING,
        not screening,
        "warn",
        "The law was fitted to a screening with low-rank adapters: it ranks regimes, and is not the law of full "
        "training; set trials.lora_rank = 0 for that."
        if screening
        else "Every trial trained all weights.",
    )


def _fitted(chosen: FormResult) -> Finding:
    return Finding(
        "law_fitted", chosen.fit.is_usable, "error", f"{chosen.name}: {chosen.fit.status}; {chosen.fit.reason}."
    )


def _covers(region: SearchRegion, mu: float, sigma: float) -> Finding:
    """Whether the corpus as it is now lies in what the trials covered: a random subset then has a prediction."""
    far = region.distance(mu, sigma)
    place = f"the corpus' own moments, mean {mu:.4g} and deviation {sigma:.4g}"
    return Finding(
        "covers_landscape",
        far <= BEYOND,
        "warn",
        f"The trials cover {place}."
        if far <= BEYOND
        else f"The law no longer covers the landscape: {place}, lie {100 * np.expm1(far):.0f} % outside the trials; "
        "run trials of the present design.",
    )


def _fit(chosen: FormResult) -> Iterator[Finding]:
    law = chosen.fit
    fine = law.status != "ill_conditioned" and law.condition_number <= HARD
    yield Finding(
        "well_conditioned",
        fine,
        "warn",
        f"The columns' condition number is {law.condition_number:.1e}"
        + ("." if fine else "; single coefficients are not to be read, predictions inside the trials hold."),
    )
    floor_known = law.status not in ("e_at_bound", "e_near_min")
    yield Finding("floor_identified", floor_known, "warn", f"{law.reason[0].upper()}{law.reason[1:]}.")


def _refits(chosen: FormResult) -> Iterator[Finding]:
    """Whether the intervals stand on all refits; nothing where none were asked for."""
    refits = chosen.bootstrap
    if refits is not None:
        asked = refits.failed + len(refits.E)
        yield Finding(
            "refits_complete",
            refits.status == "complete",
            "warn",
            f"{refits.failed} of {asked} refits did not come to rest and were dropped"
            + (": intervals come out too narrow." if refits.status != "complete" else "."),
        )


def _optimum(chosen: FormResult) -> Iterator[Finding]:
    best = chosen.optimum
    yield Finding("optimum_inside", best.kind in ("interior_bowl", "weak_bowl"), "warn", best.sentence)
    if best.kind == "refused":
        return
    yield _within_trials(chosen)
    yield _near_measured(chosen)
    yield Finding(
        "surface_beyond_noise",
        bool(best.range_pct >= 2 * best.noise_pct),
        "warn",
        f"Over the region the predicted loss varies by {best.range_pct:.2f} %, with noise of {best.noise_pct:.2f} %.",
    )
    yield _significant(chosen)


def _significant(chosen: FormResult) -> Finding:
    """The F test by regime; a form chosen among several has had as many chances (Bonferroni)."""
    chance = min(1.0, chosen.optimum.effect_p * chosen.chosen_among)
    among = f", over {chosen.chosen_among} forms that were compared" if chosen.chosen_among > 1 else ""
    return Finding(
        "surface_significant",
        bool(chance <= SIGNIFICANT),
        "warn",
        f"If only tokens mattered, this form would explain the regimes this well with chance {chance:.2g}{among}.",
    )


def _within_trials(chosen: FormResult) -> Finding:
    asked, largest = chosen.optimum.tokens, float(chosen.fit.observations.tokens.max())
    return Finding(
        "predicts_within_trials",
        asked <= EXTRAPOLATED * largest,
        "warn",
        f"The selection's {asked:,.0f} tokens are {asked / largest:.3g} times the largest count measured: "
        + (
            "the loss predicted there is an extrapolation, whose interval knows nothing of what lies beyond."
            if asked > EXTRAPOLATED * largest
            else "the prediction stays near what was measured."
        ),
    )


def _near_measured(chosen: FormResult) -> Finding:
    """Whether the optimum promises much less than the best regime measured has, at the largest measured count."""
    best = chosen.optimum
    obs = chosen.fit.observations.subset(at_largest(chosen.fit.observations.tokens))
    index = obs.regime_index
    measured = float(np.exp((np.bincount(index, np.log(obs.loss)) / np.bincount(index)).min()))
    promised = float(chosen.fit.predict(best.mu, best.sigma, float(obs.tokens.mean())))
    gain, allowed = 100.0 * (measured / promised - 1.0), max(UNSHOWN_PCT, 2.0 * best.noise_pct)
    return Finding(
        "optimum_near_measured",
        gain <= allowed,
        "warn",
        f"At the largest token count the law promises {promised:.3f} at its optimum, and the best regime measured has "
        f"{measured:.3f}: "
        + (
            f"{gain:.2f} % apart."
            if gain <= allowed
            else f"{gain:.2f} % that no trial has shown; only a run there can confirm it."
        ),
    )


def _better_than_tokens(results: list[FormResult], chosen: FormResult) -> Finding:
    plain = [r.regime_error_pct for r in results if r.fit.form == "d_only" and r.fit.is_usable]
    least, own = min(plain, default=float("nan")), chosen.regime_error_pct
    if not np.isfinite(own):
        return Finding(
            "better_than_tokens_alone", False, "warn", "There are too few regimes to leave one out and predict it."
        )
    return Finding(
        "better_than_tokens_alone",
        own < least,
        "warn",
        f"Left-out regimes are predicted to {own:.2f} % on average, by tokens alone to {least:.2f} %.",
    )


def _bowl_possible(chosen: FormResult, region: SearchRegion) -> Finding:
    name = "bowl_possible"
    if chosen.fit.form == "no_interaction":
        return Finding(name, False, "warn", "Without interactions of mean and spread this form can never show a bowl.")
    if chosen.fit.form == "d_only":
        return Finding(name, False, "warn", "A form without mean and spread can never show a bowl.")
    if chosen.fit.form != "paper" or region.problem:
        return Finding(name, True, "warn", "This form can show a bowl in any unit of perplexity.")
    u, v = region.points
    v = v if chosen.fit.sigma_kind == "deviation" else 2 * v
    if min(u.min(), v.min()) <= 0:
        return Finding(name, True, "warn", "With mean or spread under 1 the units do not rule a bowl out.")
    most = float((u * v).max())
    verdict = (
        "so a bowl is possible" if most > LEAST_LOG_PRODUCT else "so these units rule a bowl out whatever the data say"
    )
    return Finding(
        name,
        most > LEAST_LOG_PRODUCT,
        "warn",
        f"The paper's form needs ln(mean) times ln(spread) over 4 at a bowl; the region reaches {most:.1f}, {verdict}.",
    )
