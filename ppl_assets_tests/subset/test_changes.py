"""What changed between two selections, and why each chunk came or went."""

import shutil

import pytest

from ppl_assets.lake import Lake
from ppl_assets.subset.changed_facts import OTHERS_MOVED
from ppl_assets.subset.changes import (
    DOCUMENT_LEFT,
    NEW_TEXT,
    NO_LONGER_HELD_OUT,
    NO_LONGER_NOISE,
    NOW_HELD_OUT,
    NOW_NOISE,
    OTHER_SCORE,
    OTHER_SCORER,
    TEXT_CHANGED,
    changes,
    changes_since_last,
    moved_chunks,
)
from ppl_assets.subset.history import UnknownSelectionError, find_selection, last_two, selections, selections_table
from ppl_assets_tests.small_lake import SmallLake


@pytest.fixture(scope="module")
def shared(_small_template, tmp_path_factory):
    """A small lake in which tests only add selections."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(_small_template, folder, dirs_exist_ok=True)
    lake = Lake.under(folder)
    yield SmallLake.reopened(lake)
    lake.close()


def reasons(small: SmallLake) -> dict[str, tuple[str, str]]:
    """Chunk to change and reason, between the last two selections."""
    frame = moved_chunks(small.lake, *last_two(selections(small.lake)))
    return {row["chunk_id"]: (row["change"], row["reason"]) for row in frame.iter_rows(named=True)}


def test_text_that_came_or_went_is_told_from_text_that_moved_into_or_out_of_the_test_set(small):
    small.corpus("c", d1="g1 g2", d2="h1", d3="k1:test l1")
    small.select("before", "c/g1 c/g2 c/h1 c/l1")
    small.corpus("c", d1="g2 g3", d3="k1 l1:test", d4="n1")
    small.select("second", "c/g2 c/g3 c/k1 c/n1 c1")
    assert reasons(small) == {
        "g1": ("removed", TEXT_CHANGED),
        "h1": ("removed", DOCUMENT_LEFT),
        "l1": ("removed", NOW_HELD_OUT),
        "g3": ("added", NEW_TEXT),
        "k1": ("added", NO_LONGER_HELD_OUT),
        "n1": ("added", NEW_TEXT),
        "c1": ("added", OTHERS_MOVED),
    }


def test_another_perplexity_is_told_from_another_scorer_and_from_a_moved_noise_fence(small):
    small.score("a", {"c1": 5.0, "c2": 7.5, "c3": 0.5, "c4": 50.0})
    small.select("second", "c1 c4")
    assert reasons(small) == {"c2": ("removed", OTHER_SCORE), "c4": ("added", OTHER_SCORE)}
    small.landscape(low=0.1, high=20.0)
    small.select("third", "c2 c3")
    assert reasons(small) == {
        "c1": ("removed", OTHERS_MOVED),
        "c4": ("removed", NOW_NOISE),
        "c2": ("added", OTHERS_MOVED),
        "c3": ("added", NO_LONGER_NOISE),
    }
    small.scorer = "scorer-2"
    small.score("a", {"c1": 5.1, "c2": 7.6, "c3": 0.5, "c4": 50.2})
    small.landscape(low=0.1, high=20.0)
    small.select("fourth", "c1")
    assert reasons(small) == {
        "c1": ("added", OTHER_SCORER),
        "c2": ("removed", OTHER_SCORER),
        "c3": ("removed", OTHERS_MOVED),
    }


@pytest.mark.parametrize(
    ("settings", "more", "reason"),
    [
        ({"selection": {"aim": "matched"}}, {}, OTHERS_MOVED),
        ({}, {"mu_target": 6.0}, "the target changed"),
        ({}, {"tokens_target": 20}, "the budget changed"),
        ({}, {"mu_target": 6.0, "tokens_target": 20}, "the target and the budget changed"),
        ({"selection": {"unit": "document"}}, {}, "the sampler's settings changed"),
        ({"study": {"seed": 8}}, {}, "the sampler's settings changed"),
        ({"corpora": {"a": {"min_share": 0.5}}}, {}, "the sampler's settings changed"),
        ({"corpora": {"new": {"min_share": 0.0, "max_share": 1.0}}}, {}, OTHERS_MOVED),
        ({}, {"method": "random", "mu_target": 6.0}, "the sampler's settings changed"),
    ],
)
def test_a_chunk_without_a_reason_of_its_own_has_that_of_all(shared, settings, more, reason):
    shared.select("before", "c1 c2", {"study": {"seed": 7}})
    shared.select("second", "c1 c3", {"study": {"seed": 7}} | settings, **more)
    assert reasons(shared) == {"c2": ("removed", reason), "c3": ("added", reason)}


def test_a_corpus_that_left_the_study_takes_its_chunks_along(shared):
    shared.select("before", "c1 b/e1", {})
    shared.select("second", "c1 c2", {}, corpora=("a",))
    assert reasons(shared)["e1"] == ("removed", DOCUMENT_LEFT)


def test_counts_are_chunks_and_tokens_by_corpus_and_a_repeated_chunk_counts_as_often_as_it_was_taken(shared):
    shared.select("first", "c1 c2")
    shared.select("second", "c1 c1 c1 b/e1 b/e2")
    found = changes(shared.lake, *last_two(selections(shared.lake)))
    assert found.counts.select("change", "corpus", "chunks", "tokens").rows() == [
        ("added", "a", 2, 20),
        ("added", "b", 2, 20),
        ("removed", "a", 1, 10),
    ]
    assert found.sentence == (
        "From selection first to second: 4 chunks (40 tokens) added, 1 chunks (10 tokens) removed."
    )


def test_target_budget_law_model_seed_and_settings_are_told_where_they_differ_and_only_there(small):
    small.select("before", "c1 c2", {"study": {"seed": 7}, "trials": {"tokens": 100}})
    small.law("paper")
    small.model("model-2")
    more = {"mu_target": 6.0, "tokens_target": 20}
    small.select("second", "c1 c2", {"study": {"seed": 8}, "trials": {"tokens": 100}}, **more)
    facts = changes(small.lake, *last_two(selections(small.lake))).facts
    assert dict(zip(facts["fact"], facts.select("before", "after").rows(), strict=True)) == {
        "selection mu_target": ("5", "6"),
        "selection tokens_target": ("40", "20"),
        "law form": ("quadratic", "paper"),
        "model source": ("model-1", "model-2"),
        "model model_id": ("model-1", "model-2"),
        "setting study.seed": ("7", "8"),
    }


def test_without_names_the_last_two_that_differ_are_compared(shared):
    shared.select("first", "c1 c2")
    shared.select("second", "c1 c3")
    shared.select("second", "c1 c3")
    assert [one.selection_id for one in last_two(selections(shared.lake))] == ["first", "second"]


def test_a_selection_is_found_by_id_by_its_beginning_and_by_the_snapshots_since_it(shared):
    last = shared.select("first", "c1 c2")
    shared.landscape()
    newest = shared.select("5econd", "c1 c3")
    made = selections(shared.lake)
    first = made[0].snapshot  # an id that was selected again means the first time
    for given, snapshot in {
        "first": first,
        "firs": first,
        "5eco": newest,
        f"{newest - 1}": last,
        "9999": newest,
    }.items():
        assert find_selection(made, given).snapshot == snapshot


@pytest.mark.parametrize("given", ["other", "1", "fi", "-3"])
def test_an_unknown_selection_is_told_which_exist(shared, given):
    with pytest.raises(UnknownSelectionError, match=r"no selection '.*'; name an id.*: \w+ \(snapshot \d+\)"):
        find_selection(selections(shared.lake), given)


def test_an_empty_lake_has_nothing_to_list_and_says_what_to_do(tmp_path):
    lake = Lake.under(tmp_path)
    with pytest.raises(UnknownSelectionError, match="nothing was selected yet: materialize final_subset first"):
        find_selection(selections(lake), "first")
    assert selections_table(lake).is_empty()
    lake.close()


def test_the_list_has_id_time_tokens_and_snapshot_newest_first(shared):
    number = shared.select("second", "c1 c3 c4")
    rows = selections_table(shared.lake).rows(named=True)
    assert (rows[0]["selection"], rows[-1]["selection"]) == ("second", "first")
    assert (rows[0]["snapshot"], rows[0]["tokens"], rows[0]["chunks"]) == (str(number), 30, 3)
    assert rows[0]["time"] >= rows[1]["time"] > "2000"


def test_the_ui_is_told_counts_reasons_and_the_command(small):
    assert changes_since_last(small.lake).startswith("Nothing to compare: there are no two different selections")
    small.select("second", "c1 c3", tokens_target=20)
    text = changes_since_last(small.lake)
    first, second = (one.snapshot for one in selections(small.lake))
    assert "1 chunks (10 tokens) added" in text
    assert "| removed | the budget changed | 1 | 10 |" in text
    assert "| selection tokens_target | 40 | 20 |" in text
    assert f"ppl-assets diff {first} {second} --chunks FILE" in text
