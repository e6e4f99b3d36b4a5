"""Simulated trials with a known law, and a general optimizer to hold the fit against."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import least_squares

from ppl_assets.law.fit import LawFit
from ppl_assets.law.forms import LINKS, LinkName, design
from ppl_assets.law.observations import FloatArray, Observations
from ppl_assets.law.region import SearchRegion
from ppl_assets_tests.law.synthetic import CENTRES, GRID, TRUTHS, truth
from ppl_assets_tests.law.synthetic import trials as clean_trials

TOKENS = np.geomspace(4e3, 64e3, 3)
"""Three token counts of 12 runs make 36 points."""

BOWLS = ("paper bowl", "quadratic bowl", "quadratic bowl, paper's link")
"""Truths with a minimum inside what is tried; all others have none."""

STARTS = 64


@dataclass(frozen=True)
class Truth:
    """One known law over the 3 x 3 grid of regimes with the centre run four times."""

    name: str

    @property
    def form(self) -> str:
        return TRUTHS[self.name][0]

    @property
    def link(self) -> LinkName:
        return TRUTHS[self.name][1]

    @property
    def has_bowl(self) -> bool:
        return self.name in BOWLS

    def loss(self, mu: FloatArray, sigma: FloatArray, tokens: FloatArray) -> FloatArray:
        """True test loss, nats a token."""
        return truth(self.name, mu, sigma, tokens)

    @cached_property
    def least(self) -> float:
        """Least true loss over the region searched, at the largest token count."""
        u, v = SearchRegion(*np.array(GRID).T).points
        return float(self.loss(np.exp(u), np.exp(v), np.full(len(u), TOKENS[-1])).min())

    def regret_pct(self, mu: float, sigma: float) -> float:
        """Loss given away at (mu, sigma) against the best place of the region, % of loss."""
        here = float(self.loss(np.array([mu]), np.array([sigma]), TOKENS[-1:])[0])
        return max(0.0, 100.0 * (here / self.least - 1.0))


def simulate(known: Truth, noise: float, seed: int) -> Observations:
    """36 points of 12 runs; half of the noise's variance is shared by the points of a run.

    Args:
        known: the law.
        noise: standard deviation of ln L.
        seed: of the noise.
    """
    rng = np.random.default_rng([seed, round(1e4 * noise), list(TRUTHS).index(known.name)])
    places = np.array(GRID + CENTRES)
    mu, sigma = np.repeat(places, len(TOKENS), axis=0).T
    run, tokens = np.repeat(np.arange(len(places)), len(TOKENS)), np.tile(TOKENS, len(places))
    shared, own = rng.standard_normal(len(places))[run], rng.standard_normal(len(run))
    loss = known.loss(mu, sigma, tokens) * np.exp(noise * (shared + own) / 2**0.5)
    regime = np.array([f"{m:g}-{s:g}" for m, s in zip(mu, sigma, strict=True)])
    return Observations(mu, sigma, tokens, loss, run, clean_trials(known.name).base_loss, regime)


def best_of_starts(law: LawFit, seed: int) -> float:
    """Least sum of squared residuals of ln L that 64 starts of a trust-region optimizer reach.

    Half of the starts are the least-squares coefficients at a random floor, half are these times a random factor: a
    rival that knows the law's shape.
    """
    used, link = law.observations, LINKS[law.link]
    columns = design(law.parts[0], link, used.mu, used.sigma, used.tokens, law.sigma_kind)
    basis, _ = np.linalg.qr(columns)
    rng, top = np.random.default_rng(seed), float(used.loss.min())

    def residual(x: FloatArray) -> FloatArray:
        return np.log(used.loss) - np.log(link.loss(basis @ x[1:], np.asarray(x[0]), used.base_loss) + 1e-300)

    def slopes(x: FloatArray) -> FloatArray:
        y, floor = basis @ x[1:], np.asarray(x[0])
        loss = link.loss(y, floor, used.base_loss) + 1e-300
        by_y, by_floor = link.slopes(y, floor, used.base_loss)
        return -np.concatenate([(by_floor / loss)[:, None], (by_y / loss)[:, None] * basis], axis=1)

    lowest, highest = np.full(1 + basis.shape[1], -np.inf), np.full(1 + basis.shape[1], np.inf)
    lowest[0], highest[0] = 0.0, top * (1 - 1e-6)
    best = np.inf
    for start in range(STARTS):
        floor = top * rng.uniform(0.001, 0.999)
        c = basis.T @ link.response(used.loss, np.asarray(floor), used.base_loss)
        if start % 2:
            c = c * rng.normal(1.0, 0.5, len(c))
        found = least_squares(
            residual, np.r_[floor, c], slopes, (lowest, highest), x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15
        )
        best = min(best, 2 * float(found.cost))
    return best
