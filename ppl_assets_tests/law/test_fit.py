from dataclasses import replace

import numpy as np
import pytest

from ppl_assets.law.choice import fit_all
from ppl_assets.law.fit import MIN_POINTS, fit
from ppl_assets.law.forms import FORMS, LINKS
from ppl_assets.law.observations import Observations
from ppl_assets.law.region import SearchRegion
from ppl_assets_tests.law.synthetic import BASE_LOSS, CENTRES, GRID, TRUTHS, trials


@pytest.mark.parametrize("name", [n for n in TRUTHS if n != "nothing"])
def test_constants_without_noise_are_recovered(name):
    form, link, floor, coefficients = TRUTHS[name]
    law = fit(trials(name), form, link)
    assert law.status == "converged"
    assert pytest.approx(floor, abs=1e-6) == law.E
    np.testing.assert_allclose(law.coefficients, coefficients, rtol=1e-6, atol=1e-6)
    assert law.rms_pct < 1e-6


@pytest.mark.parametrize("name", ["paper bowl", "quadratic bowl", "scale-free edge"])
def test_predictions_with_noise_stay_near_the_truth(name):
    form, link, *_ = TRUTHS[name]
    clean = trials(name)
    law = fit(trials(name, point_noise=0.003, seed=1), form, link)
    error = law.predict(clean.mu, clean.sigma, clean.tokens) / clean.loss - 1
    assert np.abs(error).max() < 0.005
    assert law.rms_pct == pytest.approx(0.3, rel=0.3)


def test_both_links_minimize_residuals_of_ln_loss():
    for link in LINKS:
        obs = trials("quadratic bowl", point_noise=0.003, seed=2)
        law = fit(obs, "quadratic", link)
        slopes = law.jacobian(obs.mu, obs.sigma, obs.tokens)
        free = slopes if law.status == "converged" else slopes[:, 1:]
        lengths = np.linalg.norm(free, axis=0)
        assert np.abs(free.T @ law.residuals / lengths).max() < 1e-6 * np.linalg.norm(law.residuals)


@pytest.mark.parametrize("form", ["scale_free", "quadratic"])
@pytest.mark.parametrize("link", LINKS)
def test_a_change_of_unit_leaves_unit_free_forms_unchanged(form, link):
    obs = trials("scale-free edge", point_noise=0.003, seed=3)
    law, scaled = fit(obs, form, link), fit(_in_other_unit(obs), form, link)
    np.testing.assert_allclose(
        scaled.predict(10 * obs.mu, 10 * obs.sigma, obs.tokens), law.predict(obs.mu, obs.sigma, obs.tokens), rtol=1e-7
    )


def test_a_change_of_unit_changes_the_papers_form():
    obs = trials("scale-free edge", point_noise=0.003, seed=3)
    law, scaled = fit(obs, "paper"), fit(_in_other_unit(obs), "paper")
    change = scaled.predict(10 * obs.mu, 10 * obs.sigma, obs.tokens) / law.predict(obs.mu, obs.sigma, obs.tokens) - 1
    assert np.abs(change).max() > 1e-4


def _in_other_unit(obs: Observations) -> Observations:
    return Observations(10 * obs.mu, 10 * obs.sigma, obs.tokens, obs.loss, obs.run, obs.base_loss)


def test_sigma_read_as_variance_is_the_form_with_sigma_squared():
    obs = trials("paper bowl", point_noise=0.001)
    squared = Observations(obs.mu, obs.sigma**2, obs.tokens, obs.loss, obs.run, obs.base_loss)
    as_variance, plain = fit(obs, "paper", sigma_kind="variance"), fit(squared, "paper")
    np.testing.assert_allclose(as_variance.coefficients, plain.coefficients)


def test_lower_loss_where_the_surface_is_greater():
    for name in ("paper bowl", "quadratic bowl"):
        form, link, *_ = TRUTHS[name]
        law = fit(trials(name), form, link)
        mu, sigma = np.array(GRID).T
        assert (np.argsort(law.g(mu, sigma)) == np.argsort(-law.predict(mu, sigma, 64e3))).all()


def test_a_floor_of_zero_is_called_not_identified():
    rng = np.random.default_rng(0)
    obs = trials("edge")
    loss = (
        40
        * obs.tokens**-0.25
        * np.exp(-0.3 * np.log(obs.tokens / 2e4) ** 2 * 0.2 + 0.001 * rng.standard_normal(len(obs)))
    )
    law = fit(Observations(obs.mu, obs.sigma, obs.tokens, loss, obs.run, 50.0), "no_interaction")
    assert law.status == "e_at_bound"
    assert law.E == 0
    assert "not identified" in law.reason


def test_fewer_than_twelve_points_are_refused_with_a_reason():
    obs = trials("edge").subset(np.arange(84) < MIN_POINTS - 1)
    law = fit(obs, "d_only")
    assert law.status == "refused"
    assert "11 points" in law.reason
    assert np.isnan(law.predict(200.0, 100.0, 1e4))


def test_fewer_regimes_than_surface_coefficients_are_refused():
    law = fit(trials("quadratic bowl", regimes=GRID[:4]), "quadratic")
    assert law.status == "refused"
    assert "4 runs" in law.reason


def test_regimes_on_one_spot_are_ill_conditioned():
    law = fit(trials("edge", run_noise=0.002, regimes=[GRID[0]] * 8), "paper")
    assert law.status == "ill_conditioned"


def test_points_at_or_above_the_base_loss_are_set_aside_in_the_anchored_link():
    obs = trials("edge")
    loss = obs.loss.copy()
    loss[[0, 7]] = BASE_LOSS + 0.1
    high = Observations(obs.mu, obs.sigma, obs.tokens, loss, obs.run, BASE_LOSS)
    law = fit(high, "no_interaction", "anchored")
    assert law.set_aside == 2
    assert law.points == len(obs) - 2
    assert law.rms_pct < 1e-6


def test_the_robust_fit_shrugs_off_a_wild_point():
    obs = trials("edge", point_noise=0.001, seed=4)
    loss = obs.loss.copy()
    loss[10] *= 1.1
    wild = Observations(obs.mu, obs.sigma, obs.tokens, loss, obs.run, BASE_LOSS)
    without = fit(obs.subset(np.arange(len(obs)) != 10), "no_interaction", "anchored")

    def worst(robust: bool) -> float:
        law = fit(wild, "no_interaction", "anchored", robust=robust, noise_pct=0.1)
        expected = without.predict(obs.mu, obs.sigma, obs.tokens)
        return np.abs(law.predict(obs.mu, obs.sigma, obs.tokens) / expected - 1).max()

    assert worst(robust=True) < 0.25 * worst(robust=False)


def test_a_study_fitted_robustly_is_robust_in_its_refits_and_left_out_errors_too():
    obs = trials("edge", run_noise=0.001, point_noise=0.001, seed=4)
    loss = obs.loss.copy()
    loss[10] *= 1.1
    wild = replace(obs, loss=loss)
    floors = {}
    for robust in (False, True):
        results = fit_all(wild, SearchRegion.of(wild), noise_pct=0.1, replicates=10, robust=robust)
        (found,) = [r for r in results if r.key == ("no_interaction", "anchored", "deviation", "raw")]
        assert (found.fit.huber is not None) is robust
        others = found.left_regimes.run != wild.regime[10]
        floors[robust] = np.median(np.abs(found.left_regimes.errors[others]))
    assert floors[True] < floors[False]


def test_an_unknown_form_names_the_accepted_ones():
    with pytest.raises(KeyError, match="scale_free"):
        fit(trials("edge"), "cubic")


def test_the_same_measurements_give_the_same_fit_to_the_bit():
    obs = trials("paper bowl", point_noise=0.003)
    first, second = fit(obs, "paper"), fit(obs, "paper")
    assert first.E == second.E
    assert (first.coefficients == second.coefficients).all()


def test_every_form_fits_with_every_link():
    obs = trials("quadratic bowl", point_noise=0.002, regimes=GRID + CENTRES)
    for form in FORMS:
        for link in LINKS:
            assert fit(obs, form, link).is_usable
