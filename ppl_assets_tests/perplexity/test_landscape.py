"""Junk does not move the landscape once the fence is up."""

import numpy as np
import pytest

from ppl_assets.perplexity.landscape import QUANTILES, histogram, moments, noise_fence


def corpus(junk_share, chunks=100_000):
    random = np.random.default_rng(1)
    clean = np.exp(random.normal(3.0, 0.4, chunks))  # mean 21.8, deviation 9.1
    junk = random.uniform(200.0, 5000.0, round(chunks * junk_share))
    return clean, np.concatenate([clean, junk])


def test_one_in_a_thousand_junk_chunks_lifts_the_deviation_many_times_and_the_fence_undoes_it():
    clean, dirty = corpus(0.001)
    assert moments(clean).deviation == pytest.approx(9.1, abs=0.2)
    assert moments(dirty).deviation > 60.0
    low, high = noise_fence(np.log(dirty), mads=6.0)
    kept = dirty[(np.log(dirty) >= low) & (np.log(dirty) <= high)]
    assert moments(kept).mean == pytest.approx(moments(clean).mean, rel=0.005)
    assert moments(kept).deviation == pytest.approx(moments(clean).deviation, rel=0.03)


def test_the_fence_rarely_cuts_real_text():
    clean, _ = corpus(0.0)
    low, high = noise_fence(np.log(clean), mads=6.0)
    assert ((np.log(clean) < low) | (np.log(clean) > high)).sum() == 0


def test_the_fence_is_median_and_scaled_mad():
    low, high = noise_fence(np.array([0.0, 1.0, 2.0, 3.0, 100.0]), mads=2.0)
    assert (low, high) == pytest.approx((2.0 - 2.9652, 2.0 + 2.9652))


def test_moments_are_of_the_population_and_quantiles_at_the_stated_levels():
    found = moments(np.array([1.0, 2.0, 3.0, 6.0]))
    assert (found.mean, found.variance, found.deviation) == pytest.approx((3.0, 3.5, 3.5**0.5))
    assert found.log_mean == pytest.approx(np.log(36.0) / 4)
    assert len(found.quantiles) == len(QUANTILES) == 11
    assert (found.quantiles[0], found.quantiles[5], found.quantiles[-1]) == (1.0, 2.5, 6.0)


def test_the_histogram_holds_every_chunk_and_token():
    random = np.random.default_rng(2)
    logs, tokens = random.normal(3.0, 1.0, 1000), random.integers(1, 200, 1000)
    found = histogram(logs, tokens, 30)
    assert len(found.edges) == 31
    assert (found.chunks.sum(), found.tokens.sum()) == (1000, tokens.sum())
    np.testing.assert_array_equal(found.chunks, np.histogram(logs, 30)[0])


def test_one_value_has_a_landscape_too():
    assert moments(np.array([5.0])).deviation == 0.0
    assert histogram(np.array([1.6]), np.array([10]), 10).tokens.sum() == 10


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf])])
def test_missing_scores_are_refused(values):
    for function in (lambda x: noise_fence(x, 6.0), moments, lambda x: histogram(x, np.ones(len(x)), 10)):
        with pytest.raises(ValueError, match="finite"):
            function(values)
