"""Draw the subset nearest to the corpus that has a given mean, deviation and number of tokens ("tilt").

Inclusion probabilities come from :mod:`tilt`, members from quotas and a hash of (key, seed) (:mod:`members`), and a few
exchanges (:mod:`swaps`) bring the moments to the target. Nothing depends on the order of the rows, nor on whether they
are in memory or read block by block. Regimes and the final subset are drawn by this one function: the law is about
subsets of this kind.
"""

import math

import numpy as np

from ppl_assets.regimes.candidates import ChunkSource, Members, SelectionError, hashed
from ppl_assets.regimes.distribution import Block, Distribution, IntArray
from ppl_assets.regimes.drawn import SAFE_MARGIN, Drawn, Target, describe
from ppl_assets.regimes.members import Plan, at_budget, in_hash_order, on_target
from ppl_assets.regimes.quotas import require_budget
from ppl_assets.regimes.reachable import ReachableRegion
from ppl_assets.regimes.tilt import Bins, solve_tilt

DOMINANT_SHARES = (1 / 64, 1 / 16, 1 / 4)
LEAST_DOMINANT = 4.0
"""Chunks that alone would hold more than a share of the subset's variance, beyond LEAST_DOMINANT deviations, are left
out where the target is reachable without them: the probabilities are averages, and such a chunk is in or out."""


def draw_tilt(candidates: ChunkSource, target: Target, *, seed: int) -> Drawn:
    """Draw the maximum-entropy subset with the target's moments and tokens.

    Deterministic, and independent of the order of the rows as long as keys are distinct. The candidates are read three
    times, once more where a quota lies six deviations from its expectation. Memory beyond theirs: about 100 bytes a
    chunk drawn, and 50 MB.

    Args:
        candidates: N chunks.
        target: moments of the subset (over chunks) and its token budget.
        seed: any integer; other seeds draw other subsets of the same moments.

    Returns:
        The subset; where the target is out of reach, one at the nearest point 2 % inside, and a message that says so.

    Raises:
        SelectionError: the budget is below one chunk.
    """
    require_budget(candidates, target.tokens)
    if target.tokens >= candidates.total_tokens:
        every = [Members(_positions(block), block.ppl, block.tokens, block.key) for block in candidates.blocks()]
        return describe(candidates, in_hash_order(Members.joined(every), seed), target, status="all")
    if target.tokens < 2 * candidates.shortest:
        return describe(candidates, _nearest_chunk(candidates, target, seed), target, status="single")
    if candidates.is_constant:
        share = target.tokens / candidates.total_tokens
        plan = Plan.of(candidates, Bins.of(candidates.distribution, target.mu, target.sigma), np.array([share]), seed)
        members = at_budget(plan, target.tokens).members
        return describe(candidates, in_hash_order(members, seed), target, status="constant")
    return _drawn_by_tilt(candidates, target, seed)


def _drawn_by_tilt(candidates: ChunkSource, target: Target, seed: int) -> Drawn:
    """The subset where there is something to choose."""
    budget = whole_chunks(candidates, target.tokens)
    aim_mu, aim_sigma = aim_of(candidates, target, budget)
    scores = candidates.distribution
    begin, end = without_dominant(scores, (aim_mu, aim_sigma), budget)
    allowed = scores.part(begin, end)
    bins = Bins.of(allowed, aim_mu, aim_sigma)
    tilt = solve_tilt(bins, candidates.count * budget / candidates.total_tokens, budget)
    plan = Plan.of(candidates, bins, tilt.inclusion, seed, first_atom=begin)
    members, swaps = on_target(
        at_budget(plan, budget), (aim_mu, aim_sigma), (budget - candidates.longest, budget), seed
    )
    if not members.index.size:
        return describe(candidates, _nearest_chunk(candidates, target, seed), target, status="single")
    return describe(
        candidates,
        members,
        target,
        status="tilt" if tilt.is_solved else "tilt_boundary",
        aim=(aim_mu, aim_sigma),
        expected_chunks=tilt.expected_chunks,
        certain_share=float(np.mean(tilt.inclusion[plan.bins_of(members.ppl)] > 0.99)),
        swaps=swaps,
    )


def aim_of(candidates: ChunkSource, target: Target, budget: int) -> tuple[float, float]:
    """The target's moments, or the nearest ones that the budget reaches.

    Raises:
        SelectionError: all that is reachable near the target has one perplexity.
    """
    region = ReachableRegion.at_share(candidates, budget)
    if region.contains(target.mu, target.sigma):
        return target.mu, target.sigma
    mu, sigma, _ = region.nearest(target.mu, target.sigma, SAFE_MARGIN)
    if sigma <= 0:
        raise SelectionError(
            f"no subset of {target.tokens} tokens near mean {target.mu:.6g} has any spread: "
            "almost all candidates share one perplexity; check the scores"
        )
    return mu, sigma


def whole_chunks(candidates: ChunkSource, tokens: int) -> int:
    """The budget in whole chunks where all are equally long, else as given."""
    return tokens - tokens % candidates.longest if candidates.shortest == candidates.longest else tokens


def without_dominant(scores: Distribution, aim: tuple[float, float], budget: int) -> tuple[int, int]:
    """First and last (exclusive) atom that may be drawn: without those of the smallest share that can be spared."""
    chunks = scores.count * budget / scores.total_tokens
    for share in DOMINANT_SHARES:
        limit = max(math.sqrt(share * chunks), LEAST_DOMINANT) * aim[1]
        begin = int(np.searchsorted(scores.value, aim[0] - limit))
        end = int(np.searchsorted(scores.value, aim[0] + limit, side="right"))
        if end - begin == scores.value.size:
            break
        if begin < end:
            rest = scores.part(begin, end)
            if rest.total_tokens > budget and ReachableRegion.at_share(rest, budget).contains(*aim, SAFE_MARGIN):
                return begin, end
    return 0, scores.value.size


def _nearest_chunk(candidates: ChunkSource, target: Target, seed: int) -> Members:
    """The one chunk within the budget that is nearest to the target's mean, ties by hash."""
    best: list[Members] = []
    for block in candidates.blocks():
        fitting = np.flatnonzero(block.tokens <= target.tokens)
        if fitting.size:
            distance = np.abs(block.ppl[fitting] - target.mu)
            every = Members(_positions(block), block.ppl, block.tokens, block.key)
            best.append(every.take(fitting[distance == distance.min()]))
    nearest = Members.joined(best)
    distance = np.abs(nearest.ppl - target.mu)
    return nearest.take(np.lexsort((hashed(nearest.key, seed), distance))[:1])


def _positions(block: Block) -> IntArray:
    """Positions of a block's chunks among all, int64 [n]."""
    return block.at(np.arange(block.ppl.size))
