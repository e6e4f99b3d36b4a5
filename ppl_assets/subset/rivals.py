"""Rival selections: the same interface and budget as the sampler, and no target that they follow.

Random; lowest, middle and highest perplexity (Marion et al. 2023, arXiv 2309.04564; Ankner et al. 2024, arXiv
2405.20541); Gaussian importance in perplexity (BERTIN, De la Rosa et al. 2022, arXiv 2207.06814).
Each returns positions into the candidates, at most the budget and less than one chunk below it; where shares of corpora
are limited, each takes its own order as far as they allow. Where chunks may be taken several times, each begins its
order again once all were taken, and position i + c N is copy c of the chunk at i.
"""

from collections.abc import Callable
from functools import wraps

import numpy as np

from ppl_assets.regimes.candidates import Candidates
from ppl_assets.regimes.distribution import IntArray
from ppl_assets.regimes.drawn import Target
from ppl_assets.regimes.limits import Limits, fill_within
from ppl_assets.regimes.quotas import fill_budget
from ppl_assets.regimes.repeats import passes, repeated_in_memory


def _filled(order: Callable[[Candidates, Target, int], IntArray]) -> Callable[..., IntArray]:
    """Of an order of candidates, the first that fit into the budget.

    The selection takes limits of corpora and how often a chunk may be taken besides: none, and once.
    """

    @wraps(order)
    def taken(candidates: Candidates, target: Target, seed: int, limits: Limits = (), repeats: int = 1) -> IntArray:
        every = repeated_in_memory(candidates, repeats)
        ranked = passes(order(candidates, target, seed), candidates.count, repeats)
        budget = target.tokens
        return fill_within(every, ranked, budget, limits) if limits else fill_budget(every, ranked, budget)

    return taken


@_filled
def random(candidates: Candidates, _target: Target, seed: int) -> IntArray:
    """Chunks in the order of a hash of (key, seed)."""
    return np.argsort(candidates.uniforms(seed))


@_filled
def lowest(candidates: Candidates, _target: Target, seed: int) -> IntArray:
    """The lowest perplexities, ties by hash."""
    return np.lexsort((candidates.uniforms(seed), candidates.ppl))


@_filled
def highest(candidates: Candidates, _target: Target, seed: int) -> IntArray:
    """The highest perplexities, ties by hash."""
    return np.lexsort((candidates.uniforms(seed), -candidates.ppl))


@_filled
def middle(candidates: Candidates, _target: Target, seed: int) -> IntArray:
    """The ranks around the median, equally far on both sides."""
    by_rank = np.lexsort((candidates.uniforms(seed), candidates.ppl))
    from_median = np.argsort(np.abs(np.arange(candidates.count) - (candidates.count - 1) / 2), kind="stable")
    return by_rank[from_median]


@_filled
def gaussian(candidates: Candidates, target: Target, seed: int) -> IntArray:
    """Weighted draws without replacement, weight exp(-(x - mu*)^2 / (2 sigma*^2)).

    Exponential keys (Efraimidis & Spirakis 2006): the smallest of -ln(uniform) / weight, compared as logarithms so that
    no weight underflows.
    """
    distance = (candidates.ppl - target.mu) / target.sigma
    keys = np.log(-np.log(candidates.uniforms(seed))) + distance**2 / 2
    return np.argsort(keys)
