"""How fast the scorer is, against how others do it and against the machine.

    python -m benchmarks.scoring --quick          # two cores, under four minutes
    python -m benchmarks.scoring --json           # the whole table, as JSON; about half an hour on two cores
    python -m benchmarks.scoring --device cuda --model 0.5b --json

Everything is measured in one run, on the same model and the same chunks, interleaved: each rival's time is divided by
that of a run of ours just before it, and the median of these ratios is reported. All values are compared too: a rival
whose sums differ by more than 1e-4 (float32) ends the benchmark.
"""

import argparse
import contextlib
import gc
import importlib.util
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.memory import peak_megabytes
from benchmarks.models import SHAPES, chunk_lengths, random_chunks, random_model
from benchmarks.others import evaluate_procedure, lm_eval_rolling, sorted_padded
from ppl_assets.perplexity.head import token_nll
from ppl_assets.perplexity.packing import fixed_width, plan_rows
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.scorer import ROW_TOKENS, Scorer
from ppl_assets.perplexity.speed import CEILING_SIZE, forward_flops, matmul_rate

BATCH = 16
LONGEST = 2_048
RIVALS = ("sorted_padded", "evaluate", "lm_eval_batch_1", "lm_eval_batch_16")
HEAD_ROWS = 2_048
PRODUCTS_IN_A_ROW = 10
NOMINAL_H100 = 989e12
"""Dense bfloat16 operations a second that the maker states for one H100."""

PACKAGES = ("torch", "transformers", "lm-eval", "evaluate", "numpy")


@dataclass
class Times:
    """Seconds of each interleaved run, ours beside the other's, and how near each of ours came to the ceiling.

    The ceiling is measured before and after every run of ours: on a shared machine it moves by a fifth in a minute.
    """

    ours: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, list[float]] = field(default_factory=dict)
    ceiling: list[float] = field(default_factory=list)
    fraction: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)

    def ratio(self, name: str) -> float | None:
        """Median of the other's time over ours; None where it was not measured."""
        if name not in self.others:
            return None
        pairs = zip(self.others[name], self.ours[name], strict=True)
        return round(statistics.median(theirs / ours for theirs, ours in pairs), 2)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole table as JSON keys."""
    shape = SHAPES[arguments.model]
    dtype = "bfloat16" if arguments.device == "cuda" else "float32"
    model = random_model(shape, arguments.device, dtype)
    theirs = random_model(shape, arguments.device, dtype)  # with the attention that transformers gives it
    policy = ScorePolicy("bos", 0, LONGEST, dtype, "sdpa", "random", "random")
    compiled = arguments.compile
    scorer = Scorer(model, policy, arguments.row_tokens, arguments.device, compiled, say=_note)
    lengths = chunk_lengths(arguments.chunks, longest=LONGEST)
    chunks = random_chunks(lengths, shape.vocabulary)
    others = _others(theirs, shape.vocabulary, arguments)
    few = _spread(lengths, arguments.evaluate_chunks)
    _note(f"{arguments.model} on {arguments.device}: {len(chunks)} chunks, {int(lengths.sum()):,} tokens")
    scorer.score(chunks[:BATCH])  # warm
    scorer.slots = scorer.tokens = 0
    times = Times()
    for repeat in range(arguments.repeats):
        for name, other in (others or {"nobody": None}).items():
            given = [chunks[i] for i in few] if name == "evaluate" else chunks
            before = matmul_rate(arguments.device, dtype, PRODUCTS_IN_A_ROW)
            seconds, mine = _timed(lambda given=given: scorer.score(given).nll, arguments.device)
            ceiling = (before + matmul_rate(arguments.device, dtype, PRODUCTS_IN_A_ROW)) / 2.0
            work = forward_flops(scorer.model, [len(chunk) for chunk in given]) or 0.0
            times.ceiling.append(ceiling)
            times.fraction.append(work / seconds / ceiling)
            times.tokens_per_s.append(sum(map(len, given)) / seconds)
            times.ours.setdefault(name, []).append(round(seconds, 3))
            if other is None:
                continue
            seconds, found = _timed(lambda other=other, given=given: other(given), arguments.device)
            times.others.setdefault(name, []).append(round(seconds, 3))
            _compare(name, found, mine, dtype)
            _note(
                f"repeat {repeat + 1}: {name} {seconds:.1f} s, ours {times.ours[name][-1]:.1f} s on {len(given)} chunks"
            )
    return _report(arguments, scorer, times, lengths, dtype)


def _spread(lengths: np.ndarray, count: int) -> list[int]:
    """Chunks evenly spaced in order of length, the longest among them: the same distribution, fewer of them."""
    order = np.argsort(lengths, kind="stable")
    places = np.linspace(len(order) - 1, len(order) / count / 2, min(count, len(order)))
    return [int(order[int(place)]) for place in places]


def _others(model: Any, vocabulary: int, arguments: argparse.Namespace) -> dict[str, Callable[..., np.ndarray]]:
    """The rivals by the name of their JSON key."""
    others: dict[str, Callable[..., np.ndarray]] = {
        "sorted_padded": lambda chunks: sorted_padded(model, chunks, 0, BATCH),
        "evaluate": lambda chunks: evaluate_procedure(model, chunks, 0, BATCH),
    }
    if importlib.util.find_spec("lm_eval") is None:
        _note("lm-eval is not installed: vs_lm_eval is not measured")
    else:
        tokenizer = _any_tokenizer(vocabulary)
        for size in (1, BATCH):
            with _quiet():
                rolling = lm_eval_rolling(model, tokenizer, size)
            others[f"lm_eval_batch_{size}"] = partial(_silently, rolling)
    return {name: other for name, other in others.items() if name in arguments.against}


def _report(
    arguments: argparse.Namespace, scorer: Scorer, times: Times, lengths: np.ndarray, dtype: str
) -> dict[str, Any]:
    """JSON keys from what was timed."""
    hidden = torch.randn(HEAD_ROWS, scorer.model.config.hidden_size, device=arguments.device).to(scorer.model.dtype)
    targets = torch.zeros(HEAD_ROWS, dtype=torch.int64, device=arguments.device)
    by_batch = {name: times.ratio(name) for name in (f"lm_eval_batch_{size}" for size in (1, BATCH))}
    report = {
        "vs_evaluate": times.ratio("evaluate"),
        "vs_lm_eval": min(lm_eval) if (lm_eval := [ratio for ratio in by_batch.values() if ratio]) else None,
        **{f"vs_{name}": ratio for name, ratio in by_batch.items()},
        "vs_sorted_padded": times.ratio("sorted_padded"),
        "ceiling_fraction": round(statistics.median(times.fraction), 3),
        "ceiling_fractions": [round(fraction, 3) for fraction in times.fraction],
        "ceiling_tflops": round(statistics.median(times.ceiling) / 1e12, 4),
        "packing_efficiency": round(scorer.tokens / scorer.slots, 4),
        "packing_efficiency_fixed_rows": round(_fixed_efficiency(), 4),
        "head_extra_mb": round(peak_megabytes(lambda: token_nll(hidden, targets, scorer.head)), 2),
        **_overhead(arguments),
        "tokens_per_s": round(statistics.median(times.tokens_per_s), 1),
        "stage_seconds": {name: round(value, 3) for name, value in asdict(scorer.seconds).items()},
        "device": _device(arguments.device),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "sizes": {
            "model": arguments.model,
            "parameters": sum(p.numel() for p in scorer.model.parameters()),
            "dtype": dtype,
            "chunks": len(lengths),
            "chunks_vs_evaluate": arguments.evaluate_chunks,
            "asset_model": arguments.asset_model,
            "asset_tokens": arguments.asset_tokens,
            "tokens": int(lengths.sum()),
            "mean_tokens": round(float(lengths.mean()), 1),
            "longest_tokens": int(lengths.max()),
            "row_tokens": scorer.row_tokens,
            "compiled": scorer.compiled,
            "batch": BATCH,
            "repeats": arguments.repeats,
            "ceiling_matrix": CEILING_SIZE[arguments.device],
            "threads": torch.get_num_threads(),
        },
        "seconds": {"ours": times.ours, "others": times.others},
    }
    if arguments.device == "cuda":
        shares = [
            fraction * ceiling / NOMINAL_H100 for fraction, ceiling in zip(times.fraction, times.ceiling, strict=True)
        ]
        report["nominal_h100_fraction"] = round(statistics.median(shares), 3)
    return report


def _fixed_efficiency() -> float:
    """Real tokens over computed places where rows have fixed widths, as on CUDA, for a batch of a million tokens."""
    lengths = chunk_lengths(3_500, longest=LONGEST, seed=2)
    row = ROW_TOKENS["cuda"] // LONGEST * LONGEST
    slots = sum(fixed_width(int(lengths[plan.items].sum()), row) for plan in plan_rows(lengths.tolist(), row))
    return float(lengths.sum()) / slots


def _overhead(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Whole asset over the scorer; nothing where Dagster is not installed or it is not asked for."""
    if arguments.asset_tokens == 0 or importlib.util.find_spec("dagster") is None:
        _note("asset_overhead is not measured: Dagster is not installed, or --asset-tokens is 0")
        return {"asset_overhead": None}
    from benchmarks.asset_overhead import asset_overhead  # noqa: PLC0415 - a bare GPU worker has no Dagster

    with _quiet():
        found = asset_overhead(
            SHAPES[arguments.asset_model], arguments.device, arguments.asset_tokens, 1 if arguments.quick else 3
        )
    for run in found:
        _note(f"asset {run.asset:.1f} s, scorer in it {run.inside:.1f} s, alone {run.alone or float('nan'):.1f} s")
    alone = [run.asset / run.alone for run in found if run.alone]
    inside = statistics.median(run.asset / run.inside for run in found)
    return {
        "asset_overhead": round(statistics.median(alone), 3) if alone else round(inside, 3),
        "asset_over_scorer_inside": round(inside, 3),
        "asset_fixed_seconds": round(statistics.median(run.asset - run.inside for run in found), 2),
    }


def _timed(work: Callable[[], np.ndarray], device: str) -> tuple[float, np.ndarray]:
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    found = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, found


def _compare(name: str, found: np.ndarray, ours: np.ndarray, dtype: str) -> None:
    apart = float(np.abs(found / ours - 1.0).max())
    if apart > (1e-4 if dtype == "float32" else 2e-2):
        raise SystemExit(f"{name} and the scorer differ by {apart:.1e}: they did not measure the same thing")


def _any_tokenizer(vocabulary: int) -> Any:
    """lm-eval wants a tokenizer; nothing is encoded with it."""
    from tokenizers import Tokenizer, models  # noqa: PLC0415 - beside its only use
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    backend = Tokenizer(models.WordLevel({"<s>": 0, **{f"t{n}": n for n in range(1, min(vocabulary, 100))}}, "<s>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=4_096,
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<s>"),
    )


def _silently(rolling: Callable[..., np.ndarray], chunks: Sequence[np.ndarray]) -> np.ndarray:
    with _quiet():
        return rolling(chunks)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and event logs."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _device(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = (
        [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
        if Path("/proc/cpuinfo").is_file()
        else []
    )
    return f"{found[0].split(':')[1].strip() if found else platform.processor()}, {torch.get_num_threads()} threads"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer chunks, one repeat")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=sorted(SHAPES), help="shape of the random model; default 42m, --quick 27m")
    parser.add_argument("--chunks", type=int, help="chunks scored; default 96, --quick 32")
    parser.add_argument("--repeats", type=int, help="interleaved repeats; default 2, --quick 1")
    parser.add_argument("--row-tokens", type=int, default=None, help="tokens of one pass; default: as the device likes")
    parser.add_argument("--asset-tokens", type=int, help="tokens of the asset's corpus; 0: do not measure it")
    parser.add_argument(
        "--against", nargs="*", choices=RIVALS, help="rivals; default all, --quick without lm-eval one by one"
    )
    parser.add_argument("--compile", action="store_true", help="compile the model")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.model = arguments.model or ("27m" if quick else "42m")
    arguments.chunks = arguments.chunks or (32 if quick else 96)
    arguments.repeats = arguments.repeats or (1 if quick else 2)
    arguments.evaluate_chunks = min(arguments.chunks, 16 if quick else 32)
    if arguments.against is None:
        arguments.against = [name for name in RIVALS if not (quick and name == "lm_eval_batch_1")]
    arguments.asset_model = "27m" if arguments.device == "cpu" else arguments.model
    if arguments.asset_tokens is None:
        arguments.asset_tokens = 95_000 if quick else 100_000
    return arguments


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    report = measure(arguments)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for key, value in report.items():
        print(f"{key:30} {value}")


if __name__ == "__main__":
    main()
