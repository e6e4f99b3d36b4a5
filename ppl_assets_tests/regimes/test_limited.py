"""Shares of corpora within their limits: kept to a chunk, at the target's moments where they allow them."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from ppl_assets.regimes.candidates import Candidates, SelectionError, StreamedCandidates
from ppl_assets.regimes.drawn import Drawn, Target
from ppl_assets.regimes.limited import draw_limited
from ppl_assets.regimes.limited_tilt import Cells, nearest_limited, solve_limited
from ppl_assets.regimes.limits import Limit, OneGroup, taken_tokens
from ppl_assets.regimes.sampler import draw_tilt
from ppl_assets.regimes.tilt import Bins
from ppl_assets.subset.selection import SelectionOptions, select


def corpora(count: int, lengths: tuple[int, int] = (64, 65)) -> Candidates:
    """Three corpora of equal size, the later the harder."""
    draw = np.random.default_rng(0)
    group = draw.integers(0, 3, count).astype(np.int16)
    ppl = np.exp(4.2 + 0.3 * group + 0.6 * draw.standard_normal(count))
    key = draw.integers(0, 2**63, count).astype(np.uint64)
    return Candidates(ppl, draw.integers(*lengths, count), key, group)


EQUAL, RAGGED = corpora(3000), corpora(3000, (20, 65))


def shares(candidates: Candidates, drawn: Drawn) -> np.ndarray:
    return taken_tokens(candidates, drawn.index, 3) / drawn.tokens


@st.composite
def limits_of_two(draw: st.DrawFn) -> list[Limit]:
    least = [draw(st.floats(0.0, 0.5)), draw(st.floats(0.0, 0.45))]
    most = [draw(st.floats(low + 0.02, 1.0)) for low in least]
    return [Limit(name, low, high) for name, low, high in zip("ab", least, most, strict=True)]


def is_at_the_edge(candidates: Candidates, limits: list[Limit], drawn: Drawn) -> bool:
    """Whether a hundredth of a deviation beyond the target, the way that is missing to it, the limits allow nothing."""
    target = drawn.target
    missing = np.array([target.mu - drawn.mu, target.sigma - drawn.sigma])
    mu, sigma = np.array([target.mu, target.sigma]) + 0.01 * target.sigma * missing / np.linalg.norm(missing)
    return not draw_limited(candidates, Target(float(mu), float(sigma), target.tokens), limits, seed=0).is_reachable


@settings(max_examples=25, deadline=None)
@example([Limit("a", 0.0, 1.0), Limit("b", 0.0, 0.021484375)], EQUAL, 158.5, 35.0, 0)  # at the edge
@given(
    limits_of_two(), st.sampled_from([EQUAL, RAGGED]), st.floats(80.0, 160.0), st.floats(35.0, 90.0), st.integers(0, 9)
)
def test_limits_are_kept_to_within_a_chunk_and_the_budget_too(
    limits: list[Limit], candidates: Candidates, mu: float, sigma: float, seed: int
) -> None:
    target = Target(mu, sigma, candidates.total_tokens // 6)
    drawn = draw_limited(candidates, target, limits, seed=seed)
    taken, chunk = taken_tokens(candidates, drawn.index, 3), candidates.longest
    for limit, tokens in zip(limits, taken[1:], strict=True):
        assert limit.least * target.tokens - chunk < tokens < limit.most * target.tokens + chunk
    assert target.tokens - chunk < drawn.tokens <= target.tokens
    assert np.unique(drawn.index).size == drawn.chunks
    assert drawn.objective <= 1e-6 or not drawn.is_reachable or is_at_the_edge(candidates, limits, drawn)


@pytest.mark.parametrize("candidates", [EQUAL, RAGGED])
def test_limits_that_do_not_bind_change_nothing(candidates: Candidates) -> None:
    target = Target(110.0, 60.0, candidates.total_tokens // 5)
    free = draw_tilt(candidates, target, seed=3)
    limited = draw_limited(candidates, target, [Limit("a", 0.05, 0.9), Limit("b", 0.05, 0.9)], seed=3)
    np.testing.assert_array_equal(free.index, limited.index)
    assert free.message == limited.message
    without = select("tilt", candidates, target, seed=3, options=SelectionOptions())
    np.testing.assert_array_equal(free.index, without.index)


def test_moments_are_met_where_the_limits_allow_them() -> None:
    candidates = corpora(100_000, (20, 65))
    target = Target(110.0, 60.0, candidates.total_tokens // 5)
    drawn = draw_limited(candidates, target, [Limit("a", least=0.6), Limit("b", most=0.1)], seed=3)
    assert drawn.status == "limited"
    assert drawn.objective <= 1e-10
    assert shares(candidates, drawn) == pytest.approx([0.3, 0.6, 0.1], abs=1e-3)
    assert "Limits that moved the selection: corpora.a.min_share = 0.6, corpora.b.max_share = 0.1." in drawn.message


def test_nothing_depends_on_the_order_of_the_rows_or_on_memory() -> None:
    shuffled = np.random.default_rng(1).permutation(RAGGED.count)
    arrays = (RAGGED.ppl, RAGGED.tokens, RAGGED.key, RAGGED.group)
    other = Candidates(*(array[shuffled] for array in arrays))
    streamed = StreamedCandidates(lambda: iter([arrays]))
    target, limits = Target(110.0, 60.0, RAGGED.total_tokens // 5), [Limit("a", 0.6), Limit("b", 0.0, 0.1)]
    first, second, third = (draw_limited(given, target, limits, seed=5) for given in (RAGGED, other, streamed))
    np.testing.assert_array_equal(RAGGED.key[first.index], other.key[second.index])
    np.testing.assert_array_equal(first.index, third.index)


def test_a_limit_in_the_way_is_named_and_kept() -> None:
    target = Target(200.0, 60.0, EQUAL.total_tokens // 5)
    drawn = draw_limited(EQUAL, target, [Limit("a", 0.9), Limit("b", 0.0, 0.5)], seed=3)
    assert draw_tilt(EQUAL, target, seed=3).is_reachable
    assert not drawn.is_reachable
    assert "Limits stand in the way of that target: corpora.a.min_share = 0.9." in drawn.message
    assert "max_share" not in drawn.message
    assert shares(EQUAL, drawn)[1] == pytest.approx(0.9, abs=0.002)
    assert drawn.aim_objective < 1e-6
    assert 60.0 < drawn.mu < 200.0


def test_no_subset_within_the_limits_is_nearer_to_the_target() -> None:
    """The moments m are the nearest of a convex set where no other point of it lies further towards the target."""
    bins = [Bins.of(OneGroup(EQUAL, group).distribution, 200.0, 60.0) for group in range(3)]
    cells, tokens = Cells.of(bins), EQUAL.total_tokens / 5
    bounds = np.array([0.0, 0.9 * tokens, 0.0]), np.full(3, np.inf)
    assert not solve_limited(cells, tokens, *bounds).is_solved
    tilt = nearest_limited(cells, tokens, *bounds)
    assert tilt.is_solved
    assert cells.by_group(tilt.inclusion * cells.bins.tokens)[1] == pytest.approx(0.9 * tokens)
    u, v = cells.bins.first, cells.bins.second - cells.bins.chunks
    reached = np.array([tilt.inclusion @ u, tilt.inclusion @ v]) / 600
    towards = linprog(
        (reached[0] * u + reached[1] * v) / 600,
        A_ub=-(cells.bins.tokens * (cells.group == 1))[None],
        b_ub=[-0.9 * tokens],
        A_eq=cells.bins.tokens[None],
        b_eq=[tokens],
        bounds=(0, 1),
    )
    assert towards.fun == pytest.approx(reached @ reached, rel=0.01)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 0.9))
def test_probabilities_are_of_greatest_entropy(least: float) -> None:
    """Log odds are a sum of the constraints' multipliers, and only limits that bind have one."""
    bins = [Bins.of(OneGroup(RAGGED, group).distribution, 110.0, 60.0) for group in range(3)]
    cells, tokens = Cells.of(bins), RAGGED.total_tokens / 6
    bounds = np.array([0.0, least * tokens, 0.0]), np.array([np.inf, np.inf, 0.3 * tokens])
    tilt = solve_limited(cells, tokens, *bounds)
    if not tilt.is_solved:
        return
    p, sums = tilt.inclusion, cells.bins
    inside = (p > 1e-9) & (p < 1 - 1e-9)
    group = cells.group[inside]
    logit = np.log(p[inside] / (1 - p[inside])) - tilt.at_least[group] + tilt.at_most[group]
    plain = np.column_stack([np.ones_like(sums.chunks), sums.first / sums.chunks, sums.second / sums.chunks])[inside]
    fitted = plain @ np.linalg.lstsq(plain, logit, rcond=None)[0]
    np.testing.assert_allclose(logit, fitted, atol=1e-6)
    taken = cells.by_group(p * sums.tokens)
    assert taken.sum() == pytest.approx(tokens)
    assert np.all(taken >= bounds[0] - 1e-6 * tokens)
    assert np.all(taken <= bounds[1] + 1e-6 * tokens)
    slack = taken - bounds[0]
    assert np.all((tilt.at_least == 0) | (slack < 1e-6 * tokens))


@pytest.mark.parametrize("name", ["random", "lowest", "middle", "highest", "gaussian", "matched"])
def test_rivals_keep_the_same_limits(name: str) -> None:
    target, limits = Target(110.0, 60.0, RAGGED.total_tokens // 5), (Limit("a", 0.6), Limit("b", 0.0, 0.05))
    drawn = select(name, RAGGED, target, seed=3, options=SelectionOptions(limits=limits))
    taken = taken_tokens(RAGGED, drawn.index, 3)
    assert taken[1] >= 0.6 * target.tokens - RAGGED.longest
    assert taken[2] <= 0.05 * target.tokens + RAGGED.longest
    assert target.tokens - RAGGED.longest < drawn.tokens <= target.tokens
    assert np.unique(drawn.index).size == drawn.chunks


def test_the_greedy_selection_keeps_no_limits() -> None:
    with pytest.raises(SelectionError, match="keeps no limits"):
        select(
            "greedy_dos", EQUAL, Target(110.0, 60.0, 6400), seed=3, options=SelectionOptions(limits=[Limit("a", 0.6)])
        )


def test_limits_that_the_candidates_cannot_keep_are_refused() -> None:
    half = EQUAL.total_tokens // 2
    with pytest.raises(SelectionError, match=r"corpora.a.min_share = 0.9 asks for 86,400 of 96,000 tokens"):
        draw_limited(EQUAL, Target(110.0, 60.0, half), [Limit("a", 0.9), Limit("b")], seed=3)
    with pytest.raises(SelectionError, match=r"corpora.a.max_share = 0.1, corpora.b.max_share = 0.1 leave"):
        draw_limited(EQUAL, Target(110.0, 60.0, half), [Limit("a", 0.0, 0.1), Limit("b", 0.0, 0.1)], seed=3)
    plain = Candidates(EQUAL.ppl, EQUAL.tokens, EQUAL.key)
    with pytest.raises(SelectionError, match="do not say which corpus"):
        draw_limited(plain, Target(110.0, 60.0, half), [Limit("a", 0.1)], seed=3)


def test_one_perplexity_is_drawn_by_hash_within_the_limits() -> None:
    flat = Candidates(np.full(EQUAL.count, 50.0), EQUAL.tokens, EQUAL.key, EQUAL.group)
    drawn = draw_limited(flat, Target(50.0, 5.0, 600 * 64), [Limit("a", 0.8), Limit("b")], seed=3)
    assert shares(flat, drawn)[1] == pytest.approx(0.8, abs=0.002)
    assert drawn.chunks == 600


def test_shares_that_are_all_fixed_still_leave_the_moments_free() -> None:
    group = np.maximum(RAGGED.group, 1)
    candidates = Candidates(RAGGED.ppl, RAGGED.tokens, RAGGED.key, group)
    target = Target(100.0, 55.0, RAGGED.total_tokens // 6)
    drawn = draw_limited(candidates, target, [Limit("a", 0.3, 0.3), Limit("b", 0.7, 0.7)], seed=3)
    assert drawn.objective < 1e-8
    assert shares(candidates, drawn)[1:] == pytest.approx([0.3, 0.7], abs=0.005)
