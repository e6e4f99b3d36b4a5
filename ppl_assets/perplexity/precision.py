"""How a model is held whose matrix products are narrow, and how it computes wider than it is held."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

Held = list[tuple[torch.nn.Parameter, torch.Tensor]]
"""Parameters of a running module, each with its narrow values."""


def narrow_products(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Hold the inner matrices in ``dtype`` and everything else in float32.

    Embeddings, head, norms and biases keep every bit that the checkpoint has, states add up in float32 from layer to
    layer, and only products are narrow. Experts that are one tensor of three dimensions stay float32.
    """
    inner = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    inner -= {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype if id(parameter) in inner else torch.float32)


def widen_while_running(model: PreTrainedModel, dtype: torch.dtype) -> list[RemovableHandle]:
    """Make every module widen its weights to at least ``dtype`` while it runs; the hooks are returned.

    The values are those of a model held in ``dtype``, since widening is exact, and only one module at a time is wide: a
    model of 14 billion bfloat16 weights takes 28 GB instead of 112 in float64.
    """
    hooks: list[RemovableHandle] = []
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            held: Held = []
            hooks.append(module.register_forward_pre_hook(partial(_widen, held, dtype)))
            hooks.append(module.register_forward_hook(partial(_restore, held), always_call=True))
    return hooks


@contextmanager
def computing_in(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """:func:`widen_while_running` for a while."""
    hooks = widen_while_running(model, dtype)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _widen(held: Held, dtype: torch.dtype, module: torch.nn.Module, _given: Any) -> None:
    """Before a module runs: its weights become wide, and the narrow ones are remembered."""
    for parameter in module.parameters(recurse=False):
        held.append((parameter, parameter.data))
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, dtype))


def _restore(held: Held, *_given: Any) -> None:
    """After it ran, also where it raised: the narrow ones are back."""
    while held:
        parameter, narrow = held.pop()
        parameter.data = narrow
