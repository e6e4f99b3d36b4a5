"""A drawn subset: what was asked for, what was reached, and the sentences that say so.

Every strategy's subset is described here, by the moments of its own chunks and the reachable set of all candidates.
"""

import math
from dataclasses import dataclass

import numpy as np

from ppl_assets.regimes.candidates import ChunkSource, Members, SelectionError
from ppl_assets.regimes.distribution import FloatArray, IntArray
from ppl_assets.regimes.reachable import ReachableRegion, budget_reaching

SAFE_MARGIN = 0.02
"""An unreachable target is replaced by the nearest point this far inside: nothing is left to choose on the boundary."""


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
        members: the n chunks; their order is a function of keys and seed, or of the strategy.
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
        status: tilt, tilt_boundary (the probabilities did not converge, exchanges did the work), limited (limits of
            corpora moved it), limited_nearest (and stand in the way of the target), all, constant, single, or the
            strategy's name.
        message: what was reached, as sentences.
        expected_chunks: sum of the inclusion probabilities; the number of chunks where there are none.
        certain_share: share of the subset that was included with a probability above 0.99.
        swaps: exchanges made.
        repeated_tokens: tokens of chunks that are in the subset already.
    """

    members: Members
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
    repeated_tokens: int = 0

    @property
    def index(self) -> IntArray:
        """Positions of the members among the candidates, int64 [n]."""
        return self.members.index

    @property
    def chunks(self) -> int:
        """Number of chunks drawn."""
        return self.members.index.size


def relative_objective(mu: float, sigma: float, mu_target: float, sigma_target: float) -> float:
    """Relative J = ((mu - mu*)/sigma*)^2 + ((sigma^2 - sigma*^2)/sigma*^2)^2."""
    return ((mu - mu_target) / sigma_target) ** 2 + ((sigma / sigma_target) ** 2 - 1.0) ** 2


def divergence(candidates: ChunkSource, members: Members) -> float:
    """Kullback-Leibler divergence in nats of the members' perplexities from the candidates'.

    Over bins of equal candidate count, as far as atoms allow: 100 of them, fewer where there are fewer than 500
    members, since empty bins alone would then raise it.
    """
    bins = int(np.clip(min(members.ppl.size // 5, candidates.count // 10), 2, 100))
    return binned_divergence(candidates, members.ppl, bins)[0]


def binned_divergence(candidates: ChunkSource, ppl: FloatArray, bins: int) -> tuple[float, int]:
    """Kullback-Leibler divergence in nats over ``bins`` bins of equal candidate count, and how many hold a member.

    Args:
        candidates: N chunks.
        ppl: [n], perplexities of some of them.
        bins: as far as atoms allow.
    """
    scores, count = candidates.distribution, candidates.count
    cuts = np.unique(scores.atoms_at((np.arange(1, bins) * count) // bins))
    whole = np.diff(scores.prefix_sums[0][cuts], prepend=0, append=count)
    held = np.cumsum(np.bincount(scores.places(ppl), minlength=scores.value.size))
    part = np.diff(np.append(0, held)[cuts], prepend=0, append=ppl.size)
    p, q = part / ppl.size, whole / count
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen]))), int(seen.sum())


def describe(
    candidates: ChunkSource,
    members: Members,
    target: Target,
    *,
    status: str,
    aim: tuple[float, float] | None = None,
    expected_chunks: float | None = None,
    certain_share: float = 0.0,
    swaps: int = 0,
) -> Drawn:
    """A drawn subset with its moments, its distance from the target, and the sentences that say so."""
    size = members.index.size
    mu, sigma, tokens = float(members.ppl.mean()), float(members.ppl.std()), int(members.tokens.sum())
    region = ReachableRegion.at_share(candidates, tokens)
    reachable = region.contains(target.mu, target.sigma)
    _, _, distance = region.nearest(target.mu, target.sigma)
    reachable_tokens = target.tokens if reachable else budget_reaching(candidates, target.mu, target.sigma, SAFE_MARGIN)
    aim = aim or (target.mu, target.sigma)
    reached = (
        f"{size} chunks, {tokens} tokens, mean perplexity {mu:.6g}, standard deviation {sigma:.6g}; "
        f"asked for {target.mu:.6g} and {target.sigma:.6g} with {target.tokens} tokens."
    )
    missed = "" if reachable else _out_of_reach(distance, reachable_tokens)
    message = " ".join(part for part in (reached, missed, _REMARKS.get(status, "")) if part)
    return Drawn(
        members=members,
        mu=mu,
        sigma=sigma,
        tokens=tokens,
        objective=relative_objective(mu, sigma, target.mu, target.sigma),
        kl_nats=divergence(candidates, members),
        target=target,
        aim_mu=aim[0],
        aim_sigma=aim[1],
        aim_objective=relative_objective(mu, sigma, *aim),
        is_reachable=reachable,
        distance=distance,
        reachable_tokens=reachable_tokens,
        status=status,
        message=message,
        expected_chunks=float(size) if expected_chunks is None else expected_chunks,
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
