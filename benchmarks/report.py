"""The JSON keys of the scoring benchmark, from what was timed."""

import argparse
import importlib.util
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.environment import device_name, note, quiet, versions
from benchmarks.memory import peak_megabytes
from benchmarks.models import LONGEST, SHAPES, chunk_lengths
from benchmarks.rivals import BATCH, CORPUS, NAMES, filled_share
from benchmarks.timing import NOMINAL_H100, Rival, Times
from ppl_assets.perplexity.head import token_nll
from ppl_assets.perplexity.packing import fixed_width, plan_rows
from ppl_assets.perplexity.scorer import ROW_TOKENS, Scorer
from ppl_assets.perplexity.speed import CEILING_SIZE

if TYPE_CHECKING:  # a bare GPU worker has no Dagster
    from benchmarks.asset_overhead import Overhead

HEAD_ROWS = 4_096


def report(
    arguments: argparse.Namespace, scorer: Scorer, times: Times, against: list[Rival], lengths: np.ndarray
) -> dict[str, Any]:
    """Everything that is published; a ratio is None where its rival was not measured."""
    ratios = {name: times.ratio(name) for name in NAMES}
    lm_eval = [ratio for name, ratio in ratios.items() if name.startswith("lm_eval") and ratio]
    shares = [part * rate / NOMINAL_H100 for part, rate in zip(times.fraction, times.ceiling, strict=True)]
    return {
        "vs_evaluate": ratios["evaluate"],
        "vs_lm_eval": min(lm_eval, default=None),
        **{f"vs_{name}": ratio for name, ratio in ratios.items() if name != "evaluate"},
        "ceiling_fraction": round(statistics.median(times.fraction), 3),
        "ceiling_fractions": [round(fraction, 3) for fraction in times.fraction],
        "ceiling_tflops": round(statistics.median(times.ceiling) / 1e12, 4),
        **({"nominal_h100_fraction": round(statistics.median(shares), 3)} if arguments.device == "cuda" else {}),
        "packing_efficiency": round(scorer.tokens / scorer.slots, 4),
        "packing_efficiency_fixed_rows": round(_fixed_efficiency(), 4),
        **{
            f"{rival.name}_efficiency": round(filled_share(rival), 4)
            for rival in against
            if rival.name.startswith("sorted_padded")
        },
        "head_extra_mb": round(_head_megabytes(scorer), 2),
        **_overhead(arguments),
        "tokens_per_s": round(statistics.median(times.tokens_per_s), 1),
        "stage_seconds": {name: round(value, 3) for name, value in asdict(scorer.seconds).items()},
        "device": device_name(arguments.device),
        "versions": versions(),
        "sizes": _sizes(arguments, scorer, against, lengths),
        "seconds": {"ours": times.ours, "others": times.others, "first": times.first},
    }


def _sizes(arguments: argparse.Namespace, scorer: Scorer, against: list[Rival], lengths: np.ndarray) -> dict[str, Any]:
    return {
        "model": arguments.model,
        "parameters": sum(p.numel() for p in scorer.model.parameters()),
        "dtype": scorer.policy.dtype,
        "chunks": len(lengths),
        **{f"chunks_vs_{rival.name}": len(rival.chunks) for rival in against},
        **{f"tokens_vs_{rival.name}": int(rival.tokens.sum()) for rival in against},
        "sorted_corpus_chunks": CORPUS,
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
    }


def _head_megabytes(scorer: Scorer) -> float:
    """Memory of the head beside its input and weights, for one block of rows."""
    hidden = torch.randn(HEAD_ROWS, scorer.model.config.hidden_size, device=scorer.device).to(scorer.model.dtype)
    targets = torch.zeros(HEAD_ROWS, dtype=torch.int64, device=scorer.device)
    return peak_megabytes(lambda: token_nll(hidden, targets, scorer.head))


def _fixed_efficiency() -> float:
    """Real tokens over computed places where rows have fixed widths, as on CUDA, for a batch of a million tokens."""
    lengths = chunk_lengths(3_500, longest=LONGEST, seed=2)
    row = ROW_TOKENS["cuda"] // LONGEST * LONGEST
    slots = sum(fixed_width(int(lengths[plan.items].sum()), row) for plan in plan_rows(lengths.tolist(), row))
    return float(lengths.sum()) / slots


def _overhead(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Whole asset over the scorer; None where Dagster is not installed or it is not asked for."""
    if arguments.asset_tokens == 0 or importlib.util.find_spec("dagster") is None:
        note("asset_overhead is not measured: Dagster is not installed, or --asset-tokens is 0")
        return overhead_keys([])
    from benchmarks.asset_overhead import asset_overhead  # noqa: PLC0415 - a bare GPU worker has no Dagster

    with quiet():
        found = asset_overhead(
            SHAPES[arguments.asset_model], arguments.device, arguments.asset_tokens, 1 if arguments.quick else 3
        )
    for run in found:
        note(f"asset {run.asset:.1f} s, scorer in it {run.inside:.1f} s, alone {run.alone or float('nan'):.1f} s")
    return overhead_keys(found)


def overhead_keys(found: "Sequence[Overhead]") -> dict[str, float | None]:
    """What the asset adds: to the scorer run alone beside it, and to the scorer's own seconds in it; None: not run."""

    def median(values: list[float], digits: int) -> float | None:
        return round(statistics.median(values), digits) if values else None

    return {
        "asset_overhead": median([run.asset / run.alone for run in found if run.alone], 3),
        "asset_over_scorer_inside": median([run.asset / run.inside for run in found], 3),
        "asset_fixed_seconds": median([run.asset - run.inside for run in found], 2),
    }
