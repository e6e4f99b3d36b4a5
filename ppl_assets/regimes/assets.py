"""The regimes group in Dagster: regime_partitions."""

import dagster as dg
import polars as pl

from ppl_assets import plots
from ppl_assets.fingerprint import fingerprint
from ppl_assets.lake import Commit, Lake, Snapshot
from ppl_assets.markdown import as_markdown_table
from ppl_assets.perplexity.assets import perplexity_landscape
from ppl_assets.perplexity.stored import content_versions
from ppl_assets.regimes.design import Trial, build_trials, face_grid
from ppl_assets.regimes.pool import Pool, read_pool
from ppl_assets.regimes.reachable import ReachableRegion
from ppl_assets.regimes.token_counts import measured_token_counts
from ppl_assets.resources import TRIAL_PARTITIONS, Inputs, Platform, Step, column_schema, table_metadata
from ppl_assets.study import Study
from ppl_assets.tables import (
    LANDSCAPE_HISTOGRAM,
    PERPLEXITY_LANDSCAPE,
    REACHABLE_REGION,
    REGIME_PARTITIONS,
    REGIMES,
)

CODE_VERSION = "1"
"""Of the design and the sampler."""

OUTLINE_POINTS = 80
"""Means at which the reachable region's outline is stored."""

MOST_OBJECTIVE = 1e-4
"""Relative J of a draw: 1 % off in the mean or in the deviation."""

MOST_PREFIX_ERROR = 0.01
"""Relative error of a measured prefix' moments; a few chunks of a heavy tail can put it out of reach of a short one."""

ANCHORS = {"corpus": "candidates", "target": "test"}
"""Extra trials beside the grid: name to the landscape scope whose moments they have. The first is what random selection
gives, the second what matching the test set gives: a law that is right there is right about the rivals to fear."""


def measured_prefixes(study: Study) -> list[int]:
    """Token counts at which a trial is measured."""
    trials = study.trials
    return measured_token_counts(trials.tokens, trials.batch_tokens, trials.span, trials.points)


def regime_partitions_inputs(study: Study, _lake: Lake, snapshot: Snapshot, _partition: str = "") -> Inputs:
    """What decides the design: chunks and landscape, the design's settings, the token counts, the seed."""
    landscape = snapshot.latest("perplexity_landscape")
    trials = study.trials.model_dump(include={"tokens", "span", "points", "batch_tokens"})
    version = landscape.data_version if landscape else ""
    return Inputs(
        [
            CODE_VERSION,
            version,
            content_versions(study, snapshot),
            study.regimes.model_dump(),
            trials,
            study.selection.model_dump(),
            study.study.seed,
        ]
    )


@dg.asset(
    group_name="regimes",
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
def regime_partitions(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Lay regimes out over the reachable region, draw and order their subsets, and register the trials."""
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = regime_partitions_inputs(study, step.lake, step.snapshot)
    commit = step.unchanged(inputs)
    if commit is None:
        pool = read_pool(step.snapshot, study.corpus_partitions())
        trials = _design(study, step.snapshot, pool)
        regimes = pl.DataFrame([_regime_row(trial) for trial in trials], schema=pl.Schema(REGIMES.schema))
        members = pl.concat([pool.drawn(trial.index).with_columns(trial=pl.lit(trial.name)) for trial in trials])
        writes = [
            step.stage(REGIMES, regimes),
            step.stage(REGIME_PARTITIONS, members),
            step.stage(REACHABLE_REGION, _outlines(study, pool)),
        ]
        commit = step.write(writes, inputs, fingerprint(regimes["subset_hash"].to_list(), regimes["seed"].to_list()))
    names = step.lake.snapshot().read(REGIMES, ["trial"])["trial"].to_list()
    _register(context.instance, names)
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
        region, pool.candidates, tokens, settings.grid, settings.inside, repeats=settings.repeats, anchors=anchors
    )
    return build_trials(pool.candidates, regimes, tokens, study.study.seed, measured_prefixes(study))


def _regime_row(trial: Trial) -> dict[str, object]:
    columns = {column.name for column in REGIMES.columns} - {"trial", "chunks"}
    return {name: getattr(trial, name) for name in columns} | {"trial": trial.name, "chunks": trial.index.size}


def selection_tokens(study: Study, total: int) -> int:
    """The selection's token budget, given the candidates' tokens."""
    if study.selection.tokens is not None:
        return study.selection.tokens
    return max(1, int((study.selection.share or 0.0) * total))


def _outlines(study: Study, pool: Pool) -> pl.DataFrame:
    """Outline of the reachable region at the trials' and at the selection's share."""
    total, parts = pool.candidates.total_tokens, []
    for tokens in sorted({study.trials.tokens, selection_tokens(study, total)}):
        outline = ReachableRegion.at_share(pool.candidates, tokens).boundary(OUTLINE_POINTS)
        columns = {"mu": outline[:, 0], "sigma_low": outline[:, 1], "sigma_high": outline[:, 2]}
        parts.append(pl.DataFrame({"share": [min(1.0, tokens / total)] * len(outline), **columns}))
    return pl.concat(parts)


def _register(instance: dg.DagsterInstance, names: list[str]) -> None:
    """Make the trial partitions the design's; rows of trials that left it stay in the table and in later fits."""
    key = str(TRIAL_PARTITIONS.name)
    present = instance.get_dynamic_partitions(key)
    for vanished in set(present) - set(names):
        instance.delete_dynamic_partition(key, vanished)
    if new := [name for name in names if name not in present]:
        instance.add_dynamic_partitions(key, new)


def _design_result(study: Study, step: Step, commit: Commit) -> dg.MaterializeResult:
    snapshot = step.lake.snapshot()
    regimes = snapshot.read(REGIMES)
    landscape, bars = snapshot.read(PERPLEXITY_LANDSCAPE), snapshot.read(LANDSCAPE_HISTOGRAM)
    picture = plots.landscape(bars, landscape, regimes, size="small")
    columns = ["trial", "mu_target", "sigma_target", "mu", "sigma", "tokens", "seed", "kl_nats", "prefix_error"]
    metadata = {
        "trials": regimes.height,
        "trial_tokens": int(regimes["tokens"].sum()),
        "largest_prefix_error": float(regimes["prefix_error"].max() or 0.0),  # type: ignore[arg-type]
        "largest_objective": float(regimes["objective"].max() or 0.0),  # type: ignore[arg-type]
        "regimes": dg.MetadataValue.md(as_markdown_table(regimes.select(columns))),
        "landscape": dg.MetadataValue.md(plots.as_markdown(picture, "Regimes on the landscape")),
        "token_counts": ", ".join(f"{count:,}" for count in measured_prefixes(study)),
    }
    rows = snapshot.read(REGIME_PARTITIONS, ["rank"]).height
    return step.result(commit, metadata, table=REGIME_PARTITIONS, rows=rows)


@dg.asset_check(
    asset=regime_partitions,
    description="Every trial has the moments that its regime asks for, in the whole and in every measured prefix.",
)
def trials_have_their_moments(platform: Platform) -> dg.AssetCheckResult:
    """Compare drawn with asked-for moments."""
    regimes = platform.lake.snapshot().read(REGIMES)
    off = regimes.filter(pl.col("objective") > MOST_OBJECTIVE)
    loose = regimes.filter(pl.col("prefix_error") > MOST_PREFIX_ERROR)
    largest = float(regimes["prefix_error"].max() or 0.0)  # type: ignore[arg-type]
    sentence = (
        f"{regimes.height} trials: {off.height} miss their mean or deviation by more than 1 %, {loose.height} have a "
        f"measured prefix whose moments are more than {MOST_PREFIX_ERROR:.0%} off (largest {largest:.1%})."
    )
    return dg.AssetCheckResult(
        passed=off.is_empty() and loose.is_empty(), severity=dg.AssetCheckSeverity.WARN, description=sentence
    )


ASSETS = [regime_partitions]
CHECKS = [trials_have_their_moments]
