"""What a removed, renamed or found corpus does to a finished study: nothing that is gone may be selected."""

import shutil

import polars as pl

from ppl_assets.automation.instance import study_instance
from ppl_assets.automation.plan import status_lines
from ppl_assets.law.assets import comparable_losses
from ppl_assets.perplexity.candidates import selectable_chunks
from ppl_assets.resources import FORCE_TAG
from ppl_assets.subset.assets import trained_strategies
from ppl_assets.subset.changes import changes
from ppl_assets.subset.handover import differing_files
from ppl_assets.subset.history import last_two, selections
from ppl_assets.tables import (
    CHUNKS,
    FINAL_SUBSET,
    PERPLEXITY_LANDSCAPE,
    PERPLEXITY_SCORES,
    SELECTION_REPORT,
    SELECTIONS,
)
from ppl_assets_tests.conftest import STUDY

AFTERWARDS = ("draw_landscape", "select_subset", "write_report")
"""What follows a vanished partition by itself; see test_sensors."""


def without_hard(study, *jobs: str):
    """The study after corpus ``hard`` was taken out of it, and these jobs."""
    before, after = STUDY.split("[corpora.hard]")
    study.file.write_text(before + after[after.index("[corpora.general]") :])
    for job in jobs:
        assert study.materialize(job).success
    return study.platform


def test_a_removed_corpus_leaves_candidates_landscape_and_subset_and_no_trial_is_lost(finished_study, study):
    platform = without_hard(study, *AFTERWARDS)
    snapshot = platform.lake.snapshot()
    assert set(selectable_chunks(snapshot, platform.study.corpus_partitions())["corpus"]) == {"easy"}
    assert "corpus:hard" not in snapshot.read(PERPLEXITY_LANDSCAPE)["scope"].to_list()
    assert set(snapshot.read(FINAL_SUBSET)["corpus"]) == {"easy"}
    selection = snapshot.only_row(SELECTIONS)
    assert selection["selection_id"] != finished_study.platform.lake.snapshot().only_row(SELECTIONS)["selection_id"]
    assert snapshot.only_row(SELECTION_REPORT)["selection_id"] == selection["selection_id"]
    assert "selected" not in trained_strategies(platform.study, platform.lake, snapshot)
    # The test set is that of the trials until test documents are drawn again, so the law is still of its losses.
    before = comparable_losses(finished_study.platform.study, finished_study.platform.lake.snapshot())
    assert comparable_losses(platform.study, snapshot).height == before.height > 0


def test_the_rows_of_a_removed_corpus_stay_in_the_lake_and_serve_when_it_comes_back(study):
    snapshot = without_hard(study, "draw_landscape").lake.snapshot()
    assert "corpus:hard" not in snapshot.read(PERPLEXITY_LANDSCAPE)["scope"].to_list()
    assert not snapshot.read(CHUNKS, ["chunk_id"], {"corpus": "hard"}).is_empty()
    study.file.write_text(STUDY)
    assert study.materialize("draw_landscape").success
    assert "corpus:hard" in study.platform.lake.snapshot().read(PERPLEXITY_LANDSCAPE)["scope"].to_list()


def test_a_renamed_corpus_is_not_scored_again(study):
    before = study.platform.lake.snapshot().read(PERPLEXITY_SCORES).filter(pl.col("corpus") == "hard")
    study.file.write_text(STUDY.replace("[corpora.hard]", "[corpora.difficult]"))
    assert study.materialize("chunk_corpus", "difficult").success
    done = study.materialize("score_corpus", "difficult")
    assert done.success
    assert done.asset_materializations_for_node("perplexity_scores")[0].metadata["chunks_computed"].value == 0
    after = study.platform.lake.snapshot().read(PERPLEXITY_SCORES).filter(pl.col("corpus") == "difficult")
    both = after.join(before, on="chunk_id", suffix="_before")
    assert both.height == after.height > 0
    for column in ("nll", "ppl", "bits_per_byte", "scored_bytes"):
        assert (both[column] == both[f"{column}_before"]).all()


def test_a_renamed_corpus_is_another_selection_beside_the_first_and_nothing_is_trained_for_it(study, tmp_path):
    """Its chunks are the same, so training would be; what an export says of them is not."""
    before = study.platform.lake.snapshot()
    first = study.platform.root / "exports" / before.latest("final_subset").data_version
    kept = shutil.copytree(first, tmp_path / "kept")
    study.file.write_text(STUDY.replace("[corpora.hard]", "[corpora.difficult]"))
    for job, partition in (
        ("chunk_corpus", "difficult"),
        ("score_corpus", "difficult"),
        *((job, None) for job in AFTERWARDS),
    ):
        assert study.materialize(job, partition).success
    after = study.platform.lake.snapshot()
    old, new = before.only_row(SELECTIONS), after.only_row(SELECTIONS)
    assert new["selection_id"] != old["selection_id"]
    assert new["content_id"] == old["content_id"]
    assert "selected" in trained_strategies(study.platform.study, study.platform.lake, after)
    assert set(pl.read_parquet(f"{new['export_path']}/parquet/*.parquet")["corpus"]) == {"easy", "difficult"}
    assert differing_files(first, kept) == []
    renamed = after.read(FINAL_SUBSET).filter(pl.col("corpus") == "difficult").height
    found = changes(study.platform.lake, *last_two(selections(study.platform.lake)))
    assert "0 chunks (0 tokens) added, 0 chunks (0 tokens) removed" in found.sentence
    assert f"; {renamed} that stay are of another corpus, file or document now." in found.sentence


def test_the_same_selection_made_again_leaves_its_export_as_it_was(study, tmp_path):
    first = study.platform.root / "exports" / selections(study.platform.lake)[0].selection_id
    kept = shutil.copytree(first, tmp_path / "kept")
    shutil.rmtree(first)
    assert study.materialize("select_subset", tags={FORCE_TAG: "true"}).success
    made = selections(study.platform.lake)
    assert [one.selection_id for one in made] == [first.name] * 2
    assert made[0].commit.run_id != made[1].commit.run_id
    assert differing_files(first, kept) == []


def test_status_names_what_was_found_and_what_was_passed_over(study):
    for name in ("late", "My Notes"):
        (study.folder / "inbox" / name).mkdir(parents=True)
        shutil.copy(study.folder / "corpora/easy/doc-000.txt", study.folder / "inbox" / name)
    study.file.write_text(STUDY + '[discovery]\nfolder = "inbox"\n')
    with study_instance(study.platform.study) as instance:
        lines = status_lines(study.platform, instance)
        assert "late" in instance.get_dynamic_partitions("corpus")
    assert "chunks                 1 of 4 to compute: late" in lines
    assert "found in inbox: late" in lines
    assert any("My Notes is passed over" in line for line in lines)
