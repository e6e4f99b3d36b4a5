"""Draw the subset nearest to the corpus that has a given mean, deviation and number of tokens ("tilt").

Inclusion probabilities come from :mod:`tilt`, quotas from cumulative rounding over strata of perplexity, members from
a hash of (key, seed), and a few exchanges (:mod:`swaps`) bring the moments to the target. Nothing depends on the order
of the rows. Regimes and the final subset are drawn by this one function: the law is about subsets of this kind.
"""

import math
from dataclasses import dataclass

import numpy as np

from ppl_assets.regimes.candidates import Candidates, FloatArray, IntArray, SelectionError
from ppl_assets.regimes.quotas import at_budget, fill_budget, first_of, require_budget, stratified
from ppl_assets.regimes.reachable import ReachableRegion, budget_reaching
from ppl_assets.regimes.swaps import refine
from ppl_assets.regimes.tilt import Bins, Tilt, solve_tilt

SAFE_MARGIN = 0.02
"""An unreachable target is replaced by the nearest point this far inside: nothing is left to choose on the boundary."""

DOMINANT_SHARES = (1 / 64, 1 / 16, 1 / 4)
LEAST_DOMINANT = 4.0
"""Chunks that alone would hold more than a share of the subset's variance, beyond LEAST_DOMINANT deviations, are left
out where the target is reachable without them: the probabilities are averages, and such a chunk is in or out."""

STRATUM_CHUNKS = 48
"""Least chunks a stratum: with 16, rounding the quotas moved 7 % of the picks as a 10 % budget grew by half."""


@dataclass(frozen=True)
class Target:
    """What is asked for: mean and standard deviation of chunk perplexity, and a token budget.

    Raises:
        SelectionError: a value is not positive and finite.
    """

    mu: float
    sigma: float
    tokens: int

    def __post_init__(self) -> None:
        for name, value in (("mu", self.mu), ("sigma", self.sigma), ("tokens", self.tokens)):
            if not (math.isfinite(value) and value > 0):
                raise SelectionError(f"target {name} = {value} is not accepted: give a positive, finite number")


@dataclass(frozen=True, eq=False)
class Drawn:
    """A subset: which chunks, what it reached, and how.

    Attributes:
        index: int64 [n], positions into the candidates; the order is a function of keys and seed, or of the strategy.
        mu: mean perplexity over its chunks.
        sigma: standard deviation of perplexity over its chunks.
        tokens: tokens drawn; never above the budget, and less than one chunk below it.
        objective: relative J = ((mu - mu*)/sigma*)^2 + ((sigma^2 - sigma*^2)/sigma*^2)^2 from the target asked for.
        kl_nats: Kullback-Leibler divergence of its perplexities from the candidates', over equal-count bins.
        target: what was asked for.
        aim_mu: the mean drawn for: the target's, or the nearest reachable one.
        aim_sigma: the deviation drawn for.
        aim_objective: relative J from the point drawn for.
        is_reachable: whether a subset of this size can have the target's moments.
        distance: from target to the nearest reachable point in (ln mu, ln sigma); 0 where reachable.
        reachable_tokens: largest budget at which the target is reachable, the whole corpus at most; 0 for none.
        status: tilt, tilt_boundary (the probabilities did not converge, exchanges did the work), all, constant, single,
            or the strategy's name.
        message: what was reached, as sentences.
        expected_chunks: sum of the inclusion probabilities; the number of chunks where there are none.
        certain_share: share of the subset that was included with a probability above 0.99.
        swaps: exchanges made.
    """

    index: IntArray
    mu: float
    sigma: float
    tokens: int
    objective: float
    kl_nats: float
    target: Target
    aim_mu: float
    aim_sigma: float
    aim_objective: float
    is_reachable: bool
    distance: float
    reachable_tokens: int
    status: str
    message: str
    expected_chunks: float
    certain_share: float = 0.0
    swaps: int = 0

    @property
    def chunks(self) -> int:
        """Number of chunks drawn."""
        return self.index.size


def draw_tilt(candidates: Candidates, target: Target, *, seed: int) -> Drawn:
    """Draw the maximum-entropy subset with the target's moments and tokens.

    Deterministic, and independent of the order of the rows as long as keys are distinct.

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
    draws = candidates.uniforms(seed)
    if target.tokens >= candidates.total_tokens:
        return describe(candidates, np.argsort(draws), target, status="all")
    if candidates.is_constant:
        return describe(
            candidates, fill_budget(candidates, np.argsort(draws), target.tokens), target, status="constant"
        )
    if target.tokens < 2 * candidates.shortest:
        by_distance = np.lexsort((draws, np.abs(candidates.ppl - target.mu)))
        fitting = by_distance[candidates.tokens[by_distance] <= target.tokens][:1]
        return describe(candidates, fitting, target, status="single")
    mean_length = candidates.total_tokens / candidates.count
    budget = _whole_chunks(candidates, target.tokens)
    aim_mu, aim_sigma = _aim(candidates, target, budget)
    pool = _without_dominant(candidates, (aim_mu, aim_sigma), budget)
    allowed = candidates.take(pool)
    bins = Bins.of(allowed, aim_mu, aim_sigma)
    tilt = solve_tilt(bins, budget / mean_length, budget)
    index, swaps, certain = _members(allowed, bins, tilt, (aim_mu, aim_sigma), draws[pool], budget)
    index = pool[index]
    status = "tilt" if tilt.is_solved else "tilt_boundary"
    return describe(
        candidates,
        index[np.argsort(draws[index])],
        target,
        status=status,
        aim=(aim_mu, aim_sigma),
        expected_chunks=tilt.expected_chunks,
        certain_share=certain,
        swaps=swaps,
    )


def _aim(candidates: Candidates, target: Target, budget: int) -> tuple[float, float]:
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


def _whole_chunks(candidates: Candidates, tokens: int) -> int:
    """The budget in whole chunks where all are equally long, else as given."""
    return tokens - tokens % candidates.longest if candidates.shortest == candidates.longest else tokens


def _without_dominant(candidates: Candidates, aim: tuple[float, float], budget: int) -> IntArray:
    """Positions of the chunks that may be drawn: without those of the smallest share that can be spared."""
    distance = np.abs(candidates.ppl - aim[0]) / aim[1]
    chunks = candidates.count * budget / candidates.total_tokens
    for share in DOMINANT_SHARES:
        limit = max(math.sqrt(share * chunks), LEAST_DOMINANT)
        kept = np.flatnonzero(distance <= limit)
        if kept.size == candidates.count:
            break
        rest = candidates.take(kept)
        if rest.total_tokens > budget and ReachableRegion.at_share(rest, budget).contains(*aim, SAFE_MARGIN):
            return kept
    return np.arange(candidates.count)


def _members(
    candidates: Candidates, bins: Bins, tilt: Tilt, aim: tuple[float, float], draws: FloatArray, budget: int
) -> tuple[IntArray, int, float]:
    """Members by quota and hash, brought to the budget and to the target's moments; exchanges made; certain share."""
    places = bins.places(candidates.ppl)
    inclusion = np.clip(tilt.inclusion, 1e-12, 1 - 1e-12)
    # Pareto sampling (Rosen 1997): the smallest odds ratios of draw to probability have nearly these probabilities.
    priority: FloatArray = np.log(draws / (1 - draws)) - np.log(inclusion / (1 - inclusion))[places]
    begun = np.cumsum(bins.chunks) - bins.chunks
    stratum = np.unique(begun // STRATUM_CHUNKS, return_inverse=True)[1].astype(np.int64)
    expected = np.bincount(stratum, weights=bins.chunks * tilt.inclusion).astype(np.float64)
    chosen = stratified(stratum[places], expected, priority, offset=float(draws.min() * draws.size % 1.0))
    chosen = at_budget(candidates.tokens, chosen, priority, budget)
    # Marginal chunks come first, so that exchanges touch what a slightly other budget would have touched too.
    inner, outer = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    inner, outer = inner[first_of(-priority[inner])], outer[first_of(priority[outer])]
    u = (candidates.ppl - aim[0]) / aim[1]
    split = refine(u, candidates.tokens, inner, outer, window=(budget - candidates.longest, budget))
    certain = float(np.mean(tilt.inclusion[places[split.inner]] > 0.99))
    return split.inner, split.swaps, certain


def relative_objective(mu: float, sigma: float, mu_target: float, sigma_target: float) -> float:
    """Relative J = ((mu - mu*)/sigma*)^2 + ((sigma^2 - sigma*^2)/sigma*^2)^2."""
    return ((mu - mu_target) / sigma_target) ** 2 + ((sigma / sigma_target) ** 2 - 1.0) ** 2


def divergence(candidates: Candidates, index: IntArray) -> float:
    """Kullback-Leibler divergence in nats of the subset's perplexities from the candidates'.

    Over bins of equal candidate count: 100 of them, fewer where the subset has fewer than 500 chunks, since empty bins
    alone would then raise it.
    """
    bins = int(np.clip(min(index.size // 5, candidates.count // 10), 2, 100))
    cuts = np.unique(candidates.sorted_ppl[(np.arange(1, bins) * candidates.count) // bins])
    whole = np.diff(np.searchsorted(candidates.sorted_ppl, cuts), prepend=0, append=candidates.count)
    part = np.diff(np.searchsorted(np.sort(candidates.ppl[index]), cuts), prepend=0, append=index.size)
    p, q = part / index.size, whole / candidates.count
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))


def describe(
    candidates: Candidates,
    index: IntArray,
    target: Target,
    *,
    status: str,
    aim: tuple[float, float] | None = None,
    expected_chunks: float | None = None,
    certain_share: float = 0.0,
    swaps: int = 0,
) -> Drawn:
    """A drawn subset with its moments, its distance from the target, and the sentences that say so."""
    ppl = candidates.ppl[index]
    mu, sigma, tokens = float(ppl.mean()), float(ppl.std()), int(candidates.tokens[index].sum())
    region = ReachableRegion.at_share(candidates, tokens)
    reachable = region.contains(target.mu, target.sigma)
    _, _, distance = region.nearest(target.mu, target.sigma)
    reachable_tokens = target.tokens if reachable else budget_reaching(candidates, target.mu, target.sigma, SAFE_MARGIN)
    aim = aim or (target.mu, target.sigma)
    reached = (
        f"{index.size} chunks, {tokens} tokens, mean perplexity {mu:.6g}, standard deviation {sigma:.6g}; "
        f"asked for {target.mu:.6g} and {target.sigma:.6g} with {target.tokens} tokens."
    )
    missed = "" if reachable else _out_of_reach(distance, reachable_tokens)
    message = " ".join(part for part in (reached, missed, _REMARKS.get(status, "")) if part)
    return Drawn(
        index=index.astype(np.int64, copy=False),
        mu=mu,
        sigma=sigma,
        tokens=tokens,
        objective=relative_objective(mu, sigma, target.mu, target.sigma),
        kl_nats=divergence(candidates, index),
        target=target,
        aim_mu=aim[0],
        aim_sigma=aim[1],
        aim_objective=relative_objective(mu, sigma, *aim),
        is_reachable=reachable,
        distance=distance,
        reachable_tokens=reachable_tokens,
        status=status,
        message=message,
        expected_chunks=float(index.size) if expected_chunks is None else expected_chunks,
        certain_share=certain_share,
        swaps=swaps,
    )


def _out_of_reach(distance: float, reachable_tokens: int) -> str:
    """One sentence on a target that this budget cannot reach."""
    remedy = (
        f"it becomes reachable at {reachable_tokens} tokens"
        if reachable_tokens
        else "no budget reaches it with these candidates"
    )
    return (
        f"That target is not reachable at this budget: the nearest reachable point is {distance:.3g} away in "
        f"(ln mean, ln deviation), and {remedy}."
    )


_REMARKS = {
    "all": "The budget covers every candidate, so all were taken and nothing was selected.",
    "constant": "All candidates have the same perplexity, so chunks were taken by hash alone.",
    "single": "The budget holds one chunk, so the one nearest to the mean was taken.",
}
