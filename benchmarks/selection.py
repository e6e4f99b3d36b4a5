"""How fast and how well the final subset is drawn, on synthetic scores with a heavy tail.

    python -m benchmarks.selection --quick                        # 10^6 and 10^7 chunks, a minute
    python -m benchmarks.selection --json > benchmarks/results/selection.json

Scores: log-normal, and one chunk in a hundred from a Pareto tail with infinite variance (exponent 1.5), so that a few
chunks hold most of the corpus' variance. Lengths: 512 tokens in seven chunks of ten, else 32 to 512. Budget: a tenth of
the tokens. Three targets: near the corpus' body, one that needs the tail, one that leaves it out. What is timed is the
whole of ``select``, from arrays (10^7) or an Arrow file (10^8) to the described subset; making the scores is not.
Elapsed seconds grow with what else the machine does (its load is recorded), seconds of the processor hardly do. The
10^8 chunks are drawn in a process of its own, whose peak resident memory is reported.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.environment import device_name, note, print_figures, versions
from ppl_assets.regimes.candidates import Candidates, ChunkSource
from ppl_assets.regimes.drawn import Drawn, Target
from ppl_assets.regimes.ordering import prefix_order
from ppl_assets.regimes.pool import BATCH_ROWS, NUMBERS, stored_candidates
from ppl_assets.subset.greedy import Objective, greedy_dos
from ppl_assets.subset.selection import select
from ppl_assets_tests.subset.test_greedy import greedy_bruteforce

SHARE = 0.1
TARGETS = {"body": (45.0, 30.0), "with_tail": (60.0, 60.0), "without_tail": (30.0, 12.0)}
CASES = 2000
MEMORY_GIB = 2.0
"""Half of the default of ``selection.memory_gib``: 10^8 candidates are then read in batches."""


class Scores(NamedTuple):
    """Perplexities, lengths and keys of chunks."""

    ppl: np.ndarray
    tokens: np.ndarray
    key: np.ndarray


def scores(count: int, seed: int) -> Scores:
    """Chunks with a heavy tail."""
    draw = np.random.default_rng(seed)
    ppl = np.exp(3.6 + 0.7 * draw.standard_normal(count))
    tail = draw.random(count) < 0.01
    ppl[tail] = 60.0 * (1.0 + draw.pareto(1.5, int(tail.sum())))
    tokens = np.where(draw.random(count) < 0.7, 512, draw.integers(32, 513, count))
    return Scores(ppl, tokens, draw.integers(0, 2**63, count).astype(np.uint64))


def target(name: str, candidates: ChunkSource, share: float = SHARE) -> Target:
    """One of TARGETS with a share of the tokens."""
    return Target(*TARGETS[name], int(share * candidates.total_tokens))


def scaled_objective(drawn: Drawn) -> float:
    """J with each term divided by its target squared: ((mu - mu*)/mu*)^2 + ((sigma^2 - sigma*^2)/sigma*^2)^2."""
    goal = drawn.target
    return (drawn.mu / goal.mu - 1.0) ** 2 + ((drawn.sigma / goal.sigma) ** 2 - 1.0) ** 2


def in_memory(count: int, repeats: int) -> dict[str, Any]:
    """Seconds and distances of draws from arrays: the worst target's median, every target's beside it."""
    given, seconds, cpu, worst = scores(count, 0), {}, {}, 0.0
    for name in TARGETS:
        times: list[float] = []
        cpu_times: list[float] = []
        for seed in range(repeats):
            begun, cpu_begun = time.perf_counter(), time.process_time()
            candidates = Candidates(*given)
            drawn = select("tilt", candidates, target(name, candidates), seed=seed)
            times.append(time.perf_counter() - begun)
            cpu_times.append(time.process_time() - cpu_begun)
            worst = max(worst, scaled_objective(drawn))
            note(f"{count:,} chunks, {name}: {times[-1]:.2f} s, {drawn.message}")
        seconds[name], cpu[name] = float(np.median(times)), float(np.median(cpu_times))
    return {
        "seconds": max(seconds.values()),
        "seconds_by_target": seconds,
        "cpu_seconds_by_target": cpu,
        "J_scaled": worst,
    }


def write_scores(file: Path, count: int) -> None:
    """Scores as a stored pool has them, without the names of the chunks."""
    with pa.ipc.new_file(str(file), NUMBERS) as writer:
        for seed in range(-(-count // BATCH_ROWS)):
            part = scores(min(BATCH_ROWS, count - seed * BATCH_ROWS), seed)
            writer.write_batch(pa.record_batch([part.ppl, part.tokens.astype(np.int32), part.key], schema=NUMBERS))


def from_file(file: Path, name: str, with_order: bool) -> dict[str, Any]:
    """Seconds and peak memory of a draw from a file; meant for a process of its own."""
    idle = _peak_gib()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    candidates = stored_candidates(file, MEMORY_GIB)
    drawn = select("tilt", candidates, target(name, candidates), seed=0)
    seconds, peak = time.perf_counter() - begun, _peak_gib()
    note(f"{candidates.count:,} chunks, {name}: {seconds:.1f} s, {peak:.2f} GiB, {drawn.message}")
    found = {"seconds": seconds, "cpu_seconds": time.process_time() - cpu_begun, "peak_gib": peak, "idle_gib": idle}
    found["J_scaled"] = scaled_objective(drawn)
    if with_order:
        begun = time.perf_counter()
        prefixes = np.geomspace(drawn.tokens / 16, drawn.tokens, 6).astype(int).tolist()
        prefix_order(drawn.members.ppl, drawn.members.tokens, seed=0, prefixes=prefixes)
        found |= {"order_seconds": time.perf_counter() - begun, "order_peak_gib": _peak_gib()}
    return found


def _peak_gib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def out_of_core(count: int, repeats: int) -> dict[str, Any]:
    """Draws from a file, each in a process of its own: as :func:`in_memory`, and the largest peak memory."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scores.arrow"
        write_scores(file, count)
        os.sync()  # writing them down is part of making them
        for name in [*TARGETS] * repeats:
            command = [sys.executable, "-m", "benchmarks.selection", "--file", str(file), "--target", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - this program
            found[name].append(json.loads(done.stdout))
    seconds, cpu = (
        {name: float(np.median([run[key] for run in runs])) for name, runs in found.items()}
        for key in ("seconds", "cpu_seconds")
    )
    every = [run for runs in found.values() for run in runs]
    return {
        "seconds": max(seconds.values()),
        "seconds_by_target": seconds,
        "cpu_seconds_by_target": cpu,
        "peak_gib": max(run["peak_gib"] for run in every),
        "J_scaled": max(run["J_scaled"] for run in every),
    }


def kl_ratio(count: int) -> dict[str, Any]:
    """Divergence from the corpus over that of the greedy selection; the largest of the targets'."""
    candidates = Candidates(*scores(count, 0))
    ratios = {}
    for name in TARGETS:
        ours, greedy = (select(by, candidates, target(name, candidates), seed=0) for by in ("tilt", "greedy_dos"))
        note(f"{name}: KL {ours.kl_nats:.4f} against {greedy.kl_nats:.4f}, J {greedy.objective:.1e} with greedy")
        ratios[name] = ours.kl_nats / greedy.kl_nats
    return {"kl_ratio_greedy": max(ratios.values()), "kl_ratio_by_target": ratios, "kl_chunks": count}


def picks_are_those_of_bruteforce(cases: int) -> bool:
    """Whether the greedy selection's picks are brute force's, order included, on random small cases with ties."""
    for case in range(cases):
        draw = np.random.default_rng(case)
        count = int(draw.integers(1, 60))
        ppl = np.exp(draw.normal(2.5, 1.0, count))
        tokens = draw.integers(1, 9, count) if case % 3 == 0 else np.full(count, 4)
        keys = draw.integers(0, 2**63, count).astype(np.uint64)
        candidates = Candidates(np.ceil(ppl) if case % 2 else ppl, tokens, keys)
        goal = Target(float(draw.uniform(5, 40)), float(draw.uniform(1, 30)), int(draw.integers(4, 4 * count + 5)))
        kind: Literal["relative", "paper"] = "paper" if case // 2 % 2 else "relative"
        rule = Objective.of(goal, kind, 1.0, 1.0)
        if greedy_dos(candidates, goal, case, objective=kind).tolist() != greedy_bruteforce(
            candidates, goal, case, rule
        ):
            note(f"greedy picks differ from brute force in case {case}")
            return False
    return True


def kept(count: int) -> dict[str, Any]:
    """Shares of a subset that stay: as its budget grows by half, and as the corpus grows by a tenth of new chunks."""
    given = scores(count, 0)
    grown = Scores(*(np.concatenate(pair) for pair in zip(given, scores(count // 10, 1), strict=True)))
    before, after = Candidates(*given), Candidates(*grown)
    nested, stayed = {}, {}
    for name, (mu, sigma) in TARGETS.items():
        small = select("tilt", before, target(name, before), seed=0)
        large = select("tilt", before, target(name, before, 1.5 * SHARE), seed=0)
        later = select("tilt", after, Target(mu, sigma, small.target.tokens), seed=0)
        nested[name], stayed[name] = (
            float(np.isin(small.members.key, other.members.key).mean()) for other in (large, later)
        )
    possible = before.total_tokens / after.total_tokens
    return {
        "nested_fraction": min(nested.values()),
        "nested_by_target": nested,
        "kept_after_growth_10pct": min(stayed.values()),
        "kept_by_target": stayed,
        "kept_possible": possible,
        "kept_chunks": count,
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {"device": device_name("cpu"), "versions": versions(), "share": SHARE, "targets": TARGETS}
    figures |= {"cores": os.cpu_count(), "load_average_before": os.getloadavg()[0]}
    large = in_memory(10**7, 1 if arguments.quick else 3)
    figures |= {f"{key}_1e7": value for key, value in large.items()}
    figures |= {
        f"{key}_1e8": value for key, value in out_of_core(*((10**7, 1) if arguments.quick else (10**8, 3))).items()
    }
    figures |= kl_ratio(10**5 if arguments.quick else 10**6)
    figures |= {"greedy_equals_bruteforce": picks_are_those_of_bruteforce(CASES), "greedy_cases": CASES}
    return figures | kept(10**6)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10^7 chunks where there are 10^8, one repeat")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--file", type=Path, help="draw from this file alone; what the benchmark does in a process")
    parser.add_argument("--target", choices=TARGETS, default="body", help="target of --file")
    parser.add_argument("--order", action="store_true", help="time the training order of --file's subset too")
    arguments = parser.parse_args()
    if arguments.file:
        print_figures(from_file(arguments.file, arguments.target, arguments.order), as_json=True)
    else:
        print_figures(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
