"""How far an optimum may move: intervals over refits, its regret, and the places that cannot be told from it.

Belongs here: what the refits say about the optimum. Does not belong here: its kind (``optimum.py``).
"""

from dataclasses import dataclass

import numpy as np

from ppl_assets.law.fit import LawFit
from ppl_assets.law.observations import FloatArray, MaskArray
from ppl_assets.law.region import SearchRegion, Slopes
from ppl_assets.law.surface import peaks
from ppl_assets.law.uncertainty import BootstrapResult, Interval, delta_interval

BOUND = 0.95
"""One-sided level at which a place counts as worse than the optimum, and of the bound on regret."""

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Indistinguishable:
    """The places of the search region that the measurements cannot tell from the optimum.

    A place is told from the optimum where at least 95 % of the refits give it a higher loss than the optimum has, and
    the 95 % bound on its regret is above the noise. All others are in the set: not shown to be worse, or worse by less
    than two seeds of one regime differ. At each place by itself, not for all places at once.

    Attributes:
        mask: [M] over ``SearchRegion.points``.
        share: share of the region that is in the set; the grid is even in (ln mu, ln sigma).
        mu: least and greatest mean perplexity in the set, the optimum included.
        sigma: least and greatest standard deviation.
        edge: [k, 2] (mu, sigma) of the places of the set that touch one outside it or the region's end.
        regret_pct: largest 95 % bound on regret in the set, % of loss.
    """

    mask: MaskArray
    share: float
    mu: Interval
    sigma: Interval
    edge: FloatArray
    regret_pct: float

    @property
    def sentence(self) -> str:
        """The set in plain words."""
        return equals_sentence(self.share, self.mu, self.sigma)


def equals_sentence(share: float, mu: Interval, sigma: Interval) -> str:
    """A set of places that cannot be told from the optimum, in plain words; ``share`` is of the region searched."""
    return (
        f"{100 * share:.0f} % of the region searched cannot be told from the optimum: mean perplexity "
        f"{mu[0]:.4g} to {mu[1]:.4g}, standard deviation {sigma[0]:.4g} to {sigma[1]:.4g}."
    )


@dataclass(frozen=True)
class Spread:
    """What the refits say about an optimum; nan where there are none.

    Attributes:
        mu: interval of its mean perplexity over refits, widened to hold it: on an edge an optimum moves one way only.
        sigma: the same of its standard deviation.
        loss: interval of the loss predicted there, nats a token.
        regret_pct: median regret over refits, % of loss.
        regret_bound_pct: its 95 % quantile.
        bowl_share: share of refits with a bowl inside the region.
        equals: the places that cannot be told from it.
    """

    mu: Interval = (NAN, NAN)
    sigma: Interval = (NAN, NAN)
    loss: Interval = (NAN, NAN)
    regret_pct: float = NAN
    regret_bound_pct: float = NAN
    bowl_share: float = NAN
    equals: Indistinguishable | None = None


def spread_over_refits(
    law: LawFit,
    region: SearchRegion,
    slopes: Slopes,
    boot: BootstrapResult | None,
    at: tuple[float, float],
    tokens: float,
    noise_pct: float,
) -> Spread:
    """Intervals of location, loss and regret over the refits.

    Args:
        law: the fit.
        region: where the optimum was searched.
        slopes: of the form's columns at the region's points.
        boot: the refits; without any, only the loss has an interval, by the delta method.
        at: (ln mu, ln sigma) of the optimum.
        tokens: D of the predictions.
        noise_pct: noise of a run, % of loss.
    """
    here = np.exp([at[0]]), np.exp([at[1]]), np.array([tokens])
    if boot is None or not len(boot.E):
        low, high = delta_interval(law, *here)
        return Spread(loss=(float(low[0]), float(high[0])))
    tops = peaks(slopes, boot.coefficients[:, 1:-1], region)
    u, v = region.points
    losses = boot.predict(np.exp(u), np.exp(v), np.full(len(u), tokens))
    chosen = boot.predict(*here)[:, 0]
    best = np.minimum(losses.min(axis=1), chosen)
    regret = 100.0 * (chosen / best - 1.0)
    return Spread(
        mu=_around(float(here[0][0]), _ends(boot, np.exp(tops.u))),
        sigma=_around(float(here[1][0]), _ends(boot, np.exp(tops.v))),
        loss=_ends(boot, chosen),
        regret_pct=float(np.median(regret)),
        regret_bound_pct=float(np.quantile(regret, BOUND)),
        bowl_share=float(tops.is_bowl.mean()),
        equals=indistinguishable(region, losses, chosen, at, noise_pct),
    )


def indistinguishable(
    region: SearchRegion, losses: FloatArray, chosen: FloatArray, at: tuple[float, float], noise_pct: float
) -> Indistinguishable:
    """The set of :class:`Indistinguishable`; it always holds the grid point nearest to the optimum.

    Args:
        region: where the optimum was searched, M grid points.
        losses: [R, M] loss of each refit at each grid point, nats a token.
        chosen: [R] loss of each refit at the optimum.
        at: (ln mu, ln sigma) of the optimum.
        noise_pct: noise of a run, % of loss.
    """
    u, v = region.points
    best = np.minimum(losses.min(axis=1), chosen)
    least = np.quantile(losses / chosen[:, None], 1.0 - BOUND, axis=0) - 1.0
    bound = 100.0 * (np.quantile(losses / best[:, None], BOUND, axis=0) - 1.0)
    mask = (least <= 0.0) | (bound <= noise_pct)
    mask[int(np.argmin(((u - at[0]) / region.step[0]) ** 2 + ((v - at[1]) / region.step[1]) ** 2))] = True
    mu, sigma = np.exp(np.append(u[mask], at[0])), np.exp(np.append(v[mask], at[1]))
    rim = mask & ~_surrounded(region, mask)
    return Indistinguishable(
        mask=mask,
        share=float(mask.mean()),
        mu=(float(mu.min()), float(mu.max())),
        sigma=(float(sigma.min()), float(sigma.max())),
        edge=np.exp(np.stack([u[rim], v[rim]], axis=1)),
        regret_pct=float(bound[mask].max()),
    )


def _surrounded(region: SearchRegion, mask: MaskArray) -> MaskArray:
    """[M] whether the four neighbours of a grid point are in the set too."""
    cells = np.zeros(region.cells.shape, dtype=bool)
    cells[region.cells] = mask
    wide = np.pad(cells, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return np.asarray(inner[region.cells])


def _around(value: float, interval: Interval) -> Interval:
    return min(value, interval[0]), max(value, interval[1])


def _ends(boot: BootstrapResult, values: FloatArray) -> Interval:
    low, high = boot.interval(values)
    return float(low), float(high)
