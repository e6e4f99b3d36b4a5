"""How fast the trial loop trains, against the bare model step at the same shape.

    python -m benchmarks.trials --quick           # two cores, under a minute
    python -m benchmarks.trials --json            # two cores, some minutes
    python -m benchmarks.trials --device cuda --model 0.5b --batch-tokens 16384 --json

The bare step is forward, backward and AdamW on rows that are built beforehand, with the same attention and the same
head and nothing around: no clipping, no look at the loss, no progress. Each of its steps is timed directly after the
loop's own, on the same chunks, with a model and an optimizer of its own. Reported is the median ratio of their times,
by the wall's clock and by the processors', which a crowded machine moves less.

Needs torch, transformers, accelerate and safetensors alone.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import device_name, note, print_figures, versions
from benchmarks.models import DTYPES, LONGEST, SHAPES, random_chunks, random_model
from ppl_assets.perplexity.head import summed_nll
from ppl_assets.perplexity.packing import build_rows, sequence
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.trials.checkpoints import Checkpoint
from ppl_assets.trials.points import Evaluator, RunState
from ppl_assets.trials.recipe import Execution, TrialRecipe, measured_token_counts
from ppl_assets.trials.runner import run_trial
from ppl_assets.trials.trainer import ADAM_BETAS, Trainer

CHUNK = 256
"""Tokens of a chunk; a study's chunks are of one length."""

EVALUATED_SHARE = 0.4
"""Held-out tokens over tokens of a run, as in the default study."""


Times = tuple[float, float]
"""Seconds on the wall, and of all processors this process had; on a crowded machine only the second says much."""


def now(device: torch.device) -> Times:
    """The moment at which all work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def between(began: Times, ended: Times) -> Times:
    """The time from one moment to another."""
    return ended[0] - began[0], ended[1] - began[1]


class BareStep:
    """Forward, backward and AdamW on one packed row a step."""

    def __init__(self, scorer: Scorer, chunks: list[np.ndarray], batch_tokens: int) -> None:
        self._scorer = scorer
        sequences, size = [sequence(chunk, 0) for chunk in chunks], batch_tokens // CHUNK
        steps = [sequences[at : at + size] for at in range(0, len(sequences), size)]
        plans = [scorer.plans([len(tokens) - 1 for tokens in step], batch_tokens)[0] for step in steps]
        self._rows = [build_rows(plan, step) for plan, step in zip(plans, steps, strict=True)]
        self._targets = [torch.from_numpy(rows.targets).to(scorer.device) for rows in self._rows]
        self._optimizer = torch.optim.AdamW(scorer.model.parameters(), lr=1e-6, betas=ADAM_BETAS, fused=True)
        scorer.model.train()

    def take(self, number: int) -> None:
        """Take a step."""
        scorer, targets = self._scorer, self._targets[number]
        hidden = scorer.hidden_states(self._rows[number], scorer.training_products)
        (summed_nll(hidden, targets, scorer.training_head) / len(targets)).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class Turns:
    """Takes a bare step after each of the loop's, as its progress callback, and keeps the times of both.

    A step of the loop lasts from the end of the bare one before it; steps behind a measurement are left out.
    """

    def __init__(self, bare: BareStep, device: torch.device, recipe: TrialRecipe) -> None:
        self.loop: list[Times] = []
        self.bare: list[Times] = []
        self._step, self._device, self._batch = bare, device, recipe.batch_tokens
        self._measured = {0, *measured_token_counts(recipe)}
        self._ended = now(device)

    def __call__(self, seen: int, _total: int, _loss: float) -> None:
        """Told of a step of the loop."""
        began = now(self._device)
        self._step.take(seen // self._batch - 1)
        ended = now(self._device)
        if seen - self._batch not in self._measured:
            self.loop.append(between(self._ended, began))
            self.bare.append(between(began, ended))
        self._ended = ended


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All keys."""
    shape, device = SHAPES[arguments.model], arguments.device
    tokens = arguments.steps * arguments.batch_tokens
    recipe = TrialRecipe(1e-6, batch_tokens=arguments.batch_tokens, tokens=tokens, span=arguments.steps / 2.0, points=7)
    chunks = random_chunks([CHUNK] * (tokens // CHUNK), shape.vocabulary)
    held_out = random_chunks([CHUNK] * max(1, int(EVALUATED_SHARE * tokens) // CHUNK), shape.vocabulary, seed=2)
    policy = ScorePolicy("bos", 0, LONGEST, DTYPES[device], "sdpa", "random", "random")
    model = random_model(shape, device, "float32")
    given = (model, chunks, np.full(len(chunks), 20.0), recipe, 0)
    execution = Execution(arguments.micro_tokens, arguments.gradient_checkpointing)
    bare = BareStep(Scorer(random_model(shape, device, "float32"), policy, device=device), chunks, recipe.batch_tokens)
    for number in range(3):
        bare.take(number)  # what only a first step does is nobody's speed
    turns = Turns(bare, torch.device(device), recipe)
    for repeat in range(arguments.repeats):
        points = run_trial(*given, Evaluator(held_out[:1], [], policy), device, 0, turns, execution)
        note(f"repeat {repeat}: {statistics.median(ratios(turns, 0)):.3f} of the bare step so far")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "run.safetensors", "benchmark", note)
        began = time.perf_counter()
        run_trial(*given, Evaluator(held_out, [], policy), device, 0, execution=execution, checkpoint=checkpoint)
        whole = tokens / (time.perf_counter() - began)
        saved = checkpoint_times(Trainer(model, recipe, Evaluator(held_out, [], policy), 0, device), chunks, checkpoint)
    wall, processor = (statistics.quantiles(ratios(turns, clock), n=4) for clock in (0, 1))
    rate = recipe.batch_tokens / statistics.median(seconds for seconds, _processor in turns.loop)
    return {
        "of_bare_step": round(wall[1], 3),
        "of_bare_step_quartiles": [round(wall[0], 3), round(wall[2], 3)],
        "of_bare_step_processor": round(processor[1], 3),
        "of_bare_step_processor_quartiles": [round(processor[0], 3), round(processor[2], 3)],
        "steps_compared": len(turns.loop),
        "of_bare_step_with_evaluation": round(whole * wall[1] / rate, 3),
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


def ratios(turns: Turns, clock: int) -> list[float]:
    """Time of each bare step over that of the loop's step before it; clock 0 is the wall's, 1 the processors'."""
    return [bare[clock] / loop[clock] for bare, loop in zip(turns.bare, turns.loop, strict=True)]


def checkpoint_times(trainer: Trainer, chunks: list[np.ndarray], checkpoint: Checkpoint) -> dict[str, float]:
    """Seconds to save and to resume, and bytes on disk, once there are moments to save."""
    trainer.step(chunks[:2], 1e-6)
    saving, resuming = [], []
    for _ in range(3):
        began = time.perf_counter()
        checkpoint.save(RunState(steps=1, chunks=2, tokens=2 * CHUNK), trainer)
        saved = time.perf_counter()
        assert checkpoint.resume(trainer) is not None
        saving.append(saved - began)
        resuming.append(time.perf_counter() - saved)
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
    print_figures(found, arguments.json)


if __name__ == "__main__":
    main()
