"""Trial tokens that the sequential design needs for the error of a space-filling design, on simulated trials.

    python -m benchmarks.sequential --json

Laws with a known optimum (``truths.py``): loss varying by 4 % over the region, 0.3 % noise of which most is shared by
a run's points, every run measured at the same six token counts. Space-filling: the 3 x 3 grid and two repeats of its
centre, enlarged by maximin or by Sobol points, and plain 4 x 4, 5 x 5 and 6 x 6 grids. Sequential: the 3 x 3 grid,
then batches of three. Both are judged by the same estimator: the least of the plausible forms' averaged prediction.

The ratio of a law: tokens at which the sequential design first has the median regret that the better space-filling
design has at ``REFERENCE_RUNS`` runs, over the tokens of those. Curves are made monotone (isotonic regression of ln
regret) and read by interpolation. ``sequential_token_ratio`` is the ratio of the curves averaged over the laws
(geometric mean of the medians); the ratio of each law is beside it.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import qmc

from benchmarks.truths import FAMILIES, HIGH, LOW, TOKENS, Truth, draw_truth, fine_grid, simulated
from ppl_assets.law.observations import FloatArray, Observations
from ppl_assets.law.plausible import plausible_forms
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.sequential import next_step

RUN_NOISE, POINT_NOISE = 0.0025, 0.0017
"""0.3 % in all: what a run's points share, and what they do not."""

FILLED_RUNS = (11, 13, 16, 20, 24, 28, 32, 36, 42, 48)
SEQUENTIAL_RUNS = (9, 12, 15, 18, 21, 24, 27, 30, 36)
RUNS = {
    "sequential": SEQUENTIAL_RUNS,
    "maximin": FILLED_RUNS,
    "sobol": FILLED_RUNS,
    "grid": (16, 25, 36),
}
REFERENCE_RUNS = 36
REFERENCES = (20, 24, 28, 32, 36, 42, 48)
BATCH = 3
FILLED = ("maximin", "sobol", "grid")
SIDES = (4, 5, 6)
"""Plain grids, 16, 25 and 36 runs without a repeat: what most people would run."""

LEAST_REGRET = 1e-5
"""% of loss; less is the step of the grid on which optima are looked for."""


@dataclass(frozen=True)
class Curve:
    """Regret of the fitted optimum against runs: quantiles over replicates, % of loss."""

    runs: tuple[int, ...]
    median: tuple[float, ...]
    p90: tuple[float, ...]

    @classmethod
    def of(cls, runs: tuple[int, ...], regrets: FloatArray) -> "Curve":
        """From regrets [replicates, runs]."""
        median, p90 = np.quantile(regrets, [0.5, 0.9], axis=0)
        return cls(runs, tuple(median.round(6).tolist()), tuple(p90.round(6).tolist()))

    def falling(self) -> FloatArray:
        """ln of the median, made monotone."""
        return isotonic_regression(np.log(np.maximum(self.median, LEAST_REGRET)), increasing=False).x

    def of_p90(self) -> "Curve":
        """The 90th percentile in the median's place."""
        return Curve(self.runs, self.p90, self.p90)

    def at(self, runs: int) -> float:
        """ln regret at a number of runs."""
        return float(np.interp(np.log(runs), np.log(self.runs), self.falling()))

    def runs_for(self, log_regret: float) -> float:
        """Runs at which the regret is first this low; infinite where it never is."""
        values, where = self.falling(), np.log(self.runs)
        if values[-1] > log_regret:
            return float("inf")
        first = int(np.argmax(values <= log_regret))
        if first == 0:
            return float(self.runs[0])
        share = (values[first - 1] - log_regret) / (values[first - 1] - values[first])
        return float(np.exp(where[first - 1] + share * (where[first] - where[first - 1])))


def grid(side: int) -> FloatArray:
    """[side^2, 2] (mu, sigma), equally spaced in logs over the region."""
    u, v = np.meshgrid(*(np.linspace(low, high, side) for low, high in zip(LOW, HIGH, strict=True)), indexing="ij")
    return np.exp(np.stack([u.ravel(), v.ravel()], axis=1))


CENTRE = np.exp((LOW + HIGH) / 2)[None]
FACES = grid(3)
CANDIDATES = grid(9)


@cache
def maximin(count: int) -> FloatArray:
    """The grid, two repeats of its centre, then points as far as can be from those before."""
    fine, scale = np.log(grid(41)), HIGH - LOW
    places = [*np.log(FACES), *np.log(CENTRE), *np.log(CENTRE)]
    while len(places) < count:
        distance = np.min([np.hypot(*((fine - place) / scale).T) for place in places], axis=0)
        places.append(fine[int(np.argmax(distance))])
    return np.exp(np.array(places))


def _sobol(count: int, seed: int) -> FloatArray:
    """The grid, two repeats of its centre, then scrambled Sobol points."""
    points = qmc.Sobol(2, rng=np.random.default_rng(seed)).random_base2(6)
    return np.concatenate([FACES, CENTRE, CENTRE, np.exp(LOW + points * (HIGH - LOW))])[:count]


def regret(truth: Truth, obs: Observations) -> float:
    """Regret of the averaged prediction's least, % of loss; that of the centre where nothing can be fitted."""
    beliefs = plausible_forms(obs)
    if not beliefs.forms:
        return truth.regret_pct(*CENTRE[0])
    mu, sigma = fine_grid()
    best = int(np.argmin(beliefs.mean(mu, sigma, np.full(len(mu), TOKENS[-1]))))
    return max(truth.regret_pct(float(mu[best]), float(sigma[best])), 0.0)


def filled_regrets(truth: Truth, places: FloatArray, runs: tuple[int, ...], seed: int) -> list[float]:
    """Regret of the first n runs at the places."""
    obs = simulated(truth, places[: max(runs)], RUN_NOISE, POINT_NOISE, seed)
    return [regret(truth, obs.subset(obs.run < count)) for count in runs]


def sequential_regrets(truth: Truth, runs: tuple[int, ...], seed: int) -> tuple[list[float], int]:
    """Regret after each batch, and the runs at which the 95 % bound first fell under 0.1 % (0: never)."""
    places, region, found, stopped = FACES, SearchRegion(*FACES.T), [], 0
    for count in range(runs[0], runs[-1] + 1, BATCH):
        obs = simulated(truth, places, RUN_NOISE, POINT_NOISE, seed)
        if count in runs:
            found.append(regret(truth, obs))
        step = next_step(obs, region, CANDIDATES, list(TOKENS), float(TOKENS[-1]), batch=BATCH, seed=seed)
        if step.status == "regret_reached" and not stopped:
            stopped = count
        picked = [(pick.mu, pick.sigma) for pick in step.picks] or [tuple(CENTRE[0])] * BATCH
        places = np.concatenate([places, np.array(picked)])
    return found, stopped


@dataclass(frozen=True)
class Comparison:
    """One family of laws.

    Attributes:
        curves: by design.
        ratios: token ratio by reference runs.
        stop_runs_median: runs at which the 95 % bound on regret first fell under 0.1 %.
        stopped: replicates in which it did.
        wrong_stops: share of those whose regret was above 0.1 % all the same; at most 0.05 is claimed.
    """

    curves: dict[str, Curve]
    ratios: dict[str, float | None]
    stop_runs_median: float
    stopped: int
    wrong_stops: float | None


def compare(family: str, replicates: int, seed: int) -> Comparison:
    """Curves of one family of laws, the same laws and noise for every design."""
    regrets: dict[str, list[list[float]]] = {"sequential": [], **{name: [] for name in FILLED}}
    stops, at_stop = [], []
    for replicate in range(replicates):
        number = 1000 * seed + replicate
        truth = draw_truth(family, np.random.default_rng([seed, replicate, list(FAMILIES).index(family)]))
        found, stopped = sequential_regrets(truth, SEQUENTIAL_RUNS, number)
        regrets["sequential"].append(found)
        regrets["maximin"].append(filled_regrets(truth, maximin(FILLED_RUNS[-1]), FILLED_RUNS, number))
        regrets["grid"].append([filled_regrets(truth, grid(side), (side**2,), number)[0] for side in SIDES])
        regrets["sobol"].append(filled_regrets(truth, _sobol(FILLED_RUNS[-1], number), FILLED_RUNS, number))
        stops.append(stopped)
        if stopped in SEQUENTIAL_RUNS:
            at_stop.append(found[SEQUENTIAL_RUNS.index(stopped)])
    curves = {name: Curve.of(RUNS[name], np.array(rows)) for name, rows in regrets.items()}
    return Comparison(
        curves,
        {str(runs): _ratio(curves, runs) for runs in REFERENCES},
        float(np.median([stop or SEQUENTIAL_RUNS[-1] for stop in stops])),
        sum(stop > 0 for stop in stops),
        float(np.mean(np.array(at_stop) > 0.1)) if at_stop else None,
    )


def _ratio(curves: dict[str, Curve], runs: int, against: tuple[str, ...] = FILLED) -> float | None:
    """Runs of the sequential design over ``runs`` of the better space-filling one, at its regret; None: never."""
    reached = [curves[name].at(runs) for name in against if runs <= curves[name].runs[-1]]
    if not reached:
        return None
    wanted = min(reached)
    ratio = curves["sequential"].runs_for(wanted) / runs
    return round(ratio, 3) if np.isfinite(ratio) else None


def _averaged(curves: list[Curve]) -> Curve:
    """Geometric means over laws."""
    median, p90 = (
        np.exp(np.mean(np.log(np.maximum([getattr(c, name) for c in curves], LEAST_REGRET)), axis=0))
        for name in ("median", "p90")
    )
    return Curve(curves[0].runs, tuple(median.round(6).tolist()), tuple(p90.round(6).tolist()))


def sequential_token_ratio(replicates: int = 30, seed: int = 0) -> dict[str, object]:
    """Ratio of trial tokens, per law and over all of them; a run costs the same tokens in every design."""
    families: dict[str, Comparison] = {}
    for family in FAMILIES:
        began = time.perf_counter()
        families[family] = compare(family, replicates, seed)
        print(f"{family}: {families[family].ratios}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    averaged = {
        name: _averaged([found.curves[name] for found in families.values()]) for name in ("sequential", *FILLED)
    }
    ratios = {str(runs): _ratio(averaged, runs) for runs in REFERENCES}
    poor = {name: curve.of_p90() for name, curve in averaged.items()}
    return {
        "sequential_token_ratio": ratios[str(REFERENCE_RUNS)],
        "ratio_by_reference_runs": ratios,
        "ratio_against": {name: _ratio(averaged, REFERENCE_RUNS, (name,)) for name in FILLED},
        "ratio_of_90th_percentiles": {str(runs): _ratio(poor, runs) for runs in REFERENCES},
        "ratio_by_law": {name: found.ratios[str(REFERENCE_RUNS)] for name, found in families.items()},
        "reference_runs": REFERENCE_RUNS,
        "noise_pct": {"run": 100 * RUN_NOISE, "point": 100 * POINT_NOISE},
        "tokens_per_run": float(TOKENS[-1]),
        "replicates": replicates,
        "seed": seed,
        "curves": {name: asdict(curve) for name, curve in averaged.items()},
        "laws": {name: asdict(found) for name, found in families.items()},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="all figures as JSON on stdout")
    options = parser.parse_args()
    found = sequential_token_ratio(options.replicates, options.seed)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"sequential_token_ratio {found['sequential_token_ratio']}, by law {found['ratio_by_law']}")


if __name__ == "__main__":
    main()
