"""The regimes group in Dagster: regime_partitions."""

import dagster as dg
import polars as pl

from ppl_assets import plots
from ppl_assets.fingerprint import fingerprint
from ppl_assets.lake import Commit, Lake, Snapshot
from ppl_assets.markdown import as_markdown_table
from ppl_assets.perplexity.assets import perplexity_landscape
from ppl_assets.perplexity.stored import content_versions
from ppl_assets.regimes.cost import budget_problem, cost_of_trials, measured_prefixes
from ppl_assets.regimes.design import STEADY, Trial, build_trials, face_grid
from ppl_assets.regimes.pool import Pool, read_pool, trial_rows
from ppl_assets.regimes.reachable import ReachableRegion
from ppl_assets.regimes.stored import all_trials, design
from ppl_assets.resources import (
    TRIAL_PARTITIONS,
    Inputs,
    Platform,
    Step,
    column_schema,
    in_plain_words,
    table_metadata,
)
from ppl_assets.study import Study
from ppl_assets.tables import (
    LANDSCAPE_HISTOGRAM,
    PERPLEXITY_LANDSCAPE,
    REACHABLE_REGION,
    REGIME_PARTITIONS,
    REGIMES,
)

CODE_VERSION = "3"
"""Of the design and the sampler."""

OUTLINE_POINTS = 80
"""Means at which the reachable region's outline is stored."""

MOST_OBJECTIVE = 1e-4
"""Relative J of a draw: 1 % off in the mean or in the deviation."""

MOST_PREFIX_ERROR = STEADY
"""Relative error of a measured prefix' moments; a few chunks of a heavy tail can put it out of reach of a short one."""

LEAST_SPAN = 16.0
"""Largest over smallest measured token count that tells the floor E from the exponent of D."""

ANCHORS = {"corpus": "candidates", "target": "test"}
"""Extra trials beside the grid: name to the landscape scope whose moments they have. The first is what random selection
gives, the second what matching the test set gives: a law that is right there is right about the rivals to fear."""


def regime_partitions_inputs(study: Study, _lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides the design: chunks and landscape, the design's settings, the token counts, the seed.

    Neither the budget nor decay branches move a row of it, but other ones have to be checked again.
    """
    landscape = snapshot.latest("perplexity_landscape")
    trials = study.trials.model_dump(include={"tokens", "span", "points", "batch_tokens"})
    version = landscape.data_version if landscape else ""
    branches = [study.trials.decay_branches, study.trials.decay_share] if study.trials.decay_branches else []
    return Inputs(
        [
            CODE_VERSION,
            version,
            content_versions(study, snapshot),
            study.regimes.model_dump(),
            trials,
            [study.trials.max_tokens, study.trials.max_hours, *branches],
            study.selection.model_dump(include={"tokens", "share", "repeats"}),
            study.study.seed,
        ]
    )


@dg.asset(
    group_name="3_regimes",
    deps=[perplexity_landscape],
    kinds={"scipy", "duckdb"},
    code_version=CODE_VERSION,
    metadata={
        **table_metadata(REGIME_PARTITIONS),
        "regimes": column_schema(REGIMES),
        "reachable_region": column_schema(REACHABLE_REGION),
    },
    description=(
        "The trial design: which subset, with which mean and spread of perplexity, which chunks in which order. "
        "Every prefix of an order has its regime's moments, so that one run gives a point at every token count."
    ),
)
@in_plain_words
def regime_partitions(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Lay regimes out over the reachable region, draw and order their subsets, and register the trials."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = regime_partitions_inputs(study, step.lake, step.snapshot)
    commit = step.unchanged(inputs)
    if commit is None:
        pool = read_pool(step.snapshot, study.corpus_partitions())
        trials = _design(study, step.snapshot, pool)
        regimes, members = trial_rows(trials, pool)
        writes = [
            step.stage(REGIMES, regimes),
            step.stage(REGIME_PARTITIONS, members),
            step.stage(REACHABLE_REGION, _outlines(study, pool)),
        ]
        commit = step.write(writes, inputs, fingerprint(regimes["subset_hash"].to_list(), regimes["seed"].to_list()))
    register_trials(context.instance, step.lake.snapshot())
    return _design_result(study, step, commit)


def _design(study: Study, snapshot: Snapshot, pool: Pool) -> list[Trial]:
    """The trials of the study's design."""
    landscape = snapshot.read(PERPLEXITY_LANDSCAPE, ["scope", "mean", "deviation"])
    moments = {row["scope"]: (row["mean"], row["deviation"]) for row in landscape.iter_rows(named=True)}
    tokens = study.trials.tokens
    region = ReachableRegion.at_share(pool.candidates, tokens)
    anchors = {name: moments[scope] for name, scope in ANCHORS.items() if scope in moments}
    settings = study.regimes
    regimes = face_grid(
        region,
        pool.candidates,
        tokens,
        settings.grid,
        settings.inside,
        repeats=settings.repeats,
        anchors=anchors,
        quantiles=settings.quantiles,
    )
    return build_trials(pool.candidates, regimes, tokens, study.study.seed, measured_prefixes(study))


def selection_tokens(study: Study, total: int) -> int:
    """The selection's token budget, given the candidates' tokens."""
    if study.selection.tokens is not None:
        return study.selection.tokens
    return max(1, int((study.selection.share or 0.0) * total))


def _outlines(study: Study, pool: Pool) -> pl.DataFrame:
    """Outline of the reachable region at the shares of the smallest and largest measured count, and the selection's."""
    total, parts = pool.candidates.total_tokens, []
    counts = measured_prefixes(study)
    for tokens in sorted({counts[0], counts[-1], study.selection.of_each_copy(selection_tokens(study, total))}):
        outline = ReachableRegion.at_share(pool.candidates, tokens).boundary(OUTLINE_POINTS)
        columns = {"mu": outline[:, 0], "sigma_low": outline[:, 1], "sigma_high": outline[:, 2]}
        parts.append(pl.DataFrame({"share": [min(1.0, tokens / total)] * len(outline), **columns}))
    return pl.concat(parts)


def register_trials(instance: dg.DagsterInstance, snapshot: Snapshot) -> None:
    """Make the trial partitions those of the design and of the proposals that add to it.

    Rows of trials that are no longer asked for stay in the table and in later fits.
    """
    key, names = str(TRIAL_PARTITIONS.name), all_trials(snapshot)["trial"].to_list()
    present = instance.get_dynamic_partitions(key)
    for vanished in set(present) - set(names):
        instance.delete_dynamic_partition(key, vanished)
    if new := [name for name in names if name not in present]:
        instance.add_dynamic_partitions(key, new)


def _design_result(study: Study, step: Step, commit: Commit) -> dg.MaterializeResult:
    snapshot = step.lake.snapshot()
    regimes, outlines = design(snapshot), snapshot.read(REACHABLE_REGION)
    landscape, bars = snapshot.read(PERPLEXITY_LANDSCAPE), snapshot.read(LANDSCAPE_HISTOGRAM)
    picture = plots.landscape(bars, landscape, regimes, size="small")
    places = plots.trial_design(outlines, regimes, landscape, size="small")
    cost = cost_of_trials(study, snapshot, regimes)
    columns = [
        "trial", "mu_target", "sigma_target", "mu", "sigma", "tokens", "seed", "kl_nats",
        "prefix_error", "steady_tokens",
    ]  # fmt: skip
    metadata = {
        "trials": regimes.height,
        "cost": cost.sentence,
        "tokens_of_all_trials": cost.tokens,
        "trained_tokens": cost.trained,
        "evaluated_tokens": cost.evaluated,
        "device_seconds": dg.MetadataValue.null() if cost.seconds is None else dg.MetadataValue.float(cost.seconds),
        "speed_from": cost.source,
        "budget": _budget(study),
        "largest_prefix_error": float(regimes["prefix_error"].max() or 0.0),  # type: ignore[arg-type]
        "steady_from_tokens": int(regimes["steady_tokens"].max() or 0),  # type: ignore[arg-type]
        "largest_objective": float(regimes["objective"].max() or 0.0),  # type: ignore[arg-type]
        "regimes": dg.MetadataValue.md(as_markdown_table(regimes.select(columns))),
        "region": dg.MetadataValue.md(plots.as_markdown(places, "Regimes in the reachable region")),
        "landscape": dg.MetadataValue.md(plots.as_markdown(picture, "Regimes on the landscape")),
        "token_counts": ", ".join(f"{count:,}" for count in measured_prefixes(study)),
    }
    rows = snapshot.read(REGIME_PARTITIONS, ["rank"]).height
    return step.result(commit, metadata, table=REGIME_PARTITIONS, rows=rows)


def _budget(study: Study) -> str:
    """The study's budget of all trials in words."""
    trials = study.trials
    parts = [
        f"{trials.max_tokens:,} tokens" if trials.max_tokens is not None else "",
        f"{trials.max_hours:g} device hours" if trials.max_hours is not None else "",
    ]
    return " and ".join(part for part in parts if part) or "none: trials.max_tokens and trials.max_hours are not set"


@dg.asset_check(
    asset=regime_partitions,
    blocking=True,
    description="All trials together stay within the study's budget of tokens and device hours; before any is trained.",
)
def trials_fit_the_budget(platform: Platform) -> dg.AssetCheckResult:
    """Compare the cost of the design with trials.max_tokens and trials.max_hours."""
    snapshot = platform.lake.snapshot()
    cost = cost_of_trials(platform.study, snapshot, design(snapshot))
    problem = budget_problem(platform.study, cost)
    return dg.AssetCheckResult(passed=not problem, description=problem or f"{cost.sentence}.")


@dg.asset_check(
    asset=regime_partitions,
    description="Every run is measured at token counts that span at least 16x, the same in every regime.",
)
def token_counts_span_enough(platform: Platform) -> dg.AssetCheckResult:
    """Compare the largest with the smallest measured count."""
    counts = measured_prefixes(platform.study)
    span = counts[-1] / counts[0]
    ends = f"from {counts[0]:,} to {counts[-1]:,} tokens"
    sentence = f"Every run is measured at the same {len(counts)} token counts {ends}, a span of {span:.3g}"
    if span >= LEAST_SPAN:
        return dg.AssetCheckResult(passed=True, description=f"{sentence}.")
    sentence += (
        f"; below {LEAST_SPAN:g} the law's floor and its exponent of tokens are hard to tell apart: raise trials.span."
    )
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description=sentence)


@dg.asset_check(
    asset=regime_partitions,
    description="Every trial has the moments that its regime asks for, in the whole and in every measured prefix.",
)
def trials_have_their_moments(platform: Platform) -> dg.AssetCheckResult:
    """Compare drawn with asked-for moments."""
    regimes = design(platform.lake.snapshot())
    return judge_moments(regimes)


def judge_moments(regimes: pl.DataFrame) -> dg.AssetCheckResult:
    """Compare drawn with asked-for moments of trials, rows of table ``regimes``."""
    off = regimes.filter(pl.col("objective") > MOST_OBJECTIVE)
    loose = regimes.filter(pl.col("prefix_error") > MOST_PREFIX_ERROR)
    largest = float(regimes["prefix_error"].max() or 0.0)  # type: ignore[arg-type]
    sentence = (
        f"{regimes.height} trials: {off.height} miss their mean or deviation by more than 1 %, {loose.height} have a "
        f"measured prefix whose moments are more than {MOST_PREFIX_ERROR:.0%} off (largest {largest:.1%})"
        f"{': ' + ', '.join(loose['trial']) if loose.height else ''}."
    )
    return dg.AssetCheckResult(
        passed=off.is_empty() and loose.is_empty(), severity=dg.AssetCheckSeverity.WARN, description=sentence
    )


ASSETS = [regime_partitions]
CHECKS = [trials_fit_the_budget, token_counts_span_enough, trials_have_their_moments]
