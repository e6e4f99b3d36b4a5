"""One continual pre-training run at constant learning rate, measured at several token counts on averaged weights.

Belongs here: the loop, from the base model's weights to a list of points. Does not belong here: which chunks, which
order, where results go. Losses are measured with the scorer of the perplexity stage on held-out chunks, so a trial's
loss before any training is the base model's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import transformers

from ppl_assets.trials.checkpoints import Checkpoint
from ppl_assets.trials.points import Evaluator, Gauge, RunState, TrialPoint
from ppl_assets.trials.recipe import Execution, TrialRecipe, branch_token_counts, measured_token_counts
from ppl_assets.trials.trainer import Trainer

Progress = Callable[[int, int, float], None]
"""Called with tokens seen, tokens in all, training loss of the step."""


def run_trial(
    model: transformers.PreTrainedModel,
    chunks: Sequence[np.ndarray],
    ppl: np.ndarray,
    recipe: TrialRecipe,
    seed: int,
    evaluate: Evaluator,
    device: str = "cpu",
    prefix_id: int | None = None,
    progress: Progress | None = None,
    execution: Execution | None = None,
    checkpoint: Checkpoint | None = None,
    downstream: Callable[[transformers.PreTrainedModel], dict[str, float]] | None = None,
) -> list[TrialPoint]:
    """Train on the chunks in their order and measure on the way.

    Two runs with the same arguments on the same machine and thread count give the same losses on CPU, and so does a run
    that was killed and goes on from its checkpoint.

    A measurement is of the mean of the weights over the last of the steps before it (``recipe.average_share``), which
    the run itself does not see: at a constant rate the last weights alone are where the last few steps happened to
    lead.
    Source: Hägele et al., arXiv 2405.18392, section 4.

    Args:
        model: the base model in float32; a copy is trained.
        chunks: int32 token arrays in training order.
        ppl: float64 [chunks], their perplexities.
        recipe: the recipe.
        seed: of dropout, where the model's configuration has any, and of adapters.
        evaluate: held-out chunks.
        device: cpu, or cuda (bfloat16 autocast over float32 weights unless the policy says float32).
        prefix_id: token before every chunk, as in scoring; None: none.
        progress: called after each step.
        execution: how it is computed; None: whole steps, activations kept.
        checkpoint: where the run is saved and goes on from; None: nowhere.
        downstream: further measures of the trained model, taken once at the end of a run that did not diverge; the run
            is saved before, since they may take long.

    Returns:
        Point 0 and one point a measured count, fewer where the run diverged; each decay branch after the point it
        starts from.

    Raises:
        ValueError: the chunks hold fewer tokens than the recipe less one step, or ``ppl`` has another length.
    """
    total = _check(chunks, ppl, recipe)
    if checkpoint and (done := checkpoint.finished()) and not (downstream and _is_unmeasured(done)):
        return done.points
    trainer = Trainer(model, recipe, evaluate, prefix_id, device, execution, seed)
    gauge = Gauge(evaluate, trainer.scorer, ppl, recipe)
    counts, branches = [min(c, total) for c in measured_token_counts(recipe)], branch_token_counts(recipe, total)
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        run = (checkpoint and _resumed(trainer, checkpoint)) or RunState(points=[gauge.point(RunState())])
        for step in list(_steps([len(chunk) for chunk in chunks], recipe.batch_tokens, total))[run.steps :]:
            last, due = max([0, *(c for c in counts if c <= run.tokens)]), next(c for c in counts if c > run.tokens)
            loss = _step(trainer, run, [chunks[i] for i in step], recipe.rate)
            if progress:
                progress(run.tokens, total, loss)
            if recipe.is_averaged(run.tokens, last, due) and math.isfinite(loss):
                trainer.average()
            is_measured = run.tokens >= due or not math.isfinite(loss)
            if is_measured:
                with trainer.averaged():
                    run.points.append(gauge.point(run, "trunk", loss))
                run.is_over = run.tokens >= total or run.points[-1].status != "ok"
                if not run.is_over:
                    trainer.forget_average()
                if due in branches and not run.is_over:
                    run.points.append(_decay_branch(trainer, gauge, run, chunks))
            is_awaited = downstream is not None and _is_unmeasured(run)
            if checkpoint and (is_measured or checkpoint.is_due):
                checkpoint.save(replace(run, is_over=run.is_over and not is_awaited), trainer)
            if run.is_over:
                break
        if downstream and _is_unmeasured(run):
            with trainer.averaged():
                run.points[-1], run.is_over = replace(run.points[-1], downstream=downstream(trainer.model)), True
            if checkpoint:
                checkpoint.save(run, trainer)
    return run.points


def _is_unmeasured(run: RunState) -> bool:
    """Whether a run ended well and has no downstream measures."""
    return run.points[-1].status == "ok" and run.points[-1].downstream is None


def _step(trainer: Trainer, run: RunState, chunks: Sequence[np.ndarray], rate: Callable[[int], float]) -> float:
    """Train one step at the rate of the tokens that will then be seen, and count it."""
    began = time.perf_counter()
    run.steps, run.chunks, run.tokens = run.steps + 1, run.chunks + len(chunks), run.tokens + sum(map(len, chunks))
    loss = trainer.step(chunks, rate(run.tokens))
    run.seconds, run.micro_tokens = run.seconds + time.perf_counter() - began, trainer.micro_tokens
    return loss


def _resumed(trainer: Trainer, checkpoint: Checkpoint) -> RunState | None:
    """Where the run was, with the trainer as it was then; of two limits on a pass the lower holds."""
    run = checkpoint.resume(trainer)
    if run:
        trainer.micro_tokens = min(filter(None, [run.micro_tokens, trainer.micro_tokens]), default=None)
    return run


def _decay_branch(trainer: Trainer, gauge: Gauge, run: RunState, chunks: Sequence[np.ndarray]) -> TrialPoint:
    """Train on from here while the rate falls as 1 - sqrt, measure, and go back to where the branch began.

    The rate of a step is that of its middle, so that no step is at rate zero. Source: Hägele et al., "Scaling Laws and
    Compute-Optimal Training Beyond Fixed Training Durations", arXiv 2405.18392.
    """
    recipe, kept, branch = gauge.recipe, trainer.state(), replace(run)
    length, ahead, loss = max(1, int(recipe.decay_share * run.tokens)), chunks[run.chunks :], 0.0
    for step in _steps([len(chunk) for chunk in ahead], recipe.batch_tokens, length):
        before = branch.tokens

        def rate(seen: int, before: int = before) -> float:
            middle = ((before + seen) / 2.0 - run.tokens) / length
            return recipe.learning_rate * (1.0 - math.sqrt(min(middle, 1.0)))

        loss = _step(trainer, branch, [ahead[i] for i in step], rate)
        if not math.isfinite(loss):
            break
    point = gauge.point(branch, "decay", loss)
    trainer.restore(kept)
    return point


def _check(chunks: Sequence[np.ndarray], ppl: np.ndarray, recipe: TrialRecipe) -> int:
    """Tokens the run will see at most: whole chunks until the recipe's tokens are reached."""
    if len(ppl) != len(chunks):
        raise ValueError(f"{len(ppl)} perplexities for {len(chunks)} chunks; give one each")
    if any(len(chunk) < 2 for chunk in chunks):
        raise ValueError("a chunk has fewer than 2 tokens; leave out what cannot be trained on")
    held = sum(len(chunk) for chunk in chunks)
    if held < recipe.tokens - recipe.batch_tokens or not held:
        raise ValueError(
            f"the chunks hold {held} tokens and the recipe asks for {recipe.tokens}; draw more or ask for fewer"
        )
    return min(held, recipe.tokens)


def _steps(lengths: Sequence[int], batch_tokens: int, total: int) -> Iterator[list[int]]:
    """Chunk numbers of each step: it ends with the chunk that reaches its multiple of batch_tokens, or ``total``."""
    step: list[int] = []
    seen, boundary = 0, batch_tokens
    for number, length in enumerate(lengths):
        step.append(number)
        seen += length
        if seen >= min(boundary, total):
            yield step
            step, boundary = [], (seen // batch_tokens + 1) * batch_tokens
        if seen >= total:
            return
