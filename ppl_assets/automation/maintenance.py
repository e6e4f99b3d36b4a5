"""Keeping the lake small, in Dagster: the asset ``lake_maintenance``, its job and its weekly schedule.

It stands beside the pipeline: nothing depends on it, and it changes no row of any table that an asset wrote.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from pydantic import Field

from ppl_assets.fingerprint import fingerprint
from ppl_assets.lake import Provenance
from ppl_assets.lake_maintenance import MOST_HOURS, Disk, Maintained, maintain, plan
from ppl_assets.markdown import as_markdown_table
from ppl_assets.resources import Platform, table_metadata
from ppl_assets.subset.history import kept_selections
from ppl_assets.tables import PAST_COMMITS

CODE_VERSION = "1"

WAIT_HOURS = 24.0
"""A query, a prompt or a staged write that is older than this is taken to be over; a run in progress never is."""


LATE = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
"""The one asset that is due by the clock: late when a week was missed, overdue when two were."""


class MaintenanceConfig(dg.Config):
    """What one run of it may do."""

    wait_hours: float = Field(
        default=WAIT_HOURS,
        ge=0,
        le=MOST_HOURS,
        description=(
            "Files that no snapshot has any more, and leftovers of killed runs, are removed this many hours after they "
            "were last used: somebody may still be reading them. 0 only where nobody else uses the lake."
        ),
    )
    remove_orphans: bool = Field(
        default=False,
        description=(
            "Where storage.tables names a place of its own: remove old table files there that this lake does not know. "
            "Only where no other lake has its tables there. Beside the catalog they are always removed."
        ),
    )


@dg.asset(
    group_name="7_maintenance",
    kinds={"duckdb"},
    code_version=CODE_VERSION,
    freshness_policy=LATE,
    metadata=table_metadata(PAST_COMMITS),
    description=(
        "Keeps the lake small: merges small files, expires snapshots that no selection needs and that are older than "
        "storage.keep_days, removes what killed runs left. Lineage is kept whole, and what is up to date stays so."
    ),
)
def lake_maintenance(
    context: dg.AssetExecutionContext, platform: Platform, config: MaintenanceConfig
) -> dg.MaterializeResult:
    """Decide what goes, then let it go."""
    study, lake, now = platform.study, platform.lake, datetime.now(UTC)
    running = _oldest_run(context.instance, context.run_id) or now
    recent_since = min(now - timedelta(days=study.storage.keep_days), running)
    unused_since = min(now - timedelta(hours=config.wait_hours), running)
    exports = platform.root / "exports"
    decided = plan(lake, kept_selections(lake, exports, study.storage.keep_selections), recent_since)
    step = platform.step(context, CODE_VERSION)
    provenance = Provenance(
        asset=step.asset,
        partition="",
        run_id=context.run_id,
        code_version=CODE_VERSION,
        inputs=fingerprint(decided.expire),
        data_version=fingerprint(decided.expire),
    )
    is_ours = config.remove_orphans or not study.storage.tables
    leftovers = _leftovers(lake.staging, exports)
    done = maintain(lake, decided, provenance, unused_since, leftovers, remove_orphans=is_ours)
    rows = lake.snapshot().read(PAST_COMMITS, ["number"]).height
    return dg.MaterializeResult(metadata={"dagster/row_count": rows, **_metadata(done, recent_since, unused_since)})


def _oldest_run(instance: dg.DagsterInstance, this_run: str) -> datetime | None:
    """When the oldest other run in progress was created; None where there is none."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(IN_PROGRESS_RUN_STATUSES)))
    return min((r.create_timestamp for r in records if r.dagster_run.run_id != this_run), default=None)


def _leftovers(staging: Path, exports: Path) -> Iterator[Path]:
    """What killed runs may have left: staged rows, drawn candidates, spilled queries, half exports."""
    if staging.is_dir():
        yield from staging.iterdir()
    yield from exports.glob(".*.part")


def _metadata(done: Maintained, recent_since: datetime, unused_since: datetime) -> dict[str, Any]:
    """What was done, as the UI and the command line show it."""
    unknown = "removed" if done.orphans_removed else "left: storage.tables may hold another lake's (see remove_orphans)"
    return {
        "before": _in_words(done.before),
        "after": _in_words(done.after),
        "files_before": done.before.files,
        "files_after": done.after.files,
        "bytes_before": done.before.bytes,
        "bytes_after": done.after.bytes,
        "files_merged": f"{done.merged} into {done.made}",
        "files_removed": done.removed,
        "files_waiting": done.waiting,
        "orphaned_files": f"{done.orphans} {unknown}" if done.orphans else "none",
        "leftovers_removed": done.leftovers,
        "snapshots_expired": len(done.plan.expire),
        "snapshots_kept": len(done.plan.keep),
        "kept_because": dg.MetadataValue.md(as_markdown_table(done.plan.reasons())),
        "recent_since": f"{recent_since:%Y-%m-%d %H:%M} UTC",
        "unused_since": f"{unused_since:%Y-%m-%d %H:%M} UTC",
    }


def _in_words(disk: Disk) -> str:
    return f"{disk.files:,} files, {disk.bytes / 1e6:,.1f} MB"


def run_config(wait_hours: float | None, *, remove_orphans: bool) -> dict[str, Any]:
    """The run config of the job."""
    given = MaintenanceConfig(
        wait_hours=WAIT_HOURS if wait_hours is None else wait_hours, remove_orphans=remove_orphans
    )
    return dg.RunConfig(ops={"lake_maintenance": given}).to_config_dict()


JOB = dg.define_asset_job(
    "maintain_lake",
    selection=dg.AssetSelection.assets("lake_maintenance"),
    description="Merge small files, expire snapshots that nothing needs, remove what killed runs left.",
)

SCHEDULE = dg.ScheduleDefinition(
    name="maintain_lake_weekly",
    job=JOB,
    cron_schedule="0 4 * * 0",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Keep the lake small, on Sunday night. Runs by itself as long as the UI does.",
)
