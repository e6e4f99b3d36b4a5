"""Every measured prefix of the training order is like the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.regimes.candidates import SelectionError
from ppl_assets.regimes.ordering import prefix_order

CHUNK = 256


def log_spaced(chunks: int, points: int = 7, span: float = 16.0) -> list[int]:
    return [int(count) for count in chunks * CHUNK / span * span ** (np.arange(points) / (points - 1))]


@settings(max_examples=10, deadline=None)
@given(st.integers(256, 700), st.floats(0.2, 0.9), st.integers(0, 2**32 - 1))
def test_measured_prefixes_keep_mean_and_deviation_within_one_percent(count: int, spread: float, seed: int) -> None:
    ppl = np.exp(np.random.default_rng(seed).normal(5.0, spread, count))
    ppl = ppl[np.abs(ppl - ppl.mean()) <= 4.0 * ppl.std()]
    order, error = prefix_order(ppl, np.full(ppl.size, CHUNK), seed=seed, prefixes=log_spaced(ppl.size))
    assert sorted(order) == list(range(ppl.size))
    assert error <= 0.01


def test_every_prefix_between_is_near_as_well() -> None:
    ppl = np.exp(np.random.default_rng(0).normal(5.0, 0.5, 500))
    order, _ = prefix_order(ppl, np.full(500, CHUNK), seed=0, prefixes=log_spaced(500))
    counts = np.arange(1, 501)
    means = np.cumsum(ppl[order]) / counts
    deviations = np.sqrt(np.cumsum(ppl[order] ** 2) / counts - means**2)
    assert np.abs(means[31:] / ppl.mean() - 1).max() < 0.05
    assert np.abs(deviations[31:] / ppl.std() - 1).max() < 0.15


def test_an_outlier_that_holds_the_variance_is_reported_as_an_error() -> None:
    ppl = np.append(np.linspace(90.0, 110.0, 319), 5000.0)
    _, error = prefix_order(ppl, np.full(320, CHUNK), seed=0, prefixes=log_spaced(320))
    assert error > 0.5


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    ppl = np.exp(np.random.default_rng(0).normal(5.0, 0.5, 300))
    orders = [prefix_order(ppl, np.full(300, CHUNK), seed=seed, prefixes=[5000, 50_000])[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).mean() > 0.8


def test_chunks_of_different_length_are_ordered_by_their_tokens() -> None:
    draw = np.random.default_rng(0)
    ppl, tokens = np.exp(draw.normal(5.0, 0.5, 600)), draw.integers(30, 257, 600)
    order, error = prefix_order(ppl, tokens, seed=0, prefixes=[tokens.sum() // 16, tokens.sum() // 4])
    assert sorted(order) == list(range(600))
    assert error < 0.1


def test_equal_perplexities_are_shuffled() -> None:
    order, error = prefix_order(np.full(20, 3.0), np.full(20, CHUNK), seed=0, prefixes=[2 * CHUNK])
    assert sorted(order) == list(range(20))
    assert error == 0.0


def test_a_prefix_below_one_chunk_is_refused() -> None:
    with pytest.raises(SelectionError, match="holds no chunk"):
        prefix_order(np.array([1.0, 2.0]), np.array([CHUNK, CHUNK]), seed=0, prefixes=[10])
