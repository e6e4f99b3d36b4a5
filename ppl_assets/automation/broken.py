"""What is broken now, and the command that mends it: for ``ppl-assets status``, for ``--failed``, and for the UI.

Broken is a partition whose latest run failed without a materialization, or whose rows failed a blocking check. What was
never run, or has only changed since, is not broken: ``plan.py`` says so.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
import polars as pl
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from ppl_assets.automation.jobs import observe_corpora
from ppl_assets.automation.plan import BLOCKING_CHECKS, INPUTS, partitions_of
from ppl_assets.automation.run import innermost
from ppl_assets.markdown import as_markdown_table
from ppl_assets.resources import Platform, tagged_corpora
from ppl_assets.study import shown_study

OBSERVED = "raw_corpus"

SHOWN = 6
"""Partitions that are named in one line."""

SCORED = "perplexity_scores"

MAINTAINED = "lake_maintenance"

WAITED = "until it is mended or removed, landscape, subset and report do not follow other changes by themselves"
"""Of a corpus that was never scored: the landscape waits for the scores of all."""

OBSERVATIONS_LOOKED_AT = 500
"""Runs that are searched for the latest look at the corpora."""


@dataclass(frozen=True)
class Broken:
    """An asset some of whose partitions are broken.

    Attributes:
        asset: asset key.
        reasons: partition (empty where there is none) to one sentence on what is wrong.
        command: what mends it once the cause is gone.
    """

    asset: str
    reasons: dict[str, str]
    command: str

    @property
    def sentence(self) -> str:
        """One line: which partitions, the first one's reason, and the command."""
        keys = [key for key in self.reasons if key]
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        which = f" ({len(keys)}: {', '.join(keys[:SHOWN])}{more})" if keys else ""
        return f"{self.asset}{which}: {next(iter(self.reasons.values())).rstrip('.')}. Mend it with: {self.command}"


def find_broken(platform: Platform, instance: dg.DagsterInstance) -> list[Broken]:
    """Everything that is broken, in the order in which the data runs."""
    reasons = {asset: broken_partitions(asset, platform, instance) for asset in (OBSERVED, *INPUTS)}
    scored = instance.get_materialized_partitions(dg.AssetKey(SCORED))
    waited_for = set(partitions_of(SCORED, platform, instance)) - scored
    for asset in (OBSERVED, "chunks", SCORED):
        for key in waited_for & set(reasons[asset]):
            reasons[asset][key] = f"{reasons[asset][key].rstrip('.')}; {WAITED}"
    found = [Broken(asset, keys, mending_command(asset, platform)) for asset, keys in reasons.items() if keys]
    if failed := _failed_runs(MAINTAINED, [""], instance):
        found.append(Broken(MAINTAINED, {"": _why(failed[""], instance)}, "ppl-assets maintain"))
    return found


def broken_partitions(asset: str, platform: Platform, instance: dg.DagsterInstance) -> dict[str, str]:
    """Partitions of an asset that are broken, with one sentence each."""
    keys = partitions_of(asset, platform, instance)
    if asset == OBSERVED:
        return _not_observed(keys, instance)
    failed = _failed_runs(asset, keys, instance)
    reasons = {}
    for key in keys:
        if key in failed:
            reasons[key] = _why(failed[key], instance)
        elif sentence := _failed_checks(asset, key, instance):
            reasons[key] = sentence
    return reasons


def broken_lines(platform: Platform, instance: dg.DagsterInstance) -> list[str]:
    """Lines for ``ppl-assets status``; none where nothing is broken."""
    found = find_broken(platform, instance)
    return ["", "Broken now:", *(f"  {one.sentence}" for one in found)] if found else []


def mending_command(asset: str, platform: Platform) -> str:
    """What runs the broken partitions of an asset again."""
    study = shown_study(platform.study_file)
    option = "" if study == "study.toml" else f"--study {shlex.quote(study)} "
    return f"ppl-assets {option}backfill {asset} --failed"


def _failed_runs(asset: str, keys: Sequence[str], instance: dg.DagsterInstance) -> dict[str, str]:
    """Partition to the run that was to materialize it last and failed before it did."""
    key, storage = dg.AssetKey(asset), instance.event_log_storage
    if list(keys) == [""]:
        planned, made = storage.get_latest_planned_materialization_info(key), _latest_materialization(key, instance)
        open_runs = {"": planned.run_id} if planned and planned.storage_id > made else {}
    else:
        attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations(key)
        open_runs = {partition: run_id for partition, (run_id, _) in attempts.items()}
    failed = _with_status(set(open_runs.values()), dg.DagsterRunStatus.FAILURE, instance)
    return {partition: run_id for partition, run_id in open_runs.items() if run_id in failed}


def _latest_materialization(key: dg.AssetKey, instance: dg.DagsterInstance) -> int:
    """Where in the event log the latest materialization is; -1 where there is none."""
    records = instance.fetch_materializations(key, limit=1).records
    return records[0].storage_id if records else -1


def _with_status(run_ids: set[str], status: dg.DagsterRunStatus, instance: dg.DagsterInstance) -> set[str]:
    if not run_ids:
        return set()
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(run_ids), statuses=[status]))
    return {run.run_id for run in runs}


def _not_observed(keys: Sequence[str], instance: dg.DagsterInstance) -> dict[str, str]:
    """Corpora that could not be looked at; a look speaks of the partition or the corpora that it names, else of all.

    A look may be a run of the job, of the nightly schedule, or of a backfill. One that failed still told the versions
    of those that it could read.
    """
    reasons: dict[str, str] = {}
    undecided = set(keys)
    for run in instance.get_runs(limit=OBSERVATIONS_LOOKED_AT):
        if not undecided:
            break
        if not _observes(run) or not run.is_finished:
            continue
        partition = run.tags.get("dagster/partition")
        named = {partition} if partition else set(tagged_corpora(run.tags))
        spoken_of = undecided & (named or set(keys))
        undecided -= spoken_of
        if run.status == dg.DagsterRunStatus.FAILURE and spoken_of:
            unread = spoken_of - _told_of(run.run_id, instance)
            reasons |= dict.fromkeys(unread, _why(run.run_id, instance))
    return {key: reasons[key] for key in keys if key in reasons}


def _told_of(run_id: str, instance: dg.DagsterInstance) -> set[str]:
    """The partitions whose content version a run told."""
    told = _events(run_id, dg.DagsterEventType.ASSET_OBSERVATION, instance)
    return {event.partition for event in told if event.partition}


def _events(run_id: str, kind: dg.DagsterEventType, instance: dg.DagsterInstance) -> list[dg.DagsterEvent]:
    """The events of one kind in a run, in their order."""
    records = instance.get_records_for_run(run_id, of_type=kind).records
    return [event for record in records if (event := record.event_log_entry.dagster_event) is not None]


def _observes(run: dg.DagsterRun) -> bool:
    return observe_corpora.name in run.job_name or set(run.asset_selection or ()) == {dg.AssetKey(OBSERVED)}


_ENDED = (
    "its process ended before it could say why (killed, out of memory, or crashed); run again, it goes on where it was"
)

_UNTOLD = "has been marked as failed from outside the execution context"
"""What Dagster says of a run that it gives up; why stands in the event before."""


def _why(run_id: str, instance: dg.DagsterInstance) -> str:
    """The sentence of what failed in a run, and where to read more."""
    for event in _events(run_id, dg.DagsterEventType.STEP_FAILURE, instance):
        if event.step_failure_data.error:
            return f"run {run_id[:8]} failed: {_in_words(innermost(event.step_failure_data.error)[1])}."
    for event in _events(run_id, dg.DagsterEventType.RUN_FAILURE, instance):
        if event.message:
            before = _events(run_id, dg.DagsterEventType.ENGINE_EVENT, instance) if _UNTOLD in event.message else []
            told = next((one.message for one in reversed(before) if one.message), event.message)
            return f"run {run_id[:8]} failed: {_in_words(told)}."
    return f"run {run_id[:8]} failed before a step could say why."


def _in_words(message: str) -> str:
    return _ENDED if "ChildProcessCrashException" in message else message.rstrip(".")


def _failed_checks(asset: str, partition: str, instance: dg.DagsterInstance) -> str:
    """The blocking checks that the partition's rows failed, in one sentence; empty where there are none."""
    keys = BLOCKING_CHECKS.get(asset, [])
    if not keys:
        return ""
    where = PartitionKeyFilter(key=partition or None)
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys, partition_filter=where)
    names = [key.name for key, found in latest.items() if found.status == AssetCheckExecutionRecordStatus.FAILED]
    return f"blocking check {', '.join(names)} failed." if names else ""


@dg.asset_check(
    asset="selection_report",
    description=(
        "No asset's or partition's latest run failed, and no blocking check does. Looked at daily; what is broken is "
        "listed with the command that mends it."
    ),
)
def nothing_is_broken(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """List what is broken now."""
    found = find_broken(platform, context.instance)
    rows = [(one.asset, partition, reason, one.command) for one in found for partition, reason in one.reasons.items()]
    sentence = " ".join(one.sentence for one in found) or "Nothing is broken."
    metadata: dict[str, dg.MetadataValue | int] = {"broken": len(rows)}
    if rows:
        table = pl.DataFrame(rows, schema=["asset", "partition", "what is wrong", "command"], orient="row")
        metadata["what"] = dg.MetadataValue.md(as_markdown_table(table))
    return dg.AssetCheckResult(
        passed=not found, severity=dg.AssetCheckSeverity.ERROR, description=sentence, metadata=metadata
    )


LOOK_DAILY = dg.ScheduleDefinition(
    name="look_for_broken_daily",
    target=dg.AssetSelection.checks(nothing_is_broken),
    cron_schedule="0 6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="List what is broken, with the command that mends it, as a check of selection_report.",
)
"""After the night's observations and what followed them; it reads the history alone, so it runs unasked."""
