from dataclasses import replace

import numpy as np
import pytest

from ppl_assets.law.fit import fit
from ppl_assets.law.leave_out import (
    held_out_largest,
    leave_one_regime_out,
    leave_one_run_out,
    pairwise_accuracy,
    rank_correlation,
)
from ppl_assets.law.observations import Observations
from ppl_assets.law.optimum import find_optimum
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.uncertainty import (
    _exchanged,
    akaike_weights,
    bootstrap,
    delta_interval,
    effect_p_value,
    no_intervals,
    noise_parts,
)
from ppl_assets_tests.law.synthetic import GRID, TRUTHS, trials, truth


def test_a_left_out_run_is_predicted_by_a_fit_that_saw_none_of_its_points():
    obs = trials("edge", run_noise=0.002, seed=1)
    left_out = leave_one_run_out(obs, "no_interaction", "anchored")
    rest = fit(obs.without_run(4), "no_interaction", "anchored")
    mine = obs.run == 4
    expected = rest.predict(obs.mu[mine], obs.sigma[mine], obs.tokens[mine])
    np.testing.assert_allclose(left_out.predicted[left_out.run == 4], expected, rtol=1e-7)
    assert len(left_out.by_run) == len(obs.runs)


def test_a_left_out_regime_leaves_no_run_of_its_own_behind():
    obs = trials("edge", run_noise=0.002, seed=1)
    left_out = leave_one_regime_out(obs, "no_interaction", "anchored")
    centre = obs.regime == "200-110"
    assert len(np.unique(obs.run[centre])) == 4
    rest = fit(obs.subset(~centre), "no_interaction", "anchored")
    expected = rest.predict(obs.mu[centre], obs.sigma[centre], obs.tokens[centre])
    np.testing.assert_allclose(left_out.predicted[left_out.run == "200-110"], expected, rtol=1e-7)
    assert len(left_out.by_run) == len(GRID)


def test_repeats_of_one_regime_alone_cannot_be_predicted_from_each_other():
    left_out = leave_one_regime_out(trials("edge", 0.002, regimes=[GRID[0]] * 8), "no_interaction", "anchored")
    assert np.isnan(left_out.predicted).all()


def test_an_exact_law_predicts_left_out_runs_exactly():
    left_out = leave_one_run_out(trials("scale-free edge", regimes=GRID), "scale_free", "anchored")
    assert left_out.max_pct < 1e-6
    assert left_out.pairwise_accuracy == 1.0


def test_too_few_runs_to_leave_one_out_give_no_errors():
    left_out = leave_one_run_out(trials("edge", regimes=GRID[:3]), "no_interaction", "anchored")
    assert np.isnan(left_out.predicted).all()
    assert np.isnan(left_out.median_pct)


def test_the_largest_token_count_is_predicted_from_the_smaller_ones():
    largest = held_out_largest(trials("edge"), "no_interaction", "anchored")
    assert largest.reason == ""
    assert len(largest.observed) == len(trials("edge").runs)
    assert largest.factor == pytest.approx(16 ** (1 / 6))
    assert largest.max_pct < 1e-6
    assert largest.rank == pytest.approx(1.0)


def test_the_held_out_points_do_not_enter_their_prediction():
    obs = trials("edge", point_noise=0.002)
    wild = np.where(obs.tokens == obs.tokens.max(), 1.02 * obs.loss, obs.loss)
    again = Observations(obs.mu, obs.sigma, obs.tokens, wild, obs.run, 6.0)
    calm = Observations(obs.mu, obs.sigma, obs.tokens, obs.loss, obs.run, 6.0)
    predicted = [held_out_largest(o, "no_interaction", "anchored").predicted for o in (again, calm)]
    np.testing.assert_array_equal(*predicted)


def test_too_few_token_counts_give_no_prediction_of_the_largest_and_say_why():
    obs = trials("edge")
    last = held_out_largest(obs.subset(obs.tokens == obs.tokens.max()), "no_interaction", "anchored")
    assert "points" in last.reason


def test_ranks_of_predictions():
    observed = np.array([1.0, 2.0, 3.0, 4.0])
    assert pairwise_accuracy(observed, np.array([1.0, 2.0, 4.0, 3.0])) == pytest.approx(5 / 6)
    assert rank_correlation(observed, observed**2) == pytest.approx(1.0)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    mu, sigma = np.array([(100.0, 50.0), (200.0, 110.0), (400.0, 250.0)]).T
    tokens = np.full(3, 64e3)
    known = truth("quadratic bowl", mu, sigma, tokens)
    hits, widths = {"bootstrap": [], "delta": [], "floor": []}, {"bootstrap": [], "delta": [], "floor": []}
    for seed in range(20):
        obs = trials("quadratic bowl", run_noise=0.002, point_noise=0.001, seed=seed)
        law = fit(obs, "quadratic", "anchored")
        refits = bootstrap(obs, law, replicates=100, seed=seed)
        low, high = refits.interval(refits.predict(mu, sigma, tokens))
        hits["bootstrap"] += list((low <= known) & (known <= high))
        widths["bootstrap"] += list(100 * (high / low - 1))
        low, high = delta_interval(law, mu, sigma, tokens)
        hits["delta"] += list((low <= known) & (known <= high))
        widths["delta"] += list(100 * (high / low - 1))
        low, high = refits.floor_interval()
        hits["floor"].append(low <= 3.5 <= high)
        widths["floor"].append(high - low)
    assert np.mean(hits["bootstrap"]) >= 0.85
    assert np.mean(hits["delta"]) >= 0.85
    assert np.mean(hits["floor"]) >= 0.85
    # One run's noise is 0.2 %: an interval of its mean over a dozen runs, at a corner, is a few times that.
    assert 0.1 < np.mean(widths["bootstrap"]) < 1.0
    assert 0.1 < np.mean(widths["delta"]) < 1.0
    assert np.mean(widths["floor"]) < 0.5


def test_constants_lie_within_their_intervals_at_a_third_of_a_percent_noise():
    form, link, _, coefficients = TRUTHS["quadratic bowl, paper's link"]
    hits, widths = [], []
    for seed in range(10):
        obs = trials("quadratic bowl, paper's link", point_noise=0.003, seed=seed)
        low, high = bootstrap(obs, form, link, replicates=100, seed=seed).coefficient_intervals()
        hits.append((low <= coefficients) & (coefficients <= high))
        widths.append((high - low) / np.abs(coefficients))
    assert np.mean(hits) >= 0.85
    assert np.median(widths) < 1.5


def test_the_same_seed_gives_the_same_refits():
    obs = trials("edge", run_noise=0.002)
    draws = [bootstrap(obs, "no_interaction", "anchored", 20, seed).E for seed in (1, 1, 2)]
    assert (draws[0] == draws[1]).all()
    assert not np.array_equal(draws[0], draws[2])


def test_each_refit_is_the_fit_of_its_own_data():
    obs = trials("edge", run_noise=0.002, point_noise=0.001, seed=2)
    law = fit(obs, "no_interaction", "anchored")
    refits = bootstrap(obs, law, replicates=5, seed=3)
    noise = _exchanged(law, 5, np.random.default_rng(3))
    again = fit(replace(obs, loss=obs.loss * np.exp(noise[0] - law.residuals)), "no_interaction", "anchored")
    np.testing.assert_allclose(refits.coefficients[0], again.coefficients, rtol=1e-5)


@pytest.mark.parametrize(("runs", "has_intervals"), [(5, False), (6, True)])
def test_too_few_runs_have_no_intervals_and_the_sentence_says_how_many_are_missing(runs, has_intervals):
    obs = trials("edge", 0.002, 0.001, regimes=[GRID[0], GRID[2], GRID[4], GRID[6], GRID[8], GRID[1]][:runs])
    law = fit(obs, "no_interaction", "anchored")
    low, high = delta_interval(law, obs.mu[:2], obs.sigma[:2], 64e3)
    assert np.isfinite([low, high]).all() == has_intervals
    best = find_optimum(law, SearchRegion.of(obs))
    assert ("no intervals: 5 runs leave 2 degrees of freedom" in best.sentence) is not has_intervals
    assert (no_intervals(law) == "") is has_intervals
    if not has_intervals:
        with pytest.raises(ValueError, match="run 1 more"):
            bootstrap(obs, law, replicates=5)


def test_nothing_is_resampled_without_a_law():
    with pytest.raises(ValueError, match="nothing to resample"):
        bootstrap(trials("quadratic bowl", regimes=GRID[:4]), "quadratic")


def test_noise_is_split_into_what_runs_share_and_what_points_do_not():
    parts = [noise_parts(fit(trials("edge", 0.004, 0.001, seed=s), "no_interaction", "anchored")) for s in range(20)]
    assert np.sqrt(np.mean([p.run**2 for p in parts])) == pytest.approx(0.004, rel=0.25)
    assert np.sqrt(np.mean([p.point**2 for p in parts])) == pytest.approx(0.001, rel=0.15)


def test_the_effect_test_holds_its_level_where_only_tokens_matter():
    p_values = []
    for seed in range(100):
        obs = trials("nothing", run_noise=0.003, point_noise=0.001, seed=seed)
        p_values.append(effect_p_value(fit(obs, "quadratic", "anchored"), fit(obs, "d_only", "anchored")))
    assert np.mean(np.array(p_values) <= 0.05) <= 0.11


def test_akaike_weights_ignore_what_is_unknown():
    weights = akaike_weights(np.array([10.0, 12.0, np.nan]))
    assert weights.sum() == pytest.approx(1.0)
    assert weights[2] == 0
    assert weights[0] / weights[1] == pytest.approx(np.e)


def test_a_design_of_one_run_a_regime_needs_no_repeats():
    assert bootstrap(trials("edge", 0.002, regimes=GRID), "no_interaction", "anchored", 10).failed == 0
