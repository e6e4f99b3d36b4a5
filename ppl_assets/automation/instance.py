"""The Dagster instance of a study: its home, its partitions, and the limit of its GPU pool."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from filelock import FileLock

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
        partial = settings.with_name(f".{settings.name}.{os.getpid()}-{threading.get_ident()}")
        shutil.copyfile(TEMPLATE, partial)
        partial.replace(settings)  # another process may be reading it
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


def servers_of(home: Path) -> list[int]:
    """Process ids of the Dagster daemons that serve a DAGSTER_HOME, and of the webservers started with one.

    A UI that is killed leaves both; they go on and find no definitions. A webserver alone only shows.
    """
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            is_ours = "dagster._daemon" in words or any(Path(word).name == "dagster-daemon" for word in words[:2])
            is_ours |= "dagster_webserver" in words and "--shutdown-pipe" in words
            served = process.environ().get("DAGSTER_HOME") if is_ours else None
            if served and Path(served).resolve() == home.resolve():
                found.append(process.pid)
        except (psutil.Error, OSError):  # it ended, or is another user's
            continue
    return found


_WORKER = re.compile(r"Started process for run \(pid: (\d+)\)")
"""What Dagster writes into the history of a run that the UI or the daemon launched, once its process is there."""


def _has_lost_its_process(run: dg.DagsterRun, instance: dg.DagsterInstance) -> bool:
    """Whether the process of an unfinished run is gone; False where nothing tells which it was.

    A process that began after the run's did is another one with its number.
    """
    if LAUNCHER_TAG in run.tags:
        return not _is_alive(run.tags[LAUNCHER_TAG])
    for record in instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records:
        found = _WORKER.search(record.event_log_entry.message)
        if found:
            try:
                return bool(psutil.Process(int(found[1])).create_time() > record.event_log_entry.timestamp + 1.0)
            except psutil.NoSuchProcess:
                return True
    return False


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed, and free what runs that are over hold of the pools.

    A killed process cannot say that its run ended: the run would stay "started" and keep its slot of the GPU pool, and
    the next step would wait for it for ever. The UI's daemon looks for such runs every half minute, but those of a UI
    that was killed have no daemon, and beside the command line none runs either.

    Returns:
        Ids of the runs that were buried.
    """
    unfinished = [status for status in dg.DagsterRunStatus if status not in FINISHED_STATUSES]
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=unfinished)):
        if _has_lost_its_process(run, instance):
            instance.report_run_failed(run, "The process that ran this was ended before it finished.")
            dead.append(run.run_id)
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_info(GPU_POOL).active_run_ids:
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    return dead


@contextmanager
def study_instance(study: Study, *, registers: bool = True) -> Iterator[dg.DagsterInstance]:
    """The instance of a study: its corpora and strategies registered, the GPU pool limited to the study's devices.

    Whoever only looks ``registers`` nothing: a folder that is away for a moment keeps its corpus.
    """
    home = dagster_home(study)
    with ExitStack() as stack:
        # two processes that make the history's tables at the same time stumble over each other's migrations
        with FileLock(home / ".begin.lock"):
            instance = stack.enter_context(dg.DagsterInstance.get())
            if registers:
                sync_partitions(instance, str(CORPUS_PARTITIONS.name), study.corpus_partitions())
                sync_partitions(instance, str(STRATEGY_PARTITIONS.name), study.strategies.names)
            instance.event_log_storage.set_concurrency_slots(GPU_POOL, study.study.gpu_steps)
            bury_dead_runs(instance)
        yield instance
