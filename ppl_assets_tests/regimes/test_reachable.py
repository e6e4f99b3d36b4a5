"""What a subset of a given size can reach, and what it cannot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from ppl_assets.regimes.candidates import Candidates, SelectionError
from ppl_assets.regimes.reachable import ReachableRegion, budget_reaching


def lognormal(count: int, spread: float = 0.8, seed: int = 0) -> Candidates:
    draw = np.random.default_rng(seed)
    ppl = np.exp(4.5 + spread * draw.standard_normal(count))
    return Candidates(ppl, np.full(count, 100), draw.integers(0, 2**63, count).astype(np.uint64))


@pytest.mark.parametrize("share", [0.07, 0.3, 0.85])
def test_bounds_agree_with_a_linear_program(share: float) -> None:
    candidates = lognormal(60)
    region = ReachableRegion.at_share(candidates, share * candidates.total_tokens)
    x = candidates.ppl
    low, high = region.mu_range
    for mu in np.linspace(low, high, 7)[1:-1]:
        least, greatest = region.sigma_bounds(mu)
        equal = np.vstack([np.ones(60), x])
        right = [region.chunks, region.chunks * mu]
        for sign, bound in ((1, least), (-1, greatest)):
            solved = linprog(sign * (x - mu) ** 2, A_eq=equal, b_eq=right, bounds=(0, 1))
            assert np.sqrt(sign * solved.fun / region.chunks) == pytest.approx(float(bound), rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 80), st.integers(0, 2**32 - 1), st.booleans())
def test_every_subset_lies_inside(count: int, seed: int, with_ties: bool) -> None:
    draw = np.random.default_rng(seed)
    ppl = np.exp(draw.normal(3, 1.5, count))
    ppl = np.ceil(ppl) if with_ties else ppl
    candidates = Candidates(ppl, np.full(count, 7), np.arange(count, dtype=np.uint64))
    taken = draw.permutation(count)[: draw.integers(1, count + 1)]
    region = ReachableRegion.at_share(candidates, 7 * taken.size)
    assert region.contains(ppl[taken].mean(), ppl[taken].std())


def test_the_whole_corpus_reaches_its_own_moments_only() -> None:
    candidates = lognormal(50)
    region = ReachableRegion.at_share(candidates, candidates.total_tokens)
    assert region.contains(candidates.mu, candidates.sigma)
    assert not region.contains(candidates.mu * 1.01, candidates.sigma)


def test_outside_the_mean_range_there_are_no_bounds() -> None:
    region = ReachableRegion.at_share(lognormal(50), 500)
    assert np.isnan(region.sigma_bounds([1e-3, 1e9])).all()


def test_the_nearest_point_is_inside_and_no_random_inner_point_is_nearer() -> None:
    region = ReachableRegion.at_share(lognormal(500), 10_000)
    mu, sigma, distance = region.nearest(300.0, 1.0, 0.02)
    assert region.contains(mu, sigma, 0.02)
    levels = np.exp(np.random.default_rng(1).uniform(*np.log(region.inner_mu_range(0.02)), 4000))
    low, high = region.inner_bounds(levels, 0.02)
    others = np.hypot(np.log(levels / 300.0), np.log(np.clip(1.0, low, high)))
    assert distance <= others.min() + 1e-6


def test_a_point_inside_is_its_own_nearest() -> None:
    candidates = lognormal(500)
    region = ReachableRegion.at_share(candidates, 10_000)
    assert region.nearest(candidates.mu, candidates.sigma, 0.02) == (candidates.mu, candidates.sigma, 0.0)


def test_the_boundary_encloses_the_corpus_mean() -> None:
    region = ReachableRegion.at_share(lognormal(500), 10_000)
    outline = region.boundary(33)
    assert outline.shape == (33, 3)
    assert (outline[:, 1] <= outline[:, 2]).all()
    assert outline[0, 0] < region.scores.mu < outline[-1, 0]


def test_the_budget_that_reaches_a_target_is_the_largest() -> None:
    candidates = lognormal(400)
    mu, sigma = 50.0, 20.0
    budget = budget_reaching(candidates, mu, sigma)
    assert 0 < budget < candidates.total_tokens
    assert ReachableRegion.at_share(candidates, budget).contains(mu, sigma)
    assert not ReachableRegion.at_share(candidates, budget + 2).contains(mu, sigma)


def test_what_no_budget_reaches_is_zero() -> None:
    assert budget_reaching(lognormal(400), 1.0, 20.0) == 0


@pytest.mark.parametrize(
    ("ppl", "tokens", "words"),
    [
        ([], [], "no candidate"),
        ([1.0, np.nan], [1, 1], "1 of 2"),
        ([1.0, -2.0], [1, 1], "1 of 2"),
        ([1.0], [0], "0 tokens"),
        ([1.0, 2.0], [1], "shapes"),
    ],
)
def test_bad_candidates_are_refused_with_the_reason(ppl: list[float], tokens: list[int], words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        Candidates(np.array(ppl), np.array(tokens, np.int64), np.arange(len(ppl), dtype=np.uint64))
