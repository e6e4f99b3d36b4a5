"""The target as good as the optimum that changes the corpus least."""

import numpy as np
import pytest

from ppl_assets.law.as_good import nearest_as_good
from ppl_assets.law.fit import fit
from ppl_assets.law.optimum import find_optimum
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.uncertainty import bootstrap
from ppl_assets_tests.law.synthetic import TRUTHS, trials


def found(name, noise_pct=0.3, replicates=60):
    form, link, *_ = TRUTHS[name]
    obs = trials(name, run_noise=0.002, point_noise=0.001, seed=1)
    law, region = fit(obs, form, link), SearchRegion.of(obs)
    refits = bootstrap(obs, law, replicates=replicates) if replicates else None
    return law, find_optimum(law, region, refits, noise_pct), region


def test_it_lies_between_optimum_and_corpus_and_costs_at_most_the_noise():
    law, best, region = found("quadratic bowl")
    corpus = (float(region.mu.max()), float(region.sigma.max()))
    place = nearest_as_good(law, best, region, corpus)
    assert 0.0 <= place.cost_pct <= best.noise_pct
    own = 100 * (float(law.predict(*corpus, best.tokens)) / best.predicted_loss - 1)
    assert own > best.noise_pct  # the corpus itself is worse

    def away(mu, sigma):
        return np.hypot(np.log(mu / corpus[0]), np.log(sigma / corpus[1]))

    assert away(place.mu, place.sigma) < away(best.mu, best.sigma)
    predicted = float(law.predict(place.mu, place.sigma, best.tokens))
    assert place.cost_pct == pytest.approx(100 * (predicted / best.predicted_loss - 1), abs=1e-9)


def test_a_corpus_that_is_as_good_is_taken_as_it_is():
    law, best, region = found("quadratic bowl")
    corpus = (best.mu * 1.01, best.sigma * 0.99)
    place = nearest_as_good(law, best, region, corpus)
    assert (place.mu, place.sigma) == (pytest.approx(corpus[0]), pytest.approx(corpus[1]))


def test_the_less_noise_the_nearer_to_the_optimum():
    costs = []
    for noise in (0.02, 0.3):
        law, best, region = found("quadratic bowl", noise)
        costs.append(nearest_as_good(law, best, region, (float(region.mu.max()), float(region.sigma.max()))).cost_pct)
    assert costs[0] < costs[1]


def test_without_refits_there_is_none():
    law, best, region = found("quadratic bowl", replicates=0)
    assert nearest_as_good(law, best, region, (100.0, 50.0)) is None
