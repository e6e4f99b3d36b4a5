from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.law.fit import fit
from ppl_assets.law.observations import Observations
from ppl_assets.law.optimum import find_optimum
from ppl_assets.law.region import SearchRegion, Slopes
from ppl_assets.law.surface import conditions, stationary_point
from ppl_assets.law.uncertainty import bootstrap
from ppl_assets_tests.law.synthetic import GRID, TRUTHS, trials


def found(name: str, noise: float = 0.001, seed: int = 0, inside=None, **options):
    form, link, *_ = TRUTHS[name]
    obs = trials(name, run_noise=noise, point_noise=noise, seed=seed)
    law = fit(obs, form, link)
    region = SearchRegion.of(obs) if inside is None else SearchRegion.of(obs, inside)
    return find_optimum(law, region, bootstrap(obs, law, replicates=100), **options)


def test_a_bowl_of_the_papers_form_is_found_where_it_was_put():
    best = found("paper bowl", noise=1e-6)
    assert best.kind == "interior_bowl"
    assert (best.mu, best.sigma) == (pytest.approx(200, rel=0.002), pytest.approx(100, rel=0.002))
    assert best.conditions is not None
    assert pytest.approx(0.0015 * 200 * np.log(100), rel=0.01) == best.conditions.A
    assert pytest.approx(0.002 * 100 * np.log(200), rel=0.01) == best.conditions.B


@pytest.mark.parametrize("name", ["quadratic bowl", "quadratic bowl, paper's link"])
def test_a_bowl_is_interior_when_the_refits_agree(name):
    _, _, _, c = TRUTHS[name]
    u, v = np.linalg.solve([[2 * c[3], c[4]], [c[4], 2 * c[5]]], [-c[1], -c[2]])
    best = found(name)
    assert best.kind == "interior_bowl"
    assert best.bowl_share >= 0.95
    assert best.mu_interval[0] <= np.exp(u) <= best.mu_interval[1]
    assert best.sigma_interval[0] <= np.exp(v) <= best.sigma_interval[1]
    assert 0 <= best.regret_pct <= best.regret_bound_pct < 0.1
    assert best.predicted_interval[0] < best.predicted_loss < best.predicted_interval[1]
    assert best.side == ""


def test_an_interval_holds_its_optimum_even_where_every_refit_lies_elsewhere():
    obs = trials("edge")
    law = fit(obs, "scale_free", "anchored")
    refits = bootstrap(obs, law, replicates=20)
    elsewhere = replace(refits, coefficients=np.tile(-law.coefficients, (20, 1)), E=np.full(20, law.E))
    best = find_optimum(law, SearchRegion.of(obs), elsewhere)
    plain = find_optimum(law, SearchRegion.of(obs), refits)
    assert best.mu_interval[0] <= best.mu <= best.mu_interval[1]
    assert best.sigma_interval[0] <= best.sigma <= best.sigma_interval[1]
    assert best.mu_interval[1] > 2 * plain.mu_interval[1]


def test_without_refits_a_bowl_is_at_most_weak():
    obs = trials("quadratic bowl", 0.001)
    best = find_optimum(fit(obs, "quadratic", "anchored"), SearchRegion.of(obs))
    assert best.kind == "weak_bowl"
    assert "no refits" in best.sentence
    assert np.isfinite(best.predicted_interval).all()


def test_a_bowl_that_its_p_value_demotes_says_so_and_not_that_too_few_refits_agree(monkeypatch):
    monkeypatch.setattr("ppl_assets.law.optimum.effect_p_value", lambda *_: 0.12)
    best = found("quadratic bowl")
    assert best.kind == "weak_bowl"
    assert best.bowl_share >= 0.95
    assert "but this form explains the runs no better than chance (p = 0.12)" in best.sentence
    assert "only" not in best.sentence
    assert best.sentence.count("p = ") == 1


def test_an_edge_says_which_side_and_what_trial_would_settle_it():
    best = found("edge")
    assert best.kind == "boundary"
    assert (best.mu, best.sigma) == (pytest.approx(100, rel=0.01), pytest.approx(50, rel=0.01))
    assert best.side == "toward lower mean perplexity and less spread"
    assert best.further_trial is not None
    assert best.further_trial[0] < 100
    assert best.further_trial[1] < 50


def test_an_edge_of_the_corpus_cannot_be_settled_by_a_trial():
    best = found("edge", inside=lambda mu, sigma: (mu >= 130) & (sigma >= 50) & (sigma >= 0 * mu + 60))
    assert best.kind == "boundary"
    assert best.mu == pytest.approx(130, rel=0.01)
    assert best.sigma == pytest.approx(60, rel=0.01)
    assert best.further_trial is None
    assert "no trial can settle it" in best.sentence


def test_a_saddle_is_called_one_and_the_optimum_lies_on_the_edge():
    best = found("saddle")
    assert best.kind == "saddle"
    assert best.conditions is not None
    assert (best.conditions.mu, best.conditions.sigma) == (pytest.approx(200, rel=0.1), pytest.approx(110, rel=0.1))
    assert best.mu > 350 or best.mu < 115


def test_a_surface_within_the_noise_is_flat():
    best = found("edge", noise_pct=50.0)
    assert best.kind == "flat"
    assert np.isfinite(best.regret_bound_pct)


@pytest.mark.parametrize("form", ["paper", "scale_free", "quadratic"])
def test_where_only_tokens_matter_a_bowl_is_claimed_in_at_most_five_percent(form):
    region = SearchRegion.of(trials("nothing"))
    claimed = 0
    for seed in range(100):
        obs = trials("nothing", run_noise=0.002, point_noise=0.001, seed=seed)
        claimed += find_optimum(fit(obs, form, "anchored"), region).kind in ("interior_bowl", "weak_bowl")
    assert claimed <= 5


def test_a_strip_of_regimes_is_refused():
    line = [(m, m / 2) for m in np.geomspace(100, 400, 8)]
    obs = trials("edge", 0.001, regimes=line)
    best = find_optimum(fit(obs, "no_interaction", "anchored"), SearchRegion.of(obs))
    assert best.kind == "refused"
    assert "strip" in best.sentence


def test_two_regimes_that_drift_within_their_runs_are_still_a_strip():
    rng = np.random.default_rng(0)
    obs = trials("edge", 0.001, regimes=[GRID[0], GRID[8]] * 4)
    drift = np.exp(0.01 * rng.standard_normal((2, len(obs))))
    obs = Observations(obs.mu * drift[0], obs.sigma * drift[1], obs.tokens, obs.loss, obs.run, obs.base_loss)
    assert "strip" in SearchRegion.of(obs).problem


def test_a_region_that_the_corpus_cannot_reach_is_refused():
    best = found("edge", inside=lambda mu, sigma: mu + sigma < 0)
    assert best.kind == "refused"
    assert "do not meet" in best.sentence


def test_a_refused_fit_has_no_optimum():
    obs = trials("edge", regimes=GRID[:4])
    best = find_optimum(fit(obs, "quadratic"), SearchRegion.of(obs))
    assert best.kind == "refused"
    assert np.isnan(best.mu)


def test_what_cannot_be_told_from_the_optimum_holds_it_and_grows_with_the_noise():
    quiet, loud = found("quadratic bowl", noise=0.0005), found("quadratic bowl", noise=0.01)
    for best in (quiet, loud):
        assert best.equals.mu[0] <= best.mu <= best.equals.mu[1]
        assert best.equals.sigma[0] <= best.sigma <= best.equals.sigma[1]
        assert best.equals.edge.shape[1] == 2
    assert quiet.equals.share < 0.05
    assert quiet.equals.share < loud.equals.share


def test_where_only_tokens_matter_no_place_can_be_told_from_another():
    obs = trials("nothing", run_noise=0.002, point_noise=0.001)
    law = fit(obs, "no_interaction", "anchored")
    best = find_optimum(law, SearchRegion.of(obs), bootstrap(obs, law, replicates=100), 0.3)
    assert best.equals.share > 0.95


def test_the_true_optimum_is_among_the_places_that_cannot_be_told_from_the_found_one():
    _, _, _, c = TRUTHS["quadratic bowl"]
    top = np.linalg.solve([[2 * c[3], c[4]], [c[4], 2 * c[5]]], [-c[1], -c[2]])
    held = []
    for seed in range(12):
        obs = trials("quadratic bowl", run_noise=0.005, point_noise=0.005, seed=seed)
        law, region = fit(obs, "quadratic", "anchored"), SearchRegion.of(obs)
        best = find_optimum(law, region, bootstrap(obs, law, replicates=100), 0.0)
        near = int(np.argmin(np.hypot(*(np.array(region.points) - top[:, None]))))
        held.append(bool(best.equals.mask[near]))
    assert np.mean(held) >= 0.85


def test_how_far_a_place_lies_outside_the_trials_is_measured_in_logs():
    region = SearchRegion(np.array([100.0, 100.0, 400.0, 400.0]), np.array([50.0, 250.0, 50.0, 250.0]))
    assert region.distance(200.0, 100.0) == 0.0
    assert region.distance(440.0, 100.0) == pytest.approx(np.log(1.1))


def test_the_optimum_never_leaves_the_region():
    region = SearchRegion(np.array([100.0, 400.0, 200.0]), np.array([50.0, 60.0, 250.0]))
    for name in ("edge", "saddle", "quadratic bowl"):
        form, link, *_ = TRUTHS[name]
        best = find_optimum(fit(trials(name, 0.001), form, link), region)
        assert region.contains(best.mu, best.sigma)


@settings(max_examples=60, deadline=None)
@given(
    mu=st.floats(5, 300),
    sigma=st.floats(3, 300),
    a1=st.floats(-0.05, 0.05),
    b1=st.floats(-0.05, 0.05),
    kind=st.sampled_from(["deviation", "variance"]),
)
def test_the_papers_conditions_agree_with_the_numeric_hessian(mu, sigma, a1, b1, kind):
    s = sigma if kind == "deviation" else sigma**2
    a, b = -b1 * mu * np.log(s), -a1 * s * np.log(mu)  # stationary at (mu, s) by construction
    obs = trials("paper bowl")
    law = fit(obs, "paper", sigma_kind=kind)
    coefficients = np.array([0.0, a - a1 * s, a1, b - b1 * mu, b1, 0.3])
    law = type(law)(**{**law.__dict__, "coefficients": coefficients})
    at = conditions(law, mu, sigma)
    slopes = Slopes.at("paper", np.log([mu]), np.log([sigma]), kind)
    size = max(abs(a * np.log(mu)), abs(b * np.log(s)), 1e-9)
    assert np.abs(slopes.gradient(coefficients[1:-1])).max() < 1e-3 * size
    if max(abs(c) for c in at.curvature) > 1e-3 * size and min(abs(c) for c in at.curvature) > 1e-3 * size:
        assert at.is_bowl == (at.curvature[1] < 0)


def test_newton_finds_a_known_stationary_point():
    law = fit(trials("paper bowl"), "paper")
    point = stationary_point(law, np.log(230), np.log(85))
    assert point is not None
    np.testing.assert_allclose(np.exp(point), [200, 100], rtol=1e-3)
