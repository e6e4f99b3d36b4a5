"""The Dagster instance of a study: its home, its partitions, and the limit of its GPU pool."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from ppl_assets.resources import CORPUS_PARTITIONS, GPU_POOL, STRATEGY_PARTITIONS
from ppl_assets.study import Study

TEMPLATE = Path(__file__).with_name("dagster.yaml")
"""The tracked settings of the instance, copied into every study's DAGSTER_HOME."""


def dagster_home(study: Study) -> Path:
    """DAGSTER_HOME of a study, made with the tracked ``dagster.yaml`` in it."""
    home = study.storage.root / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.is_file() or settings.read_bytes() != TEMPLATE.read_bytes():
        shutil.copyfile(TEMPLATE, settings)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def sync_partitions(instance: dg.DagsterInstance, name: str, keys: list[str]) -> None:
    """Make the keys of a dynamic partition exactly ``keys``: new ones are added, vanished ones removed."""
    present = instance.get_dynamic_partitions(name)
    for vanished in sorted(set(present) - set(keys)):
        instance.delete_dynamic_partition(name, vanished)
    if new := [key for key in keys if key not in present]:
        instance.add_dynamic_partitions(name, new)


LAUNCHER_TAG = "ppl_assets/process"
"""Tag of a command-line run: process id and start time, so that the next one can tell a dead run from a live one."""


def this_process() -> str:
    """Process id and start time of this process."""
    return _identity(psutil.Process())


def _identity(process: psutil.Process) -> str:
    return f"{process.pid}-{process.create_time():.0f}"


def _is_alive(identity: str) -> bool:
    try:
        return _identity(psutil.Process(int(identity.partition("-")[0]))) == identity
    except (psutil.NoSuchProcess, ValueError):
        return False


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark command-line runs whose process is gone as failed, and free what they hold of the pools.

    A killed process cannot say that its run ended: the run would stay "started" and keep its slot of the GPU pool, and
    the next step would wait for it for ever, since no daemon runs beside the command line.

    Returns:
        Ids of the runs that were buried.
    """
    unfinished = [status for status in dg.DagsterRunStatus if status not in FINISHED_STATUSES]
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)):
        if LAUNCHER_TAG in run.tags and not _is_alive(run.tags[LAUNCHER_TAG]):
            instance.report_run_failed(run, "The process that ran this was ended before it finished.")
            dead.append(run.run_id)
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_info(GPU_POOL).active_run_ids:
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    return dead


@contextmanager
def study_instance(study: Study) -> Iterator[dg.DagsterInstance]:
    """The instance of a study: its corpora and strategies registered, the GPU pool limited to one step."""
    dagster_home(study)
    with dg.DagsterInstance.get() as instance:
        sync_partitions(instance, str(CORPUS_PARTITIONS.name), study.corpus_partitions())
        sync_partitions(instance, str(STRATEGY_PARTITIONS.name), study.strategies.names)
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, 1)
        bury_dead_runs(instance)
        yield instance
