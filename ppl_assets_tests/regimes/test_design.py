"""The trial design: where it puts regimes, and what a trial is called."""

import re

import numpy as np
import pytest

from ppl_assets.regimes.candidates import Candidates, SelectionError
from ppl_assets.regimes.design import Regime, build_trials, face_grid, open_places
from ppl_assets.regimes.reachable import ReachableRegion

CHUNK = 256
TOKENS = 256 * CHUNK
PREFIXES = [16 * CHUNK, 64 * CHUNK, TOKENS]


def lognormal(count: int = 3000, spread: float = 0.8, seed: int = 0) -> Candidates:
    draw = np.random.default_rng(seed)
    ppl = np.exp(4.5 + spread * draw.standard_normal(count))
    return Candidates(ppl, np.full(count, CHUNK), draw.integers(0, 2**63, count).astype(np.uint64))


CANDIDATES = lognormal()
REGION = ReachableRegion.at_share(CANDIDATES, TOKENS)


def test_a_grid_has_a_centre_and_its_repeats() -> None:
    regimes = face_grid(REGION, CANDIDATES, TOKENS, grid=3, repeats=2)
    assert [regime.name for regime in regimes].count("centre") == 3
    assert len(regimes) == 11
    assert {regime.replicate for regime in regimes if regime.name == "centre"} == {0, 1, 2}


def test_an_even_grid_gets_a_centre_of_its_own() -> None:
    assert len(face_grid(REGION, CANDIDATES, TOKENS, grid=4, repeats=0)) == 17


@pytest.mark.parametrize("grid", [2, 3])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.6])
def test_every_regime_is_inside_by_the_margin(grid: int, share: float) -> None:
    tokens = share * CANDIDATES.total_tokens
    region = ReachableRegion.at_share(CANDIDATES, tokens)
    regimes = face_grid(region, CANDIDATES, int(tokens), grid, 0.02, anchors={"far": (1e4, 1.0)})
    assert all(region.contains(regime.mu, regime.sigma, 0.0199) for regime in regimes)


@pytest.mark.parametrize("quantiles", [(0.25, 0.75), (0.1, 0.6)])
def test_the_grid_lies_between_the_means_of_bands_centred_at_two_quantiles(quantiles: tuple[float, float]) -> None:
    levels = [regime.mu for regime in face_grid(REGION, CANDIDATES, TOKENS, quantiles=quantiles)]
    half = TOKENS / CANDIDATES.total_tokens / 2
    ranked = np.sort(CANDIDATES.ppl)
    for level, centre in zip((min(levels), max(levels)), quantiles, strict=True):
        band = ranked[int((centre - half) * len(ranked)) : int((centre + half) * len(ranked))]
        assert level == pytest.approx(band.mean(), rel=0.01)


def test_anchors_inside_are_kept_as_they_are() -> None:
    regimes = face_grid(REGION, CANDIDATES, TOKENS, anchors={"corpus": (CANDIDATES.mu, CANDIDATES.sigma)})
    assert regimes[-1] == Regime("corpus", CANDIDATES.mu, CANDIDATES.sigma)


def test_further_trials_can_repeat_the_grid_and_lie_between_its_faces() -> None:
    places = open_places(REGION, 0.02, 9)
    assert len(places) == 81
    assert len({place.name for place in places}) == 81
    found = np.array([(place.mu, place.sigma) for place in places])
    for regime in face_grid(REGION, CANDIDATES, TOKENS, grid=3, repeats=0):
        assert np.isclose(found, [regime.mu, regime.sigma], rtol=1e-6, atol=0).all(axis=1).any()
    assert all(REGION.contains(place.mu, place.sigma, 0.0199) for place in places)


def test_every_regime_is_measured_at_the_same_token_counts_so_none_aliases_with_them() -> None:
    trials = build_trials(CANDIDATES, face_grid(REGION, CANDIDATES, TOKENS), TOKENS, 5, PREFIXES)
    reached = [tuple(np.searchsorted(np.cumsum(CANDIDATES.tokens[trial.index]), PREFIXES)) for trial in trials]
    assert len(set(reached)) == 1
    assert all(trial.steady_tokens <= trial.tokens for trial in trials)


def test_trials_meet_their_regimes_and_keep_their_prefixes() -> None:
    regimes = face_grid(REGION, CANDIDATES, TOKENS)
    trials = build_trials(CANDIDATES, regimes, TOKENS, 5, PREFIXES)
    assert all(trial.objective < 1e-6 and trial.tokens == TOKENS for trial in trials)
    assert np.quantile([trial.prefix_error for trial in trials], 0.8) <= 0.01
    assert len({trial.name for trial in trials}) == len(trials)
    assert {trial.seed for trial in trials if trial.regime != "centre"} == {5}
    assert sorted(trial.seed for trial in trials if trial.regime == "centre") == [5, 6, 7, 8]


def test_a_name_says_regime_seed_and_subset_and_changes_with_the_subset_only() -> None:
    regime = Regime("grid-02", 100.0, 50.0)
    (first,) = build_trials(CANDIDATES, [regime], TOKENS, 5, PREFIXES)
    (again,) = build_trials(CANDIDATES, [regime], TOKENS, 5, PREFIXES)
    shuffled = np.random.default_rng(0).permutation(CANDIDATES.count)
    moved = Candidates(CANDIDATES.ppl[shuffled], CANDIDATES.tokens[shuffled], CANDIDATES.key[shuffled])
    (other_rows,) = build_trials(moved, [regime], TOKENS, 5, PREFIXES)
    (other_text,) = build_trials(lognormal(seed=1), [regime], TOKENS, 5, PREFIXES)
    assert first.name == again.name == other_rows.name != other_text.name
    assert re.fullmatch(r"grid-02-s5-[0-9a-f]{8}", first.name)
    assert first.subset_hash.startswith(first.name[-8:])


def test_trials_that_take_nearly_everything_are_refused() -> None:
    few = lognormal(260)
    with pytest.raises(SelectionError, match=r"lower trials\.tokens"):
        face_grid(ReachableRegion.at_share(few, TOKENS), few, TOKENS)


def test_an_anchor_that_cannot_be_a_partition_key_is_refused() -> None:
    with pytest.raises(SelectionError, match="'Test Set'"):
        face_grid(REGION, CANDIDATES, TOKENS, anchors={"Test Set": (100.0, 50.0)})
