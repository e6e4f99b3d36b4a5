from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ppl_assets.law.observations import ObservationError, Observations, measured_noise
from ppl_assets_tests.law.synthetic import GRID, TOKENS, trials


def test_a_wrong_value_is_named_with_its_place():
    with pytest.raises(ObservationError, match=r"sigma\[1\] = 0.0"):
        Observations(np.ones(2), np.array([1.0, 0.0]), np.ones(2), np.ones(2), np.array([0, 1]), 5.0)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ObservationError, match="lengths differ"):
        Observations(np.ones(2), np.ones(2), np.ones(3), np.ones(2), np.array([0, 1]), 5.0)


def test_without_run_drops_all_points_of_that_run():
    obs = trials("edge")
    left = obs.without_run(3)
    assert len(left) == len(obs) - len(TOKENS)
    assert 3 not in left.runs


def test_an_unknown_run_is_refused():
    with pytest.raises(ObservationError, match="'x'"):
        trials("edge").without_run("x")


def test_labels_may_be_strings():
    obs = trials("edge")
    named = Observations(
        obs.mu, obs.sigma, obs.tokens, obs.loss, np.array([f"grid-{r}" for r in obs.run]), obs.base_loss
    )
    assert len(named.without_run("grid-0").runs) == len(obs.runs) - 1


def test_measured_noise_finds_the_deviation_between_repeats():
    found = [measured_noise(trials("edge", run_noise=0.002, seed=s)) for s in range(60)]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(0.2, rel=0.2)


def test_without_repeats_there_is_no_measured_noise():
    assert measured_noise(trials("edge", regimes=GRID)) is None


def test_in_logs_mu_and_sigma_are_the_geometric_mean_and_deviation():
    obs = trials("edge")
    chunks = np.random.default_rng(0).lognormal(5.0, 0.7, (len(obs), 50))
    logs = np.log(chunks)
    both = replace(obs, log_mu=logs.mean(axis=1), log_sigma=logs.std(axis=1))
    np.testing.assert_allclose(both.in_logs().mu, stats.gmean(chunks, axis=1))
    np.testing.assert_allclose(both.in_logs().sigma, stats.gstd(chunks, axis=1, ddof=0))
    assert both.in_logs().statistics == "log"
    assert both.without_run(3).log_mu is not None


def test_log_moments_that_were_not_recorded_are_asked_for_in_words():
    with pytest.raises(ObservationError, match="record them"):
        trials("edge").in_logs()
    with pytest.raises(ObservationError, match="together"):
        replace(trials("edge"), log_mu=np.ones(len(trials("edge"))))
