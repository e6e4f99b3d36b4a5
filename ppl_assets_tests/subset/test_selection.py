"""One interface to every selection."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.regimes.candidates import Candidates, SelectionError
from ppl_assets.regimes.drawn import Target
from ppl_assets.sections import STRATEGIES
from ppl_assets.subset.selection import SELECTIONS, SelectionOptions, select


def lognormal(count: int, lengths: tuple[int, int] = (64, 65)) -> Candidates:
    draw = np.random.default_rng(0)
    ppl = np.exp(4.5 + 0.6 * draw.standard_normal(count))
    return Candidates(ppl, draw.integers(*lengths, count), draw.integers(0, 2**63, count).astype(np.uint64))


CANDIDATES = lognormal(800)
TARGET = Target(100.0, 40.0, 200 * 64)


def test_every_strategy_of_a_study_can_be_drawn() -> None:
    assert set(STRATEGIES) <= set(SELECTIONS)


@pytest.mark.parametrize("name", SELECTIONS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.01, 1.2))
def test_every_selection_fills_the_budget_once_and_deterministically(name: str, seed: int, share: float) -> None:
    candidates = lognormal(300, (20, 65))
    budget = int(share * candidates.total_tokens) + candidates.longest
    target = Target(100.0, 40.0, budget)
    drawn, again = (select(name, candidates, target, seed=seed) for _ in range(2))
    assert min(budget, candidates.total_tokens) - candidates.longest < drawn.tokens <= budget
    assert np.unique(drawn.index).size == drawn.chunks
    np.testing.assert_array_equal(drawn.index, again.index)


@pytest.mark.parametrize("name", SELECTIONS)
def test_no_selection_depends_on_the_order_of_the_rows(name: str) -> None:
    shuffled = np.random.default_rng(1).permutation(CANDIDATES.count)
    other = Candidates(CANDIDATES.ppl[shuffled], CANDIDATES.tokens[shuffled], CANDIDATES.key[shuffled])
    first, second = (select(name, given, TARGET, seed=3) for given in (CANDIDATES, other))
    np.testing.assert_array_equal(CANDIDATES.key[first.index], other.key[second.index])


def test_the_method_decides_how_selected_is_drawn() -> None:
    tilt = select("selected", CANDIDATES, TARGET, seed=1)
    greedy = select("selected", CANDIDATES, TARGET, seed=1, options=SelectionOptions(method="greedy_dos"))
    assert (tilt.status, greedy.status) == ("tilt", "greedy_dos")
    assert greedy.objective < 1e-3


def test_figures_are_those_of_the_chunks() -> None:
    drawn = select("lowest", CANDIDATES, TARGET, seed=1)
    ppl = CANDIDATES.ppl[drawn.index]
    assert (drawn.mu, drawn.sigma) == (ppl.mean(), ppl.std())
    assert drawn.objective == pytest.approx(((drawn.mu - 100) / 40) ** 2 + ((drawn.sigma / 40) ** 2 - 1) ** 2)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SelectionError, match="'best' is not known; use one of selected, redrawn, tilt"):
        select("best", CANDIDATES, TARGET, seed=1)


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_budget_below_one_chunk_is_refused(name: str) -> None:
    with pytest.raises(SelectionError, match="below one chunk"):
        select(name, CANDIDATES, Target(100.0, 40.0, 10), seed=1)
