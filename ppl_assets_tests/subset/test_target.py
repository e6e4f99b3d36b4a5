"""Where the subset should sit, and when the law cannot say."""

import polars as pl
import pytest

from ppl_assets.lake import Lake, LakeError, Provenance
from ppl_assets.subset.target import TargetError, choose_target
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
