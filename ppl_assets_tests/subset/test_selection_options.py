"""Limits of corpora, repetition and whole documents in a study: selection, checks, export, a rival."""

import json
from pathlib import Path

import datasets
import numpy as np
import polars as pl
import pytest

from ppl_assets.law.assets import fitted_law_inputs
from ppl_assets.regimes.drawn import Target
from ppl_assets.regimes.pool import read_pool
from ppl_assets.subset.assets import final_subset_inputs
from ppl_assets.subset.draws import draw, groups_of
from ppl_assets.subset.whole_documents import documents_of, in_document_order
from ppl_assets.tables import CHUNKS, FINAL_SUBSET, SELECTIONS
from ppl_assets_tests.conftest import TinyStudy

TARGET = Target(100.0, 50.0, 4096)


def parts(study: TinyStudy):
    return study.platform.study, study.platform.lake, study.platform.lake.snapshot()


def asked_for(study: TinyStudy, monkeypatch, **keys: str) -> TinyStudy:
    """The study with other keys, as from the environment."""
    for name, value in keys.items():
        monkeypatch.setenv(f"PPL__{name}", value)
    return TinyStudy(study.folder)


def test_a_study_with_limits_and_repeats_selects_checks_and_exports(study, monkeypatch):
    fit, selection = fitted_law_inputs(*parts(study)).digest, final_subset_inputs(*parts(study)).digest
    keys = {"CORPORA__HARD__MIN_SHARE": "0.75", "SELECTION__REPEATS": "3"}
    limited = asked_for(study, monkeypatch, **keys)
    assert fitted_law_inputs(*parts(limited)).digest == fit
    assert final_subset_inputs(*parts(limited)).digest != selection
    assert limited.materialize("select_subset").success
    _, _, snapshot = parts(limited)
    rows, chosen = snapshot.read(FINAL_SUBSET).sort("rank"), snapshot.only_row(SELECTIONS)
    hard = rows.filter(corpus="hard")["n_tokens"].sum()
    assert hard >= 0.75 * chosen["tokens_target"] - 32
    assert rows["rank"].to_list() == list(range(rows.height))
    times = rows["chunk_id"].value_counts()["count"]
    assert times.max() in (2, 3)
    repeated = rows["n_tokens"].sum() - rows.unique("chunk_id")["n_tokens"].sum()
    assert f"{repeated:,} of these tokens are repetitions" in chosen["message"]
    exported = Path(chosen["export_path"])
    assert "tokens are repetitions" in (exported / "README.md").read_text("utf-8")
    assert json.loads((exported / "manifest.json").read_text("utf-8"))["rows"] == rows.height
    loaded = datasets.load_dataset(str(exported), split="train", cache_dir=str(study.folder / "cache"))
    assert loaded["chunk_id"] == rows["chunk_id"].to_list()


def test_a_rival_keeps_the_same_limits_and_repeats_only_after_one_pass(study, monkeypatch):
    limited = asked_for(study, monkeypatch, CORPORA__HARD__MAX_SHARE="0.25", SELECTION__REPEATS="2")
    given, _, snapshot = parts(limited)
    pool = read_pool(snapshot, given.corpus_partitions(), groups_of(given))
    once = draw("random", given, pool, TARGET, 1, [4096]).rows
    assert once["chunk_id"].is_unique().all()
    assert once.filter(corpus="hard")["n_tokens"].sum() <= 1024
    assert once["n_tokens"].sum() == 4096


def test_whole_documents_are_selected_exported_and_reordered_whole(study, monkeypatch):
    whole = asked_for(study, monkeypatch, SELECTION__UNIT="document")
    assert whole.materialize("select_subset").success
    given, _, snapshot = parts(whole)
    rows, chosen = snapshot.read(FINAL_SUBSET).sort("rank"), snapshot.only_row(SELECTIONS)
    assert "whole documents." in chosen["message"]
    pool = read_pool(snapshot, given.corpus_partitions())
    documents = documents_of(snapshot, pool.rows, pool.candidates)
    held = dict(zip(pool.rows["chunk_id"], documents.number.tolist(), strict=True))
    sizes = np.bincount(documents.number)
    for order in (rows, in_document_order(rows, 5), draw("random", given, pool, TARGET, 1, [4096], documents).rows):
        number = np.array([held[name] for name in order["chunk_id"]])
        begins = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
        assert np.diff(np.append(begins, number.size)).tolist() == sizes[number[begins]].tolist()
    assert in_document_order(rows, 5)["chunk_id"].sort().equals(rows["chunk_id"].sort())
    chunks = snapshot.read(CHUNKS, ["chunk_id", "corpus", "position"])
    placed = rows.join(chunks, on=["chunk_id", "corpus"], maintain_order="left")
    assert (placed.group_by("corpus", "doc_id").agg(pl.col("position").diff().min())["position"].fill_null(1) > 0).all()


@pytest.mark.parametrize("unit", ["chunk", "document"])
def test_a_rival_that_did_better_can_be_taken(study, monkeypatch, unit):
    taken = asked_for(study, monkeypatch, SELECTION__METHOD="middle", SELECTION__UNIT=unit)
    assert taken.materialize("select_subset").success
    given, _, snapshot = parts(taken)
    rows, chosen = snapshot.read(FINAL_SUBSET), snapshot.only_row(SELECTIONS)
    assert chosen["message"].startswith("Taken by rank around the median perplexity (selection.method = 'middle')")
    assert (chosen["mu_target"], chosen["objective"]) == (chosen["mu"], pytest.approx(0.0, abs=1e-20))
    pool = read_pool(snapshot, given.corpus_partitions())
    documents = documents_of(snapshot, pool.rows, pool.candidates) if unit == "document" else None
    rival = draw("middle", given, pool, TARGET, given.study.seed, [4096], documents)
    assert set(rows["chunk_id"]) == set(rival.rows["chunk_id"])
    assert "by rank around the median" in (Path(chosen["export_path"]) / "README.md").read_text("utf-8")
