"""The checks that a person decides by: what is out of date and its cost, and whether trials still cover the corpora."""

import dagster as dg
import polars as pl
import pytest

from ppl_assets.automation import outstanding as outstanding_module
from ppl_assets.automation.outstanding import outstanding, versions_in_force
from ppl_assets.lake import Provenance
from ppl_assets.perplexity import assets as perplexity_assets
from ppl_assets.tables import CHUNKS, PERPLEXITY_LANDSCAPE, SCORERS
from ppl_assets_tests.conftest import prose


def verdicts(study) -> dict[str, dg.AssetCheckEvaluation]:
    """What the job says that runs both checks and nothing else."""
    done = study.materialize("check_study")
    assert done.success
    assert not done.get_asset_materialization_events()
    return {one.check_name: one for one in done.get_asset_check_evaluations()}


def due(study):
    return outstanding(study.platform.study, study.platform.lake, study.platform.lake.snapshot())


def test_after_a_run_nothing_is_out_of_date_and_the_trials_cover_the_corpora(study):
    found = verdicts(study)
    assert all(one.passed for one in found.values())
    assert found["scores_are_current"].description == (
        "Every score is of the present code, settings, base model and chunks."
    )
    assert "0.0 % from where they were when trials were designed; that is inside" in (
        found["trials_cover_the_landscape"].description
    )


def test_another_scorer_says_how_many_tokens_that_is_how_long_it_takes_and_what_to_do(study, monkeypatch):
    monkeypatch.setenv("PPL__SCORE__FIRST_TOKEN", "unscored")
    snapshot = study.platform.lake.snapshot()
    chunks, speed = snapshot.read(CHUNKS), snapshot.read(SCORERS)["tokens_per_second"][0]
    check = verdicts(study)["scores_are_current"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "perplexity_scores of 3 corpora (easy, hard, general)" in check.description
    assert f"{chunks.height:,} chunks of {chunks['n_tokens'].sum():,} tokens are scored, about" in check.description
    assert f"at the last measured {speed:,.0f} tokens/s" in check.description
    assert "materialize perplexity_scores of these partitions in the UI; make demo STUDY=" in check.description
    assert check.metadata["device_seconds"].value == pytest.approx(chunks["n_tokens"].sum() / speed)


def test_other_code_around_the_scores_is_said_and_costs_no_scoring(finished_study, monkeypatch):
    before = versions_in_force(finished_study.platform.study)
    monkeypatch.setattr(perplexity_assets, "CODE_VERSION", "next")
    found = due(finished_study)
    assert (found.scores, found.chunks, found.n_chunks) == (["easy", "hard", "general"], [], 0)
    assert versions_in_force(finished_study.platform.study) != before


def test_other_rules_of_cleaning_count_every_chunk_that_would_be_cut_again(finished_study, monkeypatch):
    monkeypatch.setenv("PPL__CHUNKS__SHINGLE", "6")
    found = due(finished_study)
    assert found.chunks == found.scores == ["easy", "hard", "general"]
    assert found.n_chunks == finished_study.platform.lake.snapshot().read(CHUNKS, ["chunk_id"]).height
    assert "materialize chunks and perplexity_scores of these partitions" in found.sentence("")


def test_changed_files_are_not_out_of_date_they_are_followed(study):
    (study.folder / "corpora/easy/zz-new.txt").write_text(prose(77, 260, 120, 0.9))
    assert not due(study).scores


def test_without_a_measured_speed_the_time_is_unknown(finished_study, monkeypatch):
    monkeypatch.setenv("PPL__SCORE__FIRST_TOKEN", "unscored")
    monkeypatch.setattr(outstanding_module, "_last_speed", lambda *_: None)
    assert "for how long is unknown" in due(finished_study).sentence("")


def move_landscape(study, factor: float) -> None:
    lake = study.platform.lake
    rows = lake.snapshot().read(PERPLEXITY_LANDSCAPE).with_columns(pl.col("mean", "deviation") * factor)
    lake.commit(
        [lake.stage(PERPLEXITY_LANDSCAPE, rows)], Provenance("perplexity_landscape", "", "run", "1", "other", "other")
    )


def test_corpora_that_moved_outside_the_trials_say_what_new_trials_cost_and_how_to_ask_for_them(study):
    move_landscape(study, 3.0)
    check = verdicts(study)["trials_cover_the_landscape"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "% outside what 12 trials measured, where the law is a guess" in check.description
    assert "New trials are worth their price: as many as now cost, 12 trials: " in check.description
    assert "materialize regime_partitions, the trials that it registers, and fitted_law" in check.description
    assert check.metadata["moved_since_the_design_pct"].value > 300
    assert check.metadata["tokens_of_new_trials"].value > 12 * 4096


def test_a_little_drift_inside_the_trials_is_measured_and_passes(study):
    move_landscape(study, 1.02)
    check = verdicts(study)["trials_cover_the_landscape"]
    assert check.passed
    assert check.metadata["moved_since_the_design_pct"].value == pytest.approx(2.84, abs=0.1)


def test_without_comparable_trials_the_check_passes_and_says_so(study, monkeypatch):
    monkeypatch.setenv("PPL__TRIALS__LEARNING_RATE", "0.002")
    check = verdicts(study)["trials_cover_the_landscape"]
    assert check.passed
    assert "No trial was measured yet under the present setting" in check.description


def test_before_anything_ran_both_checks_pass_and_say_so(study, monkeypatch):
    monkeypatch.setenv("PPL__STORAGE__ROOT", str(study.folder / "empty"))
    monkeypatch.delenv("PPL__STORAGE__TABLES")
    found = verdicts(study)
    assert all(check.passed for check in found.values())
    assert "Nothing was scored yet" in found["scores_are_current"].description
    assert "No trial was designed yet" in found["trials_cover_the_landscape"].description


def test_the_landscape_asks_both_checks_whenever_it_is_drawn(study):
    done = study.materialize("draw_landscape")
    assert {one.check_name for one in done.get_asset_check_evaluations()} == {
        "scores_are_current",
        "trials_cover_the_landscape",
    }
