"""From the optimum to a target: of the places that are as good, the one that changes the corpus least.

The surface is flat near its least loss and the optimum's location unsure, so the optimum itself is an arbitrary choice
among many. The place nearest to the corpus' own moments keeps most of the corpus' variety, and leans least on the fit.
"""

from dataclasses import dataclass

import numpy as np

from ppl_assets.law.fit import LawFit
from ppl_assets.law.optimum import Optimum
from ppl_assets.law.region import SearchRegion


@dataclass(frozen=True)
class AsGood:
    """A place that is as good as the optimum.

    Attributes:
        mu: mean perplexity.
        sigma: standard deviation.
        cost_pct: predicted loss there over that at the optimum, less one, %.
    """

    mu: float
    sigma: float
    cost_pct: float


def nearest_as_good(law: LawFit, best: Optimum, region: SearchRegion, corpus: tuple[float, float]) -> AsGood | None:
    """The place as good as the optimum that is nearest to the corpus in (ln mu, ln sigma).

    As good: the refits cannot tell it from the optimum (:class:`~ppl_assets.law.indistinguishable.Indistinguishable`),
    and it is predicted to be worse by at most the noise, by which two seeds of one regime differ. The first alone would
    take in whatever few trials say nothing about.

    Args:
        law: the fit.
        best: its optimum.
        region: where it was searched.
        corpus: mean and deviation of the candidates.

    Returns:
        The corpus' own moments where they are as good; None without refits.
    """
    if best.equals is None:
        return None
    here = np.log(np.array(corpus))
    u, v = np.append(region.points[0], here[0]), np.append(region.points[1], here[1])
    away = np.hypot(u - here[0], v - here[1])
    own = int(np.argmin(away[:-1]))
    is_inside = bool((np.abs([u[own] - here[0], v[own] - here[1]]) <= region.step).all())
    loss = law.predict(np.exp(u), np.exp(v), np.full(len(u), best.tokens))
    cost = 100.0 * (loss / best.predicted_loss - 1.0)
    allowed = np.append(best.equals.mask, is_inside and best.equals.mask[own]) & (cost <= best.noise_pct)
    if not allowed.any():
        return AsGood(best.mu, best.sigma, 0.0)
    place = int(np.argmin(np.where(allowed, away, np.inf)))
    return AsGood(float(np.exp(u[place])), float(np.exp(v[place])), max(0.0, float(cost[place])))
