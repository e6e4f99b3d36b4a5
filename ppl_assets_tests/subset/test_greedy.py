"""The paper's greedy selection: the fast one picks what brute force picks."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.regimes.candidates import Candidates, SelectionError
from ppl_assets.regimes.drawn import Target
from ppl_assets.subset.greedy import Objective, greedy_dos, real_roots


def greedy_bruteforce(candidates: Candidates, target: Target, seed: int, rule: Objective) -> list[int]:
    """Compare every unused chunk at every step; ties to the lower perplexity, then to the smaller hash."""
    ranked = np.lexsort((candidates.uniforms(seed), candidates.ppl))
    u = ((candidates.ppl[ranked] - target.mu) / target.sigma).tolist()
    unused, picks, first, second, left = list(range(len(u))), [], 0.0, 0.0, target.tokens
    while unused:
        best = min(unused, key=lambda rank: (rule.after(u[rank], len(picks), first, second), rank))
        if candidates.tokens[ranked[best]] > left:
            break
        unused.remove(best)
        picks.append(int(ranked[best]))
        left -= int(candidates.tokens[ranked[best]])
        first, second = first + u[best], second + u[best] * u[best]
    return picks


@pytest.mark.parametrize("kind", ["relative", "paper"])
def test_picks_are_those_of_brute_force(kind: Literal["relative", "paper"]) -> None:
    for case in range(100):
        draw = np.random.default_rng(case)
        count = int(draw.integers(1, 60))
        ppl = np.exp(draw.normal(2.5, 1.0, count))
        ppl = np.ceil(ppl) if case % 2 else ppl
        tokens = draw.integers(1, 9, count) if case % 3 == 0 else np.full(count, 4)
        candidates = Candidates(ppl, tokens, draw.integers(0, 2**63, count).astype(np.uint64))
        target = Target(float(draw.uniform(5, 40)), float(draw.uniform(1, 30)), int(draw.integers(4, 4 * count + 5)))
        weights = (0.0, 1.0) if case % 10 == 0 else (1.0, 0.0) if case % 10 == 1 else (2.0, 0.5)
        rule = Objective.of(target, kind, *weights)
        fast = greedy_dos(candidates, target, case, objective=kind, w_mu=weights[0], w_sigma=weights[1])
        assert fast.tolist() == greedy_bruteforce(candidates, target, case, rule), f"case {case}"


ROOT = st.floats(-50, 50)


@settings(max_examples=200, deadline=None)
@given(ROOT, ROOT, ROOT)
def test_three_real_roots_are_found(a: float, b: float, c: float) -> None:
    found = real_roots(1.0, -(a + b + c), a * b + b * c + c * a, -a * b * c)
    gap = min(abs(a - b), abs(b - c), abs(c - a))
    if gap > 1e-2:
        np.testing.assert_allclose(sorted(found), sorted([a, b, c]), atol=1e-5)


def test_a_single_real_root_is_found() -> None:
    assert real_roots(1.0, 0.0, 1.0, -2.0) == pytest.approx([1.0])


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (0.0, 0.0)])
def test_weights_that_make_no_objective_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(SelectionError, match="weights"):
        Objective.of(Target(1.0, 1.0, 1), "paper", *weights)


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(SelectionError, match="use relative or paper"):
        Objective.of(Target(1.0, 1.0, 1), "square", 1.0, 1.0)  # type: ignore[arg-type]
