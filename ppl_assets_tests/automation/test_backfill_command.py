"""``ppl-assets backfill``: which partitions, past failures, and computing anew."""

import gzip

import polars as pl
import pytest
from rich.console import Console

from ppl_assets.automation.backfill import BackfillError, Wanted, backfill, chosen_partitions
from ppl_assets.automation.instance import study_instance
from ppl_assets.cli import main
from ppl_assets.tables import (
    BASE_MODEL,
    CHUNKS,
    FINAL_SUBSET,
    FITTED_LAW,
    NEXT_TRIALS,
    PERPLEXITY_LANDSCAPE,
    PERPLEXITY_SCORES,
    REGIME_PARTITIONS,
    SEQUENTIAL_STEPS,
    STRATEGY_LOSSES,
    TEST_DOCUMENTS,
    TRIAL_LOSSES,
)

TIMINGS = {"seconds", "tokens_per_second", "path"}
"""Columns that say how long it took, and where: in a copy, its own folder."""

FORCED = {
    "test_documents": (TEST_DOCUMENTS, [""]),
    "base_model": (BASE_MODEL, [""]),
    "chunks": (CHUNKS, ["easy", "general", "hard"]),
    "perplexity_scores": (PERPLEXITY_SCORES, ["easy", "general", "hard"]),
    "perplexity_landscape": (PERPLEXITY_LANDSCAPE, [""]),
    "regime_partitions": (REGIME_PARTITIONS, [""]),
    "fitted_law": (FITTED_LAW, [""]),
    "final_subset": (FINAL_SUBSET, [""]),
}


def rows(study, table) -> pl.DataFrame:
    """The table's content, in an order of its own."""
    held = study.platform.lake.snapshot().read(table)
    held = held.drop([name for name in held.columns if name in TIMINGS])
    return held.sort([name for name in held.columns if not held[name].dtype.is_nested()])


def run(study, asset, partitions, *, is_forced=False):
    with study_instance(study.platform.study) as instance:
        console = Console(quiet=True)
        return backfill(study.definitions, study.platform, instance, console, asset, partitions, is_forced=is_forced)


def chosen(study, asset, *keys, **options):
    with study_instance(study.platform.study) as instance:
        return chosen_partitions(asset, Wanted(keys, **options), study.platform, instance)


def test_partitions_that_do_not_follow_each_other_are_taken_in_their_usual_order(finished_study):
    assert chosen(finished_study, "chunks", "general", "easy") == ["easy", "general"]
    assert chosen(finished_study, "chunks", is_all=True) == ["easy", "hard", "general"]
    assert chosen(finished_study, "fitted_law") == [""]
    assert chosen(finished_study, "chunks", is_failed=True) == []


@pytest.mark.parametrize(
    ("asset", "keys", "sentence"),
    [
        ("", [], "name an asset; there are raw_corpus, test_documents"),
        ("chunk", [], "there is no asset 'chunk'; there are chunks, "),
        ("chunks", ["hrd"], "chunks has no partition 'hrd'; there are hard, "),
        ("chunks", [], "chunks has 3 partitions; say which: --partitions easy,hard, --all, or --failed"),
        ("fitted_law", ["easy"], "fitted_law has no partitions; leave --partitions out"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does_the_closest_first(finished_study, asset, keys, sentence):
    with pytest.raises(BackfillError) as caught:
        chosen(finished_study, asset, *keys)
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value).splitlines()) == 1


def test_it_goes_on_past_a_failure_names_it_and_runs_it_again_when_asked(study, capsys, monkeypatch):
    monkeypatch.setenv("PPL_ASSETS_STUDY", str(study.file))
    file = study.folder / "corpora/hard/part-0.jsonl.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-200])
    assert main(["backfill", "chunks", "--all"]) == 1
    said = capsys.readouterr().out
    assert "2/3 chunks hard" in said
    assert "part-0.jsonl.gz" in said
    assert "chunks: 0 computed, 2 unchanged, 1 failed" in said
    assert said.strip().endswith("backfill chunks --failed")
    assert chosen(study, "chunks", is_failed=True) == ["hard"]
    file.write_bytes(whole)
    assert main(["backfill", "chunks", "--failed"]) == 0
    assert "1/1 chunks hard" in capsys.readouterr().out
    assert main(["backfill", "chunks", "--failed"]) == 0
    assert "nothing of chunks is broken" in capsys.readouterr().out


def test_a_forced_backfill_computes_everything_anew_and_gives_the_same_rows(study):
    before = {asset: rows(study, table) for asset, (table, _) in FORCED.items()}
    commits = {asset: study.platform.lake.snapshot().commits(asset) for asset in FORCED}
    for asset, (table, partitions) in FORCED.items():
        assert run(study, asset, partitions).unchanged == partitions
        assert run(study, asset, partitions, is_forced=True).computed == partitions
        assert rows(study, table).equals(before[asset]), asset
        made = study.platform.lake.snapshot().commits(asset)
        assert all(made[key].run_id != commits[asset][key].run_id for key in partitions)
        assert all(made[key].data_version == commits[asset][key].data_version for key in partitions)


def test_a_forced_trial_and_strategy_are_trained_again_with_the_same_losses(study):
    trial = rows(study, TRIAL_LOSSES)["trial"][0]
    for asset, table, partition in (
        ("trial_losses", TRIAL_LOSSES, trial),
        ("strategy_losses", STRATEGY_LOSSES, "random"),
    ):
        before, timed = rows(study, table), study.platform.lake.snapshot().read(table)["seconds"].sum()
        assert run(study, asset, [partition], is_forced=True).computed == [partition]
        assert rows(study, table).equals(before)
        assert study.platform.lake.snapshot().read(table)["seconds"].sum() != timed


def test_a_forced_decision_on_trials_is_not_taken_twice(study):
    before = rows(study, NEXT_TRIALS), rows(study, SEQUENTIAL_STEPS)
    assert run(study, "next_trials", [""], is_forced=True).unchanged == [""]
    assert rows(study, NEXT_TRIALS).equals(before[0])
    assert rows(study, SEQUENTIAL_STEPS).equals(before[1])


def test_a_corpus_can_be_looked_at_by_name(study):
    file = study.folder / "corpora/hard/part-0.jsonl.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()) + b'{"id": "new", "text": "new words"}\n'))
    assert run(study, "raw_corpus", ["hard"]).computed == ["hard"]
