"""Which trials to run next, or why no more: the sequential design.

After a fit, a trial is worth what it takes off the variance of the predicted difference between the recommended point
and the points that may be the real optimum; all trials cost the same. Plausible optima are the minima of draws from all
plausible forms (``plausible.py``), so a trial is worth something too where the forms disagree. A batch is picked one by
one, each pick counting as measured for the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ppl_assets.law.observations import FloatArray, Observations
from ppl_assets.law.plausible import Plausible, plausible_forms
from ppl_assets.law.region import SearchRegion

IndexArray = NDArray[np.int64]
StepStatus = Literal["propose", "regret_reached", "location_reached", "budget_spent", "refused"]

DRAWS = 600
"""Draws of the surface: the 95 % quantile of the regret is then known to a few percent of itself."""

MOST_POINTS = 900
"""Points of the search region that are compared: at a range of 4 % a cell of so fine a grid holds 0.005 % of regret."""

BOUND = 0.95
INTERVAL = (2.5, 97.5)
NAN = float("nan")


@dataclass(frozen=True)
class StopRule:
    """When enough is known.

    Attributes:
        regret_pct: enough once the 95 % bound on the regret is below this, % of loss.
        location_pct: or once the 95 % intervals of mu and of sigma reach no further than this to either side, %.
    """

    regret_pct: float = 0.1
    location_pct: float = 5.0


@dataclass(frozen=True)
class Pick:
    """One trial to run.

    Attributes:
        mu: mean perplexity.
        sigma: standard deviation.
        gain: share of the variance left that it is expected to remove.
    """

    mu: float
    sigma: float
    gain: float


@dataclass(frozen=True)
class Knowledge:
    """What is known of the optimum, from all plausible forms.

    Attributes:
        mu: recommended mean perplexity: the least of the averaged prediction, unless one was given.
        sigma: recommended deviation.
        regret_pct: mean loss given away by it, % of loss.
        regret_bound_pct: its 95 % bound.
        mu_interval: 95 % of the plausible optima.
        sigma_interval: the same.
        forms: names of the plausible forms with their weights, heaviest first.
    """

    mu: float
    sigma: float
    regret_pct: float
    regret_bound_pct: float
    mu_interval: tuple[float, float]
    sigma_interval: tuple[float, float]
    forms: tuple[tuple[str, float], ...]

    @property
    def reach_pct(self) -> float:
        """How far the intervals reach from their geometric middle, the wider of the two, %."""
        ratios = [high / low for low, high in (self.mu_interval, self.sigma_interval)]
        return 100.0 * (float(np.sqrt(max(ratios))) - 1.0)


@dataclass(frozen=True)
class SequentialStep:
    """What to do next.

    Attributes:
        status: propose; regret_reached, location_reached, budget_spent (no more trials); refused (nothing can be said).
        sentence: why, in plain words.
        picks: the batch; what would be run next where the status is a stop and anything could be said.
        knowledge: of the optimum; None where refused.
    """

    status: StepStatus
    sentence: str
    picks: tuple[Pick, ...] = ()
    knowledge: Knowledge | None = None

    @property
    def is_over(self) -> bool:
        """Whether no more trials are asked for."""
        return self.status != "propose"


def next_step(
    obs: Observations,
    region: SearchRegion,
    candidates: FloatArray,
    prefixes: Sequence[float],
    tokens: float,
    *,
    batch: int = 3,
    affordable: int | None = None,
    rule: StopRule | None = None,
    recommended: tuple[float, float] | None = None,
    noise_pct: float | None = None,
    seed: int = 0,
) -> SequentialStep:
    """Propose the next batch, or say why there is none.

    Args:
        obs: all measurements so far.
        region: where the optimum is looked for.
        candidates: [c, 2] reachable (mu, sigma) at which a trial can be run, any number of times.
        prefixes: token counts at which a trial is measured, as asked for: those observed differ by a chunk or two.
        tokens: D of the predictions.
        batch: trials proposed at most.
        affordable: trials that the budget still pays for; None: without limit.
        rule: when enough is known.
        recommended: the point whose regret counts; the averaged prediction's least where absent.
        noise_pct: measured seed noise, % of loss, if known.
        seed: of the draws.
    """
    rule = rule or StopRule()
    measured = None if noise_pct is None else noise_pct / 100.0
    beliefs = plausible_forms(obs, measured_noise=measured)
    if not beliefs.forms or region.problem or not len(candidates):
        return _refused(obs, region, candidates)
    u, v, cell = _thinned(region)
    mu, sigma, at = np.exp(u), np.exp(v), np.full(len(u), float(tokens))
    place = _recommended(beliefs, mu, sigma, at, recommended)
    curves = beliefs.draws(mu, sigma, at, DRAWS, np.random.default_rng(seed))
    best = curves.argmin(axis=1)
    knowledge = _knowledge(beliefs, curves, best, mu, sigma, place, cell)
    targets, counts = np.unique(best, return_counts=True)
    rows = beliefs.features(mu, sigma, at)
    differences = rows[targets] - rows[place]
    weight = (differences * (counts / counts.sum())[:, None]).T @ differences  # [q, q]
    picks = _batch(beliefs, candidates, np.asarray(prefixes, float), weight, batch)
    return _verdict(knowledge, picks, affordable, rule)


def _batch(
    beliefs: Plausible, candidates: FloatArray, counts: FloatArray, weight: FloatArray, batch: int
) -> tuple[Pick, ...]:
    """Greedy batch: each pick removes most of tr(W S), S the covariance after the picks before it.

    A run at x has features X [points, q] and noise V = point^2 I + run^2 11^T; measured, it leaves
    S - S X^T (V + X S X^T)^-1 X S.
    """
    points = len(counts)
    mu, sigma = np.repeat(candidates, points, axis=0).T
    rows = beliefs.features(mu, sigma, np.tile(counts, len(candidates))).reshape(len(candidates), points, -1)
    noise = beliefs.point_noise**2 * np.eye(points) + beliefs.run_noise**2
    covariance, picks = np.eye(rows.shape[2]), []
    whole = float(np.trace(weight))
    for _ in range(batch):
        seen = rows @ covariance  # [c, points, q]
        inner = noise + seen @ rows.transpose(0, 2, 1)
        kept = np.linalg.inv(inner)
        gains = np.einsum("cij,cjq,qr,cir->c", kept, seen, weight, seen, optimize=True)
        chosen = int(np.argmax(gains))
        mean, deviation = candidates[chosen]
        share = float(gains[chosen]) / whole if whole > 0 else 0.0
        picks.append(Pick(float(mean), float(deviation), share))
        covariance = covariance - seen[chosen].T @ kept[chosen] @ seen[chosen]
    return tuple(picks)


def _thinned(region: SearchRegion) -> tuple[FloatArray, FloatArray, FloatArray]:
    """[m] ln mu and ln sigma of about MOST_POINTS points of the region's grid, and [2] their distances."""
    u, v = region.points
    every = 1
    while len(u) / every**2 > MOST_POINTS:
        every += 1
    axes = region.axes
    rows, columns = (
        np.rint((x - axis[0]) / (axis[1] - axis[0])).astype(int) for x, axis in zip((u, v), axes, strict=True)
    )
    kept = (rows % every == 0) & (columns % every == 0)
    return (u[kept], v[kept], every * region.step) if kept.any() else (u, v, region.step)


def _recommended(
    beliefs: Plausible, mu: FloatArray, sigma: FloatArray, at: FloatArray, given: tuple[float, float] | None
) -> int:
    """The point of the grid that is recommended, or that is nearest to the given one."""
    if given is None:
        return int(np.argmin(beliefs.mean(mu, sigma, at)))
    return int(np.argmin(np.hypot(np.log(mu / given[0]), np.log(sigma / given[1]))))


def _knowledge(
    beliefs: Plausible,
    curves: FloatArray,
    best: IndexArray,
    mu: FloatArray,
    sigma: FloatArray,
    at: int,
    cell: FloatArray,
) -> Knowledge:
    """Regret and location over the draws; no interval is narrower than the grid's cell, where the optimum may lie."""
    regret = 100.0 * np.expm1(curves[:, at] - curves[np.arange(len(curves)), best])
    ends = [
        np.percentile(values[best], INTERVAL) * np.exp([-width / 2, width / 2])
        for values, width in zip((mu, sigma), cell, strict=True)
    ]
    return Knowledge(
        mu=float(mu[at]),
        sigma=float(sigma[at]),
        regret_pct=float(regret.mean()),
        regret_bound_pct=float(np.quantile(regret, BOUND)),
        mu_interval=(float(ends[0][0]), float(ends[0][1])),
        sigma_interval=(float(ends[1][0]), float(ends[1][1])),
        forms=tuple((f"{form.fit.form}, {form.fit.link} link", form.weight) for form in beliefs.forms),
    )


def _verdict(known: Knowledge, picks: tuple[Pick, ...], affordable: int | None, rule: StopRule) -> SequentialStep:
    bound = f"the 95 % bound on the loss given away is {known.regret_bound_pct:.3g} %"
    if known.regret_bound_pct <= rule.regret_pct:
        sentence = f"Enough is known: {bound}, under the {rule.regret_pct:g} % asked for."
        return SequentialStep("regret_reached", sentence, picks, known)
    if known.reach_pct <= rule.location_pct:
        sentence = (
            f"Enough is known: mean and deviation of the optimum are known to {known.reach_pct:.2g} % either way, "
            f"within the {rule.location_pct:g} % asked for; {bound}."
        )
        return SequentialStep("location_reached", sentence, picks, known)
    if affordable is not None and affordable < 1:
        sentence = (
            f"The budget is spent: it pays for no further trial; {bound}, and {rule.regret_pct:g} % were asked for."
        )
        return SequentialStep("budget_spent", sentence, picks, known)
    picks = picks if affordable is None else picks[:affordable]
    places = ", ".join(f"({pick.mu:.4g}, {pick.sigma:.4g})" for pick in picks)
    number = "1 trial" if len(picks) == 1 else f"{len(picks)} trials"
    sentence = f"Next: {number} at (mean, deviation) {places}; {bound}, above the {rule.regret_pct:g} % asked for."
    return SequentialStep("propose", sentence, picks, known)


def _refused(obs: Observations, region: SearchRegion, candidates: FloatArray) -> SequentialStep:
    if region.problem:
        why = region.problem
    elif not len(candidates):
        why = "no subset of the candidates can be a trial: lower trials.tokens or add text"
    else:
        regimes = len(np.unique(obs.regime_index))
        why = f"no form of the law with a surface can be judged on {regimes} regimes: raise regimes.grid"
    return SequentialStep("refused", f"Nothing can be proposed: {why}.")
