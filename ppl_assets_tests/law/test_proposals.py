"""Where the sequential mode may put a trial: wherever the optimum is looked for, and where one would settle it."""

import numpy as np
import polars as pl
import pytest

from benchmarks.truths import TOKENS
from ppl_assets.law.observations import Observations
from ppl_assets.law.proposals import _regimes, candidate_places
from ppl_assets.law.region import SearchRegion, everywhere
from ppl_assets.law.sequential import Pick, StopRule, next_step
from ppl_assets.regimes.design import Regime

FACES = [(m, s) for m in (150.0, 200.0, 270.0) for s in (70.0, 110.0, 170.0)]
TARGET = (420.0, 90.0)
"""The test set's own moments, far outside the faces."""

CORPUS = (180.0, 240.0)
PLACES = [*FACES, FACES[4], FACES[4], CORPUS, TARGET]
NAMES = [*(f"grid-{row}{column}" for row in range(3) for column in range(3)), "centre", "centre", "corpus", "target"]
NAMES[4] = "centre"
ASKED = pl.DataFrame(
    {"regime": NAMES, "mu_target": [m for m, _ in PLACES], "sigma_target": [s for _, s in PLACES]},
)
GRID = [Regime(f"next-{m}{s}", 150 * 1.8 ** (m / 8), 70 * 2.43 ** (s / 8)) for m in range(9) for s in range(9)]
REGION = SearchRegion(*np.array(PLACES).T)


def offered(reachable=everywhere, further=None) -> np.ndarray:
    return candidate_places(ASKED, GRID, REGION, reachable, further)


def has(places: np.ndarray, at: tuple[float, float]) -> bool:
    return bool((np.hypot(*np.log(places / np.array(at)).T) < 1e-6).any())


def test_every_place_tried_can_be_tried_again_the_anchors_too():
    assert all(has(offered(), place) for place in PLACES)


def test_no_place_is_offered_twice():
    places = offered()
    assert len(np.unique(places.round(6), axis=0)) == len(places)


def test_places_are_offered_all_over_the_region_where_the_optimum_is_looked_for():
    u, v = REGION.points
    places = np.log(offered())
    nearest = np.hypot(u[:, None] - places[:, 0], v[:, None] - places[:, 1]).min(axis=1)
    assert nearest.max() < 0.12


def test_what_a_trial_cannot_have_is_not_offered():
    places = offered(lambda mu, _sigma: mu < 300)
    assert has(places, TARGET)  # it has been drawn
    assert (places[:, 0] < 300).sum() == len(places) - 1


@pytest.mark.parametrize(("further", "is_offered"), [((600.0, 60.0), True), ((90.0, 60.0), False)])
def test_the_trial_that_would_settle_an_edge_is_offered_where_it_can_be_had(further, is_offered):
    assert has(offered(lambda mu, _sigma: mu > 100, further), further) is is_offered


def test_an_optimum_beside_an_anchor_draws_trials_to_it():
    mu, sigma = np.repeat(np.array(PLACES), len(TOKENS), axis=0).T
    tokens, run = np.tile(TOKENS, len(PLACES)), np.repeat(np.arange(len(PLACES)), len(TOKENS))
    g = -0.5 * np.log(mu / 400.0) ** 2 - 0.5 * np.log(sigma / 95.0) ** 2
    rng = np.random.default_rng(0)
    noise = 0.004 * rng.standard_normal(len(PLACES))[run] + 0.002 * rng.standard_normal(len(run))
    loss = (3.5 + 1.5 / (1 + np.exp(-5.0 + g + 0.5 * np.log(tokens)))) * np.exp(noise)
    obs = Observations(mu, sigma, tokens, loss, run, 5.0, np.array(NAMES)[run])
    step = next_step(obs, REGION, offered(), list(TOKENS), float(TOKENS[-1]), rule=StopRule(1e-9, 1e-9))
    assert any(pick.mu > 1.1 * FACES[-1][0] for pick in step.picks)


def test_a_repeated_anchor_keeps_its_name_and_a_new_place_gets_one_of_its_own():
    picks = (Pick(*TARGET, 0.1), Pick(330.0, 95.0, 0.1), Pick(330.0, 95.0, 0.1), Pick(340.0, 95.0, 0.1))
    found = [(regime.name, regime.replicate) for regime in _regimes(picks, GRID, ASKED)]
    number = ASKED.height + 2
    assert found == [("target", 1), (f"place-{number}", 0), (f"place-{number}", 1), (f"place-{number + 2}", 0)]
