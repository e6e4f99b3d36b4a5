"""What the stored law says: read back from its table."""

import numpy as np
import polars as pl
import pytest

from ppl_assets.lake import LakeError
from ppl_assets.law.choice import choose, fit_all, judged
from ppl_assets.law.law_rows import law_rows, observations
from ppl_assets.law.observations import measured_noise
from ppl_assets.law.predictions import Forecast, chosen_law, law_residuals, surface_by_tokens
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.uncertainty import delta_interval
from ppl_assets.sections import SelectionSection
from ppl_assets_tests.law.synthetic import trials
from ppl_assets_tests.subset.report_factory import BUDGET, regime_table, table, trial_table


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


REGIMES = regime_table()
LOSSES = trial_table(REGIMES)


@pytest.fixture(scope="module")
def stored():
    """Rows of fitted_law as the pipeline makes them of the synthetic study's trials."""
    obs = observations(LOSSES, REGIMES)
    found = fit_all(obs, SearchRegion.of(obs), BUDGET, measured_noise(obs), replicates=0)
    return law_rows(judged(found, choose(found)), 0, None)


def test_the_stored_law_is_asked_anywhere_with_the_interval_of_its_own_fit(stored):
    forecast = Forecast.of(stored, LOSSES, REGIMES, confidence=0.9)
    law = chosen_law(stored)
    assert forecast.fit.coefficients.tolist() == list(law.coefficients)
    said = forecast.at(280.0, 90.0, BUDGET)
    low, high = delta_interval(forecast.fit, np.array([280.0]), np.array([90.0]), np.array(BUDGET), 0.9)
    assert (said.low, said.high) == (low[0], high[0])
    assert said.loss == pytest.approx(float(law.predict(280.0, 90.0, BUDGET)))
    assert said.low < said.loss < said.high
    wider = Forecast.of(stored, LOSSES, REGIMES, confidence=0.99).at(280.0, 90.0, BUDGET)
    assert wider.low < said.low
    assert wider.high > said.high


def test_losses_that_the_law_was_not_fitted_to_give_no_interval(stored):
    others = LOSSES.with_columns(pl.col("test_loss") * 1.001)
    forecast = Forecast.of(stored, others, REGIMES)
    said = forecast.at(280.0, 90.0, BUDGET)
    assert np.isfinite(said.loss)
    assert np.isnan([said.low, said.high]).all()
    assert Forecast.of(stored, LOSSES.head(0), REGIMES).fit is None


def test_a_refused_law_is_not_asked(stored):
    refused = stored.with_columns(floor_loss=pl.lit(None, pl.Float64))
    assert Forecast.of(refused, LOSSES, REGIMES) is None


def test_random_needs_the_tokens_at_which_the_law_gives_it_the_same_loss(stored):
    forecast = Forecast.of(stored, LOSSES, REGIMES)
    rival = (464.0, 282.0)
    tokens = forecast.tokens_for_same_loss(303.0, 103.0, 50_000, rival)
    assert tokens > 55_000
    assert forecast.at(*rival, tokens).loss == pytest.approx(forecast.at(303.0, 103.0, 50_000).loss)
    assert forecast.tokens_for_same_loss(303.0, 0.0, 50_000, rival) is None


def test_places_that_no_trial_came_near_are_not_covered(stored):
    forecast = Forecast.of(stored, LOSSES, REGIMES)
    assert forecast.covers(303.0, 103.0)
    assert forecast.covers(139.0 * 0.98, 110.0)
    assert not forecast.covers(60.0, 110.0)
    assert not forecast.covers(303.0, 0.0)


def test_the_surface_by_tokens_is_the_law_on_the_hull(stored):
    forecast = Forecast.of(stored, LOSSES, REGIMES)
    surface = surface_by_tokens(forecast, LOSSES, [20_000, BUDGET])
    row, column = (int(place[0]) for place in np.nonzero(surface.inside))
    for number, tokens in enumerate((20_000, BUDGET)):
        said = forecast.at(surface.mu[column], surface.sigma[row], tokens)
        shown = [layer[number, row, column] for layer in (surface.loss, surface.low, surface.high)]
        assert shown == pytest.approx([said.loss, said.low, said.high])
    assert 0.9 < surface.inside.mean() <= 1.0  # the design is a full grid
    line = LOSSES.with_columns(sigma=pl.when(pl.col("point") > 0).then(110.0))
    assert surface_by_tokens(forecast, line, [BUDGET]) is None


def test_a_selection_that_takes_chunks_several_times_reaches_what_one_copy_of_its_share_does():
    selection = SelectionSection(tokens=90, repeats=3)
    assert selection.of_each_copy(90) == 30
    assert selection.of_each_copy(1) == 1
