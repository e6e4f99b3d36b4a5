"""Which chunks are drawn, given the inclusion probability of every bin.

Quotas a stratum of perplexity by cumulative rounding; within a stratum the chunks of least priority, which is nearly
Pareto sampling (Rosen 1997): the smallest odds ratios of a hash to the probability. The priority at which a stratum's
quota is full lies near 0, so one pass decides all but a few chunks by comparing their hash with two thresholds a bin,
and only those in between are sorted. The choice is that of sorting them all; exchanges look at what is held open.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ppl_assets.regimes.candidates import ChunkSource, Members, hashed, hashed_uniforms, uniforms_of
from ppl_assets.regimes.distribution import FloatArray, IntArray, sums_by
from ppl_assets.regimes.quotas import STRATUM_CHUNKS, Mask, first_of_each, quotas_of
from ppl_assets.regimes.swaps import FAR_RANKS, Sums, refine
from ppl_assets.regimes.tilt import Bins

IN_PLAY = 1 << 18
"""Chunks of either side that exchanges may touch, those nearest to their threshold first, beside the FAR_RANKS farthest
from the mean: more than all pools of one refinement together look at."""

WIDTHS = (6.0, 24.0, 96.0, np.inf)
"""Deviations of a stratum's threshold within which chunks are held open; the wider ones where that did not do."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What the pass compares with.

    Attributes:
        candidates: N chunks.
        bins_of: bin of each perplexity; B where chunks may not be drawn.
        logit: [B], log odds of the inclusion probabilities.
        spread: [S], sum of p (1 - p) over a stratum's chunks: the variance of the number drawn, were they independent.
        stratum: int64 [B], stratum of each bin.
        quota: int64 [S], chunks to draw in each stratum.
        is_far: bool [B], bins whose chunks are held open whatever their priority: the farthest from the mean.
        seed: any integer.
    """

    candidates: ChunkSource
    bins_of: Callable[[FloatArray], NDArray[Any]]
    logit: FloatArray
    spread: FloatArray
    stratum: IntArray
    quota: IntArray
    is_far: Mask
    seed: int

    @classmethod
    def of(cls, candidates: ChunkSource, bins: Bins, inclusion: FloatArray, seed: int, first_atom: int = 0) -> "Plan":
        """The plan for bins of some or all of the candidates' atoms.

        Args:
            candidates: N chunks.
            bins: bins of the atoms that may be drawn, which are contiguous.
            inclusion: [B], inclusion probabilities.
            seed: any integer.
            first_atom: the first of these atoms.
        """
        count = bins.chunks.size
        of_atom = np.full(candidates.distribution.value.size, count, np.int16 if count < 2**15 else np.int64)
        of_atom[first_atom : first_atom + bins.of_atom.size] = bins.of_atom
        begun = np.cumsum(bins.chunks) - bins.chunks
        stratum = np.unique(begun // STRATUM_CHUNKS, return_inverse=True)[1].astype(np.int64)
        odds = np.clip(inclusion, 1e-12, 1 - 1e-12)
        strata = int(stratum[-1]) + 1
        expected, sizes = (sums_by(stratum, terms, strata) for terms in (bins.chunks * inclusion, bins.chunks))
        outside = np.argsort(-np.abs(bins.first / bins.chunks), kind="stable")
        reached = np.cumsum((bins.chunks * (1 - inclusion))[outside])
        is_far = np.zeros(count, bool)
        is_far[outside[: int(np.searchsorted(reached, FAR_RANKS)) + 1]] = True
        return cls(
            candidates,
            candidates.distribution.mapped(of_atom),
            np.log(odds / (1 - odds)),
            sums_by(stratum, bins.chunks * odds * (1 - odds), strata),
            stratum,
            quotas_of(expected, sizes, offset=float(hashed_uniforms(np.zeros(1, np.uint64), seed)[0])),
            is_far,
            seed,
        )

    def widths(self, deviations: float) -> FloatArray:
        """Log odds around 0 within which a stratum's chunks are held open, [S].

        Near 0 the numbers drawn and not drawn change by the spread v per unit, beyond by e to the distance: within
        log(1 + w / sqrt(v) + w^2 / v) lie w deviations of their sum, and w^2 chunks where v is small.
        """
        share = deviations / np.sqrt(self.spread)
        return np.log1p(share + share * share)

    def priority(self, chunks: Members) -> FloatArray:
        """Log odds of the hash less those of the bin, [n]."""
        draws = uniforms_of(hashed(chunks.key, self.seed))
        return np.log(draws / (1 - draws)) - self.logit[self.bins_of(chunks.ppl)]


@dataclass(frozen=True, eq=False)
class Choice:
    """A subset before its exchanges.

    Attributes:
        sure: members far from their threshold, in the order of their hash.
        near: chunks held open, the most wanted first.
        chosen: bool [near], those of them that are members.
    """

    sure: Members
    near: Members
    chosen: Mask

    @property
    def members(self) -> Members:
        """All members."""
        return Members.joined([self.sure, self.near.take(self.chosen)])


def in_hash_order(chunks: Members, seed: int) -> Members:
    """The chunks in the order of their hash with the seed: the same one whatever the order of the rows."""
    return chunks.take(np.argsort(hashed(chunks.key, seed)))


def _merged(ordered: Members, few: Members, seed: int) -> Members:
    """Chunks in the order of their hash with few others put in their places."""
    few = in_hash_order(few, seed)
    places = np.searchsorted(hashed(ordered.key, seed), hashed(few.key, seed))
    names = ("index", "ppl", "tokens", "key")
    return Members(*(np.insert(getattr(ordered, name), places, getattr(few, name)) for name in names))


def at_budget(plan: Plan, budget: int) -> Choice:
    """The chunks of least priority by quota, less the least or plus the most wanted until the tokens fit the budget.

    The tokens are at most the budget, and less than one chunk below it.
    """
    for deviations in WIDTHS:
        widths = plan.widths(deviations)
        sure, near = _compared(plan, widths)
        near, priority = _most_wanted_first(plan, near)
        limit = float(widths.min())
        chosen = _by_quota(plan, sure, near, limit)
        if chosen is not None and _fits(chosen, priority, near.tokens, budget - int(sure.tokens.sum()), limit):
            return Choice(sure, near, chosen)
    raise AssertionError("with every chunk held open the quotas can be filled")


def _compared(plan: Plan, widths: FloatArray) -> tuple[Members, Members]:
    """One pass over all chunks: members that are sure, in the order of their hash; and chunks held open, in none."""
    width = widths[plan.stratum]
    # A chunk is wanted where its hash, read as a number in (0, 1), is below the probability; the last bin is nobody's.
    lower = np.append(_as_bits(expit(plan.logit - width)), np.uint64(0))
    upper = np.append(_as_bits(np.where(plan.is_far, 1.0, expit(plan.logit + width))), np.uint64(0))
    sure: list[Members] = []
    near: list[Members] = []
    for block in plan.candidates.blocks():
        place, bits = plan.bins_of(block.ppl), hashed(block.key, plan.seed)
        is_sure = bits < lower[place]
        is_near = bits < upper[place]
        is_near &= ~is_sure
        for mask, parts in ((is_sure, sure), (is_near, near)):
            taken = np.flatnonzero(mask)
            tokens = block.tokens[taken].astype(np.int64, copy=False)
            parts.append(Members(block.at(taken), block.ppl[taken], tokens, block.key[taken]))
    return in_hash_order(Members.joined(sure), plan.seed), Members.joined(near)


def _most_wanted_first(plan: Plan, chunks: Members) -> tuple[Members, FloatArray]:
    """The chunks in ascending order of priority, ties by hash; and their priorities."""
    priority = plan.priority(chunks)
    order = np.argsort(priority)
    if (np.diff(priority[order]) == 0).any():
        order = np.lexsort((hashed(chunks.key, plan.seed), priority))
    return chunks.take(order), priority[order]


def _as_bits(share: FloatArray) -> NDArray[np.uint64]:
    """Numbers in [0, 1] as 64-bit thresholds."""
    whole = share >= 1.0
    bits = (np.where(whole, 0.0, share) * 2.0**53).astype(np.uint64) << np.uint64(11)
    bits[whole] = np.iinfo(np.uint64).max
    return bits


def _by_quota(plan: Plan, sure: Members, near: Members, limit: float) -> Mask | None:
    """Which of ``near``, most wanted first, fill the quotas; None where a threshold lies outside what is held open."""
    strata = plan.quota.size
    wanted = plan.quota - np.bincount(plan.stratum[plan.bins_of(sure.ppl)], minlength=strata)
    stratum = plan.stratum[plan.bins_of(near.ppl)].astype(np.int16 if strata < 2**15 else np.int64)
    sizes = np.bincount(stratum, minlength=strata)
    if limit < np.inf and ((wanted < 0) | (wanted > sizes)).any():
        return None
    return first_of_each(stratum, wanted)


def _fits(chosen: Mask, priority: FloatArray, tokens: IntArray, budget: int, limit: float) -> bool:
    """Change ``chosen`` so that its tokens fit; False where that needs chunks that are not held open.

    Args:
        chosen: bool [n], changed in place.
        priority: [n], ascending.
        tokens: int64 [n].
        budget: tokens for these chunks.
        limit: every chunk that may be drawn with a priority within this of 0 is among them.
    """
    excess = int(tokens[chosen].sum()) - budget
    if excess > 0:
        leaving = np.flatnonzero(chosen)[::-1]
        count = int(np.searchsorted(np.cumsum(tokens[leaving]), excess)) + 1
        if count > leaving.size or priority[leaving[count - 1]] < -limit:
            return False
        chosen[leaving[:count]] = False
    elif excess < 0:
        coming = np.flatnonzero(~chosen)
        count = int(np.searchsorted(np.cumsum(tokens[coming]), -excess, side="right"))
        if limit < np.inf and (count == coming.size or priority[coming[count]] > limit):
            return False
        chosen[coming[:count]] = True
    return True


def on_target(
    choice: Choice, aim: tuple[float, float], window: tuple[int, int], seed: int, others: Sums | None = None
) -> tuple[Members, int]:
    """The members after exchanges that bring their moments to the aim, in hash order, and the number of exchanges.

    Marginal chunks are tried first, so that exchanges touch what a slightly other budget would have touched too.

    Args:
        choice: the subset before.
        aim: mean and deviation of perplexity.
        window: tokens (the others' included) stay above the first and at most the second number.
        seed: of the hash.
        others: sums of further members, in units of the aim, that stay.
    """
    near = choice.near.take(np.flatnonzero(choice.chosen)[::-1])
    outer = choice.near.take(~choice.chosen)
    u = (np.concatenate([near.ppl, choice.sure.ppl]) - aim[0]) / aim[1]
    moving = _in_play(u)
    fixed = Sums.of(u[~moving], np.concatenate([near.tokens, choice.sure.tokens])[~moving])
    of_near, of_sure = moving[: near.index.size], moving[near.index.size :]
    if others is not None:
        fixed = fixed.plus(others)
    coming = outer.take(_in_play((outer.ppl - aim[0]) / aim[1]))
    pool = Members.joined([near.take(of_near), choice.sure.take(of_sure), coming])
    places, size = np.arange(pool.index.size), int(moving.sum())
    u = (pool.ppl - aim[0]) / aim[1]
    split = refine(u, pool.tokens, places[:size], places[size:], fixed=fixed, window=window)
    few = Members.joined([near.take(~of_near), pool.take(split.inner)])
    return _merged(choice.sure.take(~of_sure), few, seed), split.swaps


def _in_play(u: FloatArray) -> Mask:
    """The first IN_PLAY chunks and the FAR_RANKS farthest from the mean, bool [n]."""
    moving = np.zeros(u.size, bool)
    moving[:IN_PLAY] = True
    if u.size > IN_PLAY:
        moving[np.argpartition(-np.abs(u), FAR_RANKS)[:FAR_RANKS]] = True
    return moving
