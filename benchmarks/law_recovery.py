"""Does the fit find the law that made the data: simulated trials, 36 points of 12 runs, several true forms.

Belongs here: the figures and how each is counted. Does not belong here: the truths (``law_truths.py``).
"""

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sequential
from benchmarks.law_truths import STARTS, TOKENS, Truth, best_of_starts, simulate
from ppl_assets.law.choice import FEWER_REFITS, FormResult, choose, fit_all
from ppl_assets.law.fit import LawFit, fit
from ppl_assets.law.forms import FORMS, LINKS
from ppl_assets.law.observations import FloatArray, Observations, measured_noise
from ppl_assets.law.optimum import find_optimum
from ppl_assets.law.region import SearchRegion
from ppl_assets.law.uncertainty import BootstrapResult, bootstrap, delta_interval
from ppl_assets_tests.law.synthetic import TRUTHS, trials

NOISES = (0.003, 0.01)
SAME = 1e-6
"""A fit is the global one where its sum of squares exceeds the best of the starts by this share or less."""

CONFIDENCE = 0.9
REPLICATES = 200
PLACES = 6
"""Random (mu, sigma, D) a data set at which the interval of the loss is held against the truth."""

BOWL_KINDS = ("interior_bowl", "weak_bowl")


@dataclass(frozen=True)
class Study:
    """What one simulated study gave.

    Attributes:
        known: the law behind it.
        noise: standard deviation of ln L.
        is_global: by form and link, whether its fit is as good as the best of the starts; empty where not compared.
        fit_ms: time of the true form's fit.
        covered: share of places whose loss lies in the bootstrap interval of the true form.
        covered_delta: the same for the delta method.
        covered_chosen: the same for the bootstrap of the chosen form.
        chosen: the form and link chosen.
        kind: kind of the chosen form's optimum.
        kind_true: kind of the true form's optimum.
        regret_pct: true regret of the chosen optimum, % of loss.
        regret_true_pct: the same for the true form's optimum.
    """

    known: Truth
    noise: float
    is_global: dict[tuple[str, str], bool]
    fit_ms: float
    covered: float
    covered_delta: float
    covered_chosen: float
    chosen: tuple[str, str]
    kind: str
    kind_true: str
    regret_pct: float
    regret_true_pct: float


def study(known: Truth, noise: float, seed: int, against_starts: bool) -> Study:
    """Simulate, fit every form, choose, search, and compare with the truth."""
    obs = simulate(known, noise, seed)
    region, noise_pct = SearchRegion.of(obs), measured_noise(obs)
    started = time.perf_counter()
    law = fit(obs, known.form, known.link)
    fit_ms = 1e3 * (time.perf_counter() - started)
    found = choose(fit_all(obs, region, noise_pct=noise_pct, replicates=0))
    own = bootstrap(obs, law, replicates=REPLICATES, seed=seed, confidence=CONFIDENCE)
    refits = bootstrap(obs, found.fit, replicates=REPLICATES, seed=seed, confidence=CONFIDENCE)
    best = find_optimum(found.fit, region, refits, noise_pct)
    best_true = find_optimum(law, region, own, noise_pct)
    places = _places(region, seed)
    return Study(
        known=known,
        noise=noise,
        is_global=_all_global(obs, seed) if against_starts else {},
        fit_ms=fit_ms,
        covered=_covered(known, places, own.interval(own.predict(*places))),
        covered_delta=_covered(known, places, delta_interval(law, *places, CONFIDENCE)),
        covered_chosen=_covered(known, places, refits.interval(refits.predict(*places))),
        chosen=(found.fit.form, found.fit.link),
        kind=best.kind,
        kind_true=best_true.kind,
        regret_pct=known.regret_pct(best.mu, best.sigma),
        regret_true_pct=known.regret_pct(best_true.mu, best_true.sigma),
    )


def _all_global(obs: Observations, seed: int) -> dict[tuple[str, str], bool]:
    """Of every form with every link."""
    fits = [fit(obs, form, link) for link in LINKS for form in FORMS]
    return {(law.form, law.link): _is_global(law, seed) for law in fits if law.is_usable}


def _is_global(law: LawFit, seed: int) -> bool:
    own = float(np.square(law.residuals).sum())
    return own <= best_of_starts(law, seed) * (1 + SAME)


def _places(region: SearchRegion, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng([seed, 7])
    u, v = region.points
    at = rng.integers(len(u), size=PLACES)
    return np.exp(u[at]), np.exp(v[at]), np.exp(rng.uniform(*np.log(TOKENS[[0, -1]]), PLACES))


def _covered(
    known: Truth, places: tuple[FloatArray, FloatArray, FloatArray], ends: tuple[FloatArray, FloatArray]
) -> float:
    true = known.loss(*places)
    return float(np.mean((ends[0] <= true) & (true <= ends[1])))


def recovered(studies: list[Study]) -> dict[str, Any]:
    """The published figures; how each is counted stands beside it in docs/law.md."""
    formed = [s for s in studies if s.known.form != "d_only"]
    bare = [s for s in studies if not s.known.has_bowl]
    quiet = [s for s in formed if s.noise == NOISES[0]]
    compared = [same for s in studies for same in s.is_global.values()]
    own = [s.is_global[s.known.form, s.known.link] for s in studies if s.is_global]
    bowls = [s for s in quiet if s.known.has_bowl]
    return {
        "global_fraction": _mean(compared),
        "global_fraction_true_form": _mean(own),
        "fits_compared": len(compared),
        "fit_ms_median": round(float(np.median([s.fit_ms for s in studies])), 2),
        "loss_interval_coverage_90": _mean([s.covered for s in studies]),
        "loss_interval_coverage_90_delta": _mean([s.covered_delta for s in studies]),
        "loss_interval_coverage_90_chosen_form": _mean([s.covered_chosen for s in studies]),
        "regret_pct_median": round(float(np.median([s.regret_pct for s in quiet])), 4),
        "regret_pct_p90": round(float(np.quantile([s.regret_pct for s in quiet], 0.9)), 4),
        "regret_pct_median_bowls": round(float(np.median([s.regret_pct for s in bowls])), 4),
        "regret_pct_p90_bowls": round(float(np.quantile([s.regret_pct for s in bowls], 0.9)), 4),
        "form_recovered": _mean([s.chosen[0] == s.known.form for s in formed]),
        "form_and_link_recovered": _mean([s.chosen == (s.known.form, s.known.link) for s in formed]),
        "false_bowl_rate": _mean([s.kind in BOWL_KINDS for s in bare]),
        "bowl_found_rate": _mean([s.kind in BOWL_KINDS for s in studies if s.known.has_bowl]),
        "by_noise": {f"{100 * noise:g} %": _part([s for s in studies if s.noise == noise]) for noise in NOISES},
        "by_truth": {name: _part([s for s in studies if s.known.name == name]) for name in TRUTHS},
    }


def _part(studies: list[Study]) -> dict[str, Any]:
    """Figures of one noise or one truth."""
    chosen = [f"{form}, {link}" for form, link in (s.chosen for s in studies)]
    formed = [s for s in studies if s.known.form != "d_only"]
    return {
        "coverage_90": _mean([s.covered for s in studies]),
        "regret_pct_median": round(float(np.median([s.regret_pct for s in studies])), 4),
        "regret_pct_median_true_form": round(float(np.median([s.regret_true_pct for s in studies])), 4),
        "form_recovered": _mean([s.chosen[0] == s.known.form for s in formed]),
        "bowls": _mean([s.kind in BOWL_KINDS for s in studies]),
        "bowls_true_form": _mean([s.kind_true in BOWL_KINDS for s in studies]),
        "chosen": {name: chosen.count(name) for name in sorted(set(chosen))},
    }


def _mean(values: list[Any]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def sequential_token_ratio(quick: bool) -> object:
    """Trial tokens of the sequential design over those of a space-filling one, for the same regret; not in ``--quick``.

    ``sequential.py`` has the comparison, which takes a quarter of an hour, and more figures of it.
    """
    return None if quick else sequential.sequential_token_ratio(replicates=40, seed=1)["sequential_token_ratio"]


def bootstrap_seconds(replicates: int = 1000) -> dict[str, float]:
    """Seconds of what a study computes: all forms with their refits, in log moments too, on 84 points of 12 runs.

    One form alone beside it. Processor seconds beside the clock's: other work on the machine moves only the latter.
    """
    raw = trials("quadratic bowl", run_noise=0.002, point_noise=0.002)
    obs = replace(raw, log_mu=np.log(raw.mu), log_sigma=np.log(np.log(raw.sigma)))
    region = SearchRegion.of(obs)
    clock, processor = time.perf_counter(), time.process_time()
    refits: BootstrapResult = bootstrap(obs, "scale_free", "anchored", replicates)
    find_optimum(refits.fit, region, refits)
    one = time.perf_counter() - clock, time.process_time() - processor
    clock, processor = time.perf_counter(), time.process_time()
    results: list[FormResult] = fit_all(obs, region, noise_pct=measured_noise(obs), replicates=replicates)
    every = time.perf_counter() - clock, time.process_time() - processor
    return {
        "bootstrap_1000_seconds": round(every[0], 2),
        "bootstrap_1000_cpu_seconds": round(every[1], 2),
        "bootstrap_1000_seconds_one_form": round(one[0], 2),
        "bootstrap_1000_cpu_seconds_one_form": round(one[1], 2),
        "forms": len(results),
        "forms_with_1000_refits": sum(r.bootstrap is not None and len(r.bootstrap.E) > FEWER_REFITS for r in results),
    }


def _machine() -> str:
    found = [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
    return f"{found[0].split(':')[1].strip() if found else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Print the figures; with --json nothing else goes to stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--quick", action="store_true", help="4 data sets a truth and noise instead of 24")
    arguments = parser.parse_args()
    seeds, compared = (4, 2) if arguments.quick else (24, 10)
    started = time.perf_counter()
    truths = [Truth(name) for name in TRUTHS]
    studies = [
        study(known, noise, seed, seed < compared) for seed in range(seeds) for known in truths for noise in NOISES
    ]
    figures = {
        **recovered(studies),
        "sequential_token_ratio": sequential_token_ratio(arguments.quick),
        **bootstrap_seconds(),
        "device": _machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "scipy")}},
        "sizes": {
            "points": 36,
            "runs": 12,
            "studies": len(studies),
            "compared_with_starts": len(truths) * len(NOISES) * compared,
            "starts": STARTS,
            "replicates": REPLICATES,
            "noises_pct": [100 * noise for noise in NOISES],
            "truths": list(TRUTHS),
        },
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(figures, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
