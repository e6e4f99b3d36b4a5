"""Old runs are forgotten: those that nothing refers to any more.

Kept whatever their age are the runs that the lake's lineage names, the newest of every asset's partition (materialized,
observed, planned or checked), and what is not over. Left are looks at unchanged corpora and runs that found nothing to
do: with 200 corpora and a nightly look the most of all runs. Ticks are kept as ``dagster.yaml`` says.
"""

import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from ppl_assets.automation.broken import OBSERVED
from ppl_assets.automation.plan import BLOCKING_CHECKS, INPUTS, partitions_of
from ppl_assets.lake import Lake
from ppl_assets.resources import Platform

AT_A_TIME = 500
"""Runs that are read from the history at a time."""


def forgettable_runs(platform: Platform, instance: dg.DagsterInstance, now: datetime) -> list[str]:
    """Ids of the runs that are over for ``storage.keep_runs_days``, and that nothing refers to."""
    before = now - timedelta(days=platform.study.storage.keep_runs_days)
    old = dg.RunsFilter(statuses=list(FINISHED_STATUSES), updated_before=before)
    kept = runs_in_lineage(platform.lake)
    for asset in (OBSERVED, *INPUTS):
        kept |= _newest_runs(dg.AssetKey(asset), instance)
        kept |= _newest_checks(asset, partitions_of(asset, platform, instance), instance)
    found: list[str] = []
    cursor: str | None = None
    while runs := instance.get_runs(old, cursor=cursor, limit=AT_A_TIME):
        found += [run.run_id for run in runs if run.run_id not in kept]
        cursor = runs[-1].run_id
    return found


def runs_in_lineage(lake: Lake) -> set[str]:
    """Every run that wrote what the lake holds, or held at a past snapshot."""
    with lake.cursor() as cursor:
        return {row[0] for row in cursor.execute("SELECT DISTINCT run_id FROM lake.lineage").fetchall()}


def forget(run_ids: Iterable[str], instance: dg.DagsterInstance, home: Path) -> None:
    """Remove runs with their events and logs."""
    for run_id in run_ids:
        instance.delete_run(run_id)
        shutil.rmtree(home / "storage" / run_id, ignore_errors=True)
        for file in (home / "history" / "runs").glob(f"{run_id}.db*"):
            file.unlink()


def _newest_runs(key: dg.AssetKey, instance: dg.DagsterInstance) -> set[str]:
    """The runs of an asset's newest events, of every partition."""
    fetches: tuple[tuple[dg.DagsterEventType, Callable[..., Any]], ...] = (
        (dg.DagsterEventType.ASSET_MATERIALIZATION, instance.fetch_materializations),
        (dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED, instance.fetch_planned_materializations),
        (dg.DagsterEventType.ASSET_OBSERVATION, instance.fetch_observations),
    )
    found = set()
    for kind, fetch in fetches:
        newest = list(instance.event_log_storage.get_latest_storage_id_by_partition(key, kind).values())
        records = list(fetch(key, limit=1).records)
        for first in range(0, len(newest), AT_A_TIME):
            ids = newest[first : first + AT_A_TIME]
            records += fetch(dg.AssetRecordsFilter(asset_key=key, storage_ids=ids), limit=len(ids)).records
        found |= {record.run_id for record in records}
    return found


def _newest_checks(asset: str, partitions: Iterable[str], instance: dg.DagsterInstance) -> set[str]:
    """The runs in which the blocking checks of each partition were asked last."""
    keys = BLOCKING_CHECKS.get(asset, [])
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key
    found = set()
    for partition in partitions if keys else []:
        found |= {record.run_id for record in latest(keys, PartitionKeyFilter(key=partition or None)).values()}
    return found


@dg.op(description="Remove runs that are over for storage.keep_runs_days and that nothing refers to.")
def forget_runs(context: dg.OpExecutionContext, platform: Platform) -> None:
    """Say how many there are, and remove them."""
    run_ids = forgettable_runs(platform, context.instance, datetime.now(UTC))
    forget(run_ids, context.instance, platform.root / "dagster")
    context.log.info(f"{len(run_ids)} runs are forgotten")


@dg.job(description="Forget old runs that nothing refers to: neither the lake's lineage nor an asset's newest events.")
def forget_old_runs() -> None:
    """One step."""
    forget_runs()


FORGET_WEEKLY = dg.ScheduleDefinition(
    name="forget_old_runs_weekly",
    job=forget_old_runs,
    cron_schedule="0 4 * * 0",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Once a week; how long runs are kept is storage.keep_runs_days.",
)
