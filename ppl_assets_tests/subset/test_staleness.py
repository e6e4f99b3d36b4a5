"""Measured losses are credited to the selection that was trained, and to no other."""

import json
from pathlib import Path

import datasets
import polars as pl
import pytest

from ppl_assets.automation.summary import summary
from ppl_assets.lake import Provenance
from ppl_assets.law.assets import comparable_losses, fitted_law_inputs
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.subset.assets import (
    as_declared,
    final_subset_inputs,
    selection_report_inputs,
    strategy_losses_inputs,
    trained_strategies,
)
from ppl_assets.subset.handover import export_selection, exported_as, is_exported
from ppl_assets.subset.history import selections
from ppl_assets.subset.report_input import report_input
from ppl_assets.subset.report_page import summarize
from ppl_assets.tables import FINAL_SUBSET, REGIMES, SELECTIONS, STRATEGY_LOSSES, LakeTable
from ppl_assets.trials.assets import current_setting
from ppl_assets_tests.conftest import TinyStudy
from ppl_assets_tests.subset.report_factory import strategy_table


def parts(study: TinyStudy):
    return study.platform.study, study.platform.lake, study.platform.lake.snapshot()


def rewrite(study: TinyStudy, asset: str, *tables: tuple[LakeTable, pl.DataFrame]) -> None:
    lake = study.platform.lake
    writes = [lake.stage(table, rows) for table, rows in tables]
    lake.commit(writes, Provenance(asset, "", "another-run", "1", "other inputs", "other version"))


def select_otherwise(study: TinyStudy) -> None:
    """Another selection, as a change of corpus or law makes one."""
    snapshot = study.platform.lake.snapshot()
    other = pl.lit("0" * 16)
    selection = snapshot.read(SELECTIONS).with_columns(selection_id=other, content_id=other)
    members = snapshot.read(FINAL_SUBSET).with_columns(selection_id=other)
    rewrite(study, "final_subset", (SELECTIONS, selection), (FINAL_SUBSET, members))


def test_after_a_run_every_strategy_is_trained(finished_study):
    assert trained_strategies(*parts(finished_study)) == ["selected", "random", "lowest"]


def test_a_new_selection_is_not_credited_with_the_losses_of_the_old_one(study):
    settings, lake, before = parts(study)
    select_otherwise(study)
    now = lake.snapshot()
    assert trained_strategies(settings, lake, now) == ["random", "lowest"]
    assert trained_strategies(settings, lake, before) == ["selected", "random", "lowest"]
    losses = comparable_losses(settings, now)
    data = report_input(settings, study.file, now, losses, trained_strategies(settings, lake, now))
    assert set(data.strategy_losses["strategy"]) == {"random", "lowest"}
    assert summarize(data).verdict == "untrained"


def test_the_summary_says_that_a_new_selection_is_not_trained_yet(study):
    assert "trained    selected" in summary(study.platform, [], 1.0)
    select_otherwise(study)
    text = summary(study.platform, [], 1.0)
    assert "nothing has been trained on it yet" in text
    assert "trained    selected" not in text
    assert "(of selection " in text


def test_the_report_is_due_again_where_a_strategy_is_stale(study, monkeypatch):
    settings, lake, snapshot = parts(study)
    before = selection_report_inputs(settings, lake, snapshot).digest
    monkeypatch.setenv("PPL__STRATEGIES__POINTS", "4")
    assert trained_strategies(*parts(study)) == []
    assert selection_report_inputs(*parts(study)).digest != before


def test_inputs_are_those_of_their_snapshot(study):
    settings, lake, before = parts(study)
    digests = [
        inputs(settings, lake, before, "random").digest
        for inputs in (fitted_law_inputs, final_subset_inputs, strategy_losses_inputs, selection_report_inputs)
    ]
    for asset in ("perplexity_landscape", "fitted_law", "final_subset"):
        rewrite(study, asset)
    again = lake.snapshot(before.number)
    assert digests == [
        inputs(settings, lake, again, "random").digest
        for inputs in (fitted_law_inputs, final_subset_inputs, strategy_losses_inputs, selection_report_inputs)
    ]


def test_which_trials_repeat_a_regime_decides_the_fit(study):
    settings, lake, before = parts(study)
    regimes = before.read(REGIMES)
    rewrite(study, "regime_partitions", (REGIMES, regimes.with_columns(regime=pl.lit("grid-00"))))
    now = lake.snapshot()
    assert fitted_law_inputs(settings, lake, now).digest != fitted_law_inputs(settings, lake, before).digest


def test_the_fits_lineage_names_its_scorer_and_setting(finished_study):
    settings, _, snapshot = parts(finished_study)
    facts = snapshot.latest("fitted_law").facts
    assert facts["scorer_id"] == current_scorer(snapshot)
    assert facts["setting_id"] == current_setting(settings, snapshot).setting_id


def test_the_manifest_names_the_study_but_not_its_storage(finished_study):
    selection = finished_study.platform.lake.snapshot().only_row(SELECTIONS)
    manifest = json.loads((Path(selection["export_path"]) / "manifest.json").read_text("utf-8"))
    assert "storage" not in manifest["study"]
    assert manifest["study"]["study"]["name"] == "tiny"


def test_an_export_is_due_again_when_its_files_are_to_be_of_another_size_and_the_selection_is_not(study, monkeypatch):
    settings, lake, snapshot = parts(study)
    assert is_exported(settings, snapshot)
    monkeypatch.setenv("PPL__EXPORT__SHARD_TOKENS", "1000")
    settings, lake, snapshot = parts(study)
    assert not is_exported(settings, snapshot)
    assert final_subset_inputs(settings, lake, snapshot).digest == snapshot.latest("final_subset").inputs


@pytest.mark.parametrize(("content_id", "which"), [("a", 1), (None, -1)])
def test_an_id_names_the_first_selection_and_one_of_an_earlier_version_the_last(study, content_id, which):
    """Ids of earlier versions said nothing of corpora and files, so each selection was exported over the one before."""
    lake = study.platform.lake
    row = (
        lake.snapshot()
        .read(SELECTIONS)
        .with_columns(selection_id=pl.lit("0" * 16), content_id=pl.lit(content_id, pl.String))
    )
    for run in ("first", "second"):
        lake.commit([lake.stage(SELECTIONS, row)], Provenance("final_subset", "", run, "1", run, "0" * 16))
    made = selections(lake)
    assert len(made) == 3
    assert exported_as(lake, made, "0" * 16) == made[which]


def test_an_export_loads_with_its_card_in_training_order(study, monkeypatch, tmp_path):
    monkeypatch.setenv("PPL__EXPORT__SHARD_TOKENS", "1000")
    settings, lake, snapshot = parts(study)
    folder = export_selection(settings, lake, snapshot.only_row(SELECTIONS)["selection_id"], tmp_path / "out")
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["chunk_id"][:] == snapshot.read(FINAL_SUBSET).sort("rank")["chunk_id"].to_list()
    assert len(list((folder / "parquet").iterdir())) == -(-sum(rows["n_tokens"]) // 1000) > 1
    card = (folder / "README.md").read_text("utf-8")
    assert "| easy | unknown |" in card
    assert str(study.folder) not in card


def test_new_and_known_runs_lie_together_where_general_loss_was_not_measured():
    known = strategy_table({"selected": 0.0}, seeds=1)
    new = known.with_columns(general_loss=pl.lit(None), predicted_loss=pl.lit(None))
    assert new.schema["general_loss"] == pl.Null
    rows = pl.concat([as_declared(new), as_declared(known)])
    assert rows.schema == pl.Schema(STRATEGY_LOSSES.schema)
