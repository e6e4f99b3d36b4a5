"""The model's output head, applied a few rows at a time: all logits of a batch never exist at once.

Belongs here: hidden states to negative log-likelihoods, with and without gradients. 2,048 tokens of a vocabulary of
4,096 are 33 MB of logits, of one of 150,000 they are 1.2 GB. Without gradients the logits come in tiles of some rows
and some of the vocabulary, in one reused buffer that a CPU's cache holds: a fifth faster than rows of the whole
vocabulary, and small. Logits, log-sum-exp and sums are float32 or wider whatever the weights are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from ppl_assets.perplexity.errors import ModelError

BLOCK_ROWS = 512
"""Rows of logits that exist at a time where gradients are taken."""

TILES = {"cpu": (1024, 1024), "cuda": (4096, 2048)}
"""Rows and vocabulary entries of one tile of logits: 4 MB in float32 on CPU, 32 MB on CUDA."""

TILE_NUMBERS = 2**23
"""Numbers in the hidden states of a tile at most, so that a wide model's narrow copies of them stay below 16 MB."""

PROBE_DOCUMENTS, PROBE_TOKENS = 3, 12
"""Size of the passes that compare what is computed here with the model's own."""


@dataclass(frozen=True)
class Head:
    """An output head: ``logits = cap(scale * (hidden @ weight.T + bias))``.

    Attributes:
        weight: [vocabulary, hidden], shared with the model: it follows training.
        bias: [vocabulary] or None.
        scale: factor on the logits (Cohere ``logit_scale``, Granite ``1 / logits_scaling``).
        cap: ``cap * tanh(logits / cap)`` (Gemma ``final_logit_softcapping``), or None.
        dtype: what the product is computed in; it is always accumulated and returned in float32 or wider.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None
    dtype: torch.dtype


def read_head(model: transformers.PreTrainedModel, dtype: torch.dtype | None = None) -> Head:
    """The head of a causal language model, checked against the model's own logits.

    Raises:
        ModelError: the model has no linear head, or does more to its logits than scaling and capping.
    """
    if model.base_model is model:
        raise ModelError(f"{type(model).__name__} has no backbone apart from its head; give a model that has")
    linear = model.get_output_embeddings()
    if not isinstance(linear, torch.nn.Linear):
        raise ModelError(f"{type(model).__name__} has no linear output head; give a causal language model that has one")
    config = model.config.get_text_config()
    divisor = getattr(config, "logits_scaling", None) or 1.0
    factors = [getattr(config, name, None) or 1.0 for name in ("logit_scale", "lm_head_multiplier")]
    scale = float(factors[0]) * float(factors[1]) / float(divisor)
    cap = getattr(config, "final_logit_softcapping", None)
    head = Head(linear.weight, linear.bias, scale, cap, dtype or linear.weight.dtype)
    _check_head(model, head)
    return head


def backbone_states(
    backbone: Callable[..., Any],
    inputs: Tensor,
    positions: Tensor | None = None,
    starts: Tensor | None = None,
    longest: int = 0,
) -> Tensor:
    """Hidden states after the last norm.

    ``use_cache=False`` and no attention mask is what makes transformers respect packed documents: with a cache or a
    mask, sdpa ignores the positions and packed documents see each other (14.8 % of the loss).

    Args:
        backbone: ``model.base_model``, or it compiled.
        inputs: int64 [rows, width].
        positions: int64 [1, width], restarting at 0 with every document; None: one document a row.
        starts: int32 [documents + 1], where each document begins; given with positions, for a model that attends
            document by document.
        longest: longest document.

    Returns:
        [rows * width, hidden].
    """
    given: dict[str, Any] = {} if positions is None else {"position_ids": positions}
    if starts is not None:  # transformers' own names, which it hands on to the attention
        given |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}
    states = backbone(input_ids=inputs, use_cache=False, **given).last_hidden_state
    return states.reshape(-1, states.shape[-1])


def _has_own_result(hidden: Tensor, head: Head) -> bool:
    """Whether the product is narrow with a float32 result, which CUDA computes and writes into a tensor of its own."""
    return hidden.is_cuda and head.dtype.itemsize < 4


def _logits(hidden: Tensor, head: Head, buffer: Tensor, first: int = 0, entries: int = 0) -> Tensor:
    """Capped and scaled logits [rows, entries] of the vocabulary from ``first`` on; ``entries`` 0: all of it."""
    weight = head.weight[first : first + (entries or len(head.weight))]
    if _has_own_result(hidden, head):  # never rounded to the grid of the narrow dtype
        out = torch.mm(hidden.to(head.dtype), weight.to(head.dtype).T, out_dtype=torch.float32)
    else:
        out = buffer[: len(hidden) * len(weight)].view(len(hidden), len(weight))
        torch.mm(hidden.to(out.dtype), weight.to(out.dtype).T, out=out)
    if head.bias is not None:
        out.add_(head.bias[first : first + out.shape[1]].to(out.dtype))
    if head.scale != 1.0:
        out.mul_(head.scale)
    if head.cap is not None:
        out.div_(head.cap).tanh_().mul_(head.cap)
    return out


def _buffer(hidden: Tensor, head: Head, rows: int, entries: int) -> Tensor:
    """Room for a tile of logits, flat; none where products bring their own."""
    size = 0 if _has_own_result(hidden, head) else min(rows, len(hidden)) * min(entries, len(head.weight))
    return torch.empty(size, dtype=torch.promote_types(head.dtype, torch.float32), device=hidden.device)


@torch.no_grad()
def token_nll(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Negative log-likelihood of each target.

    Log-sum-exp goes tile by tile over the vocabulary, each tile with its own maximum.

    Args:
        hidden: [n, hidden size].
        targets: int64 [n].
        head: the output head.

    Returns:
        [n], float32 or wider, in nats.
    """
    rows, entries = TILES[hidden.device.type]
    rows = min(rows, max(1, TILE_NUMBERS // hidden.shape[1]))
    with torch.autocast(hidden.device.type, enabled=False):
        buffer = _buffer(hidden, head, rows, entries)
        found = [
            _row_nll(hidden[at : at + rows], targets[at : at + rows], head, buffer, entries)
            for at in range(0, len(hidden), rows)
        ]
        return torch.cat(found)


def _row_nll(hidden: Tensor, targets: Tensor, head: Head, buffer: Tensor, entries: int) -> Tensor:
    """:func:`token_nll` of one block of rows.

    A GPU waits for every call here, some hundred tiles a pass: each makes six, and what can wait is done for all.
    """
    hidden = hidden.to(head.dtype if _has_own_result(hidden, head) else buffer.dtype)  # once, not for every tile
    tiles = -(-len(head.weight) // entries)
    found = torch.empty(3, tiles, len(hidden), 1, dtype=buffer.dtype, device=hidden.device)
    highest, total, own = found
    column = (targets % entries)[:, None]
    for tile in range(tiles):
        logits = _logits(hidden, head, buffer, tile * entries, entries)
        if logits.shape[1] < entries:
            column = column.clamp_max(logits.shape[1] - 1)
        torch.gather(logits, 1, column, out=own[tile])
        torch.amax(logits, 1, keepdim=True, out=highest[tile])
        torch.sum(logits.sub_(highest[tile]).exp_(), 1, keepdim=True, out=total[tile])
        del logits  # before the next tile takes its room
    wanted = own[:, :, 0].gather(0, (targets // entries)[None])[0]
    return torch.logsumexp(total.log_().add_(highest)[:, :, 0], 0) - wanted


class _SummedNll(torch.autograd.Function):
    """Summed NLL whose gradients are taken block by block while the logits are at hand; a frozen head gets none."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            buffer = _buffer(hidden, head, BLOCK_ROWS, len(weight))
            total = torch.zeros((), dtype=torch.float64, device=hidden.device)
            d_hidden = torch.empty_like(hidden)
            d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
            d_bias = None if bias is None or not ctx.needs_input_grad[2] else torch.zeros_like(bias)
            for at in range(0, len(hidden), BLOCK_ROWS):
                rows, wanted = hidden[at : at + BLOCK_ROWS], targets[at : at + BLOCK_ROWS, None]
                logits = _logits(rows, head, buffer)
                slope = None if head.cap is None else 1.0 - (logits / head.cap) ** 2  # of cap * tanh(x / cap)
                norm = torch.logsumexp(logits, 1, keepdim=True)
                total += (norm - logits.gather(1, wanted)).sum(dtype=torch.float64)
                logits.sub_(norm).exp_()  # now d NLL / d logits = softmax - one-hot
                logits.scatter_add_(1, wanted, torch.full_like(norm, -1.0))
                if slope is not None:
                    logits.mul_(slope)
                if head.scale != 1.0:
                    logits.mul_(head.scale)
                gradient = logits.to(head.dtype)
                d_hidden[at : at + BLOCK_ROWS] = gradient @ weight.to(head.dtype)
                if d_weight is not None:
                    d_weight.addmm_(gradient.T.to(d_weight.dtype), rows.to(d_weight.dtype))
                if d_bias is not None:
                    d_bias += logits.sum(0)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total.to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if saved is None else (gradients[0] * saved).to(saved.dtype) for saved in ctx.saved_tensors]
        return *scaled, None, None


def summed_nll(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Summed negative log-likelihood with gradients for ``hidden`` and the head's parameters.

    Args:
        hidden: [n, hidden size].
        targets: int64 [n].
        head: the output head.

    Returns:
        Scalar, nats.
    """
    loss: Tensor = _SummedNll.apply(hidden, head.weight, head.bias, targets, head)
    return loss


def _probe_ids(model: transformers.PreTrainedModel) -> Tensor:
    """Different runs of token ids, int64 [PROBE_DOCUMENTS, PROBE_TOKENS]."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(PROBE_DOCUMENTS * PROBE_TOKENS) * 7919 + 13) % vocabulary
    return ids.reshape(PROBE_DOCUMENTS, PROBE_TOKENS).to(model.device)


def tolerance(dtype: torch.dtype) -> float:
    """How far apart, relatively, two ways of computing the same may come in this dtype."""
    return 2e-4 if dtype in {torch.float32, torch.float64} else 5e-2


@torch.no_grad()
def _check_head(model: transformers.PreTrainedModel, head: Head) -> None:
    """Refuse a model whose own logits are not what our head computes."""
    was_training = model.training
    model.eval()
    ids = _probe_ids(model)
    own = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), -1).reshape(-1, len(head.weight))
    hidden = backbone_states(model.base_model, ids)
    room = _buffer(hidden, head, len(hidden), len(head.weight))
    ours = torch.log_softmax(_logits(hidden, head, room).double(), -1)
    model.train(was_training)
    apart = float((own - ours).abs().max() / (1.0 + own.abs().max()))
    if not apart <= tolerance(head.weight.dtype if head.weight.dtype != torch.float32 else head.dtype):
        raise ModelError(
            f"{type(model).__name__} changes its logits in a way that is not known here (off by {apart:.2g} of their "
            "size); models with scaled or tanh-capped logits are accepted, use one of those"
        )
