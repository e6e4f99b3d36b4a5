"""Checks that look across the stages: what is out of date, and whether the trials still cover the corpora.

Belongs here: what a person has to decide and no stage can know alone. Neither check blocks, neither starts anything.
"""

from typing import Any

import dagster as dg
import duckdb

from ppl_assets.automation.outstanding import outstanding
from ppl_assets.lake import Lake, Snapshot
from ppl_assets.law.assets import comparable_losses
from ppl_assets.law.drift import Drift, drift_of
from ppl_assets.law.law_rows import LawError, observations
from ppl_assets.perplexity.assets import perplexity_landscape
from ppl_assets.regimes.cost import cost_of_trials
from ppl_assets.regimes.stored import all_trials, design
from ppl_assets.resources import Platform
from ppl_assets.study import study_option
from ppl_assets.tables import PERPLEXITY_LANDSCAPE


@dg.asset_check(
    asset=perplexity_landscape,
    description=(
        "Every corpus is cut and scored by the present code, settings and base model; else which are not, what scoring "
        "them takes, and how to ask for it. A change of code never rescores by itself."
    ),
)
def scores_are_current(platform: Platform) -> dg.AssetCheckResult:
    """Count what would have to be scored."""
    snapshot = platform.lake.snapshot()
    if not snapshot.commits("perplexity_scores"):
        return dg.AssetCheckResult(passed=True, description="Nothing was scored yet, so nothing is out of date.")
    due = outstanding(platform.study, platform.lake, snapshot)
    metadata: dict[str, Any] = {
        "out_of_date": dg.MetadataValue.json(due.scores),
        "chunks": due.n_chunks,
        "tokens": due.n_tokens,
    }
    if due.seconds is not None:
        metadata["device_seconds"] = dg.MetadataValue.float(float(due.seconds))
    return dg.AssetCheckResult(
        passed=not due.scores,
        severity=dg.AssetCheckSeverity.WARN,
        description=due.sentence(study_option(platform.study_file)),
        metadata=metadata,
    )


@dg.asset_check(
    asset=perplexity_landscape,
    description=(
        "The corpora's mean and deviation of perplexity lie in what the trials measured; else what new trials cost and "
        "how to ask for them. Trials never run by themselves."
    ),
)
def trials_cover_the_landscape(platform: Platform) -> dg.AssetCheckResult:
    """Compare the landscape now with the hull of the trials, and with the landscape of the design."""
    study, snapshot = platform.study, platform.lake.snapshot()
    designed = snapshot.latest("regime_partitions")
    if designed is None:
        return dg.AssetCheckResult(
            passed=True, description="No trial was designed yet, so there is nothing to drift from."
        )
    try:
        measured = observations(comparable_losses(study, snapshot), all_trials(snapshot).select("trial", "regime"))
    except LawError:
        return dg.AssetCheckResult(
            passed=True,
            description="No trial was measured yet under the present setting, so there is nothing to drift from.",
        )
    drift = drift_of(measured, _moments(snapshot), _designed_for(platform.lake, designed.snapshot))
    cost = cost_of_trials(study, snapshot, design(snapshot))
    return dg.AssetCheckResult(
        passed=drift.is_covered,
        severity=dg.AssetCheckSeverity.WARN,
        description=drift.sentence(cost.sentence, study_option(platform.study_file)),
        metadata=_metadata(drift, cost.tokens, cost.seconds),
    )


def _moments(snapshot: Snapshot) -> tuple[float, float]:
    """Mean and deviation of all candidates."""
    row = snapshot.only_row(PERPLEXITY_LANDSCAPE, {"scope": "candidates"})
    return float(row["mean"]), float(row["deviation"])


def _designed_for(lake: Lake, number: int) -> tuple[float, float] | None:
    """Those of the landscape at the design; None where the lake no longer keeps that snapshot."""
    try:
        return _moments(lake.snapshot(number))
    except duckdb.Error:
        return None


def _metadata(drift: Drift, tokens: int, seconds: float | None) -> dict[str, Any]:
    figures = {
        "mean": drift.now[0],
        "deviation": drift.now[1],
        "outside_the_trials_pct": drift.outside_pct,
        "moved_since_the_design_pct": drift.moved_pct,
        "device_seconds_of_new_trials": seconds,
    }
    shown = {name: float(f"{value:.6g}") for name, value in figures.items() if value is not None}
    return {**shown, "tokens_of_new_trials": tokens}


CHECKS = [scores_are_current, trials_cover_the_landscape]
