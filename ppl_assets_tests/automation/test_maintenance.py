"""When the lake is tidied by itself, and what a run in progress keeps from being old."""

import dagster as dg

from ppl_assets.automation.maintenance import JOB, SCHEDULE, _oldest_run
from ppl_assets.definitions import defs


def test_the_lake_is_tidied_once_a_week_by_the_job_that_a_person_can_start():
    assert defs.resolve_schedule_def(SCHEDULE.name).job_name == JOB.name
    assert SCHEDULE.cron_schedule == "0 4 * * 0"
    selected = defs.resolve_job_def(JOB.name).asset_layer.executable_asset_keys
    assert {key.to_user_string() for key in selected} == {"lake_maintenance"}


def test_what_another_run_in_progress_may_read_is_not_old_and_a_finished_one_reads_nothing():
    job = defs.resolve_job_def(JOB.name)
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        assert _oldest_run(instance, run.run_id) is None
        began = _oldest_run(instance, "another")
        assert began is not None
        assert began.tzinfo is not None
        instance.report_run_failed(run)
        assert _oldest_run(instance, "another") is None
