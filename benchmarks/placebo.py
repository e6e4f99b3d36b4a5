"""How often the law is believed where there is nothing to believe: real trials with their loss curves shuffled.

    python -m benchmarks.placebo --json > benchmarks/results/placebo.json

Of a finished study's trials (``benchmarks/results/*-study-trials.csv``) the regimes' loss curves are dealt out anew to
the regimes; repeats keep their differences. The loss then has its real spread and noise and nothing to do with mean and
deviation, yet the whole procedure is run: every form fitted, one chosen, the findings drawn up. ``believed`` is the
share of shuffles in which all findings pass without which a law does not decide where the subset sits.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.environment import note
from ppl_assets.law.checks import BELIEVED, checks
from ppl_assets.law.choice import choose, fit_all
from ppl_assets.law.law_rows import observations
from ppl_assets.law.observations import FloatArray, Observations, measured_noise
from ppl_assets.law.region import SearchRegion

STUDIES = ("medical", "default")
FOLDER = Path(__file__).parent / "results"


def trials_of(study: str) -> Observations:
    """The measurements of a committed study; log moments left out, since no form in them is ever chosen."""
    losses = pl.read_csv(FOLDER / f"{study}-study-trials.csv").filter(pl.col("branch") == "trunk")
    losses = losses.with_columns(log_mu=pl.lit(None, pl.Float64))
    regimes = losses.select("trial", regime=pl.col("trial").str.split("-s").list.first()).unique()
    return observations(losses, regimes)


def shuffled(obs: Observations, rng: np.random.Generator) -> Observations:
    """The same runs, the mean curve of each regime replaced by another regime's."""
    if obs.regime is None:
        raise ValueError("the measurements have no regimes to shuffle")
    rows = {run: np.flatnonzero(obs.run == run) for run in obs.runs}
    of_run = {run: str(obs.regime[places[0]]) for run, places in rows.items()}
    places = sorted(set(of_run.values()))
    curves: dict[str, FloatArray] = {
        place: np.mean([np.log(obs.loss[rows[run]]) for run in rows if of_run[run] == place], axis=0)
        for place in places
    }
    dealt = dict(zip(places, rng.permutation(places), strict=True))
    loss = obs.loss.copy()
    for run, at in rows.items():
        own = np.log(obs.loss[at]) - curves[of_run[run]]
        loss[at] = np.exp(curves[str(dealt[of_run[run]])] + own)
    return replace(obs, loss=loss)


def passed(obs: Observations) -> dict[str, bool]:
    """Which of the findings that decide hold."""
    region, noise = SearchRegion.of(obs), measured_noise(obs)
    results = fit_all(obs, region, None, noise, replicates=0)
    chosen = choose(results)
    found = {finding.name: finding.passed for finding in checks(results, chosen, obs, region, noise)}
    return {name: bool(found.get(name, False)) for name in BELIEVED}


def placebo(study: str, shuffles: int, seed: int) -> dict[str, object]:
    """Shares over shuffles, and what the study itself says."""
    obs, rng = trials_of(study), np.random.default_rng(seed)
    found = [passed(shuffled(obs, rng)) for _ in range(shuffles)]
    rates = {name: round(float(np.mean([one[name] for one in found])), 3) for name in BELIEVED}
    believed = round(float(np.mean([all(one.values()) for one in found])), 3)
    own = passed(obs)
    note(f"{study}: believed {believed}, {rates}; itself {own}")
    return {"believed": believed, "passed": rates, "unshuffled": own}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shuffles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="all figures as JSON on stdout")
    options = parser.parse_args()
    found = {study: placebo(study, options.shuffles, options.seed) for study in STUDIES}
    figures = {
        "believed_worst": max(float(str(one["believed"])) for one in found.values()),
        "shuffles": options.shuffles,
        "seed": options.seed,
        "studies": found,
    }
    print(json.dumps(figures, indent=1) if options.json else figures["believed_worst"])


if __name__ == "__main__":
    main()
