"""The whole pipeline on a tiny study: every stage real."""

import gzip
import json
import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ppl_assets.automation import run
from ppl_assets.automation.instance import LAUNCHER_TAG, study_instance
from ppl_assets.automation.jobs import STAGE_JOBS
from ppl_assets.automation.plan import pending
from ppl_assets.automation.run import RunError, StageOutcome
from ppl_assets.automation.summary import lineage_table, summary
from ppl_assets.corpus.assets import stored_test_set
from ppl_assets.corpus.leaks import Overlap
from ppl_assets.law.assets import comparable_losses
from ppl_assets.perplexity import scoring
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.tables import (
    CHUNKS,
    CLEANING_COUNTS,
    FINAL_SUBSET,
    FITTED_LAW,
    PERPLEXITY_SCORES,
    REGIMES,
    REJECTED_ROWS,
    SELECTION_REPORT,
    SELECTIONS,
    STRATEGY_LOSSES,
    TRIAL_LOSSES,
)
from ppl_assets.trials import assets as trials_assets
from ppl_assets.trials.trainer import Trainer
from ppl_assets_tests.conftest import TinyStudy


def table(study, name):
    return study.platform.lake.snapshot().read(name)


def test_a_run_ends_with_a_selection_an_export_and_a_report(finished_study):
    selection = table(finished_study, SELECTIONS).row(0, named=True)
    report = table(finished_study, SELECTION_REPORT).row(0, named=True)
    assert 0.9 * 4096 <= selection["tokens"] <= 4096
    assert Path(selection["export_path"]).is_dir()
    assert Path(report["path"]).read_text("utf-8").startswith("<!doctype html>")
    assert report["headline"] in summary(finished_study.platform, list(finished_study.outcomes.values()), 1.0)


def test_a_second_run_computes_nothing(finished_study):
    outcomes = finished_study.run()
    assert {asset: outcome.computed for asset, outcome in outcomes.items()} == dict.fromkeys(outcomes, 0)
    assert outcomes["perplexity_scores"].sentence() == "unchanged: nothing scored (3 partitions)"


def test_every_candidate_chunk_is_scored_and_none_holds_test_text(finished_study):
    snapshot = finished_study.platform.lake.snapshot()
    chunks, scores = snapshot.read(CHUNKS), snapshot.read(PERPLEXITY_SCORES)
    assert sorted(chunks["chunk_id"]) == sorted(scores["chunk_id"])
    assert set(chunks["split"]) == {"candidate", "test", "general"}
    guard = stored_test_set(finished_study.platform.study, snapshot).guard
    candidates = chunks.filter(pl.col("split") == "candidate")
    assert not any(guard.overlap(text).is_leak for text in candidates["text"])


def test_ugly_rows_are_listed_with_file_and_line(finished_study):
    rejected = table(finished_study, REJECTED_ROWS).sort("position")
    assert rejected.select("corpus", "source", "position", "reason").rows() == [
        ("hard", "part-0.jsonl.gz", 4, "null_text"),
        ("hard", "part-0.jsonl.gz", 6, "missing_field"),
    ]


def test_exact_copies_are_dropped_and_counted(finished_study):
    counts = table(finished_study, CLEANING_COUNTS).filter(pl.col("corpus") == "easy")
    duplicates = counts.filter(pl.col("outcome") == "exact_duplicate")["documents"].sum()
    assert 8 <= duplicates <= 10  # ten files repeat earlier ones; those of a test document are near_test instead


def test_trials_share_one_run_across_token_counts(finished_study):
    losses = table(finished_study, TRIAL_LOSSES)
    regimes = table(finished_study, REGIMES)
    points = losses.group_by("trial").agg(
        pl.col("tokens").n_unique(), pl.col("trial_fingerprint").n_unique().alias("runs")
    )
    assert points["runs"].to_list() == [1] * regimes.height
    assert points["tokens"].min() >= 6
    assert losses.filter(pl.col("point") == 0)["test_loss"].n_unique() == 1


def test_every_form_of_the_law_is_fitted_and_one_is_chosen(finished_study):
    law = table(finished_study, FITTED_LAW)
    with_surface = {"no_interaction", "paper", "scale_free", "quadratic"}
    assert set(law["form"]) == {"d_only", *with_surface, *(f"log_{form}" for form in with_surface)}
    assert set(law["link"]) == {"paper", "anchored"}
    assert law["is_chosen"].sum() == 1
    assert all(law["optimum_sentence"].str.len_chars() > 20)


def test_random_and_lowest_are_trained_beside_the_selection(finished_study):
    losses = table(finished_study, STRATEGY_LOSSES)
    assert set(losses["strategy"]) == {"selected", "random", "lowest"}
    assert losses["setting_id"].n_unique() == 1
    assert losses.group_by("strategy").agg(pl.col("seed").n_unique())["seed"].to_list() == [2, 2, 2]


def test_lineage_leads_from_a_selected_chunk_to_run_code_model_and_corpus_version(finished_study):
    chunk = table(finished_study, FINAL_SUBSET)["chunk_id"][7]
    lines = dict(line.split(maxsplit=1) for line in lineage_table(finished_study.platform.lake, chunk).splitlines())
    assert lines["chunk_id"] == chunk
    for name in (
        "selected_by_run",
        "fitted_by_run",
        "scored_by_run",
        "chunked_by_run",
        "scorer_code",
        "base_model",
        "weights_fingerprint",
        "corpus_version",
        "package_version",
        "git_commit",
        "law_form",
    ):
        assert lines[name] not in ("", "None")
    with pytest.raises(LookupError, match="not in final_subset"):
        lineage_table(finished_study.platform.lake, "no such chunk")


def test_export_holds_the_selection_in_training_order_with_its_manifest(finished_study):
    selection = table(finished_study, SELECTIONS).row(0, named=True)
    folder = Path(selection["export_path"])
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    rows = pq.read_table(folder / "parquet")
    lines = [
        json.loads(line) for line in (folder / "jsonl" / "train-00000-of-00001.jsonl").read_text("utf-8").splitlines()
    ]
    members = table(finished_study, FINAL_SUBSET).sort("rank")
    assert rows["chunk_id"].to_pylist() == members["chunk_id"].to_list() == [line["chunk_id"] for line in lines]
    assert manifest["tokens"] == selection["tokens"]
    assert manifest["reached"]["mean_perplexity"] == pytest.approx(selection["mu"])
    assert manifest["lake_snapshot"] > 0
    texts = table(finished_study, CHUNKS).select("chunk_id", "text")
    assert members.join(texts, on="chunk_id", how="left", maintain_order="left")["text"].to_list() == [
        line["text"] for line in lines
    ]


def test_a_deleted_export_is_written_again_without_selecting_again(study, monkeypatch):
    monkeypatch.setenv("PPL__SELECTION__TOKENS", "2048")  # for an export of its own
    assert study.materialize("select_subset").success
    before = table(study, SELECTIONS).row(0, named=True)
    shutil.rmtree(before["export_path"])
    assert study.materialize("select_subset").success
    assert table(study, SELECTIONS).row(0, named=True) == before
    assert (Path(before["export_path"]) / "manifest.json").is_file()


def test_the_instance_knows_every_asset_partition_and_check(finished_study):
    with study_instance(finished_study.platform.study) as instance:
        assert set(instance.get_materialized_partitions(dg.AssetKey("perplexity_scores"))) == {
            "easy",
            "hard",
            "general",
        }
        trials = instance.get_dynamic_partitions("trial")
        assert set(instance.get_materialized_partitions(dg.AssetKey("trial_losses"))) == set(trials)
        event = instance.get_latest_materialization_event(dg.AssetKey("fitted_law"))
        assert "dagster/row_count" in event.asset_materialization.metadata


def test_every_materialization_says_where_its_columns_come_from_and_what_it_cost(finished_study):
    with study_instance(finished_study.platform.study) as instance:
        for asset in STAGE_JOBS:
            metadata = instance.get_latest_materialization_event(dg.AssetKey(asset)).asset_materialization.metadata
            assert metadata["dagster/column_lineage"].value.deps_by_column, asset
            assert metadata["seconds"].value > 0
            holds_device = asset in {"base_model", "perplexity_scores", "trial_losses", "strategy_losses"}
            assert ("device_hours" in metadata) == holds_device, asset


def test_a_new_document_rescores_only_new_chunks(study):
    scores = table(study, PERPLEXITY_SCORES)
    shutil.copyfile(study.folder / "corpora/general/doc-001.txt", study.folder / "corpora/easy/zz-new.txt")
    assert study.materialize("chunk_corpus", "easy").success
    result = study.materialize("score_corpus", "easy")
    assert result.success
    computed = result.asset_materializations_for_node("perplexity_scores")[0].metadata["chunks_computed"].value
    added = table(study, CHUNKS).height - scores.height
    assert computed == added > 0
    kept = table(study, PERPLEXITY_SCORES).join(scores, on=["chunk_id", "corpus"], suffix="_before")
    assert (kept["nll"] == kept["nll_before"]).all()


def test_a_killed_scoring_run_goes_on_and_ends_with_the_rows_of_an_undisturbed_one(copies, monkeypatch):
    monkeypatch.setenv("PPL__SCORE__FIRST_TOKEN", "unscored")  # another scorer: nothing has a score yet
    monkeypatch.setitem(scoring.BATCH_TOKENS, "cpu", 64 * 32)
    undisturbed, killed = copies("undisturbed"), copies("killed")
    assert undisturbed.materialize("score_corpus", "easy").success
    score, calls = Scorer.score, iter(range(100))

    def score_twice_then_die(scorer, chunks, progress=None):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return score(scorer, chunks, progress)

    monkeypatch.setattr(Scorer, "score", score_twice_then_die)
    assert not killed.materialize("score_corpus", "easy").success
    assert set(table(killed, PERPLEXITY_SCORES)["scorer_id"]) == set(
        table(undisturbed, PERPLEXITY_SCORES).filter(pl.col("corpus") == "hard")["scorer_id"]
    )
    scored = []
    monkeypatch.setattr(
        Scorer, "score", lambda scorer, chunks, progress=None: scored.extend(chunks) or score(scorer, chunks, progress)
    )
    assert killed.materialize("score_corpus", "easy").success
    rows = table(killed, PERPLEXITY_SCORES)
    chunks = table(killed, CHUNKS).filter(pl.col("corpus") == "easy").height
    assert len(scored) == chunks - 2 * 64
    assert rows.filter(pl.col("corpus") == "easy").height == 2 * chunks  # the earlier scorer's are kept
    assert rows.sort("corpus", "scorer_id", "chunk_id").equals(
        table(undisturbed, PERPLEXITY_SCORES).sort("corpus", "scorer_id", "chunk_id")
    )
    assert not list((killed.platform.root / "spool").rglob("*.parquet"))


def test_a_truncated_file_fails_its_partition_by_name_and_leaves_the_old_rows(study):
    before = table(study, CHUNKS).filter(pl.col("corpus") == "hard").sort("chunk_id")
    file = study.folder / "corpora/hard/part-0.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(RunError, match=r"chunk_corpus hard: .*part-0\.jsonl\.gz"):
        study.run()
    assert table(study, CHUNKS).filter(pl.col("corpus") == "hard").sort("chunk_id").equals(before)


def test_a_fatal_bad_row_is_named_with_file_and_line(study, monkeypatch):
    monkeypatch.setenv("PPL__CORPORA__HARD__ON_BAD_ROW", "fail")
    with pytest.raises(RunError, match=r"part-0\.jsonl\.gz.*4"):
        study.run()


def test_a_changed_budget_trains_no_trial_again(study, monkeypatch):
    monkeypatch.setenv("PPL__SELECTION__TOKENS", "3072")
    outcomes = study.run()
    assert outcomes["perplexity_scores"].computed == 0
    assert outcomes["final_subset"].computed == 1
    assert table(study, SELECTIONS)["tokens"][0] <= 3072


def test_gzip_is_recognized_by_content(study):
    file = study.folder / "corpora/hard/part-0.jsonl.gz"
    text = gzip.decompress(file.read_bytes())
    file.write_bytes(text)
    assert study.materialize("chunk_corpus", "hard").success


def test_a_run_whose_process_was_killed_frees_its_slot_and_is_marked_failed(study):
    with study_instance(study.platform.study) as instance:
        job = study.definitions.resolve_job_def("run_trial")
        run = instance.create_run_for_job(job, tags={LAUNCHER_TAG: "999999-1"}, status=dg.DagsterRunStatus.STARTED)
        assert instance.event_log_storage.claim_concurrency_slot("gpu", run.run_id, "trial_losses").is_claimed
    with study_instance(study.platform.study) as instance:
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        assert not instance.event_log_storage.get_concurrency_info("gpu").claimed_slots


def test_a_partition_whose_blocking_check_failed_is_not_taken_for_done(study, monkeypatch):
    monkeypatch.setattr(Overlap, "is_leak", property(lambda _overlap: True))  # every chunk now holds test text
    study.materialize("chunk_corpus", "easy")
    for _ in range(2):
        with pytest.raises(RunError, match="no_candidate_holds_test_text"):
            study.run()


def test_a_deleted_report_is_pending_again(study):
    page = Path(table(study, SELECTION_REPORT)["path"][0])
    moved = page.with_suffix(".away")
    page.rename(moved)
    try:
        with study_instance(study.platform.study) as instance:
            assert pending("selection_report", "", study.platform, instance)
    finally:
        moved.rename(page)


def test_a_trial_is_not_trained_again_when_a_setting_returns(study, monkeypatch):
    losses = table(study, TRIAL_LOSSES)
    trial = losses["trial"][0]
    monkeypatch.setenv("PPL__TRIALS__LEARNING_RATE", "0.001")
    assert study.materialize("run_trial", trial).success
    assert table(study, TRIAL_LOSSES).filter(pl.col("trial") == trial)["setting_id"].n_unique() == 2
    monkeypatch.delenv("PPL__TRIALS__LEARNING_RATE")
    monkeypatch.setattr(trials_assets, "train", None)  # would fail if it were called
    assert study.materialize("run_trial", trial).success


def test_a_killed_trial_goes_on_and_its_decay_branches_stay_out_of_the_law(study, monkeypatch):
    before = comparable_losses(study.platform.study, study.platform.lake.snapshot())
    trial = before["trial"][0]
    monkeypatch.setenv("PPL__TRIALS__DECAY_BRANCHES", "2")  # another run of the same setting
    steps, step = [], Trainer.step

    def die_at_the_twentieth(trainer, chunks, rate):
        if len(steps) == 20:
            raise KeyboardInterrupt
        steps.append(rate)
        return step(trainer, chunks, rate)

    with monkeypatch.context() as killed:
        killed.setattr(Trainer, "step", die_at_the_twentieth)
        assert not study.materialize("run_trial", trial).success
    saved = study.platform.root / "spool" / "checkpoints"
    assert len(list(saved.iterdir())) == 1
    monkeypatch.setattr(Trainer, "step", lambda *given: steps.append(1) or step(*given))
    result = study.materialize("run_trial", trial)
    assert not list(saved.iterdir())
    assert len(steps) == 20 + 24 + 4  # killed in the branch at 16 steps, it went on from 8: 24 of 32, and that branch
    metadata = result.asset_materializations_for_node("trial_losses")[0].metadata
    assert isinstance(metadata["decay_offset"].value, float)
    rows = table(study, TRIAL_LOSSES).filter(pl.col("trial") == trial)
    assert rows["branch"].value_counts().sort("branch").rows() == [("decay", 2), ("trunk", 12)]  # two runs of six
    after = comparable_losses(study.platform.study, study.platform.lake.snapshot())
    columns = ["trial", "point", "setting_id", "tokens", "test_loss", "log_mu", "branch"]
    assert after.select(columns).sort(columns[:2]).equals(before.select(columns).sort(columns[:2]))
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert "5 measurements after warm-up, 6 are wanted" in checks["trial_serves_the_law"].description


class Killed:
    """The strategy ``random`` of a study, killed in its second seed."""

    def __init__(self, study, monkeypatch):
        self.study, self.steps, step = study, [], Trainer.step
        monkeypatch.setenv("PPL__STRATEGIES__POINTS", "4")  # other runs than those in the lake

        def counted(trainer, chunks, rate):
            if len(self.steps) == 40:
                raise KeyboardInterrupt
            self.steps.append(rate)
            return step(trainer, chunks, rate)

        with monkeypatch.context() as killed:
            killed.setattr(Trainer, "step", counted)
            assert not study.materialize("train_strategy", "random").success
        monkeypatch.setattr(Trainer, "step", lambda *given: self.steps.append(1) or step(*given))
        self.saved = study.platform.root / "spool" / "checkpoints"

    def run_again(self):
        assert self.study.materialize("train_strategy", "random").success
        assert not list(self.saved.iterdir())
        return table(self.study, STRATEGY_LOSSES).filter(pl.col("strategy") == "random").sort("seed", "point")


def test_a_strategy_killed_in_its_second_seed_does_not_train_the_first_again(study, monkeypatch):
    killed = Killed(study, monkeypatch)
    assert len(list(killed.saved.iterdir())) == 2  # one is over, one is not
    rows = killed.run_again()
    assert rows["seed"].n_unique() == 2
    assert rows["test_loss"].is_finite().all()
    assert len(killed.steps) < 40 + 2 * 32 - 32  # neither the first nor what was saved of the second


def test_a_finished_seed_whose_file_is_torn_is_trained_again(study, monkeypatch):
    killed = Killed(study, monkeypatch)
    for file in (path for path in (study.platform.root / "spool").rglob("*") if path.is_file()):
        file.write_bytes(file.read_bytes()[:99])
    rows = killed.run_again()
    assert rows["seed"].n_unique() == 2
    assert len(killed.steps) == 40 + 2 * 32


def test_materializing_before_what_is_above_says_what_to_do(study, monkeypatch):
    monkeypatch.setenv("PPL__STORAGE__ROOT", str(study.folder / "empty"))
    monkeypatch.delenv("PPL__STORAGE__TABLES")
    with study_instance(study.platform.study) as instance:
        job = study.definitions.resolve_job_def("score_corpus")
        result = job.execute_in_process(instance=instance, partition_key="easy", raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure][:1]
    assert "table base_model has 0 rows" in failure.step_failure_data.error.cause.message


def test_a_new_corpus_leaves_nothing_unsynced_that_does_not_depend_on_it(study):
    (study.folder / "corpora" / "new").mkdir()
    (study.folder / "corpora" / "new" / "a.txt").write_text("some words more")
    study.file.write_text(study.file.read_text() + '\n[corpora.new]\npath = "corpora/new"\n')
    study = TinyStudy(study.folder)
    assert study.materialize("observe_corpora").success
    with study_instance(study.platform.study) as instance:
        for asset in run.BELOW_FILES:
            assert run._is_unsynced(asset, study.definitions, instance)
            outcome = StageOutcome(asset)
            run._stage(study.definitions, study.platform, instance, run.Display(Console(quiet=True)), outcome)
            assert (outcome.computed, outcome.unchanged) == (0, 1)
            assert not run._is_unsynced(asset, study.definitions, instance)
