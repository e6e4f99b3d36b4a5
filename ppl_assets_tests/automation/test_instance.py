"""The instance of a study: limits, runs that died, slots that are freed, many processes that begin at once."""

import logging
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.test_utils import freeze_time
from dagster._daemon.monitoring.concurrency import execute_concurrency_slots_iteration

from ppl_assets.automation.instance import study_instance
from ppl_assets.resources import GPU_POOL, Platform

STUDY = """
[corpora.notes]
path = "notes"
[base_model]
source = "some/model"
[selection]
tokens = 100_000
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "study.toml").write_text(STUDY)
    return Platform(study_path=str(tmp_path / "study.toml")).study


@dg.job
def some_job() -> None:
    """Nothing."""


def launched_by_the_ui(instance: dg.DagsterInstance, pid: int) -> dg.DagsterRun:
    """A started run as a launcher leaves it, in the process with this number, that holds a slot of the pool."""
    run = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    assert instance.event_log_storage.claim_concurrency_slot(GPU_POOL, run.run_id, "trial_losses").is_claimed
    return run


def test_a_run_of_the_ui_whose_process_was_killed_is_marked_failed_and_frees_its_slot(study):
    worker = subprocess.Popen(["sleep", "60"])
    with study_instance(study) as instance:
        run = launched_by_the_ui(instance, worker.pid)
    with study_instance(study) as instance:
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED  # it is alive
    worker.kill()
    worker.wait()
    with study_instance(study) as instance:
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert not instance.event_log_storage.get_concurrency_info(GPU_POOL).claimed_slots


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it(study, monkeypatch):
    with study_instance(study) as instance:
        run = launched_by_the_ui(instance, 1)
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: time.time() + 60.0)
    with study_instance(study) as instance:
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def test_a_cancelled_run_frees_its_slot(study):
    with study_instance(study) as instance:
        run = launched_by_the_ui(instance, 1)
        instance.report_run_canceled(run)
        assert instance.event_log_storage.get_concurrency_info(GPU_POOL).claimed_slots
    with study_instance(study) as instance:
        assert not instance.event_log_storage.get_concurrency_info(GPU_POOL).claimed_slots


def test_the_daemon_looks_for_dead_runs_and_frees_their_slots_within_a_minute(study):
    with study_instance(study) as instance:
        settings = instance.run_monitoring_settings
        assert instance.run_monitoring_enabled
        assert settings["poll_interval_seconds"] + settings["free_slots_after_run_end_seconds"] <= 60
        run = launched_by_the_ui(instance, 1)
        instance.report_run_canceled(run)
        with freeze_time(time.time() + 60.0):
            list(execute_concurrency_slots_iteration(SimpleNamespace(instance=instance), logging.getLogger()))
        assert not instance.event_log_storage.get_concurrency_info(GPU_POOL).claimed_slots


def test_old_ticks_are_forgotten(study):
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.scheduler.instigation import TickStatus

    with study_instance(study) as instance:
        for kind in (InstigatorType.SCHEDULE, InstigatorType.SENSOR, InstigatorType.AUTO_MATERIALIZE):
            days = instance.get_tick_retention_settings(kind)
            assert 0 < days[TickStatus.SKIPPED] <= 7
            assert 0 < days[TickStatus.SUCCESS] <= 90


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.usefixtures("study")
def test_the_pool_holds_as_many_steps_as_the_study_says(steps, monkeypatch, tmp_path):
    monkeypatch.setenv("PPL__STUDY__GPU_STEPS", str(steps))
    with study_instance(Platform(study_path=str(tmp_path / "study.toml")).study) as instance:
        assert instance.event_log_storage.get_concurrency_info(GPU_POOL).slot_count == steps


def test_many_that_begin_at_once_in_a_new_folder_do_not_disturb_each_other(study):
    def begin(_number: int) -> list[str]:
        with study_instance(study) as instance:
            return instance.get_dynamic_partitions("corpus")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(begin, range(8))) == [["notes"]] * 8
