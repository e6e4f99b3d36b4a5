"""The slow, plain value that every fast path is held to: one chunk, one pass, float64, the model's own logits."""

from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ppl_assets.perplexity.packing import sequence
from ppl_assets.perplexity.policy import ScorePolicy

Held = list[tuple[torch.nn.Parameter, torch.Tensor]]
"""Parameters of a running module, each with its narrow values."""


def compute_in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model widen each module's weights to float64 while that module runs; returns the same model.

    The values are those of ``model.double()``, since widening is exact, and only one module at a time is wide: a model
    of 14 billion bfloat16 weights takes 28 GB instead of 112.
    """
    if model._can_set_experts_implementation():  # noqa: SLF001 - grouped products of experts know no float64
        model.set_experts_implementation("eager")
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            held: Held = []
            module.register_forward_pre_hook(partial(_widen, held))
            module.register_forward_hook(partial(_restore, held), always_call=True)
    return model


def _widen(held: Held, module: torch.nn.Module, _given: Any) -> None:
    """Before a module runs: its weights become float64, and the narrow ones are remembered."""
    for parameter in module.parameters(recurse=False):
        held.append((parameter, parameter.data))
        parameter.data = parameter.data.double()


def _restore(held: Held, *_given: Any) -> None:
    """After it ran, also where it raised: the narrow ones are back."""
    while held:
        parameter, narrow = held.pop()
        parameter.data = narrow


@torch.no_grad()
def oracle_nll(model64: PreTrainedModel, chunk: np.ndarray, policy: ScorePolicy) -> float:
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
