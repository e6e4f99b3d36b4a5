"""How fast the trial loop trains, against the bare model step at the same shape.

    python -m benchmarks.trials --quick           # two cores, under a minute
    python -m benchmarks.trials --json            # two cores, some minutes
    python -m benchmarks.trials --device cuda --model 0.5b --batch-tokens 16384 --json

The bare step is forward, backward and AdamW on rows that are built beforehand, with the same attention and the same
head and nothing around: no clipping, no look at the loss, no progress. Each of its steps is timed directly after the
loop's own, on the same chunks, with a model and an optimizer of its own; the loop's seconds are those that it records.
Reported is the median over the stretches between measurements. Needs torch, transformers, accelerate, safetensors.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import device_name, note, versions
from benchmarks.models import LONGEST, SHAPES, random_chunks, random_model
from ppl_assets.perplexity.head import summed_nll
from ppl_assets.perplexity.packing import build_rows, sequence
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.trials.checkpoints import Checkpoint
from ppl_assets.trials.points import Evaluator, RunState
from ppl_assets.trials.recipe import Execution, TrialRecipe
from ppl_assets.trials.runner import run_trial
from ppl_assets.trials.trainer import ADAM_BETAS, Trainer

CHUNK = 256
"""Tokens of a chunk; a study's chunks are of one length."""

EVALUATED_SHARE = 0.4
"""Held-out tokens over tokens of a run, as in the default study."""


class BareStep:
    """Forward, backward and AdamW on one packed row a step."""

    def __init__(self, scorer: Scorer, chunks: list[np.ndarray], batch_tokens: int) -> None:
        self._scorer, self._seconds = scorer, 0.0
        sequences, size = [sequence(chunk, 0) for chunk in chunks], batch_tokens // CHUNK
        steps = [sequences[at : at + size] for at in range(0, len(sequences), size)]
        plans = [scorer.plans([len(tokens) - 1 for tokens in step], batch_tokens)[0] for step in steps]
        self._rows = [build_rows(plan, step) for plan, step in zip(plans, steps, strict=True)]
        self._targets = [torch.from_numpy(rows.targets).to(scorer.device) for rows in self._rows]
        self._optimizer = torch.optim.AdamW(scorer.model.parameters(), lr=1e-6, betas=ADAM_BETAS, fused=True)
        scorer.model.train()

    def take(self, number: int) -> float:
        """Take a step and return its seconds."""
        scorer, targets = self._scorer, self._targets[number]
        _wait(scorer.device)
        began = time.perf_counter()
        hidden = scorer.hidden_states(self._rows[number], scorer.training_products)
        (summed_nll(hidden, targets, scorer.training_head) / len(targets)).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        _wait(scorer.device)
        return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All keys."""
    shape, device = SHAPES[arguments.model], arguments.device
    tokens = arguments.steps * arguments.batch_tokens
    recipe = TrialRecipe(1e-6, 0.02, arguments.batch_tokens, tokens=tokens, span=arguments.steps / 2.0, points=7)
    chunks = random_chunks([CHUNK] * (tokens // CHUNK), shape.vocabulary)
    held_out = random_chunks([CHUNK] * max(1, int(EVALUATED_SHARE * tokens) // CHUNK), shape.vocabulary, seed=2)
    policy = ScorePolicy("bos", 0, LONGEST, "float16" if device == "cuda" else "float32", "sdpa", "random", "random")
    model = random_model(shape, device, "float32")
    given = (model, chunks, np.full(len(chunks), 20.0), recipe, 0)
    execution = Execution(arguments.micro_tokens, arguments.gradient_checkpointing)
    bare = BareStep(Scorer(random_model(shape, device, "float32"), policy, device=device), chunks, recipe.batch_tokens)
    for number in range(3):
        bare.take(number)  # what only a first step does is nobody's speed
    ratios, rates = [], []
    for repeat in range(arguments.repeats):
        seconds: list[float] = []
        points = run_trial(
            *given, Evaluator(held_out[:1], [], policy), device, 0, execution=execution,
            progress=lambda seen, *_rest, kept=seconds: kept.append(bare.take(seen // recipe.batch_tokens - 1)),
        )  # fmt: skip
        for before, after in itertools.pairwise(points[1:]):  # the first stretch warms the loop up
            first, last = (point.tokens // recipe.batch_tokens for point in (before, after))
            ratios.append(sum(seconds[first:last]) / (after.seconds - before.seconds))
            rates.append((after.tokens - before.tokens) / (after.seconds - before.seconds))
        note(f"repeat {repeat}: {rates[-1]:,.0f} tokens/s, {statistics.median(ratios):.3f} of the bare step")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "run.safetensors", "benchmark", note)
        began = time.perf_counter()
        run_trial(*given, Evaluator(held_out, [], policy), device, 0, execution=execution, checkpoint=checkpoint)
        whole = tokens / (time.perf_counter() - began)
        saved = checkpoint_times(Trainer(model, recipe, Evaluator(held_out, [], policy), 0, device), chunks, checkpoint)
    rate, ratio = statistics.median(rates), statistics.median(ratios)
    return {
        "of_bare_step": round(ratio, 3),
        "of_bare_step_low": round(min(ratios), 3),
        "of_bare_step_high": round(max(ratios), 3),
        "stretches": len(ratios),
        "of_bare_step_with_evaluation": round(whole * ratio / rate, 3),
        "tokens_per_s": round(rate, 1),
        "tokens_per_s_with_evaluation": round(whole, 1),
        **saved,
        "device": device_name(device),
        "versions": versions(),
        "model": arguments.model,
        "parameters": model.num_parameters(),
        "steps": arguments.steps,
        "batch_tokens": recipe.batch_tokens,
        "chunk_tokens": CHUNK,
        "evaluated_tokens": len(held_out) * CHUNK,
        "measurements": len(points),
        "repeats": arguments.repeats,
        "micro_tokens": arguments.micro_tokens,
        "gradient_checkpointing": arguments.gradient_checkpointing,
    }


def checkpoint_times(trainer: Trainer, chunks: list[np.ndarray], checkpoint: Checkpoint) -> dict[str, float]:
    """Seconds to save and to resume, and bytes on disk, once there are moments to save."""
    trainer.step(chunks[:2], 1e-6)
    saving, resuming = [], []
    for _ in range(3):
        began = time.perf_counter()
        checkpoint.save(RunState(steps=1, chunks=2, tokens=2 * CHUNK), trainer)
        between = time.perf_counter()
        found = checkpoint.load()
        assert found is not None
        trainer.restore(found[1])
        saving.append(between - began)
        resuming.append(time.perf_counter() - between)
    return {
        "checkpoint_seconds": round(statistics.median(saving), 3),
        "resume_seconds": round(statistics.median(resuming), 3),
        "checkpoint_mb": round(checkpoint.file.stat().st_size / 1e6, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smallest model, few steps, one repeat")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=SHAPES, help="shape of the random model; default 27m, --quick 1m")
    parser.add_argument("--steps", type=int, help="steps of a run; default 24, --quick 16")
    parser.add_argument("--batch-tokens", type=int, default=2048, help=f"tokens a step, a multiple of {CHUNK}")
    parser.add_argument("--repeats", type=int, help="runs; default 2, --quick 1")
    parser.add_argument("--micro-tokens", type=int, help="most tokens of one pass of the loop; default: whole steps")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="the loop computes activations again")
    arguments = parser.parse_args()
    arguments.model = arguments.model or ("1m" if arguments.quick else "27m")
    arguments.steps = arguments.steps or (16 if arguments.quick else 24)
    arguments.repeats = arguments.repeats or (1 if arguments.quick else 2)
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        print(f"{key:30} {value}")


if __name__ == "__main__":
    main()
