"""Where the subset should sit, and when the law cannot say."""

import polars as pl
import pytest

from ppl_assets.lake import Lake, LakeError, Provenance
from ppl_assets.subset.target import TargetError, choose_target, scope_moments
from ppl_assets.tables import FITTED_LAW, LAW_FINDINGS, PERPLEXITY_LANDSCAPE
from ppl_assets_tests.subset.report_factory import landscape_tables, law_table, table


@pytest.fixture
def lake(tmp_path):
    made = Lake.under(tmp_path)
    put(made, PERPLEXITY_LANDSCAPE, landscape_tables("a")[0])
    yield made
    made.close()


def put(lake: Lake, table, rows: pl.DataFrame, **facts: str) -> None:
    lake.commit([lake.stage(table, rows)], Provenance(table.name, "", "run", "1", "in", "version", {}, facts))


def test_the_target_is_the_optimum_of_the_chosen_form(lake):
    put(lake, FITTED_LAW, law_table(), scorer_id="5c1f")
    aim = choose_target(lake.snapshot())
    assert (aim.mu, aim.sigma) == (303.0, 103.0)


@pytest.mark.parametrize(("mu", "sigma", "like_the_corpus"), [(280.0, 150.0, False), (None, None, True)])
def test_the_place_as_good_that_is_nearest_the_corpus_is_aimed_at_unless_the_optimum_is_asked_for(
    lake, mu, sigma, like_the_corpus
):
    own = scope_moments(lake.snapshot())["candidates"]
    place = (mu or own[0], sigma or own[1])
    law = law_table().with_columns(as_good_mu=place[0], as_good_sigma=place[1], as_good_cost_pct=0.2)
    put(lake, FITTED_LAW, law, scorer_id="5c1f")
    aim = choose_target(lake.snapshot())
    assert (aim.mu, aim.sigma) == place
    assert "at 0.20 % of predicted loss" in aim.reason
    assert ("a sample like the corpus" in aim.reason) is like_the_corpus
    plain = choose_target(lake.snapshot(), "optimum")
    assert (plain.mu, plain.sigma) == (303.0, 103.0)


@pytest.mark.parametrize(
    "name", ["surface_beyond_noise", "surface_significant", "better_than_tokens_alone", "optimum_near_measured"]
)
def test_a_law_that_is_no_better_than_chance_or_promises_what_no_trial_has_shown_does_not_decide(lake, name):
    put(lake, FITTED_LAW, law_table(), scorer_id="5c1f")
    finding = {"name": name, "passed": False, "severity": "warn", "sentence": "It says no more than chance."}
    put(lake, LAW_FINDINGS, table("law_findings", [finding]))
    aim = choose_target(lake.snapshot())
    assert (aim.mu, aim.sigma) == scope_moments(lake.snapshot())["test"]
    assert "It says no more than chance. The subset is matched to the test set's own moments" in aim.reason
    plain = choose_target(lake.snapshot(), "optimum")
    assert (plain.mu, plain.sigma) == (303.0, 103.0)


def test_a_law_of_another_scorers_perplexities_is_refused_with_what_to_do(lake):
    put(lake, FITTED_LAW, law_table(), scorer_id="aaaa")
    with pytest.raises(TargetError, match=r"scorer aaaa, the landscape is of 5c1f: materialize regime_partitions"):
        choose_target(lake.snapshot())


def test_without_a_law_the_reader_is_told_to_fit_one(lake):
    with pytest.raises(LakeError, match=r"table fitted_law has 0 rows.*materialize it first"):
        choose_target(lake.snapshot())


@pytest.mark.parametrize("passed", [True, False])
def test_a_target_from_a_screening_says_so(lake, passed):
    put(lake, FITTED_LAW, law_table(), scorer_id="5c1f")
    finding = {"name": "full_training", "passed": passed, "severity": "warn", "sentence": "It was a screening."}
    put(lake, LAW_FINDINGS, table("law_findings", [finding]))
    assert ("It was a screening." in choose_target(lake.snapshot()).reason) is not passed


def test_matched_as_asked_for_needs_no_law(lake):
    aim = choose_target(lake.snapshot(), "matched")
    assert (aim.mu, aim.sigma) == scope_moments(lake.snapshot())["test"]
    assert "as asked for" in aim.reason
