"""Backfills as the UI starts them, worked off by the daemon's own code; and the pool that limits them."""

import json
import os
import threading
import time

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from ppl_assets.automation.instance import study_instance
from ppl_assets.resources import FORCE_TAG, GPU_POOL, Platform
from ppl_assets.tables import CHUNKS, TRIAL_LOSSES
from ppl_assets_tests.automation.daemon import daemon_works_off, launch_backfill, run_in_process
from ppl_assets_tests.conftest import TinyStudy, prose

CORPORA = int(os.environ.get("BACKFILLED_CORPORA", "12"))
TRIALS = int(os.environ.get("BACKFILLED_TRIALS", "12"))
"""Each takes one to two seconds of a core, most of it Dagster's; benchmarks/README.md has 200 and 40."""

SHORT = {
    "REGIMES__GRID": 5,
    "REGIMES__REPEATS": 16,
    "TRIALS__TOKENS": 512,
    "TRIALS__SPAN": 4,
    "TRIALS__POINTS": 2,
    "HELD_OUT__TEST_TOKENS": 256,
    "HELD_OUT__GENERAL_TOKENS": 64,
}
"""A design of more than 40 trials, of four steps each."""


@pytest.fixture
def backfilled(study, monkeypatch, tmp_path):
    """Backfills an asset of a copy of the finished study through the daemon."""
    run_in_process(monkeypatch, tmp_path)
    monkeypatch.setenv("PPL_ASSETS_STUDY", str(study.file))

    def run(asset: str, partitions, tags=None) -> BulkActionStatus:
        with study_instance(study.platform.study) as instance:
            return daemon_works_off(instance, launch_backfill(instance, study.definitions, asset, partitions, tags))

    return run


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A study with nothing in it."""

    def make(gpu_steps: int):
        monkeypatch.setenv("PPL__STUDY__GPU_STEPS", str(gpu_steps))
        (tmp_path / "notes").mkdir()
        (tmp_path / "study.toml").write_text(
            '[corpora.notes]\npath = "notes"\n[base_model]\nsource = "some/model"\n[selection]\ntokens = 100_000\n'
        )
        return Platform(study_path=str(tmp_path / "study.toml")).study

    return make


def add_corpora(study: TinyStudy, number: int) -> list[str]:
    """So many corpora more, of one small file each."""
    names = [f"c{n:03d}" for n in range(number)]
    for n, name in enumerate(names):
        folder = study.folder / "corpora" / name
        folder.mkdir()
        (folder / "only.jsonl").write_text(json.dumps({"text": prose(5000 + n, 120, 200, 0.6)}) + "\n")
    sections = "".join(f'\n[corpora.{name}]\npath = "corpora/{name}"\n' for name in names)
    study.file.write_text(study.file.read_text() + sections)
    return names


def test_a_backfill_of_many_corpora_goes_through(study, backfilled):
    names = add_corpora(study, CORPORA)
    assert backfilled("chunks", names) == BulkActionStatus.COMPLETED_SUCCESS
    found = study.platform.lake.snapshot().read(CHUNKS, ["corpus"])["corpus"].unique()
    assert set(found) == {*names, "easy", "hard", "general"}
    with study_instance(study.platform.study) as instance:
        assert set(names) <= instance.get_materialized_partitions(dg.AssetKey("chunks"))


def test_a_backfill_of_many_trials_goes_through(study, backfilled, monkeypatch):
    for key, value in SHORT.items():
        monkeypatch.setenv(f"PPL__{key}", str(value))
    assert study.materialize("design_trials").success
    with study_instance(study.platform.study) as instance:
        trials = instance.get_dynamic_partitions("trial")[:TRIALS]
    assert len(trials) == TRIALS
    assert backfilled("trial_losses", trials) == BulkActionStatus.COMPLETED_SUCCESS
    trained = study.platform.lake.snapshot().commits("trial_losses")
    assert set(trials) <= set(trained)
    assert study.platform.lake.snapshot().read(TRIAL_LOSSES)["trial_fingerprint"].n_unique() >= TRIALS


def test_partitions_that_do_not_follow_each_other_are_backfilled_and_no_other(study, backfilled):
    before = study.platform.lake.snapshot().commits("perplexity_scores")
    assert backfilled("perplexity_scores", ["easy", "hard"], {FORCE_TAG: "true"}) == BulkActionStatus.COMPLETED_SUCCESS
    after = study.platform.lake.snapshot().commits("perplexity_scores")
    assert {name for name in after if after[name].run_id != before[name].run_id} == {"easy", "hard"}


@pytest.mark.parametrize(("limit", "waits"), [(1, True), (2, False)])
def test_a_step_of_the_pool_waits_until_fewer_are_at_work_than_the_study_says(limit, waits, fresh):
    """Another run holds a slot for three seconds."""
    started: list[float] = []

    @dg.asset(pool=GPU_POOL)
    def trained() -> None:
        started.append(time.monotonic())

    with study_instance(fresh(gpu_steps=limit)) as instance:
        slots = instance.event_log_storage
        assert slots.claim_concurrency_slot(GPU_POOL, "another-run", "perplexity_scores").is_claimed
        began = time.monotonic()
        release = threading.Timer(3.0, slots.free_concurrency_slots_for_run, ["another-run"])
        release.start()
        assert dg.materialize([trained], instance=instance).success
        release.join()
    assert (started[0] - began >= 3.0) == waits
