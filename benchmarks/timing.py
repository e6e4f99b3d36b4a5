"""How a rival is timed against ours: on the same chunks, by turns, with the machine's ceiling around every run.

Belongs here: what makes the ratios fair. Does not belong here: which rivals there are, and what is reported.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from benchmarks.environment import note
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.perplexity.speed import CEILING_SIZE, forward_flops, matmul_rate

NOMINAL_H100 = 989e12
"""Dense bfloat16 operations a second that the maker states for one H100."""

CPU_PRODUCTS = 10
WARM_PRODUCTS = 100
STEADY_SECONDS = 0.75
"""A GPU's clocks rise within milliseconds and fall again when it draws full power: 100 products (0.2 s on an H100) are
thrown away, and the ceiling is what is reached in three quarters of a second after them."""

WARM_CHUNKS = 16
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Rounding to 8 and to 11 significant bits is off by these shares at most."""


@dataclass(frozen=True)
class Rival:
    """Another way to score, and the chunks that it and ours are timed on.

    Attributes:
        name: what follows ``vs_`` in its JSON key.
        chunks: int32 [n_i] each.
        score: from chunks to summed nll, float64 [chunks]; None: nobody, ours runs alone.
        low_sums: whether it takes losses and sums in the model's own dtype.
    """

    name: str
    chunks: list[np.ndarray]
    score: Callable[[Sequence[np.ndarray]], np.ndarray] | None
    low_sums: bool = False

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each chunk, int64 [chunks]."""
        return np.array([len(chunk) for chunk in self.chunks])


@dataclass
class Times:
    """Seconds of each run, ours beside the rival's, who went first, and how near each of ours came to the ceiling.

    The ceiling is measured before and after every run: on a shared machine it moves by a fifth in a minute.
    """

    ours: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, list[float]] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)
    ceiling: list[float] = field(default_factory=list)
    fraction: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)

    def ratio(self, name: str) -> float | None:
        """Median of the other's time over ours; None where it was not measured."""
        if name not in self.others:
            return None
        pairs = zip(self.others[name], self.ours[name], strict=True)
        return round(statistics.median(theirs / ours for theirs, ours in pairs), 2)


def warm_up(scorer: Scorer, rival: Rival) -> None:
    """Let both sides run once: what only a first run does (libraries, kernels, memory) is nobody's speed.

    On a GPU, or compiled, every shape has a first run of its own, so both get all their chunks; elsewhere the shortest.
    """
    everything = scorer.device.type == "cuda" or scorer.compiled
    chunks = rival.chunks if everything else sorted(rival.chunks, key=len)[:WARM_CHUNKS]
    counted = scorer.slots, scorer.tokens, replace(scorer.seconds)
    scorer.score(chunks)
    scorer.slots, scorer.tokens, scorer.seconds = counted
    if rival.score is not None:
        rival.score(chunks)


def take_turns(scorer: Scorer, rival: Rival, times: Times, ours_first: bool) -> None:
    """Time both once on the rival's chunks, with the ceiling before, between and after, and compare their values."""
    device, dtype = scorer.device.type, scorer.policy.dtype
    sides = {"ours": lambda: scorer.score(rival.chunks).nll}
    if rival.score is not None:
        theirs = rival.score
        sides["theirs"] = lambda: theirs(rival.chunks)
    order = list(sides) if ours_first else list(reversed(sides))
    rates, seconds, found = [ceiling(device, dtype)], {}, {}
    for side in order:
        seconds[side], found[side] = timed(sides[side], device)
        rates.append(ceiling(device, dtype))
    place = order.index("ours")
    around = (rates[place] + rates[place + 1]) / 2.0
    work = forward_flops(scorer.model, rival.tokens) or 0.0
    times.ceiling.append(around)
    times.fraction.append(work / seconds["ours"] / around)
    times.tokens_per_s.append(float(rival.tokens.sum()) / seconds["ours"])
    times.ours.setdefault(rival.name, []).append(round(seconds["ours"], 3))
    note(f"ours {seconds['ours']:.2f} s on {len(rival.chunks)} chunks, {rival.tokens.sum():,} tokens")
    if rival.score is not None:
        times.others.setdefault(rival.name, []).append(round(seconds["theirs"], 3))
        times.first.setdefault(rival.name, []).append(order[0])
        compare(rival, found["theirs"], found["ours"], dtype)
        note(f"{rival.name} {seconds['theirs']:.2f} s; {order[0]} first")


def ceiling(device: str, dtype: str) -> float:
    """Floating-point operations a second of large matrix products, right now."""
    if device == "cpu":
        return matmul_rate(device, dtype, CPU_PRODUCTS)
    rough = matmul_rate(device, dtype, WARM_PRODUCTS)
    return matmul_rate(device, dtype, math.ceil(STEADY_SECONDS * rough / (2.0 * CEILING_SIZE[device] ** 3)))


def timed(work: Callable[[], np.ndarray], device: str) -> tuple[float, np.ndarray]:
    """Seconds until all work is done, on the device too, and what it gave."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    found = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, found


def compare(rival: Rival, found: np.ndarray, ours: np.ndarray, dtype: str) -> None:
    """End the benchmark where a sum differs by more than rounding explains."""
    allowed = tolerance(rival.tokens, dtype, rival.low_sums)
    apart = np.abs(found / ours - 1.0)
    wrong = np.flatnonzero(~(apart <= allowed))
    if len(wrong):
        raise SystemExit(
            f"{rival.name} and the scorer differ by {apart[wrong[0]]:.1e} on a chunk of {len(rival.chunks[wrong[0]])} "
            f"tokens, rounding explains {allowed[wrong[0]]:.1e}: they did not measure the same thing"
        )


def tolerance(tokens: np.ndarray, dtype: str, low_sums: bool) -> np.ndarray:
    """How far apart, relatively, two sums over these many tokens may be; float64 [chunks].

    float32: 1e-4. In a narrower dtype both sides hold the same weights, and differ in how activations, logits and, in
    some, losses are rounded. A token's loss is off by about one rounding of itself at most; over T tokens such errors,
    of either sign, leave a share that falls with the root of T: four roundings over that root is what no chunk should
    reach. Whoever also rounds the sum to it is off by one rounding more whatever T; for the rest an eighth of one is
    left for what the tokens of a chunk have in common.

    Seen on CPU in bfloat16 with random models, in roundings over the root of T: sorted batches and lm-eval up to 0.04,
    float32 with the same weights up to 0.2. Evaluate's procedure was off by up to 0.0037 of the sum. Mistakes are
    larger: chunks that see their neighbour are off by 7 in the mean square and by 17 at most (1 million parameters), a
    chunk of 300 tokens that loses one by 15.
    """
    if dtype == "float32":
        return np.full(len(tokens), 1e-4)
    one = ROUNDING[dtype]
    return 4.0 * one / np.sqrt(tokens) + (one if low_sums else one / 8.0)
