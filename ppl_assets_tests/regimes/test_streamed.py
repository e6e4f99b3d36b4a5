"""Chunks read block by block give the very subset that chunks in memory give."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.regimes.candidates import Candidates, SelectionError, StreamedCandidates, hashed
from ppl_assets.regimes.distribution import EXACT_CHUNKS, FloatArray
from ppl_assets.regimes.drawn import Drawn, Target
from ppl_assets.regimes.members import WIDTHS
from ppl_assets.regimes.reachable import ReachableRegion
from ppl_assets.regimes.sampler import draw_tilt


def heavy_tailed(count: int, seed: int = 0) -> Candidates:
    """A log-normal body with one Pareto chunk in a hundred, of different lengths."""
    draw = np.random.default_rng(seed)
    ppl = np.exp(3.6 + 0.7 * draw.standard_normal(count))
    tail = draw.random(count) < 0.01
    ppl[tail] = 60 * (1 + draw.pareto(1.2, int(tail.sum())))
    return Candidates(ppl, draw.integers(32, 513, count), draw.integers(0, 2**63, count).astype(np.uint64))


def streamed(candidates: Candidates, batch: int, order: np.ndarray | None = None) -> StreamedCandidates:
    """The same chunks in batches, in another order of the rows where one is given."""
    order = np.arange(candidates.count) if order is None else order

    def read() -> Iterator[tuple[FloatArray, np.ndarray, np.ndarray]]:
        for begin in range(0, candidates.count, batch):
            rows = order[begin : begin + batch]
            yield candidates.ppl[rows], candidates.tokens[rows], candidates.key[rows]

    return StreamedCandidates(read)


def assert_same(first: Drawn, second: Drawn) -> None:
    """Same chunks in the same order, and every figure and sentence the same to the last bit."""
    np.testing.assert_array_equal(first.members.key, second.members.key)
    for name in Drawn.__dataclass_fields__:
        if name != "members":
            assert getattr(first, name) == getattr(second, name), name


SMALL, LARGE = heavy_tailed(3000), heavy_tailed(3 * EXACT_CHUNKS)
TARGETS = {
    "interior": (45.0, 30.0),
    "with_the_tail": (70.0, 150.0),
    "out_of_reach": (20.0, 2.0),
    "one_value": (37.0, 1.0),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("candidates", [SMALL, LARGE], ids=["atoms", "cells"])
def test_batches_in_any_order_give_the_subset_of_one_array(candidates: Candidates, name: str) -> None:
    target = Target(*TARGETS[name], candidates.total_tokens // 10)
    expected = draw_tilt(candidates, target, seed=5)
    shuffled = np.random.default_rng(1).permutation(candidates.count)
    for batch, order in ((candidates.count // 37, None), (candidates.count // 50, shuffled)):
        assert_same(draw_tilt(streamed(candidates, batch, order), target, seed=5), expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 900), st.integers(0, 2**32 - 1), st.floats(1e-4, 1.5), st.integers(0, 2**32 - 1))
def test_whatever_the_batch_order_and_budget(batch: int, shuffle: int, share: float, seed: int) -> None:
    candidates = heavy_tailed(900, seed)
    order = np.random.default_rng(shuffle).permutation(candidates.count)
    tokens = max(candidates.shortest, int(share * candidates.total_tokens))
    target = Target(50.0, 40.0, tokens)
    assert_same(
        draw_tilt(streamed(candidates, batch, order), target, seed=seed), draw_tilt(candidates, target, seed=seed)
    )


def test_positions_are_those_in_the_stream() -> None:
    order = np.random.default_rng(2).permutation(SMALL.count)
    drawn = draw_tilt(streamed(SMALL, 70, order), Target(45.0, 30.0, SMALL.total_tokens // 5), seed=1)
    np.testing.assert_array_equal(SMALL.key[order][drawn.index], drawn.members.key)
    np.testing.assert_array_equal(SMALL.ppl[order][drawn.index], drawn.members.ppl)


def test_thresholds_choose_what_sorting_everything_would(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(45.0, 30.0, LARGE.total_tokens // 10)
    by_threshold = draw_tilt(LARGE, target, seed=3)
    monkeypatch.setattr("ppl_assets.regimes.members.WIDTHS", WIDTHS[-1:])
    assert_same(draw_tilt(LARGE, target, seed=3), by_threshold)


def test_thresholds_that_do_not_suffice_are_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(45.0, 30.0, LARGE.total_tokens // 10)
    by_threshold = draw_tilt(LARGE, target, seed=3)
    monkeypatch.setattr("ppl_assets.regimes.members.WIDTHS", (0.01, *WIDTHS))
    assert draw_tilt(LARGE, target, seed=3).aim_objective < 1e-10
    np.testing.assert_array_equal(draw_tilt(LARGE, target, seed=3).members.key, by_threshold.members.key)


def test_what_cannot_be_reached_is_said_from_a_stream_too() -> None:
    drawn = draw_tilt(streamed(LARGE, 9999), Target(20.0, 2.0, LARGE.total_tokens // 2), seed=1)
    assert not drawn.is_reachable
    assert drawn.distance > 0.1
    assert f"becomes reachable at {drawn.reachable_tokens} tokens" in drawn.message
    again = draw_tilt(streamed(LARGE, 9999), Target(20.0, 2.0, drawn.reachable_tokens), seed=1)
    assert again.is_reachable


def test_the_heaviest_chunks_of_a_stream_are_exact() -> None:
    """Where one chunk dominates, cells must not blur it: the region's ends are those of the sorted scores."""
    region = ReachableRegion.at_share(streamed(LARGE, 5000), LARGE.total_tokens / LARGE.count * 10)
    chunks = LARGE.count * 10 / LARGE.count
    highest = np.sort(LARGE.ppl)[-int(chunks) :]
    assert region.mu_range[1] == pytest.approx(highest.mean(), rel=1e-7)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_cells_bound_the_region_as_sorted_scores_do(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = ReachableRegion.at_share(Candidates(LARGE.ppl, LARGE.tokens, LARGE.key), share * LARGE.total_tokens)
    outline = cells.boundary(17)
    monkeypatch.setattr("ppl_assets.regimes.distribution.EXACT_CHUNKS", LARGE.count)
    exact = ReachableRegion.at_share(Candidates(LARGE.ppl, LARGE.tokens, LARGE.key), share * LARGE.total_tokens)
    assert exact.scores.lookup is None
    low, high = exact.sigma_bounds(outline[1:-1, 0])
    np.testing.assert_allclose(outline[1:-1, 1], low, rtol=1e-4)
    np.testing.assert_allclose(outline[1:-1, 2], high, rtol=1e-6)
    assert (cells.scores.mu, cells.scores.sigma) == pytest.approx((exact.scores.mu, exact.scores.sigma), rel=1e-8)


@pytest.mark.parametrize(
    ("ppl", "tokens", "words"),
    [([], [], "no candidate"), ([1.0, np.nan], [1, 1], "1 of 2"), ([1.0, 2.0], [1, 0], "0 tokens")],
)
def test_bad_chunks_in_a_stream_are_refused_with_the_reason(ppl: list[float], tokens: list[int], words: str) -> None:
    batch = (np.array(ppl), np.array(tokens, np.int64), np.arange(len(ppl), dtype=np.uint64))
    with pytest.raises(SelectionError, match=words):
        draw_tilt(StreamedCandidates(lambda: iter([batch])), Target(1.0, 1.0, 1), seed=0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), unique=True, min_size=1), st.integers(-(2**70), 2**70))
def test_hashes_of_distinct_keys_are_distinct(keys: list[int], seed: int) -> None:
    assert np.unique(hashed(np.array(keys, np.uint64), seed)).size == len(keys)
