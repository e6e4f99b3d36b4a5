"""What scoring costs: hours for a billion tokens, by size of model. torch and transformers are all it needs.

    python -m benchmarks.cost --device cuda --json
    python -m benchmarks.cost --device cpu --models 1m --chunks 16

Random weights, chunks of the same lengths as in ``scoring.py``, ours alone; with float16 products on CUDA, in float32
on CPU, as the scorer itself would choose. A model that does not fit into the device's memory is skipped.
"""

import argparse
import gc
import json
import os
import statistics
from typing import Any

import torch

from benchmarks.environment import device_name, note, versions
from benchmarks.models import DTYPES, SHAPES, chunk_lengths, random_chunks, random_model, random_scorer
from benchmarks.timing import NOMINAL_H100, Rival, Times, take_turns, warm_up
from ppl_assets.failures import is_out_of_memory
from ppl_assets.perplexity.errors import ModelError

ROOM = 1.1
"""Memory that a model is taken to need, over that of its weights."""


def cost(arguments: argparse.Namespace) -> dict[str, Any]:
    """A row for each model that fits."""
    lengths = chunk_lengths(arguments.chunks)
    rows: dict[str, Any] = {}
    dtype = DTYPES[arguments.device]
    for name in arguments.models:
        empty = random_model(SHAPES[name], "meta", dtype)  # sizes alone
        parameters, needed = empty.num_parameters(), sum(p.nbytes for p in empty.parameters())
        if needed * ROOM > (free := _free_bytes(arguments.device)):
            note(f"{name} is skipped: its weights take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
            continue
        try:
            rows[name] = {"parameters": parameters, **_row(name, lengths, arguments)}
        except (RuntimeError, ModelError) as error:
            if not is_out_of_memory(error.__cause__ if isinstance(error.__cause__, Exception) else error):
                raise
            note(f"{name} is skipped: the device's memory ran out while it was measured")
        _free_memory(arguments.device)
    return {
        "models": rows,
        "device": device_name(arguments.device),
        "versions": versions(),
        "sizes": {
            "dtype": dtype,
            "chunks": len(lengths),
            "tokens": int(lengths.sum()),
            "longest_tokens": int(lengths.max()),
            "repeats": arguments.repeats,
        },
    }


def _row(name: str, lengths: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one model."""
    note(f"{name}: {len(lengths)} chunks, {int(lengths.sum()):,} tokens")
    scorer = random_scorer(name, arguments.device, DTYPES[arguments.device], arguments.row_tokens, arguments.compile)
    alone, times = Rival(name, random_chunks(lengths, SHAPES[name].vocabulary), None), Times()
    warm_up(scorer, alone)
    for _ in range(arguments.repeats):
        take_turns(scorer, alone, times, ours_first=True)
    speed = statistics.median(times.tokens_per_s)
    shares = [part * rate / NOMINAL_H100 for part, rate in zip(times.fraction, times.ceiling, strict=True)]
    return {
        "hours_per_billion_tokens": round(1e9 / speed / 3_600.0, 3),
        "tokens_per_s": round(speed, 1),
        "ceiling_fraction": round(statistics.median(times.fraction), 3),
        "ceiling_tflops": round(statistics.median(times.ceiling) / 1e12, 4),
        "nominal_h100_fraction": round(statistics.median(shares), 4) if arguments.device == "cuda" else None,
        "row_tokens": scorer.row_tokens,
        "compiled": scorer.compiled,
        "seconds": times.ours[name],
    }


def _free_bytes(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _free_memory(device: str) -> None:
    """Give back what the last model held, compiled code too: torch compiles one function only so many times."""
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["135m", "0.5b", "3b", "8b", "14b"])
    parser.add_argument("--chunks", type=int, default=2_000, help="of 300 tokens in the mean")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--row-tokens", type=int, default=None, help="tokens of one pass; default: as the device likes")
    parser.add_argument("--compile", action="store_true", help="compile the models")
    arguments = parser.parse_args()
    found = cost(arguments)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    columns = ("hours_per_billion_tokens", "tokens_per_s", "ceiling_fraction", "nominal_h100_fraction")
    print(" ".join(f"{column:>24}" for column in ("model", *columns)))
    for name, row in found["models"].items():
        print(" ".join(f"{value!s:>24}" for value in (name, *(row[column] for column in columns))))


if __name__ == "__main__":
    main()
