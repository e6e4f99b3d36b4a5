"""When the lake is tidied by itself, and what a run in progress keeps from being old."""

import asyncio
import time

import dagster as dg
import pytest
from dagster._core.definitions.freshness_evaluator import TimeWindowFreshnessPolicyEvaluator
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import freeze_time

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


@pytest.mark.parametrize(("days", "freshness"), [(7, "PASS"), (8, "WARN"), (14, "WARN"), (15, "FAIL")])
def test_maintenance_that_did_not_happen_for_a_week_shows_and_it_alone_is_due_by_the_clock(days, freshness):
    graph = defs.resolve_asset_graph()
    (node,) = (node for node in graph.asset_nodes if node.freshness_policy_or_from_metadata)
    assert node.key == dg.AssetKey("lake_maintenance")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(node.key))
        with freeze_time(time.time() + days * 86_400):
            evaluated = TimeWindowFreshnessPolicyEvaluator().evaluate_freshness(LoadingContextForTest(instance), node)
            assert asyncio.run(evaluated).name == freshness
