"""The assets of this stage on a whole study: what is kept, what is said of it, and what a check refuses."""

import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pytest
import torch
import transformers

from ppl_assets import __version__
from ppl_assets.lake import Lake, Provenance
from ppl_assets.perplexity.score_rows import digest
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.perplexity.scorer_facts import ScorerFacts, changed_scorer, facts_of
from ppl_assets.tables import CHUNKS, PERPLEXITY_SCORES, SCORERS
from ppl_assets_tests.perplexity.tiny import policy, tiny_model

KILLED_BEFORE_CLEARING = """
import os, signal, sys
from pathlib import Path
from ppl_assets.automation.instance import LAUNCHER_TAG, this_process
from ppl_assets.perplexity.score_rows import ScoreSpool
from ppl_assets_tests.conftest import TinyStudy

ScoreSpool.clear = lambda _spool: os.kill(os.getpid(), signal.SIGKILL)
TinyStudy(Path(sys.argv[1])).materialize("score_corpus", "easy", {LAUNCHER_TAG: this_process()})
"""


def table(study, name):
    return study.platform.lake.snapshot().read(name)


def easy_chunks(study):
    return table(study, CHUNKS).filter(pl.col("corpus") == "easy").height


def test_a_run_killed_between_commit_and_spool_is_run_again_to_the_same_table_and_an_empty_spool(copies, monkeypatch):
    monkeypatch.setenv("PPL__SCORE__FIRST_TOKEN", "unscored")  # another scorer: nothing has a score yet
    study, order = copies("killed"), ["corpus", "scorer_id", "chunk_id"]
    before = table(study, PERPLEXITY_SCORES).height
    study.platform.lake.close()
    command = [sys.executable, "-c", KILLED_BEFORE_CLEARING, str(study.folder)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    committed = table(study, PERPLEXITY_SCORES).sort(order)
    assert committed.height == before + easy_chunks(study)  # the commit was made
    spool = study.platform.root / "spool"
    assert list(spool.rglob("*.parquet"))  # and nothing after it
    shutil.copytree(spool, study.folder / "left")

    score, scored = Scorer.score, []
    monkeypatch.setattr(
        Scorer, "score", lambda scorer, chunks, progress=None: scored.extend(chunks) or score(scorer, chunks, progress)
    )
    assert study.materialize("score_corpus", "easy").success
    assert not scored
    assert table(study, PERPLEXITY_SCORES).sort(order).equals(committed)
    assert committed.select(order).n_unique() == committed.height
    assert not list(spool.rglob("*.parquet"))

    # the same, but the corpus has changed before it is run again
    shutil.copytree(study.folder / "left", spool, dirs_exist_ok=True)
    (study.folder / "corpora/easy/new.txt").write_text("seven green lamps hang over the door of an old mill. " * 30)
    known = easy_chunks(study)
    assert study.materialize("chunk_corpus", "easy").success
    assert study.materialize("score_corpus", "easy").success
    added = easy_chunks(study) - known
    assert len(scored) == added > 0
    rows = table(study, PERPLEXITY_SCORES)
    assert rows.height == committed.height + added
    assert rows.join(committed, on=order, how="semi").sort(order).equals(committed)
    assert not list(spool.rglob("*.parquet"))


def scorer_row(study):
    return table(study, SCORERS).row(0, named=True)


def facts(row):
    """What the row says of its run, the speed aside: no two runs have the same."""
    return {name: row[name] for name in asdict(ScorerFacts()) if name != "tokens_per_second"}


NOW = {
    "device": "cpu",
    "shares_rows": True,
    "torch_version": str(torch.__version__),
    "transformers_version": transformers.__version__,
    "package_version": __version__,
}


def test_a_scorers_row_says_what_decided_its_scores_and_how_they_were_computed(finished_study):
    row = scorer_row(finished_study)
    assert facts(row) == NOW
    assert row["tokens_per_second"] > 0
    assert not [name for name, value in row.items() if value is None]


def test_facts_are_those_of_the_latest_run_that_computed_something(study):
    with study.platform.lake.cursor() as cursor:
        cursor.execute("UPDATE lake.scorers SET torch_version = '1.0', shares_rows = false")
    documents = sorted((study.folder / "corpora/easy").glob("*.txt"))
    for file in documents[10:15]:  # the first ten have copies
        file.unlink()
    assert study.materialize("chunk_corpus", "easy").success
    result = study.materialize("score_corpus", "easy")
    assert result.success
    metadata = result.asset_materializations_for_node("perplexity_scores")[0].metadata
    assert (metadata["chunks_computed"].value, metadata["outcome"].value) == (0, "computed")
    assert facts(scorer_row(study)) == {**NOW, "torch_version": "1.0", "shares_rows": False}
    documents[0].write_text("seven green lamps hang over the door of an old mill by the river. " * 30)
    assert study.materialize("chunk_corpus", "easy").success
    assert study.materialize("score_corpus", "easy").success
    assert facts(scorer_row(study)) == NOW


def test_a_model_that_is_not_packed_says_so():
    assert facts_of(Scorer(tiny_model("bloom"), policy())).shares_rows is False


def test_scores_out_of_a_killed_runs_spool_leave_the_facts_empty_unless_a_run_gave_them(tmp_path):
    lake, given = Lake.under(tmp_path), policy()
    row = changed_scorer(lake.snapshot(), given, None)
    assert row.select("scorer_id", *asdict(given)).row(0, named=True) == {"scorer_id": given.scorer_id, **asdict(given)}
    assert set(facts(row.row(0, named=True)).values()) == {None}
    lake.commit([lake.stage(SCORERS, row, given.scorer_id)], Provenance("perplexity_scores", "c", "r", "1", "i", "v"))
    assert changed_scorer(lake.snapshot(), given, None) is None
    assert changed_scorer(lake.snapshot(), policy(dtype="bfloat16"), None) is not None
    known = changed_scorer(lake.snapshot(), given, ScorerFacts("cuda", True, "2", "5", "0"))
    assert known["device"].to_list() == ["cuda"]
    lake.close()


@pytest.mark.parametrize(("off", "passes"), [(1e-7, True), (5e-6, False)])
def test_stored_scores_that_are_5e_6_off_fail_the_blocking_check(study, off, passes):
    with study.platform.lake.cursor() as cursor:
        cursor.execute("UPDATE lake.perplexity_scores SET nll = nll * (1 + ?)", [off])
    result = study.materialize("score_corpus", "easy")
    found = {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}
    assert found == {"every_chunk_is_scored": True, "scores_match_the_oracle": passes}


def without_a_finite_score(study):
    """Make a chunk of the corpus easy have none, as a run would have left it; its id."""
    of_easy = table(study, CHUNKS).filter((pl.col("corpus") == "easy") & (pl.col("split") == "candidate"))
    chunk = of_easy["chunk_id"].sort()[0]
    columns = "nll, nll_square_sum, ppl, log_ppl, bits_per_byte, max_token_nll, nll_first_half, nll_second_half"
    emptied = ", ".join(f"{name} = NULL" for name in columns.split(", "))
    with study.platform.lake.cursor() as cursor:
        cursor.execute(
            f"UPDATE lake.perplexity_scores SET status = 'non_finite', {emptied} "
            "WHERE corpus = 'easy' AND chunk_id = ?",
            [chunk],
        )
    return chunk


def version(study):
    return study.platform.lake.snapshot().latest("perplexity_scores", "easy").data_version


def test_a_chunk_without_a_finite_score_is_computed_again_though_nothing_changed(study):
    order = ["corpus", "scorer_id", "chunk_id"]
    before, known = table(study, PERPLEXITY_SCORES).sort(order), version(study)
    without_a_finite_score(study)
    result = study.materialize("score_corpus", "easy")
    assert result.success
    assert result.asset_materializations_for_node("perplexity_scores")[0].metadata["chunks_computed"].value == 1
    after = table(study, PERPLEXITY_SCORES).sort(order)
    assert after["status"].to_list() == before["status"].to_list()
    np.testing.assert_allclose(after["nll"].to_numpy(), before["nll"].to_numpy(), rtol=1e-6)
    again = study.materialize("score_corpus", "easy").asset_materializations_for_node("perplexity_scores")[0]
    assert again.metadata["chunks_computed"].value == 0
    assert again.metadata["outcome"].value.startswith("unchanged")
    assert known  # what Dagster compares is a digest of the rows
    assert version(study) == digest(after.filter(pl.col("corpus") == "easy"))


def test_a_chunk_that_stays_without_a_finite_score_warns_with_its_id_and_stops_nothing(study, monkeypatch):
    chunk, before = without_a_finite_score(study), version(study)
    score = Scorer.score

    def lost(scorer, chunks, progress=None):
        scores = score(scorer, chunks, progress)
        return replace(scores, nll=scores.nll * np.nan, status=["non_finite"] * len(chunks))

    monkeypatch.setattr(Scorer, "score", lost)
    result = study.materialize("score_corpus", "easy")
    assert result.success
    check = {found.check_name: found for found in result.get_asset_check_evaluations()}["every_chunk_is_scored"]
    assert (check.passed, check.severity.value) == (False, "WARN")
    assert chunk in check.description
    assert version(study) != before


def test_the_oracle_looks_at_the_scores_that_this_run_computed(study):
    (study.folder / "corpora/easy/new.txt").write_text("seven green lamps hang over the door of an old mill. " * 30)
    known = set(table(study, CHUNKS)["chunk_id"])
    assert study.materialize("chunk_corpus", "easy").success
    result = study.materialize("score_corpus", "easy")
    new = set(table(study, CHUNKS)["chunk_id"]) - known
    check = {found.check_name: found for found in result.get_asset_check_evaluations()}["scores_match_the_oracle"]
    sampled = check.metadata["chunk_ids"].value
    assert len(set(sampled)) == 4
    assert len(set(sampled) & new) >= 2
    again = study.materialize("score_corpus", "easy")  # nothing new: another sample of all
    check = {found.check_name: found for found in again.get_asset_check_evaluations()}["scores_match_the_oracle"]
    assert len(set(check.metadata["chunk_ids"].value)) == 4
