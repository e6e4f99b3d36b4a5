"""What the law must not do: recommend what harmed, believe shuffled losses, or hide that it speaks of the unseen."""

from dataclasses import replace

import numpy as np
import pytest

from ppl_assets.law import leave_out
from ppl_assets.law.checks import checks
from ppl_assets.law.choice import choose, fit_all
from ppl_assets.law.fit import fit
from ppl_assets.law.leave_out import leave_one_run_out
from ppl_assets.law.observations import measured_noise
from ppl_assets.law.optimum import find_optimum
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.uncertainty import effect_p_value
from ppl_assets_tests.law.synthetic import BASE_LOSS, TOKENS, trials


def harmful(obs, mean):
    """The same trials, those of the regimes at this mean ending above the base model's loss."""
    worse = BASE_LOSS + 0.05 + 0.02 * np.log(obs.tokens / TOKENS[0])
    return replace(obs, loss=np.where(obs.mu == mean, worse, obs.loss))


@pytest.fixture(scope="module")
def judged():
    # The loss falls towards large means up to where such text harms: no form can follow that.
    obs = harmful(trials("edge", 0.001, 0.001), 400.0)
    region = SearchRegion.of(obs)
    results = fit_all(obs, region, noise_pct=measured_noise(obs), replicates=0)
    return obs, region, choose(results), results


def test_no_optimum_is_looked_for_where_the_text_harmed(judged):
    _, region, chosen, _ = judged
    assert np.exp(region.points[0]).max() == pytest.approx(200.0)
    assert chosen.optimum.mu <= 200.0 * (1 + 1e-9)


def test_the_regimes_that_harmed_are_named(judged):
    obs, region, chosen, results = judged
    found = {finding.name: finding for finding in checks(results, chosen, obs, region)}["training_helps"]
    assert not found.passed
    assert (
        "3 of 12 runs ended no better than the base model, at (mean, deviation) (400, 50), (400, 110)" in found.sentence
    )


def test_a_loss_that_is_above_only_at_first_is_counted_and_costs_no_place():
    obs = trials("edge", 0.001, 0.001)
    first = (obs.mu == 400.0) & (obs.tokens == TOKENS[0])
    risen = replace(obs, loss=np.where(first, BASE_LOSS + 0.01, obs.loss))
    region = SearchRegion.of(risen)
    results = fit_all(risen, region, replicates=0)
    found = {finding.name: finding for finding in checks(results, choose(results), risen, region)}["training_helps"]
    assert found.sentence.startswith("In 3 of 84 measurements")
    assert np.exp(region.points[0]).max() == pytest.approx(400.0)


def test_repeats_of_one_place_are_no_further_evidence_for_a_surface():
    """Losses that differ between places for no reason: a form's misfit there is the same in every repeat."""
    rng, believed = np.random.default_rng(0), {"run": 0, "regime": 0}
    places = [(m, s) for m in (100.0, 200.0, 400.0) for s in (50.0, 110.0, 250.0)] + [(200.0, 110.0)] * 5
    for seed in range(60):
        obs = trials("nothing", 0.0005, 0.0005, seed=seed, regimes=places)
        offset = dict(zip(np.unique(obs.regime), 0.01 * rng.standard_normal(9), strict=True))
        obs = replace(obs, loss=obs.loss * np.exp([offset[regime] for regime in obs.regime]))
        for unit, seen in (("regime", obs), ("run", replace(obs, regime=None))):
            law, tokens_only = fit(seen, "paper", "anchored"), fit(seen, "d_only", "anchored")
            believed[unit] += effect_p_value(law, tokens_only) <= 0.05
    assert believed["regime"] <= 6  # 3 expected; 7 or more of 60 have a chance of 0.03
    assert believed["run"] > believed["regime"]


def test_a_form_chosen_among_several_has_had_several_chances():
    obs = trials("quadratic bowl", 0.001, 0.001)
    region = SearchRegion.of(obs)
    results = fit_all(obs, region, replicates=0)
    chosen = choose(results)
    assert chosen.chosen_among == 4
    assert choose(results, "paper").chosen_among == 1

    def finding(p_value):
        doubted = replace(chosen, optimum=replace(chosen.optimum, effect_p=p_value))
        return {found.name: found for found in checks(results, doubted, obs, region)}["surface_significant"]

    assert finding(0.012).passed
    assert not finding(0.013).passed
    assert "over 4 forms" in finding(0.013).sentence


def test_a_surface_is_judged_where_it_was_measured_and_a_longer_run_is_called_an_extrapolation():
    obs = trials("quadratic bowl", 0.001, 0.001)
    region, law = SearchRegion.of(obs), fit(obs, "quadratic", "anchored")
    near, far = (find_optimum(law, region, None, 0.1, tokens) for tokens in (TOKENS[-1], 1e6 * TOKENS[-1]))
    assert far.kind == near.kind != "flat"
    assert far.range_pct == pytest.approx(near.range_pct)
    for tokens, within in ((2.0 * TOKENS[-1], True), (2.1 * TOKENS[-1], False)):
        results = fit_all(obs, region, tokens, replicates=0)
        found = {f.name: f for f in checks(results, choose(results), obs, region)}["predicts_within_trials"]
        assert found.passed is within


def test_an_optimum_that_promises_far_more_than_any_trial_has_shown_is_doubted():
    obs = trials("quadratic bowl", 0.001, 0.001)
    region = SearchRegion.of(obs)
    results = fit_all(obs, region, replicates=0)
    chosen = choose(results)

    def finding(result):
        return {f.name: f for f in checks(results, result, obs, region)}["optimum_near_measured"]

    assert finding(chosen).passed
    bold = replace(chosen, fit=replace(chosen.fit, E=chosen.fit.E - 0.1))  # every prediction 0.1 lower
    assert not finding(bold).passed
    assert "only a run there can confirm it" in finding(bold).sentence


def test_runs_of_earlier_designs_are_counted():
    obs = trials("quadratic bowl", 0.001, 0.001)
    region = SearchRegion.of(obs)
    results = fit_all(obs, region, replicates=0)
    found = {f.name: f for f in checks(results, choose(results), obs, region, earlier_runs=5)}
    assert found["trials_of_this_design"].sentence.startswith("5 of the 12 runs are of earlier designs")


def test_a_fold_that_did_not_come_to_rest_predicts_nothing(monkeypatch):
    obs, whole = trials("quadratic bowl", 0.001, 0.001), leave_out.solve

    def restless(*given):
        found = whole(*given)
        return replace(found, converged=np.arange(len(found.converged)) != 2)

    monkeypatch.setattr(leave_out, "solve", restless)
    left_out = leave_one_run_out(obs, "quadratic", "anchored")
    assert np.isnan(left_out.predicted).sum() == len(TOKENS)
    assert np.isnan(left_out.predicted[obs.run == obs.runs[2]]).all()


def test_the_error_at_the_largest_token_count_is_that_of_its_points_alone():
    left_out = leave_one_run_out(trials("quadratic bowl", 0.001, 0.001), "quadratic", "anchored")
    last = left_out.tokens == TOKENS[-1]
    assert left_out.largest_pct == pytest.approx(100 * np.sqrt(np.mean(left_out.errors[last] ** 2)))
