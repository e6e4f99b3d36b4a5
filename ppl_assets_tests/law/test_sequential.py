"""What a further trial is worth, where it is put, and when there are enough."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.truths import FAMILIES, TOKENS, draw_truth, simulated
from ppl_assets.law.fit import fit
from ppl_assets.law.leave_out import leave_one_regime_out
from ppl_assets.law.plausible import left_out_square, plausible_forms
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.sequential import StopRule, next_step
from ppl_assets.law.uncertainty import delta_interval
from ppl_assets_tests.law.synthetic import GRID, trials

FACES = np.array([(mu, sigma) for mu in np.geomspace(100, 400, 3) for sigma in np.geomspace(50, 250, 3)])
PLACES = np.array([(mu, sigma) for mu in np.geomspace(100, 400, 9) for sigma in np.geomspace(50, 250, 9)])
REGION = SearchRegion(*FACES.T)
NEVER = StopRule(1e-9, 1e-9)


def observed(family: str = "quadratic", seed: int = 0, places: np.ndarray = FACES, noise: float = 0.0025):
    truth = draw_truth(family, np.random.default_rng(seed))
    return truth, simulated(truth, places, noise, 0.7 * noise, seed)


def step_at(obs, **options):
    return next_step(obs, REGION, PLACES, TOKENS, float(TOKENS[-1]), **{"rule": NEVER, **options})


def test_a_batch_is_proposed_among_the_candidates():
    step = step_at(observed()[1], batch=4)
    assert step.status == "propose"
    assert not step.is_over
    assert len(step.picks) == 4
    assert {(pick.mu, pick.sigma) for pick in step.picks} <= {tuple(place) for place in PLACES}
    assert "4 trials at" in step.sentence


def test_each_pick_counts_as_measured_for_the_next():
    gains = [pick.gain for pick in step_at(observed()[1], batch=8).picks]
    assert all(0 < gain < 1 for gain in gains)
    assert gains[-1] < 0.5 * gains[0]


def test_counts_a_few_tokens_apart_are_one_measurement():
    obs = observed()[1]
    apart = replace(obs, tokens=obs.tokens * (1 + 0.0003 * np.sin(obs.run)))
    assert len(np.unique(apart.tokens)) > 6 * len(TOKENS)
    assert step_at(apart).picks[0].gain == pytest.approx(step_at(obs).picks[0].gain, rel=0.15)


def test_the_same_data_and_seed_give_the_same_batch():
    assert step_at(observed()[1], seed=3) == step_at(observed()[1], seed=3)


def test_little_noise_is_enough_at_once():
    step = step_at(observed(noise=1e-5)[1], rule=StopRule(0.1))
    assert step.status == "regret_reached"
    assert step.is_over
    assert "under the 0.1 % asked for" in step.sentence


def test_a_narrow_interval_of_the_optimum_is_enough_too():
    step = step_at(observed(noise=1e-3)[1], rule=StopRule(1e-9, 30.0))
    assert step.status == "location_reached"
    assert step.knowledge.reach_pct <= 30


def test_a_spent_budget_ends_the_trials_and_a_small_one_cuts_the_batch():
    obs = observed()[1]
    assert step_at(obs, affordable=0).status == "budget_spent"
    assert len(step_at(obs, affordable=1, batch=3).picks) == 1


def test_what_cannot_be_judged_is_refused_in_a_sentence():
    few = step_at(observed(places=FACES[[0, 2, 6, 8]])[1])
    assert few.status == "refused"
    assert "4 regimes" in few.sentence
    strip = next_step(observed()[1], SearchRegion(*FACES[:3].T), PLACES, TOKENS, 64e3)
    assert strip.status == "refused"
    assert "strip" in strip.sentence
    assert next_step(observed()[1], REGION, np.empty((0, 2)), TOKENS, 64e3).status == "refused"


def test_the_bound_on_regret_holds_about_as_often_as_it_says():
    held = []
    for seed in range(60):
        truth, obs = observed(list(FAMILIES)[seed % len(FAMILIES)], seed)
        known = step_at(obs, batch=1).knowledge
        held.append(truth.regret_pct(known.mu, known.sigma) <= known.regret_bound_pct + 0.005)  # the grid's step
    assert np.mean(held) >= 0.88


def test_a_given_point_is_judged_instead_of_the_own_one():
    obs = observed()[1]
    corner = step_at(obs, recommended=(100.0, 250.0)).knowledge
    assert (corner.mu, corner.sigma) == (pytest.approx(100, rel=0.01), pytest.approx(250, rel=0.01))
    assert corner.regret_bound_pct > step_at(obs).knowledge.regret_bound_pct


def test_the_form_that_made_the_data_weighs_most():
    beliefs = plausible_forms(trials("quadratic bowl", run_noise=0.002, point_noise=0.001))
    assert beliefs.forms[0].fit.form == "quadratic"
    assert beliefs.forms[0].fit.link == "anchored"
    assert sum(form.weight for form in beliefs.forms) == pytest.approx(1.0)


def test_left_out_errors_are_those_of_real_refits():
    obs = trials("quadratic bowl", run_noise=0.002, point_noise=0.001, seed=2)
    refitted = leave_one_regime_out(obs, "quadratic", "anchored").by_run
    assert left_out_square(fit(obs, "quadratic", "anchored")) == pytest.approx(np.mean(refitted**2), rel=0.2)


def test_on_a_balanced_design_the_covariance_is_the_delta_methods():
    obs = trials("quadratic bowl", run_noise=0.002, point_noise=0.001, seed=1)
    (form,) = plausible_forms(obs, [("quadratic", "anchored", "deviation")]).forms
    mu, sigma = np.array(GRID).T
    tokens = np.full(len(mu), 64e3)
    own = np.linalg.norm(form.slopes(mu, sigma, tokens), axis=1)
    low, high = delta_interval(form.fit, mu, sigma, tokens, confidence=0.6827)
    assert own == pytest.approx(np.log(high / low) / 2, rel=0.5)
    features = plausible_forms(obs, [("quadratic", "anchored", "deviation")]).features(mu, sigma, tokens)
    assert np.linalg.norm(features, axis=1) == pytest.approx(own)


def test_draws_spread_as_the_covariance_says_where_the_noise_is_well_known():
    obs = trials("edge", run_noise=0.002, point_noise=0.001, regimes=GRID * 4)
    beliefs = plausible_forms(obs, [("no_interaction", "anchored", "deviation")])
    mu, sigma = np.array(GRID).T
    tokens = np.full(len(mu), 64e3)
    draws = beliefs.draws(mu, sigma, tokens, 4000, np.random.default_rng(0))
    wanted = np.linalg.norm(beliefs.features(mu, sigma, tokens), axis=1)
    assert draws.std(axis=0) == pytest.approx(wanted, rel=0.1)


def test_measured_noise_keeps_a_lucky_fit_from_being_too_sure():
    obs = observed(noise=5e-4)[1]
    assert step_at(obs, noise_pct=0.5).knowledge.regret_bound_pct > step_at(obs).knowledge.regret_bound_pct


def test_losses_above_the_base_models_are_set_aside():
    _, obs = observed()
    risen = replace(obs, loss=np.where(obs.tokens == obs.tokens.min(), 1.2 * obs.base_loss, obs.loss))
    assert step_at(risen).status == "propose"
