"""A subset of another kind than the trials is noticed, one of their kind is not, whatever its size."""

import numpy as np
import pytest

from ppl_assets.regimes.candidates import Candidates
from ppl_assets.regimes.drawn import Target
from ppl_assets.subset.kind import Shape, kind_of
from ppl_assets.subset.selection import select

TRIAL = 32_000


@pytest.fixture(scope="module")
def candidates():
    rng = np.random.default_rng(3)
    ppl = np.exp(rng.normal(5.0, 0.6, 20_000))
    return Candidates(ppl, np.full(ppl.size, 64), rng.integers(2**63, size=ppl.size, dtype=np.uint64))


def drawn(candidates, name, tokens, mu=160.0, sigma=60.0):
    return select(name, candidates, Target(mu, sigma, tokens), seed=1).members.ppl


@pytest.mark.parametrize("tokens", [TRIAL // 2, TRIAL, 4 * TRIAL])
def test_a_tilt_of_any_size_that_leaves_room_is_of_the_trials_kind(candidates, tokens):
    kind = kind_of(candidates, drawn(candidates, "tilt", tokens), TRIAL, 7)
    assert kind.is_known
    assert kind.sentence.startswith("The subset is of the kind that the trials were")


def test_the_two_spikes_of_the_greedy_selection_are_another_kind(candidates):
    ppl = drawn(candidates, "greedy_dos", TRIAL)
    assert ppl.mean() == pytest.approx(160.0, rel=1e-3)  # its moments are right, and yet
    kind = kind_of(candidates, ppl, TRIAL, 7)
    assert not kind.is_known
    assert kind.own.kl_nats > kind.trial.kl_nats + 0.5
    assert "what it has not seen" in kind.sentence


def test_a_large_share_of_the_corpus_is_another_kind_than_a_small_one(candidates):
    # With 60 % of all chunks at so low a mean most of the lower half is certain to be in: an edge, no tail.
    ppl = drawn(candidates, "tilt", int(0.6 * candidates.total_tokens), mu=120.0, sigma=45.0)
    assert not kind_of(candidates, ppl, TRIAL, 7).is_known


def test_a_sample_of_the_corpus_has_its_skewness_and_no_divergence(candidates):
    own = Shape.of(candidates, np.random.default_rng(0).permutation(candidates.ppl)[:5000])
    z = (candidates.ppl - candidates.ppl.mean()) / candidates.ppl.std()
    assert own.skewness == pytest.approx(np.mean(z**3), rel=0.2)
    assert abs(own.kl_nats) < 0.005


def test_without_spread_or_room_there_is_nothing_to_compare(candidates):
    assert kind_of(candidates, np.full(10, 150.0), TRIAL, 7) is None
    assert kind_of(candidates, candidates.ppl[:100], candidates.total_tokens, 7) is None
