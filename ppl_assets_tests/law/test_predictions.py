"""What the stored law says: read back from its table."""

import polars as pl
import pytest

from ppl_assets.lake import LakeError
from ppl_assets.law.choice import choose, fit_all, judged
from ppl_assets.law.law_rows import law_rows
from ppl_assets.law.predictions import chosen_law, law_residuals
from ppl_assets.law.region import SearchRegion
from ppl_assets_tests.law.synthetic import trials
from ppl_assets_tests.subset.report_factory import regime_table, table, trial_table


@pytest.fixture(scope="module")
def results():
    obs = trials("quadratic bowl", run_noise=0.001, point_noise=0.001)
    return fit_all(obs, SearchRegion.of(obs), replicates=0)


def test_without_a_chosen_law_the_reader_is_told_what_to_do():
    with pytest.raises(LakeError, match="materialize fitted_law first"):
        chosen_law(table("fitted_law", []))


@pytest.mark.parametrize("sigma", ["deviation", "variance"])
def test_residuals_of_a_form_are_shown_once_and_as_chosen(results, sigma):
    law = law_rows(judged(results, choose(results, "paper", sigma)), 0, None)
    losses = trial_table(regime_table())
    used = losses.filter((pl.col("point") > 0) & ~pl.col("is_warmup")).height
    shown = law_residuals(law, losses)
    assert shown.group_by("form", "link").len()["len"].to_list() == [used] * 10
    assert shown.select("form", "link").row(0) == ("paper", "paper")
    chosen = chosen_law(law)
    assert chosen.sigma_kind == sigma
    first = losses.filter((pl.col("point") > 0) & ~pl.col("is_warmup")).row(0, named=True)
    expected = float(chosen.predict(first["mu"], first["sigma"], first["tokens"]))
    assert shown["predicted_loss"][0] == pytest.approx(expected)
