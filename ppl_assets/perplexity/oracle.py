"""The slow, plain value that every fast path is held to: one chunk, one pass, float64, the model's own logits."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from ppl_assets.perplexity.packing import sequence
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.precision import widen_while_running


def compute_in_float64(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Make a model compute in float64 from the weights that it holds, one module at a time; returns the same model."""
    if model._can_set_experts_implementation():  # noqa: SLF001 - grouped products of experts know no float64
        model.set_experts_implementation("eager")
    widen_while_running(model, torch.float64)
    return model


@torch.no_grad()
def oracle_nll(model64: transformers.PreTrainedModel, chunk: np.ndarray, policy: ScorePolicy) -> float:
    """Summed NLL of a chunk in nats, alone in its pass.

    Some norms and rotations of transformers compute in float32 whatever the model's dtype is; the error that is left
    is about 1e-7.

    Args:
        model64: the model in eval mode, in float64 or under :func:`compute_in_float64`.
        chunk: int32 [n], n > 0; n > 1 where the first token is not scored.
        policy: how the first token is predicted.
    """
    tokens = torch.from_numpy(sequence(chunk, policy.prefix_id))
    logits = model64(input_ids=tokens[None, :-1], use_cache=False).logits[0]
    return float(-torch.log_softmax(logits.double(), -1).gather(1, tokens[1:, None]).sum())
