"""The tilt: subsets with prescribed moments, by hash, whatever the order of the rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.regimes.candidates import Candidates, SelectionError
from ppl_assets.regimes.drawn import Drawn, Target
from ppl_assets.regimes.reachable import ReachableRegion
from ppl_assets.regimes.sampler import draw_tilt
from ppl_assets.subset.selection import select

CHUNK = 256


def lognormal(count: int, spread: float = 0.8, seed: int = 0) -> Candidates:
    draw = np.random.default_rng(seed)
    ppl = np.exp(4.5 + spread * draw.standard_normal(count))
    return Candidates(ppl, np.full(count, CHUNK), draw.integers(0, 2**63, count).astype(np.uint64))


def keys_of(candidates: Candidates, drawn: Drawn) -> set[int]:
    return set(candidates.key[drawn.index].tolist())


SMALL = lognormal(2000)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.5), st.floats(0.2, 0.8), st.floats(0.15, 0.7), st.integers(0, 9))
def test_interior_targets_are_met(share: float, across: float, up: float, seed: int) -> None:
    tokens = int(share * SMALL.count) * CHUNK
    region = ReachableRegion.at_share(SMALL, tokens)
    low, high = np.log(region.inner_mu_range(0.02))
    mu = float(np.exp(low + across * (high - low)))
    least, greatest = (np.log(bound) for bound in region.sigma_bounds(mu))
    drawn = draw_tilt(SMALL, Target(mu, float(np.exp(least + up * (greatest - least))), tokens), seed=seed)
    assert drawn.is_reachable
    assert drawn.objective <= 1e-6
    assert drawn.tokens == tokens
    assert np.unique(drawn.index).size == drawn.chunks


def test_a_large_corpus_is_met_to_a_hundred_thousandth() -> None:
    candidates = lognormal(200_000)
    for mu, sigma in ((80.0, 40.0), (150.0, 90.0), (candidates.mu, candidates.sigma)):
        drawn = draw_tilt(candidates, Target(mu, sigma, 20_000 * CHUNK), seed=3)
        assert drawn.objective <= 1e-10
        assert drawn.tokens == 20_000 * CHUNK
        assert drawn.status == "tilt"


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(SMALL.count)
    other = Candidates(SMALL.ppl[shuffled], SMALL.tokens[shuffled], SMALL.key[shuffled])
    target = Target(90.0, 50.0, 300 * CHUNK)
    first, second = draw_tilt(SMALL, target, seed=seed), draw_tilt(other, target, seed=seed)
    np.testing.assert_array_equal(SMALL.key[first.index], other.key[second.index])


def test_other_seeds_draw_other_subsets_of_the_same_moments() -> None:
    target = Target(90.0, 50.0, 300 * CHUNK)
    first, second = draw_tilt(SMALL, target, seed=1), draw_tilt(SMALL, target, seed=2)
    assert len(keys_of(SMALL, first) & keys_of(SMALL, second)) < 0.6 * first.chunks
    assert first.mu == pytest.approx(second.mu, rel=1e-4)


def test_a_larger_budget_keeps_what_a_smaller_one_took() -> None:
    candidates = lognormal(20_000)
    small = draw_tilt(candidates, Target(100.0, 60.0, 2000 * CHUNK), seed=1)
    large = draw_tilt(candidates, Target(100.0, 60.0, 3000 * CHUNK), seed=1)
    kept = len(keys_of(candidates, small) & keys_of(candidates, large))
    assert kept >= 0.95 * small.chunks


def test_it_stays_nearer_to_the_corpus_than_the_greedy_selection() -> None:
    target = Target(90.0, 50.0, 300 * CHUNK)
    greedy = select("greedy_dos", SMALL, target, seed=1)
    assert draw_tilt(SMALL, target, seed=1).kl_nats < greedy.kl_nats


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.6))
def test_chunks_of_different_length_fill_the_budget_within_one_chunk(seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    candidates = Candidates(SMALL.ppl, draw.integers(20, 257, SMALL.count), SMALL.key)
    budget = int(share * candidates.total_tokens)
    drawn = draw_tilt(candidates, Target(candidates.mu, candidates.sigma, budget), seed=0)
    assert budget - candidates.longest < drawn.tokens <= budget
    assert drawn.objective <= 1e-6


def test_a_target_held_by_one_outlier_is_drawn_without_it() -> None:
    candidates = lognormal(20_000, spread=1.0)
    drawn = draw_tilt(candidates, Target(40.0, 45.0, 6000 * CHUNK), seed=1)
    assert drawn.objective <= 1e-6


def test_an_unreachable_target_gives_the_nearest_point_and_says_what_would_reach_it() -> None:
    target = Target(30.0, 8.0, 1000 * CHUNK)
    drawn = draw_tilt(SMALL, target, seed=1)
    assert not drawn.is_reachable
    assert drawn.distance > 0.1
    assert drawn.aim_objective < 1e-3 < drawn.objective
    assert f"becomes reachable at {drawn.reachable_tokens} tokens" in drawn.message
    again = draw_tilt(SMALL, Target(30.0, 8.0, drawn.reachable_tokens), seed=1)
    assert again.is_reachable


def test_a_mean_outside_all_scores_says_that_no_budget_reaches_it() -> None:
    drawn = draw_tilt(SMALL, Target(1.0, 8.0, 1000 * CHUNK), seed=1)
    assert "no budget reaches it" in drawn.message


def test_a_budget_of_everything_takes_everything_and_says_so() -> None:
    drawn = draw_tilt(SMALL, Target(90.0, 50.0, 10**9), seed=1)
    assert drawn.chunks == SMALL.count
    assert drawn.kl_nats == pytest.approx(0.0)
    assert "every candidate" in drawn.message


def test_one_candidate_is_taken_when_the_budget_allows() -> None:
    one = Candidates(np.array([5.0]), np.array([CHUNK]), np.array([1], np.uint64))
    assert draw_tilt(one, Target(9.0, 2.0, CHUNK), seed=0).index.tolist() == [0]


def test_a_budget_of_one_chunk_takes_the_one_nearest_to_the_mean() -> None:
    drawn = draw_tilt(SMALL, Target(90.0, 50.0, CHUNK + 1), seed=0)
    assert drawn.index.tolist() == [int(np.argmin(np.abs(SMALL.ppl - 90.0)))]


@pytest.mark.parametrize("chunks", [2, 3, 5, 8])
def test_tiny_budgets_come_near(chunks: int) -> None:
    drawn = draw_tilt(SMALL, Target(90.0, 40.0, chunks * CHUNK), seed=0)
    assert drawn.chunks == chunks
    assert drawn.objective < 1e-4


def test_equal_perplexities_are_drawn_by_hash_and_it_says_so() -> None:
    constant = Candidates(np.full(50, 7.0), np.full(50, CHUNK), np.arange(50, dtype=np.uint64))
    drawn = draw_tilt(constant, Target(9.0, 2.0, 10 * CHUNK), seed=0)
    assert drawn.chunks == 10
    assert "same perplexity" in drawn.message


def test_a_budget_below_one_chunk_is_refused() -> None:
    with pytest.raises(SelectionError, match="below one chunk: the shortest candidate has 256 tokens"):
        draw_tilt(SMALL, Target(90.0, 50.0, 255), seed=0)


@pytest.mark.parametrize("values", [(0.0, 1.0, 10), (1.0, float("nan"), 10), (1.0, 1.0, 0), (1.0, 0.0, 10)])
def test_a_target_that_makes_no_sense_is_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(SelectionError, match="is not accepted"):
        Target(*values)
