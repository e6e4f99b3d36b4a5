"""Does the selection beat its rivals where the corpus is dirty: whole studies on corpora with planted noise.

    python -m benchmarks.strategies --json > benchmarks/results/strategies.json

For each share of planted noise (``planted.py``) a study is run from files to trained strategies, as a user would run
it, one thread each, all side by side. They share the base model, which the first of them trains. A case is won where
the paired difference of test loss has a 95 % t interval that excludes zero, for subsets drawn anew with each seed.
``--folder`` keeps the studies, and finds them again: what is up to date in them is not computed a second time.
"""

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.environment import device_name, note, print_figures, versions
from benchmarks.planted import write_study
from ppl_assets.law.checks import BELIEVED
from ppl_assets.perplexity.candidates import selectable_chunks
from ppl_assets.resources import Platform
from ppl_assets.subset.comparison import paired_difference
from ppl_assets.tables import (
    FINAL_SUBSET,
    FITTED_LAW,
    LAW_FINDINGS,
    PERPLEXITY_LANDSCAPE,
    SELECTIONS,
    STRATEGY_LOSSES,
    TRIAL_LOSSES,
)

SHARES = (0.1, 0.3, 0.5)
CHARACTERS = 1_500_000
TOKENS = 49_152
TRIALS = 18
SEEDS = 6
RIVALS = ("random", "lowest", "matched", "middle", "redrawn")
SEED = 20251221
MODEL_READY = re.compile(r"^ *\d+/\d+ base_model ", re.MULTILINE)
"""The line of a run's log once the base model is there, unlike its progress."""


@dataclass(frozen=True)
class Case:
    """One study.

    Attributes:
        share: of planted characters before cleaning.
        planted: share of planted tokens among the candidates, by strategy for ``selected``: what cleaning left.
        seconds: of the whole study.
        trial_tokens: tokens of its trials.
        form: chosen form of the law.
        loo_run_pct: its leave-one-run-out error, %.
        decides: whether the gate lets the law decide the target (``law.checks.BELIEVED``).
        corpus: mean and deviation of the candidates.
        target: the same of the test text.
        optimum: of the law.
        aimed: where the selection was asked to be.
        losses: final test loss by strategy and seed, nats a token.
        predicted: the law's word on each run before it, in the same order.
        gains: of the selection redrawn with each seed, and of the one selected: rival minus it: mean, low, high.
    """

    share: float
    planted: dict[str, float]
    seconds: float
    trial_tokens: int
    form: str
    loo_run_pct: float
    decides: bool
    corpus: tuple[float, float]
    target: tuple[float, float]
    optimum: tuple[float | None, float | None]
    aimed: tuple[float, float]
    losses: dict[str, list[float]]
    predicted: dict[str, list[float]]
    gains: dict[str, dict[str, tuple[float, float, float]]]

    def beats(self, rival: str) -> bool:
        """Whether the interval of the gain over a rival lies above zero, the luck of the draw included."""
        return self.gains["redrawn"][rival][1] > 0

    @property
    def prediction_error_pct(self) -> float:
        """Mean of predicted over measured loss of the selection's runs, less one, %; its size alone."""
        measured, said = np.array(self.losses["selected"]), np.array(self.predicted["selected"])
        return 100.0 * abs(float(np.mean(said / measured)) - 1.0)


def run_study(path: Path) -> float:
    """Run a study with one thread; its seconds.

    Raises:
        RuntimeError: it failed; the end of its log is in the message.
    """
    began, log = time.perf_counter(), path.with_name("run.log")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as out:
        command = [sys.executable, "-m", "ppl_assets.cli", "--study", str(path), "run"]
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment, check=False)  # noqa: S603 - its own program
    if done.returncode:
        raise RuntimeError(f"the study {path} failed: {log.read_text('utf-8')[-2000:]}")
    return time.perf_counter() - began


def run_all(paths: list[Path]) -> list[float]:
    """Run the studies side by side; the first gets a start until its base model is there for all."""
    with ThreadPoolExecutor(len(paths)) as pool:
        first = pool.submit(run_study, paths[0])
        log = paths[0].with_name("run.log")
        while not first.done() and not (log.is_file() and MODEL_READY.search(log.read_text("utf-8"))):
            time.sleep(1.0)
        rest = [pool.submit(run_study, path) for path in paths[1:]]
        return [future.result() for future in (first, *rest)]


def read_case(path: Path, share: float, seconds: float) -> Case:
    """What a finished study found."""
    platform = Platform(study_path=str(path))
    snapshot = platform.lake.snapshot()
    law, selection = snapshot.only_row(FITTED_LAW, {"is_chosen": True}), snapshot.only_row(SELECTIONS)
    moments = {row["scope"]: (row["mean"], row["deviation"]) for row in snapshot.read(PERPLEXITY_LANDSCAPE).to_dicts()}
    last = snapshot.read(STRATEGY_LOSSES).sort("strategy", "seed", "point").group_by("strategy", "seed").last()
    last = last.sort("strategy", "seed")
    losses = {str(name): rows["test_loss"].to_list() for (name,), rows in last.group_by("strategy")}
    predicted = {str(name): rows["predicted_loss"].to_list() for (name,), rows in last.group_by("strategy")}
    gains: dict[str, dict[str, tuple[float, float, float]]] = {"redrawn": {}, "selected": {}}
    for ours, over in gains.items():
        for rival in sorted(losses.keys() - gains.keys()):
            found = paired_difference(losses[rival], losses[ours])
            over[rival] = (found.mean, found.low, found.high)
    candidates = selectable_chunks(snapshot, platform.study.corpus_partitions())
    doubted = snapshot.read(LAW_FINDINGS, where={"passed": False})["name"].to_list()
    return Case(
        share=share,
        planted={"candidates": _planted(candidates), "selected": _planted(snapshot.read(FINAL_SUBSET))},
        seconds=round(seconds, 1),
        trial_tokens=int(snapshot.read(TRIAL_LOSSES).group_by("trial").agg(pl.col("tokens").max())["tokens"].sum()),
        form=f"{law['form']}, {law['link']} link",
        loo_run_pct=law["loo_run_pct"],
        decides=not set(doubted) & set(BELIEVED),
        corpus=moments["candidates"],
        target=moments["test"],
        optimum=(law["mu_optimum"], law["sigma_optimum"]),
        aimed=(selection["mu_target"], selection["sigma_target"]),
        losses=losses,
        predicted=predicted,
        gains=gains,
    )


def _planted(chunks: pl.DataFrame) -> float:
    """Share of the tokens that are not clean text."""
    total = chunks["n_tokens"].sum()
    return round(float(chunks.filter(pl.col("corpus") != "clean")["n_tokens"].sum() / total), 4)


def compare(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Figures over all cases."""
    paths = []
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for share in options.shares:
        here = folder / f"planted-{round(100 * share)}"
        given = {name: getattr(options, name) for name in ("characters", "tokens", "trials", "seeds", "seed")}
        paths.append(write_study(here, share, rivals=RIVALS, **given))
        (here / "data").mkdir(exist_ok=True)
        if not (here / "data" / "models").exists():
            (here / "data" / "models").symlink_to(folder / "models")
    began = time.perf_counter()
    seconds = run_all(paths)
    whole = time.perf_counter() - began
    cases = [read_case(path, *found) for path, *found in zip(paths, options.shares, seconds, strict=True)]
    for case in cases:
        note(f"{case.share:.0%}: {case.gains}")
    errors = [case.prediction_error_pct for case in cases]
    return {
        "planted_cases": len(cases),
        "beats_random": sum(case.beats("random") for case in cases),
        "beats_low_ppl": sum(case.beats("lowest") for case in cases),
        "beats_matched": sum(case.beats("matched") for case in cases),
        "beats_middle": sum(case.beats("middle") for case in cases),
        "median_gain_vs_random_nats": round(
            float(np.median([case.gains["redrawn"]["random"][0] for case in cases])), 4
        ),
        "prediction_error_pct_median": round(float(np.median([e for e in errors if math.isfinite(e)])), 3),
        "seconds": round(whole, 1),
        "characters": options.characters,
        "tokens": options.tokens,
        "trials": options.trials,
        "seeds": options.seeds,
        "device": device_name("cpu"),
        "versions": versions(),
        "cases": [asdict(case) for case in cases],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--characters", type=int, default=CHARACTERS, help="of clean text")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a trial and of a strategy's run")
    parser.add_argument("--trials", type=int, default=TRIALS, help="most trials of a study")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--seed", type=int, default=SEED, help="of corpora and studies")
    parser.add_argument("--folder", type=Path, help="keep the studies here")
    parser.add_argument("--json", action="store_true", help="all figures as JSON on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print_figures(compare((options.folder or Path(scratch)).resolve(), options), options.json)


if __name__ == "__main__":
    main()
