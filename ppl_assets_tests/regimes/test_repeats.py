"""Chunks taken several times: at most as often as asked, at the same moments, and only where asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.regimes.candidates import Candidates, StreamedCandidates
from ppl_assets.regimes.drawn import Target
from ppl_assets.regimes.limits import Limit, taken_tokens
from ppl_assets.regimes.ordering import prefix_error, prefix_order
from ppl_assets.regimes.repeats import Repeated, repeated_in_memory
from ppl_assets.regimes.sampler import draw_tilt
from ppl_assets.subset.selection import SELECTIONS, SelectionOptions, select

LENGTHS = (20, 65)


def lognormal(count: int) -> Candidates:
    draw = np.random.default_rng(0)
    key = draw.integers(0, 2**63, count).astype(np.uint64)
    group = (draw.random(count) < 0.5).astype(np.int16)
    return Candidates(np.exp(4.5 + 0.6 * draw.standard_normal(count)), draw.integers(*LENGTHS, count), key, group)


CANDIDATES = lognormal(600)


def target_of(share: float) -> Target:
    return Target(100.0, 50.0, int(share * CANDIDATES.total_tokens))


@pytest.mark.parametrize("name", SELECTIONS)
@settings(max_examples=4, deadline=None)
@given(share=st.floats(0.1, 3.5), repeats=st.integers(1, 3), seed=st.integers(0, 9))
def test_no_chunk_is_taken_more_often_than_asked(name: str, share: float, repeats: int, seed: int) -> None:
    target, options = target_of(share), SelectionOptions(repeats=repeats)
    drawn = select(name, CANDIDATES, target, seed=seed, options=options)
    chunks, times = np.unique(drawn.index, return_counts=True)
    assert times.max() <= repeats
    most = min(target.tokens, repeats * CANDIDATES.total_tokens)
    assert most - CANDIDATES.longest < drawn.tokens <= target.tokens
    assert drawn.tokens == CANDIDATES.tokens[drawn.index].sum()
    assert drawn.mu == pytest.approx(CANDIDATES.ppl[drawn.index].mean())
    assert drawn.repeated_tokens == drawn.tokens - CANDIDATES.tokens[chunks].sum()
    assert ("are repetitions" in drawn.message) == (drawn.repeated_tokens > 0)
    assert np.unique(drawn.members.key).size == drawn.chunks


@pytest.mark.parametrize("share", [0.3, 1.0, 1.8])
def test_moments_are_met_with_repetition(share: float) -> None:
    drawn = select("tilt", CANDIDATES, target_of(share), seed=1, options=SelectionOptions(repeats=3))
    assert drawn.is_reachable
    assert drawn.objective <= 1e-8


def test_once_is_what_it_was() -> None:
    target = target_of(0.4)
    drawn = select("tilt", CANDIDATES, target, seed=1, options=SelectionOptions(repeats=1))
    plain = draw_tilt(CANDIDATES, target, seed=1)
    np.testing.assert_array_equal(drawn.index, plain.index)
    assert drawn.message == plain.message


@pytest.mark.parametrize("name", ["random", "lowest", "highest", "middle", "gaussian"])
def test_a_rival_repeats_nothing_before_everything_was_taken(name: str) -> None:
    options = SelectionOptions(repeats=3)
    below = select(name, CANDIDATES, target_of(0.9), seed=1, options=options)
    assert below.repeated_tokens == 0
    np.testing.assert_array_equal(below.index, select(name, CANDIDATES, target_of(0.9), seed=1).index)
    above = select(name, CANDIDATES, target_of(1.5), seed=1, options=options)
    assert np.unique(above.index).size == CANDIDATES.count


def test_copies_are_the_same_read_in_batches_and_in_memory() -> None:
    arrays = (CANDIDATES.ppl, CANDIDATES.tokens, CANDIDATES.key, CANDIDATES.group)
    streamed = Repeated(StreamedCandidates(lambda: iter([arrays])), 3)
    loaded = repeated_in_memory(CANDIDATES, 3)
    assert streamed.survey == loaded.survey
    np.testing.assert_array_equal(streamed.distribution.chunks, loaded.distribution.chunks)
    assert np.unique(loaded.key).size == loaded.count
    first, second = (draw_tilt(source, target_of(1.5), seed=2) for source in (streamed, loaded))
    np.testing.assert_array_equal(first.index, second.index)


def test_limits_hold_with_repetition() -> None:
    options = SelectionOptions(repeats=2, limits=[Limit("a", least=0.8)])
    target = target_of(0.9)
    drawn = select("tilt", CANDIDATES, target, seed=2, options=options)
    assert drawn.repeated_tokens > 0
    assert taken_tokens(CANDIDATES, drawn.index, 2)[1] >= 0.8 * target.tokens - CANDIDATES.longest


def test_prefixes_of_the_order_have_the_moments_with_copies_in_it() -> None:
    drawn = select("tilt", CANDIDATES, target_of(1.5), seed=2, options=SelectionOptions(repeats=3))
    prefixes = [drawn.tokens // 16, drawn.tokens // 4]
    order, error = prefix_order(drawn.members.ppl, drawn.members.tokens, seed=2, prefixes=prefixes)
    assert error < 0.01
    assert prefix_error(drawn.members.ppl[order], drawn.members.tokens[order], prefixes) == error
    taken = drawn.index[order]
    assert np.mean(taken[1:] == taken[:-1]) < 0.01
