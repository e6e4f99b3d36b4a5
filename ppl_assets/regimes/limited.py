"""Draw the maximum-entropy subset with given moments and tokens in which each corpus keeps its limits.

The subset without limits is drawn first, and is the answer where it keeps them. Else every limited corpus, and all the
others together, are groups: inclusion probabilities a (bin, group) from :mod:`limited_tilt`, quotas a (stratum, group),
and exchanges within one group only. So shares are kept to within a chunk whatever the exchanges do for the moments.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ppl_assets.regimes.candidates import ChunkSource, Members, SelectionError
from ppl_assets.regimes.distribution import FloatArray
from ppl_assets.regimes.drawn import Drawn, Target, describe
from ppl_assets.regimes.limited_tilt import Cells, LimitedTilt, nearest_limited, solve_limited
from ppl_assets.regimes.limits import Limits, OneGroup, are_kept, require_room, taken_tokens, token_bounds
from ppl_assets.regimes.members import Choice, Plan, at_budget, in_hash_order, on_target
from ppl_assets.regimes.sampler import aim_of, draw_tilt, whole_chunks, without_dominant
from ppl_assets.regimes.swaps import Sums
from ppl_assets.regimes.tilt import Bins

BINDING = 1e-6
"""A multiplier above this belongs to a limit that moves the selection."""


@dataclass(frozen=True, eq=False)
class Solved:
    """Probabilities for the groups that have candidates.

    Attributes:
        groups: number of each such group.
        plans: bins of each group, and its first atom that may be drawn.
        cells: their sums, joined.
        tilt: probabilities and multipliers.
    """

    groups: list[int]
    plans: list[tuple[Bins, int]]
    cells: Cells
    tilt: LimitedTilt

    def moments(self, aim: tuple[float, float]) -> tuple[float, float]:
        """Mean and deviation expected, the cells being in units of ``aim``."""
        bins, inclusion = self.cells.bins, self.tilt.inclusion
        count = float(np.dot(inclusion, bins.chunks))
        mean, square = (float(np.dot(inclusion, sums)) / count for sums in (bins.first, bins.second))
        return aim[0] + aim[1] * mean, aim[1] * math.sqrt(max(square - mean**2, 0.0))


def draw_limited(candidates: ChunkSource, target: Target, limits: Limits, *, seed: int) -> Drawn:
    """Draw the maximum-entropy subset with the target's moments and tokens that keeps the limits.

    Deterministic, and independent of the order of the rows. The candidates are read six times, and where a limit
    binds three times more for each limited corpus and for the rest.

    Args:
        candidates: N chunks with their groups: 0, or 1 + the number of a limit.
        target: moments of the subset (over chunks) and its token budget.
        limits: shares of the tokens that corpora may have, kept to within a chunk.
        seed: any integer.

    Returns:
        The subset; where limits and moments contradict each other, one that keeps the limits, at the moments nearest in
        (mean, mean square around the target), and a message that says which limits stand in the way.

    Raises:
        SelectionError: the budget is below one chunk, or no selection of this size can keep the limits.
    """
    held = require_room(candidates, limits, target.tokens)
    free = draw_tilt(candidates, target, seed=seed)
    if free.status == "single" or are_kept(limits, taken_tokens(candidates, free.index, held.size)):
        return free
    budget = whole_chunks(candidates, target.tokens)
    sources = {group: OneGroup(candidates, group) for group in np.flatnonzero(held).tolist()}
    bounds = token_bounds(limits, budget)
    aim = (target.mu, 1.0) if candidates.is_constant else aim_of(candidates, target, budget)
    solved, is_on_target = _solved(candidates, sources, aim, budget, bounds)
    reached = (target.mu, 0.0) if candidates.is_constant else aim if is_on_target else solved.moments(aim)
    members, swaps = _members(candidates, sources, solved, reached, budget, bounds, seed)
    if not members.index.size:
        raise SelectionError(
            f"a budget of {target.tokens} tokens leaves every limited corpus less than a chunk; give more tokens"
        )
    status = "limited" if is_on_target else "limited_nearest"
    drawn = describe(
        candidates,
        members,
        target,
        status="constant" if candidates.is_constant else status,
        aim=reached if reached[1] > 0 else None,
        expected_chunks=float(np.dot(solved.tilt.inclusion, solved.cells.bins.chunks)),
        swaps=swaps,
    )
    return _with_limits(drawn, limits, solved, is_on_target)


def _solved(
    candidates: ChunkSource,
    sources: dict[int, OneGroup],
    aim: tuple[float, float],
    budget: int,
    bounds: tuple[FloatArray, FloatArray],
) -> tuple[Solved, bool]:
    """Probabilities for the aim, first without chunks that would dominate it; and whether the limits allow the aim."""
    scores = candidates.distribution
    every = (0, scores.value.size)
    spared = every if candidates.is_constant else without_dominant(scores, aim, budget)
    for begin, end in dict.fromkeys([spared, every]):
        inside = scores.start[begin], scores.start[end] if end < scores.start.size else np.inf
        solved = _solved_within(sources, aim, budget, bounds, inside, solve_limited)
        if solved is not None and solved.tilt.is_solved:
            return solved, True
    nearest = _solved_within(sources, aim, budget, bounds, (0.0, np.inf), nearest_limited)
    if nearest is None:
        raise AssertionError("with every candidate allowed the limits can be kept")
    return nearest, False


def _solved_within(
    sources: dict[int, OneGroup],
    aim: tuple[float, float],
    budget: int,
    bounds: tuple[FloatArray, FloatArray],
    inside: tuple[float, float],
    solve: Callable[[Cells, float, FloatArray, FloatArray], LimitedTilt],
) -> Solved | None:
    """Probabilities where only perplexities from ``inside[0]`` to below ``inside[1]`` are drawn; None if too few."""
    groups, plans = [], []
    room = 0.0
    for group, source in sources.items():
        scores = source.distribution
        begin, end = (int(place) for place in np.searchsorted(scores.start, inside))
        allowed = scores.part(begin, end) if end > begin else None
        held = allowed.total_tokens if allowed else 0.0
        if held < bounds[0][group]:
            return None
        room += min(held, float(bounds[1][group]))
        if allowed:
            groups.append(group)
            plans.append((Bins.of(allowed, *aim), begin))
    if room < budget - 1e-6 * budget and np.isfinite(inside[1]):
        return None
    cells = Cells.of([bins for bins, _ in plans])
    tilt = solve(cells, min(budget, room), bounds[0][groups], bounds[1][groups])
    return Solved(groups, plans, cells, tilt)


def _members(
    candidates: ChunkSource,
    sources: dict[int, OneGroup],
    solved: Solved,
    aim: tuple[float, float],
    budget: int,
    bounds: tuple[FloatArray, FloatArray],
    seed: int,
) -> tuple[Members, int]:
    """Members of all groups in hash order, each group at its tokens, and the exchanges made."""
    expected = solved.cells.by_group(solved.tilt.inclusion * solved.cells.bins.tokens)
    least, most = (bound[solved.groups] for bound in bounds)
    slack = np.minimum(expected - least, most - expected)
    choices: list[tuple[Choice, int, int]] = []
    left = budget
    for place in np.argsort(slack, kind="stable"):  # the one with the most freedom takes what the others leave
        group, (bins, first) = solved.groups[place], solved.plans[place]
        source = sources[group]
        is_last = len(choices) == len(solved.groups) - 1
        given = left if is_last else max(expected[place], least[place] + source.longest - 1 if least[place] else 0.0)
        own = min(int(given + 1e-6), left, int(min(most[place], source.total_tokens) + 1e-6))
        plan = Plan.of(source, bins, solved.tilt.inclusion[solved.cells.group == place], seed, first_atom=first)
        choice = at_budget(plan, own)
        choices.append((choice, own - source.longest, own))
        left -= int(choice.members.tokens.sum())
    window = (budget - candidates.longest, budget)
    return _exchanged(choices, aim, window, seed)


def _exchanged(
    choices: list[tuple[Choice, int, int]], aim: tuple[float, float], window: tuple[int, int], seed: int
) -> tuple[Members, int]:
    """Members of all groups after exchanges within each, the largest first.

    Args:
        choices: of each group the subset before, and its tokens: above the first and at most the second number.
        aim: mean and deviation of perplexity of all together; a deviation of 0 asks for no exchange.
        window: the same bounds for the tokens of all together.
        seed: of the hash.
    """
    members, swaps = [choice.members for choice, _, _ in choices], 0
    for place in np.argsort([-part.index.size for part in members], kind="stable"):
        choice, low, high = choices[place]
        rest = Members.joined([part for number, part in enumerate(members) if number != place])
        if aim[1] > 0 and choice.members.index.size and choice.near.index.size:
            others = Sums.of((rest.ppl - aim[0]) / aim[1], rest.tokens)
            inside = max(low + others.tokens, min(window[0], others.tokens + int(members[place].tokens.sum()) - 1))
            members[place], made = on_target(choice, aim, (inside, min(high + others.tokens, window[1])), seed, others)
            swaps += made
    return in_hash_order(Members.joined(members), seed), swaps


def _with_limits(drawn: Drawn, limits: Limits, solved: Solved, is_on_target: bool) -> Drawn:
    """The subset with sentences on its limits; off target where they stand in the way."""
    names = []
    for group, at_least, at_most in zip(solved.groups, solved.tilt.at_least, solved.tilt.at_most, strict=True):
        limit = limits[group - 1] if group else None
        if limit and at_least > BINDING:
            names.append(f"corpora.{limit.corpus}.min_share = {limit.least:g}")
        if limit and at_most > BINDING:
            names.append(f"corpora.{limit.corpus}.max_share = {limit.most:g}")
    named = ", ".join(names) or "shares of the tokens"
    if is_on_target:
        return replace(drawn, message=f"{drawn.message} Limits that moved the selection: {named}.")
    distance = math.hypot(
        math.log(drawn.aim_mu / drawn.target.mu), math.log(max(drawn.aim_sigma, 1e-300) / drawn.target.sigma)
    )
    sentence = (
        f"Limits stand in the way of that target: {named}. With them kept, the nearest moments are a mean of "
        f"{drawn.aim_mu:.6g} and a deviation of {drawn.aim_sigma:.6g}."
    )
    return replace(
        drawn, message=f"{drawn.message} {sentence}", is_reachable=False, distance=max(distance, drawn.distance)
    )
