"""Every measured prefix of the training order is like the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.regimes.ordering import prefix_errors, prefix_order, steady_tokens
from ppl_assets.trials.runner import _steps

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


@settings(max_examples=25, deadline=None)
@given(st.integers(256, 2500), st.floats(0.15, 0.9), st.integers(0, 2**32 - 1), st.booleans())
def test_every_prefix_from_the_shortest_measured_one_on_is_within_one_percent_and_what_one_chunk_moves(
    count: int, spread: float, seed: int, of_one_length: bool
) -> None:
    # The chunk farthest from the mean, u deviations away, moves the moments of the n chunks that it joins by about
    # (u^2 + 1) / 2n (deviation) and u sigma / mu / n (mean): in any order, the prefix before it or the one after it is
    # off by half of that. This order keeps 1 % and three quarters of it, at every length and not only measured ones.
    draw = np.random.default_rng(seed)
    ppl = np.exp(draw.normal(5.0, spread, count))
    ppl = ppl[np.abs(ppl - ppl.mean()) <= 4.0 * ppl.std()]
    tokens = np.full(ppl.size, CHUNK) if of_one_length else draw.integers(CHUNK // 2, CHUNK + 1, ppl.size)
    prefixes = [int(share * tokens.sum()) for share in np.geomspace(1 / 16, 1, 7)]
    order, _ = prefix_order(ppl, tokens, seed=seed, prefixes=prefixes)
    ordered, reached = ppl[order], np.cumsum(tokens[order])
    counts = np.arange(1, ppl.size + 1)
    farthest = float(np.abs(ppl - ppl.mean()).max() / ppl.std())
    one_chunk = np.maximum((farthest**2 + 1) / 2, farthest * ppl.std() / ppl.mean()) / counts
    allowed = 0.01 + 0.75 * one_chunk
    assert (prefix_errors(ordered) <= allowed)[reached >= prefixes[0]].all()
    steady = steady_tokens(ordered, tokens[order], 0.01)
    assert (prefix_errors(ordered)[reached >= steady] <= 0.01).all()
    first_allowed = int(np.argmax(0.75 * one_chunk <= 0.002))  # so long that one chunk hardly moves it
    if first_allowed:
        assert (prefix_errors(ordered)[first_allowed:] <= 0.012).all()


def test_a_long_trial_is_steady_from_a_small_part_of_it_on() -> None:
    ppl = np.exp(np.random.default_rng(3).normal(5.0, 0.5, 8000))
    ppl = ppl[np.abs(ppl - ppl.mean()) <= 4.0 * ppl.std()]
    tokens = np.full(ppl.size, CHUNK)
    order, _ = prefix_order(ppl, tokens, seed=3, prefixes=log_spaced(ppl.size))
    assert steady_tokens(ppl[order], tokens, 0.01) < 0.15 * tokens.sum()


def test_the_steady_length_is_where_the_last_prefix_is_off() -> None:
    ppl = np.array([1.0, 3.0, 1.0, 3.0, 1.0, 3.0])
    errors = prefix_errors(ppl)
    assert errors[[1, 3, 5]] == pytest.approx(0, abs=1e-12)
    assert errors[[0, 2, 4]].min() > 0.01
    assert steady_tokens(ppl, np.full(6, 10), 0.01) == 60
    assert steady_tokens(np.full(6, 2.0), np.full(6, 10), 0.01) == 10


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


def test_a_prefix_below_one_chunk_is_the_first_chunk() -> None:
    order, error = prefix_order(np.array([1.0, 3.0]), np.array([CHUNK, CHUNK]), seed=0, prefixes=[10])
    assert sorted(order) == [0, 1]
    assert error == 1.0  # one chunk has no spread


@settings(max_examples=40, deadline=None)
@given(st.integers(200, 900), st.sampled_from([0.0, 0.01, 0.3]), st.integers(0, 2**32 - 1))
def test_what_is_balanced_is_what_a_run_has_seen_when_it_is_measured(count: int, short: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    ppl = np.exp(draw.normal(5.0, 0.5, count))
    ppl = ppl[np.abs(ppl - ppl.mean()) <= 4.0 * ppl.std()]
    tokens = np.where(draw.random(ppl.size) < short, draw.integers(20, 128, ppl.size), 128)
    batch = int(tokens.sum()) // 100
    prefixes = [batch * steps for steps in (6, 12, 25, 50)]
    order, error = prefix_order(ppl, tokens, seed=seed, prefixes=prefixes)
    ends = np.cumsum([len(step) for step in _steps(tokens[order].tolist(), batch, int(tokens.sum()))])
    reached = tokens[order].cumsum()
    for prefix in prefixes:
        seen = int(ends[np.argmax(reached[ends - 1] >= prefix)])  # chunks of the first step that reaches it
        part = ppl[order][:seen]
        assert abs(part.mean() / ppl.mean() - 1) <= error + 1e-12
        assert abs(part.std() / ppl.std() - 1) <= error + 1e-12
    assert error <= 0.012
