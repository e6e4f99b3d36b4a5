"""The model's output head, applied a few rows at a time: all logits of a batch never exist at once.

Belongs here: hidden states to negative log-likelihoods, with and without gradients. 2,048 tokens of a vocabulary of
4,096 are 33 MB of logits, of one of 150,000 they are 1.2 GB; a block of 512 rows in one reused buffer is a quarter
faster on CPU than the whole, and small. Logits, log-sum-exp and sums are float32 or wider whatever the weights are.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ppl_assets.errors import UserError

BLOCK_ROWS = 512
"""Rows of logits that exist at a time."""

PROBE_TOKENS = 12
"""Tokens of the passes that compare our head and packing with the model's own."""


class ModelError(UserError, ValueError):
    """The model cannot be used as given; the message says what was given, what is accepted and what to do."""


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


def read_head(model: PreTrainedModel, dtype: torch.dtype | None = None) -> Head:
    """The head of a causal language model, checked against the model's own logits.

    Raises:
        ModelError: the model has no linear head, or does more to its logits than scaling and capping.
    """
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


def backbone_states(model: PreTrainedModel, inputs: Tensor, positions: Tensor | None = None) -> Tensor:
    """Hidden states after the last norm.

    ``use_cache=False`` and no attention mask is what makes transformers 5.23 respect packed positions: with a cache or
    a mask, sdpa ignores them and packed documents see each other (14.8 % of the loss).

    Args:
        model: the causal language model; its head is not run.
        inputs: int64 [rows, width].
        positions: int64 [rows, width], restarting at 0 with every document; None: one document a row.

    Returns:
        [rows * width, hidden].
    """
    given = {} if positions is None else {"position_ids": positions}
    states = model.base_model(input_ids=inputs, use_cache=False, **given).last_hidden_state
    return states.reshape(-1, states.shape[-1])


def _logits(hidden: Tensor, head: Head, buffer: Tensor) -> Tensor:
    """Capped and scaled logits of a block, written into ``buffer`` [rows, vocabulary]."""
    out = buffer[: len(hidden)]
    if head.dtype in {torch.float32, torch.float64}:
        torch.mm(hidden.to(head.dtype), head.weight.to(head.dtype).T, out=out)
    elif hidden.is_cuda:  # low-precision product, float32 result: never rounded to the grid of bfloat16
        out.copy_(torch.mm(hidden.to(head.dtype), head.weight.to(head.dtype).T, out_dtype=torch.float32))
    else:
        torch.mm(hidden.float(), head.weight.float().T, out=out)
    if head.bias is not None:
        out.add_(head.bias.to(out.dtype))
    if head.scale != 1.0:
        out.mul_(head.scale)
    if head.cap is not None:
        out.div_(head.cap).tanh_().mul_(head.cap)
    return out


def _buffer(hidden: Tensor, head: Head) -> Tensor:
    wide = torch.float64 if head.dtype == torch.float64 else torch.float32
    return torch.empty(min(BLOCK_ROWS, len(hidden)), len(head.weight), dtype=wide, device=hidden.device)


@torch.no_grad()
def token_nll(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Negative log-likelihood of each target.

    Args:
        hidden: [n, hidden size].
        targets: int64 [n].
        head: the output head.

    Returns:
        [n], float32 or wider, in nats.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        buffer = _buffer(hidden, head)
        blocks = []
        for at in range(0, len(hidden), BLOCK_ROWS):
            logits = _logits(hidden[at : at + BLOCK_ROWS], head, buffer)
            wanted = logits.gather(1, targets[at : at + BLOCK_ROWS, None])[:, 0]
            highest = logits.amax(1, keepdim=True)
            blocks.append(logits.sub_(highest).exp_().sum(1).log_() + (highest[:, 0] - wanted))
        return torch.cat(blocks)


class _SummedNll(torch.autograd.Function):
    """Summed NLL whose gradients are taken block by block while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            buffer = _buffer(hidden, head)
            total = torch.zeros((), dtype=torch.float64, device=hidden.device)
            d_hidden = torch.empty_like(hidden)
            d_weight = torch.zeros_like(weight)
            d_bias = None if bias is None else torch.zeros_like(bias)
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
                d_weight.addmm_(gradient.T.to(d_weight.dtype), rows.to(d_weight.dtype))
                if d_bias is not None:
                    d_bias += logits.sum(0)
        ctx.save_for_backward(d_hidden, d_weight, *([] if d_bias is None else [d_bias]))
        return total.to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [(gradients[0] * saved).to(saved.dtype) for saved in ctx.saved_tensors]
        return scaled[0], scaled[1], scaled[2] if len(scaled) > 2 else None, None, None


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


def _probe_ids(model: PreTrainedModel) -> Tensor:
    """Two different runs of token ids, int64 [2, PROBE_TOKENS]."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(2 * PROBE_TOKENS) * 7919 + 13) % vocabulary
    return ids.reshape(2, PROBE_TOKENS).to(model.device)


def _tolerance(dtype: torch.dtype) -> float:
    return 2e-4 if dtype in {torch.float32, torch.float64} else 5e-2


@torch.no_grad()
def _check_head(model: PreTrainedModel, head: Head) -> None:
    """Refuse a model whose own logits are not what our head computes."""
    was_training = model.training
    model.eval()
    ids = _probe_ids(model)
    own = torch.log_softmax(model(input_ids=ids, use_cache=False).logits.double(), -1).reshape(-1, len(head.weight))
    hidden = backbone_states(model, ids)
    ours = torch.log_softmax(_logits(hidden, head, _buffer(hidden, head)).double(), -1)
    model.train(was_training)
    apart = float((own - ours).abs().max() / (1.0 + own.abs().max()))
    if not apart <= _tolerance(head.weight.dtype if head.weight.dtype != torch.float32 else head.dtype):
        raise ModelError(
            f"{type(model).__name__} changes its logits in a way that is not known here (off by {apart:.2g} of their "
            "size); models with scaled or tanh-capped logits are accepted, use one of those"
        )


@torch.no_grad()
def keeps_packed_apart(model: PreTrainedModel) -> bool:
    """Whether documents packed into one row have the same hidden states as alone, found by trying."""
    was_training = model.training
    model.eval()
    ids = _probe_ids(model)
    alone = backbone_states(model, ids)
    positions = torch.arange(PROBE_TOKENS, device=ids.device).repeat(1, 2)
    try:
        packed = backbone_states(model, ids.reshape(1, -1), positions)
    except (TypeError, ValueError):  # the architecture takes no positions
        return False
    finally:
        model.train(was_training)
    apart = float((alone - packed).abs().max() / alone.abs().max().clamp(min=1e-6))
    return apart <= _tolerance(alone.dtype)
