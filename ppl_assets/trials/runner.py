"""One continual pre-training run at constant learning rate, measured at several token counts.

Belongs here: the loop, from the base model's weights to a list of points. Does not belong here: which chunks, which
order, where results go. Losses are measured with the scorer of the perplexity stage on held-out chunks, so a trial's
loss before any training is the base model's own.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from ppl_assets.perplexity.head import summed_nll
from ppl_assets.perplexity.packing import build_rows, sequence
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.regimes import token_counts

RUNNER_VERSION = "1"
"""Raise it when a change here changes a loss; earlier trials are then of another setting."""

ADAM_BETAS = (0.9, 0.95)
"""Momentum terms usual for language models; 0.95 follows the gradient's scale in short runs."""

Progress = Callable[[int, int, float], None]
"""Called with tokens seen, tokens in all, training loss of the step."""


@dataclass(frozen=True)
class TrialRecipe:
    """How a trial trains; the same in every trial of a setting.

    Attributes:
        learning_rate: constant after warm-up.
        warmup_share: share of the tokens over which the rate rises linearly.
        batch_tokens: tokens a step; a step ends with the first chunk that reaches it.
        weight_decay: AdamW decay of matrices; vectors are not decayed.
        max_grad_norm: gradient norm clip.
        tokens: tokens of the run, the largest D.
        span: largest over smallest token count measured.
        points: token counts measured.
    """

    learning_rate: float = 5e-4
    warmup_share: float = 0.02
    batch_tokens: int = 2048
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tokens: int = 65_536
    span: float = 16.0
    points: int = 7


@dataclass(frozen=True)
class TrialPoint:
    """One measurement.

    Attributes:
        point: number, 0 before any training.
        tokens: chunk tokens seen, prefixes not counted.
        mu: mean perplexity of the chunks seen; None at point 0.
        sigma: its standard deviation (population); None at point 0.
        test_loss: nats a token over all held-out domain tokens; NaN where the run diverged.
        general_loss: the same on general text; None without such text.
        is_warmup: the learning rate was still rising at the step before. Point 0 had none and is not warm-up.
        seconds: training so far, evaluation excluded.
        tokens_per_second: tokens / seconds.
        status: ok, or diverged: a loss or gradient was not finite, the run ended there, and no loss is invented.
    """

    point: int
    tokens: int
    mu: float | None
    sigma: float | None
    test_loss: float
    general_loss: float | None
    is_warmup: bool
    seconds: float
    tokens_per_second: float
    status: str


@dataclass(frozen=True)
class Evaluator:
    """Held-out chunks and the policy under which their loss is taken.

    Attributes:
        test_chunks: int32 token arrays of the domain.
        general_chunks: int32 token arrays of general text; may be empty.
        policy: the scorer's.
        row_tokens: places of one pass; None: as the device likes.
    """

    test_chunks: Sequence[np.ndarray]
    general_chunks: Sequence[np.ndarray]
    policy: ScorePolicy
    row_tokens: int | None = None

    def losses(self, scorer: Scorer) -> tuple[float, float | None]:
        """Test and general loss: summed nll over summed tokens."""
        general = scorer.score(self.general_chunks).mean_nll() if len(self.general_chunks) else None
        return scorer.score(self.test_chunks).mean_nll(), general


def measured_token_counts(recipe: TrialRecipe) -> list[int]:
    """Token counts at which a run of this recipe is measured; see ``regimes.token_counts``."""
    return token_counts.measured_token_counts(recipe.tokens, recipe.batch_tokens, recipe.span, recipe.points)


def run_trial(
    model: PreTrainedModel,
    chunks: Sequence[np.ndarray],
    ppl: np.ndarray,
    recipe: TrialRecipe,
    seed: int,
    evaluate: Evaluator,
    device: str = "cpu",
    prefix_id: int | None = None,
    progress: Progress | None = None,
    fresh_copy: bool = True,
) -> list[TrialPoint]:
    """Train on the chunks in their order and measure on the way.

    Two runs with the same arguments on the same machine and thread count give the same losses on CPU.

    Args:
        model: the base model in float32; a copy is trained unless ``fresh_copy`` is off.
        chunks: int32 token arrays in training order.
        ppl: float64 [chunks], their perplexities.
        recipe: the recipe.
        seed: of dropout, where the model's configuration has any.
        evaluate: held-out chunks.
        device: cpu, or cuda (bfloat16 autocast over float32 weights unless the policy says float32).
        prefix_id: token before every chunk, as in scoring; None: none.
        progress: called after each step.
        fresh_copy: train a copy; off: the caller's model is trained, which saves its memory.

    Returns:
        Point 0 and one point a measured count, fewer where the run diverged.

    Raises:
        ValueError: the chunks hold fewer tokens than the recipe less one step, or ``ppl`` has another length.
    """
    total = _check(chunks, ppl, recipe)
    model = (copy.deepcopy(model) if fresh_copy else model).float().to(device)
    scorer = Scorer(model, evaluate.policy, evaluate.row_tokens, device)
    optimizer = _adamw(model, recipe)
    due = [min(count, total) for count in measured_token_counts(recipe)]
    points = [_measure(0, 0, np.empty(0), evaluate.losses(scorer), False, 0.0)]
    used, seen, seconds = 0, 0, 0.0
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        for step in _steps([len(chunk) for chunk in chunks], recipe.batch_tokens, total):
            began = time.perf_counter()
            used, seen = used + len(step), seen + sum(len(chunks[i]) for i in step)
            rising = seen < recipe.warmup_share * recipe.tokens
            rate = recipe.learning_rate * (seen / (recipe.warmup_share * recipe.tokens) if rising else 1.0)
            loss = _train_step(scorer, optimizer, [chunks[i] for i in step], prefix_id, rate, recipe.max_grad_norm)
            seconds += time.perf_counter() - began
            if progress:
                progress(seen, total, loss)
            if not math.isfinite(loss):
                points.append(_measure(len(points), seen, ppl[:used], (math.nan, None), rising, seconds))
                break
            if seen >= due[0]:
                due = [count for count in due if count > seen]
                points.append(_measure(len(points), seen, ppl[:used], evaluate.losses(scorer), rising, seconds))
                if not due or points[-1].status != "ok":
                    break
    return points


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


def _adamw(model: PreTrainedModel, recipe: TrialRecipe) -> torch.optim.AdamW:
    """AdamW with decay on matrices only; the fused kernel is 5 to 8 % of a small model's step faster."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=ADAM_BETAS, fused=True)


def _train_step(
    scorer: Scorer,
    optimizer: torch.optim.AdamW,
    chunks: Sequence[np.ndarray],
    prefix_id: int | None,
    rate: float,
    clip: float,
) -> float:
    """One optimizer step on the mean loss over all tokens of ``chunks``; NaN, and no step, where it is not finite.

    The chunks share one row, in which each attends to itself alone.
    """
    sequences = [sequence(chunk, prefix_id) for chunk in chunks]
    lengths = [len(tokens) - 1 for tokens in sequences]
    device, model, loss = scorer.device, scorer.model, 0.0
    model.train()
    for plan in scorer.plans(lengths, sum(lengths)):
        rows = build_rows(plan, sequences)
        targets = torch.from_numpy(rows.targets).to(device)  # [tokens]
        hidden = scorer.hidden_states(rows, scorer.training_products)  # [tokens, hidden]
        part = summed_nll(hidden, targets, scorer.training_head) / sum(lengths)
        part.backward()
        loss += float(part.detach())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=True)
    if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
        return math.nan
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def _measure(
    point: int, tokens: int, ppl: np.ndarray, losses: tuple[float, float | None], rising: bool, seconds: float
) -> TrialPoint:
    """A point from what was seen and measured."""
    return TrialPoint(
        point=point,
        tokens=tokens,
        mu=float(ppl.mean()) if len(ppl) else None,
        sigma=float(ppl.std()) if len(ppl) else None,
        test_loss=losses[0],
        general_loss=losses[1],
        is_warmup=rising,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        status="ok" if math.isfinite(losses[0]) else "diverged",
    )


def setting_id(
    model_id: str, recipe: TrialRecipe, test_ids: Sequence[str], general_ids: Sequence[str], policy: ScorePolicy
) -> str:
    """Fingerprint of what must agree for two losses to be comparable: model, recipe, held-out chunks, policy, code."""
    held_out = [sorted(test_ids), sorted(general_ids)]
    content = [model_id, asdict(recipe), held_out, policy.scorer_id, RUNNER_VERSION]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def trial_fingerprint(setting: str, subset_ids: Sequence[str], seed: int) -> str:
    """Fingerprint of one trial: its setting, its chunks in order and its seed."""
    content = json.dumps([setting, list(subset_ids), seed]).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
