"""The trials group in Dagster: trial_losses."""

from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from ppl_assets import plots
from ppl_assets.corpus.assets import chunks
from ppl_assets.fingerprint import fingerprint
from ppl_assets.lake import Commit, Lake, Snapshot
from ppl_assets.markdown import as_markdown_table
from ppl_assets.perplexity.assets import base_model
from ppl_assets.perplexity.device import resolve_device
from ppl_assets.perplexity.stored import stored_base_model, study_policy
from ppl_assets.regimes.assets import regime_partitions
from ppl_assets.regimes.cost import budget_problem, cost_of_trials
from ppl_assets.regimes.stored import all_trials, trial_subset
from ppl_assets.resources import (
    ALL_CORPORA,
    GPU_POOL,
    TRIAL_PARTITIONS,
    Inputs,
    Platform,
    Step,
    in_plain_words,
    table_metadata,
)
from ppl_assets.study import Study
from ppl_assets.tables import TRIAL_LOSSES
from ppl_assets.trials.downstream import Downstream
from ppl_assets.trials.recipe import LAW_POINTS, SCREENING, Execution
from ppl_assets.trials.training import (
    EXECUTION,
    Setting,
    TrainingError,
    decay_offset,
    on_trunk,
    point_rows,
    serves_the_law,
    study_setting,
    token_ids_of,
    train,
)

if TYPE_CHECKING:
    from ppl_assets.trials.checkpoints import CheckpointFolder

CODE_VERSION = "2"
"""Of the rows around a run; the training loop has a version of its own in the setting's fingerprint."""


def checkpoints(study: Study, step: Step) -> "CheckpointFolder":
    """Where runs are saved on the way."""
    from ppl_assets.trials.checkpoints import CheckpointFolder

    return CheckpointFolder(study.storage.root / "spool" / "checkpoints", step.log)


def current_setting(study: Study, snapshot: Snapshot) -> Setting:
    """The setting under which the study's trials are comparable now."""
    return study_setting(study, snapshot, study_policy(study, stored_base_model(snapshot)))


def trial_losses_inputs(study: Study, _lake: Lake, snapshot: Snapshot, partition: str) -> Inputs:
    """What decides a trial: its setting, its chunks in order, its seed.

    Model and device are kept with the commit, so that the cost of further trials can be told from its speed.
    """
    rows, seed = trial_subset(snapshot, partition)
    setting = current_setting(study, snapshot)
    name = setting.fingerprint(rows["chunk_id"].to_list(), seed)
    facts = {
        "trial_fingerprint": name,
        "setting_id": setting.setting_id,
        "model_id": setting.policy.model_id,
        "device": resolve_device(study.study.device),
    }
    return Inputs([CODE_VERSION, name], facts)


@dg.asset(
    group_name="4_trials",
    deps=[regime_partitions, base_model, dg.AssetDep(chunks, partition_mapping=ALL_CORPORA)],
    partitions_def=TRIAL_PARTITIONS,
    kinds={"pytorch", "duckdb"},
    code_version=CODE_VERSION,
    pool=GPU_POOL,
    metadata=table_metadata(TRIAL_LOSSES),
    description=(
        "Test loss at several token counts of one short continual pre-training run from the base model's weights. "
        "A trial whose subset, recipe, base model and test set are unchanged is never run twice; a killed one goes on "
        "from its last checkpoint."
    ),
)
@in_plain_words
def trial_losses(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
    """Train one trial and measure it.

    Its subset lies in the table of the design or in that of ``next_trials``, which is downstream: it proposes from
    the losses so far. As a dependency that would be a cycle of assets; over time it is none, since a trial is proposed
    before it is trained. So the proposals are read from the lake's snapshot, and the commit's lineage names them.
    """
    study, step = platform.study, platform.step(context, CODE_VERSION)
    inputs = trial_losses_inputs(study, step.lake, step.snapshot, step.partition)
    commit = step.unchanged(inputs)
    name = inputs.facts["trial_fingerprint"]
    if commit is None:
        rows = step.snapshot.read(TRIAL_LOSSES, where={"trial_fingerprint": name}).sort("point")
        if rows.is_empty() or step.is_forced:
            rows = _trained(study, step, name)
        rows = rows.with_columns(trial=pl.lit(step.partition))
        commit = step.write(
            [step.lake.stage(TRIAL_LOSSES, rows, name)], inputs, fingerprint(rows["test_loss"].to_list())
        )
        checkpoints(study, step).of(name).remove()
    return _trial_result(step, commit)


def _trained(study: Study, step: Step, name: str) -> pl.DataFrame:
    """Train the step's trial and return its measurements.

    Raises:
        TrainingError: the trials together exceed the study's budget; the design's check says so too, but a partition
            can be materialized without it.
    """
    if problem := budget_problem(study, cost_of_trials(study, step.snapshot)):
        raise TrainingError(problem)
    subset, seed = trial_subset(step.snapshot, step.partition)
    return train_subset(study, step, current_setting(study, step.snapshot), subset, seed, name).drop("downstream")


def train_subset(
    study: Study,
    step: Step,
    setting: Setting,
    subset: pl.DataFrame,
    seed: int,
    name: str,
    note: str = "",
    downstream: Downstream | None = None,
) -> pl.DataFrame:
    """Train the base model on ``subset`` within a step; measurements under ``name``, ``note`` in the progress line."""
    from ppl_assets.perplexity.loaded import cached_model

    device, progress = resolve_device(study.study.device), step.progress("tokens")
    points = train(
        cached_model(stored_base_model(step.snapshot), device, "float32", setting.policy.attention),
        setting,
        subset,
        token_ids_of(step.snapshot, subset),
        seed,
        device,
        study.score.row_tokens,
        lambda seen, total, loss: progress.update(seen, total, f"{note}loss {loss:.3f}"),
        Execution(**study.trials.model_dump(include=set(EXECUTION))),
        checkpoints(study, step).of(name),
        downstream,
    )
    return point_rows(points, seed, setting, name)


def _trial_result(step: Step, commit: Commit) -> dg.MaterializeResult:
    where = {"trial_fingerprint": commit.facts["trial_fingerprint"]}
    rows = step.lake.snapshot().read(TRIAL_LOSSES, where=where).sort("point", "tokens")
    last = rows.filter(on_trunk()).row(-1, named=True)
    columns = ["tokens", "test_loss", "general_loss", "mu", "sigma", "is_warmup", "status", "branch"]
    metadata: dict[str, object] = {
        "test_loss": last["test_loss"],
        "tokens": last["tokens"],
        "tokens_per_second": round(last["tokens_per_second"], 1),
        "training_seconds": round(last["seconds"], 2),
        "status": last["status"],
        "points": dg.MetadataValue.md(as_markdown_table(rows.select(columns))),
        **_curve(rows.filter(on_trunk()), all_trials(step.lake.snapshot())),
    }
    if (offset := decay_offset(rows)) is not None:
        metadata["decay_offset"] = offset
    if last["screening"]:
        metadata["screening"] = SCREENING
    return step.result(commit, metadata, table=TRIAL_LOSSES, rows=rows.height)


def _curve(rows: pl.DataFrame, regimes: pl.DataFrame) -> dict[str, object]:
    """The run's test loss as a picture; nothing where it diverged before its first measurement."""
    if rows.filter((pl.col("tokens") > 0) & pl.col("test_loss").is_finite()).is_empty():
        return {}
    picture = plots.loss_curves(rows, plots.NO_CURVES, regimes, size="small")
    return {
        "curve": dg.MetadataValue.md(plots.as_markdown(picture, "Test loss against tokens; dashed: before training"))
    }


@dg.asset_check(
    asset=trial_losses,
    partitions_def=TRIAL_PARTITIONS,
    description="The run did not diverge, and training lowered the test loss.",
)
def trial_learned(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Compare the last loss with the base model's own."""
    snapshot = platform.lake.snapshot()
    commit = snapshot.latest("trial_losses", context.partition_key)
    if commit is None:
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="Not trained yet.")
    where = {"trial_fingerprint": commit.facts["trial_fingerprint"]}
    rows = snapshot.read(TRIAL_LOSSES, where=where).filter(on_trunk()).sort("point")
    first, last = rows["test_loss"][0], rows["test_loss"][-1]
    diverged = (rows["status"] != "ok").any()
    if diverged:
        sentence = (
            "The run diverged: a loss was not finite, or twice that of the base model and of a guess. It is left out "
            "of the fit; lower trials.learning_rate."
        )
    else:
        verb = "fell" if last < first else "rose"
        sentence = f"Test loss {verb} from {first:.4f} to {last:.4f} nats a token over {rows['tokens'][-1]:,} tokens."
    return dg.AssetCheckResult(
        passed=bool(not diverged and last < first), severity=dg.AssetCheckSeverity.WARN, description=sentence
    )


@dg.asset_check(
    asset=trial_losses,
    partitions_def=TRIAL_PARTITIONS,
    description=f"The run trained all weights and gives the law at least {LAW_POINTS} measurements after warm-up.",
)
def trial_serves_the_law(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Count the measurements, and say where they are a screening."""
    snapshot = platform.lake.snapshot()
    commit = snapshot.latest("trial_losses", context.partition_key)
    if commit is None:
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="Not trained yet.")
    where = {"trial_fingerprint": commit.facts["trial_fingerprint"]}
    passed, sentence = serves_the_law(snapshot.read(TRIAL_LOSSES, where=where))
    return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, description=sentence)


ASSETS = [trial_losses]
CHECKS = [trial_learned, trial_serves_the_law]
