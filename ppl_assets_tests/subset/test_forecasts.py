"""Prediction beside measurement, and the tokens that random needs."""

import math

import numpy as np
import polars as pl
import pytest

from ppl_assets.subset.forecasts import expected, mean_curve, strategy_forecasts, tokens_needed
from ppl_assets_tests.subset.report_factory import BUDGET, report_input, table, without


def with_predictions(data, factor=1.0):
    """The same input with what its own law says of every measurement."""
    rows = data.strategy_losses
    trained = (pl.col("tokens") > 0).alias("trained")
    said = [
        None if mu is None else factor * data.forecast.at(mu, sigma, tokens).loss
        for mu, sigma, tokens in rows.select("mu", "sigma", "tokens").iter_rows()
    ]
    assert rows.select(trained)["trained"].sum() == len(said) - said.count(None)
    return without(data, strategy_losses=rows.with_columns(predicted_loss=pl.Series(said, dtype=pl.Float64)))


@pytest.fixture(scope="module")
def data():
    return with_predictions(report_input())


def test_every_strategy_stands_beside_its_prediction_with_the_interval_at_its_own_place(data):
    rows = {row.strategy: row for row in strategy_forecasts(data)}
    assert list(rows) == ["selected", "matched", "random", "lowest"]
    said = data.forecast.at(303.0, 103.0, BUDGET)
    for row in rows.values():
        assert row.predicted == pytest.approx(said.loss)
        assert row.interval == pytest.approx((said.low, said.high))
        assert row.error_pct == pytest.approx(100 * (row.measured / said.loss - 1))
        assert row.verdict == ("inside" if said.low <= row.measured <= said.high else "outside")
    assert rows["lowest"].verdict == "outside"


def test_a_prediction_of_an_earlier_law_has_no_interval_of_the_present_one(data):
    earlier = strategy_forecasts(with_predictions(data, factor=1.001))
    assert [row.interval for row in earlier] == [None] * 4
    assert {row.verdict for row in earlier} == {"no interval"}
    assert all(row.predicted is not None for row in earlier)


def test_what_was_never_predicted_says_so(data):
    blank = data.strategy_losses.with_columns(predicted_loss=pl.lit(None, pl.Float64))
    rows = strategy_forecasts(without(data, strategy_losses=blank))
    assert {row.verdict for row in rows} == {"not predicted"}
    assert {row.error_pct for row in rows} == {None}


def test_a_place_that_no_trial_came_near_is_marked(data):
    lowest = (pl.col("strategy") == "lowest") & (pl.col("tokens") > 0)
    moved = data.strategy_losses.with_columns(mu=pl.when(lowest).then(40.0).otherwise("mu"))
    rows = {row.strategy: row for row in strategy_forecasts(with_predictions(without(data, strategy_losses=moved)))}
    assert rows["lowest"].verdict.endswith("; beyond the trials")
    assert rows["random"].verdict in ("inside", "outside")


def test_random_needs_more_tokens_than_were_measured_where_a_strategy_is_better(data):
    rows = {row.strategy: row for row in strategy_forecasts(data)}
    assert rows["random"].random_needs is None
    assert rows["selected"].random_needs.text == "more than 98,304"
    needs = rows["lowest"].random_needs
    curve = mean_curve(data, "random")
    assert needs.kind in ("at", "at_most")
    assert needs.tokens < BUDGET
    if needs.kind == "at":
        between = np.interp(math.log(needs.tokens), np.log(curve["tokens"]), curve["test_loss"])
        assert between == pytest.approx(rows["lowest"].measured)
    assert rows["selected"].random_needs_by_law == pytest.approx(BUDGET)  # all four saw the same moments here


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (5.85, "at most 1,000"),
        (5.8, "at most 1,000"),
        (5.7, "about 2,000"),
        (5.6, "about 4,000"),
        (5.5, "more than 4,000"),
    ],
)
def test_tokens_are_read_between_measurements_and_bounded_outside_them(loss, text):
    curve = pl.DataFrame({"tokens": [1_000.0, 2_000.0, 4_000.0], "test_loss": [5.8, 5.7, 5.6]})
    assert tokens_needed(curve, loss).text == text


def test_the_mean_curve_is_one_though_seeds_end_at_slightly_different_tokens(data):
    uneven = data.strategy_losses.with_columns(pl.when(pl.col("tokens") > 0).then(pl.col("tokens") + pl.col("seed")))
    curve = mean_curve(without(data, strategy_losses=uneven), "random")
    assert len(curve) == 7
    assert curve["tokens"][-1] == pytest.approx(BUDGET + 1)


def test_the_selection_is_asked_about_where_it_was_trained(data):
    half = data.strategy_losses.filter(pl.col("tokens") <= BUDGET / 2)
    assert expected(without(data, strategy_losses=half)).tokens == half["tokens"].max()
    untrained = expected(without(data, strategy_losses=table("strategy_losses", [])))
    assert untrained.tokens == BUDGET
    assert untrained.mu == pytest.approx(303.01)
    assert untrained.prediction == data.forecast.at(303.01, 102.99, BUDGET)


def test_without_random_nothing_is_said_of_its_tokens(data):
    alone = data.strategy_losses.filter(pl.col("strategy") != "random")
    rows = strategy_forecasts(without(data, strategy_losses=alone))
    assert {row.random_needs for row in rows} == {None}
    assert {row.random_needs_by_law for row in rows} == {None}
