"""SIGKILL, for real: of a whole command-line run, and of a step's process in the UI's executor."""

import os
import signal
import subprocess
import sys
import threading
import time

import dagster as dg
import polars as pl
import psutil
import pytest

from ppl_assets.automation.broken import broken_partitions
from ppl_assets.automation.instance import study_instance
from ppl_assets.definitions import defs
from ppl_assets.perplexity import scoring
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.tables import PERPLEXITY_SCORES

RUN = """
import sys
from ppl_assets_tests.test_killed import slow_batches
from ppl_assets.cli import main
slow_batches()
sys.exit(main(["backfill", "perplexity_scores", "--partitions", "easy"]))
"""


def slow_batches() -> None:
    """Small batches, far enough from each other to be killed between two."""
    scoring.BATCH_TOKENS["cpu"] = 64 * 32
    score = Scorer.score
    Scorer.score = lambda *given: (time.sleep(0.5), score(*given))[1]


@pytest.fixture
def rescored(copies, monkeypatch):
    """Two copies with a scorer that has no scores yet; the second one scored by an undisturbed run."""
    monkeypatch.setenv("PPL__SCORE__FIRST_TOKEN", "unscored")
    monkeypatch.setitem(scoring.BATCH_TOKENS, "cpu", 64 * 32)
    killed, undisturbed = copies("killed"), copies("undisturbed")
    assert undisturbed.materialize("score_corpus", "easy").success
    return killed, undisturbed


def scores(study) -> pl.DataFrame:
    return study.platform.lake.snapshot().read(PERPLEXITY_SCORES).sort("corpus", "scorer_id", "chunk_id")


def wait_for_batches(study, number: int) -> None:
    """Wait until so many batches lie finished in the spool."""
    spool, began = study.platform.root / "spool", time.monotonic()
    while len(list(spool.rglob("*.parquet"))) < number:
        assert time.monotonic() - began < 90, "nothing was scored"
        time.sleep(0.05)


def test_a_command_line_run_that_is_killed_goes_on_and_no_row_is_lost_or_doubled(rescored):
    killed, undisturbed = rescored
    environment = {**os.environ, "PPL_ASSETS_STUDY": str(killed.file)}
    process = subprocess.Popen([sys.executable, "-c", RUN], env=environment, stdout=subprocess.DEVNULL)
    wait_for_batches(killed, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = scores(killed)["scorer_id"].n_unique()
    assert killed.materialize("score_corpus", "easy").success
    assert before <= 2
    assert scores(killed).equals(scores(undisturbed))
    with study_instance(killed.platform.study) as instance:
        statuses = [run.status for run in instance.get_runs(dg.RunsFilter(job_name="score_corpus"))]
    assert dg.DagsterRunStatus.STARTED not in statuses


def test_a_step_whose_process_is_killed_fails_its_run_and_the_next_run_ends_as_if_it_had_not(rescored, monkeypatch):
    killed, undisturbed = rescored
    monkeypatch.setenv("PPL_ASSETS_STUDY", str(killed.file))
    monkeypatch.setattr(Scorer, "score", Scorer.score)  # undone at the end
    killer = threading.Thread(target=_kill_the_step, args=(killed,))
    killer.start()
    job = dg.reconstructable(slow_scoring)
    with study_instance(killed.platform.study) as instance:
        with dg.execute_job(job, instance, tags={"dagster/partition": "easy"}) as result:
            assert not result.success
        killer.join()
        assert not instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
        (said,) = broken_partitions("perplexity_scores", killed.platform, instance).values()
        assert "its process ended before it could say why (killed, out of memory, or crashed); run again" in said
    assert killed.materialize("score_corpus", "easy").success
    assert scores(killed).equals(scores(undisturbed))


def slow_scoring() -> dg.JobDefinition:
    """The job of the scores under the UI's executor, with batches slow enough to be killed between them."""
    slow_batches()
    return defs.resolve_job_def("score_corpus")


def _kill_the_step(study) -> None:
    """Kill the process that computes the step, once it has kept a batch."""
    wait_for_batches(study, 1)
    (server,) = (child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline()))
    for step in server.children():
        step.kill()
