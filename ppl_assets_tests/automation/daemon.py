"""The daemon's part in a backfill, played in one process: what the UI's dialog starts."""

import logging
import sys
import time

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration

from ppl_assets.automation import instance as instances

IN_PROCESS = """
run_launcher:
  module: dagster._core.launcher.sync_in_memory_run_launcher
  class: SyncInMemoryRunLauncher
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
"""
"""Runs are executed where they are submitted."""


def run_in_process(monkeypatch, folder) -> None:
    """Let instances of studies execute what is submitted to them at once."""
    settings = folder / "dagster.yaml"
    settings.write_text(instances.TEMPLATE.read_text() + IN_PROCESS)
    monkeypatch.setattr(instances, "TEMPLATE", settings)


def launch_backfill(instance: dg.DagsterInstance, definitions, asset: str, partitions, tags=None) -> str:
    """What the dialog's button does; the backfill's id."""
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id=f"backfill-{asset}",
        asset_graph=definitions.resolve_asset_graph(),
        partition_names=list(partitions),
        asset_selection=[dg.AssetKey(asset)],
        backfill_timestamp=time.time(),
        tags=tags or {},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def daemon_works_off(instance: dg.DagsterInstance, backfill_id: str, iterations: int = 20) -> BulkActionStatus:
    """Let the daemon look at the backfill until it is over."""
    target = LoadableTargetOrigin(
        executable_path=sys.executable, module_name="ppl_assets_tests.automation.in_process", attribute="defs"
    )
    workspace = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(target, location_name="test"))
    with WorkspaceProcessContext(instance, workspace) as context:
        for _ in range(iterations):
            errors = [error for error in execute_backfill_iteration(context, logging.getLogger("daemon")) if error]
            assert not errors, errors[0].message
            if (status := instance.get_backfill(backfill_id).status) != BulkActionStatus.REQUESTED:
                return status
    raise AssertionError(f"the backfill is not over after {iterations} looks")
