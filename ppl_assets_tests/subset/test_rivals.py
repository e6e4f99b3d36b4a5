"""What each rival takes."""

import numpy as np

from ppl_assets.regimes.candidates import Candidates
from ppl_assets.regimes.drawn import Target
from ppl_assets.subset import rivals

COUNT = 1000
PPL = np.random.default_rng(0).permutation(np.arange(1.0, COUNT + 1))
CANDIDATES = Candidates(PPL, np.full(COUNT, 10), np.arange(COUNT, dtype=np.uint64))
TARGET = Target(300.0, 40.0, 1005)


def taken(index: np.ndarray) -> list[float]:
    return sorted(PPL[index].tolist())


def test_lowest_takes_the_lowest() -> None:
    assert taken(rivals.lowest(CANDIDATES, TARGET, 0)) == list(range(1, 101))


def test_highest_takes_the_highest() -> None:
    assert taken(rivals.highest(CANDIDATES, TARGET, 0)) == list(range(901, 1001))


def test_middle_takes_the_ranks_around_the_median() -> None:
    assert taken(rivals.middle(CANDIDATES, TARGET, 0)) == list(range(451, 551))


def test_random_is_like_the_corpus_and_changes_with_the_seed() -> None:
    first, second = rivals.random(CANDIDATES, TARGET, 0), rivals.random(CANDIDATES, TARGET, 1)
    assert first.size == 100
    assert abs(PPL[first].mean() - 500.5) < 4 * PPL.std() / 10
    assert set(first) != set(second)


def test_gaussian_gathers_around_the_target_mean() -> None:
    index = rivals.gaussian(CANDIDATES, TARGET, 0)
    assert index.size == 100
    assert abs(PPL[index].mean() - 300.0) < 15
    assert 25 < PPL[index].std() < 60


def test_ties_are_broken_by_key_and_not_by_row() -> None:
    keys = np.arange(50, dtype=np.uint64)
    shuffled = np.random.default_rng(1).permutation(50)
    ties = np.full(50, 3.0)
    one = Candidates(ties, np.full(50, 10), keys)
    two = Candidates(ties, np.full(50, 10), keys[shuffled])
    for rival in (rivals.random, rivals.lowest, rivals.highest, rivals.middle, rivals.gaussian):
        first, second = rival(one, Target(3.0, 1.0, 100), 0), rival(two, Target(3.0, 1.0, 100), 0)
        assert set(keys[first]) == set(keys[shuffled][second]), rival.__name__
