"""The slow, plain value that every fast path is held to: one chunk, one pass, float64, the model's own logits."""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ppl_assets.perplexity.packing import sequence
from ppl_assets.perplexity.policy import ScorePolicy


def compute_in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model widen each module's weights to float64 while that module runs; returns the same model.

    The values are those of ``model.double()``, since widening is exact, and only one module at a time is wide: a model
    of 14 billion bfloat16 weights takes 28 GB instead of 112.
    """
    if model._can_set_experts_implementation():  # noqa: SLF001 - grouped products of experts know no float64
        model.set_experts_implementation("eager")
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            held: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
            module.register_forward_pre_hook(_Widen(held))
            module.register_forward_hook(_Restore(held), always_call=True)
    return model


class _Widen:
    """Before a module runs: its weights become float64, and the narrow ones are remembered."""

    def __init__(self, held: list[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
        self._held = held

    def __call__(self, module: torch.nn.Module, _given: Any) -> None:
        for parameter in module.parameters(recurse=False):
            self._held.append((parameter, parameter.data))
            parameter.data = parameter.data.double()


class _Restore:
    """After it ran, also where it raised: the narrow ones are back."""

    def __init__(self, held: list[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
        self._held = held

    def __call__(self, *_given: Any) -> None:
        while self._held:
            parameter, narrow = self._held.pop()
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
