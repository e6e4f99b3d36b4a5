"""How a model is held whose matrix products are narrow, how wide their sums are, and how it computes wider."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch.utils.hooks import RemovableHandle

Held = list[tuple[torch.Tensor, torch.Tensor]]
"""Parameters and buffers of a running module, each with its narrow values."""


@contextmanager
def float32_sums() -> Iterator[None]:
    """Matrix products accumulate in float32 for a while, and float32 factors keep every bit, whatever the process says.

    torch lets cuBLAS add the parts of a narrow product in float16 or bfloat16; ``torch.set_float32_matmul_precision``
    rounds float32 factors to TF32, or to bfloat16.
    """
    matmul, of_cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # untyped
    reductions = [f"allow_{kind}_reduced_precision_reduction" for kind in ("fp16", "bf16")]
    narrow = {name: (getattr(matmul, name), getattr(matmul, f"{name}_split_k", None)) for name in reductions}
    accumulation, precisions = matmul.allow_fp16_accumulation, (matmul.fp32_precision, of_cpu.fp32_precision)
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:  # set in torch's newer way alone
        overall = "highest"
    try:
        for name in reductions:
            setattr(matmul, name, False)
        matmul.allow_fp16_accumulation = False
        torch.set_float32_matmul_precision("highest")
        yield
    finally:
        torch.set_float32_matmul_precision(overall)
        matmul.fp32_precision, of_cpu.fp32_precision = precisions
        matmul.allow_fp16_accumulation = accumulation
        for name, (reduced, split) in narrow.items():
            setattr(matmul, name, reduced if split is None else (reduced, split))  # torch before 2.10 has one flag


def exact_buffers(model: transformers.PreTrainedModel) -> None:
    """Give a model that was loaded in a narrow dtype the buffers of a float32 one, where no checkpoint holds them.

    Such buffers are computed when a model is built, in the dtype it is built in: Gemma's embedding scale of 33.94 is 34
    in bfloat16. They are taken from a twin of the model in float32, whose weights take no memory.
    """
    with torch.device("meta"):
        twin = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=torch.float32)
    names = [name for name, buffer in twin.named_non_persistent_buffers() if buffer.is_floating_point()]
    for name in names:
        owner, _, own = name.rpartition(".")
        module = twin.get_submodule(owner)
        setattr(module, own, torch.empty_like(getattr(module, own), device=model.device))
        module._is_hf_initialized = False  # noqa: SLF001 - transformers computes the buffers of such modules
    twin.initialize_weights()
    for name in names:
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, getattr(twin.get_submodule(owner), own))


def inner_matrices(model: transformers.PreTrainedModel) -> list[torch.Tensor]:
    """The weights of all matrix products but the embeddings' and the head's."""
    outer = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
    found = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear | transformers.pytorch_utils.Conv1D)]
    return [weight for weight in found if id(weight) not in outer]


def narrow_products(model: transformers.PreTrainedModel, dtype: torch.dtype) -> None:
    """Hold the inner matrices in ``dtype`` and everything else in float32.

    Embeddings, head, norms, biases and buffers keep every bit that the checkpoint has, states add up in float32 from
    layer to layer, and only products are narrow. Experts that are one tensor of three dimensions stay float32.
    """
    inner = {id(weight) for weight in inner_matrices(model)}
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype if id(parameter) in inner else torch.float32)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.promote_types(buffer.dtype, torch.float32))


def widen_while_running(model: transformers.PreTrainedModel, dtype: torch.dtype) -> list[RemovableHandle]:
    """Make every module widen its weights and buffers to at least ``dtype`` while it runs; the hooks are returned.

    The values are those of a model held in ``dtype``, since widening is exact, and only one module at a time is wide: a
    model of 14 billion bfloat16 weights takes 28 GB instead of 112 in float64.
    """
    hooks: list[RemovableHandle] = []
    for module in model.modules():
        if _floating(module):
            held: Held = []
            hooks.append(module.register_forward_pre_hook(partial(_widen, held, dtype)))
            hooks.append(module.register_forward_hook(partial(_restore, held), always_call=True))
    return hooks


@contextmanager
def computing_in(model: transformers.PreTrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """:func:`widen_while_running` for a while."""
    hooks = widen_while_running(model, dtype)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _floating(module: torch.nn.Module) -> list[torch.Tensor]:
    """The module's own floating-point parameters and buffers."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return [tensor for tensor in own if tensor.is_floating_point()]


def _widen(held: Held, dtype: torch.dtype, module: torch.nn.Module, _given: Any) -> None:
    """Before a module runs: its weights and buffers become wide, and the narrow ones are remembered."""
    for tensor in _floating(module):
        held.append((tensor, tensor.data))
        tensor.data = tensor.data.to(torch.promote_types(tensor.dtype, dtype))


def _restore(held: Held, *_given: Any) -> None:
    """After it ran, also where it raised: the narrow ones are back."""
    while held:
        tensor, narrow = held.pop()
        tensor.data = narrow
