"""Attention for rows that hold several documents: each document attends to itself alone, and nothing is masked.

Belongs here: the attention function that transformers calls, and how it is put into a model. A masked
row costs the square of its width; documents attended one by one cost the square of their own lengths (a row of 4,096
places with documents of 300 tokens: a fourteenth). On CUDA torch's variable-length flash kernel does it in one call;
elsewhere documents of equal length share one call of ``scaled_dot_product_attention``.

Transformers passes ``cu_seq_lens_q`` (int32 [documents + 1], where each begins) from the model's call down to here. A
call without it is plain causal attention of every row.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache, partial
from itertools import groupby, pairwise
from typing import Any, cast

import torch
import transformers
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention

varlen: Any = None
"""torch's module of the variable-length kernel, once a CUDA machine has asked for it: importing it takes seconds."""

_VARLEN_TAKES: frozenset[str] = frozenset()
"""The parameters of this torch's ``varlen_attn``: 2.10 says is_causal, later versions a window. Kept here, since a
compiled model cannot read them."""

FUSED = "documents_sdpa"
SPLIT = "documents_sdpa_by_length"
PLAIN = "documents_eager"
"""Names under which transformers knows the three functions: fused kernels, those without the variable-length one, and
softmax written out."""

HARMLESS = frozenset(
    {
        "cu_seq_lens_k",
        "max_length_k",
        "position_ids",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "cache_position",
        "past_key_values",
        "past_key_value",
        "output_router_logits",
    }
)
"""What transformers passes along that does not change causal attention."""

VARLEN_HEAD = 256
"""Widest head of the flash kernel; it also wants a multiple of 8."""

VARLEN_CAPABILITY = (8, 0)
"""Oldest CUDA devices that the flash kernel runs on: Ampere. T4 and V100 are older."""


class UnsupportedAttentionError(ValueError):
    """The model's attention does something that is not computed here; its own implementation has to be used."""


def _documents(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    fused: bool = True,
    kernel: bool = True,
    **rest: object,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: the attention layer.
        query: [rows, heads, width, size]; key and value may have fewer heads.
        key: [rows, key heads, width, size].
        value: the same.
        attention_mask: must be None; documents are told apart by ``cu_seq_lens_q``.
        dropout: probability with which a weight is dropped, in training.
        scaling: factor on the products; None: 1 / sqrt(size).
        is_causal: False is refused.
        cu_seq_lens_q: int32 [documents + 1], of a single row; trailing equal entries are empty documents.
        max_length_q: longest document.
        sliding_window: places that a token sees, itself included.
        softcap: ``softcap * tanh(products / softcap)``.
        fused: use torch's fused kernels; the soft cap is always written out.
        kernel: use the variable-length kernel where it takes what is given.
        rest: what transformers passes along and attention does not need; anything else (sinks, biases) is refused.

    Returns:
        [rows, width, heads, size], and no attention weights.

    Raises:
        UnsupportedAttentionError: something above is refused.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is not None or not causal:
        raise UnsupportedAttentionError("masks and attention in both directions are not computed here")
    if unknown := sorted(name for name, value in rest.items() if value is not None and name not in HARMLESS):
        raise UnsupportedAttentionError(f"the model's attention takes {', '.join(unknown)}, which is not known here")
    if query.dtype != value.dtype:  # under autocast the rotation leaves these two in float32
        query, key = query.to(value.dtype), key.to(value.dtype)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if cu_seq_lens_q is None:
        cu_seq_lens_q = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device) * query.shape[2]
        query, key, value, rows = (*(_one_row(x) for x in (query, key, value)), len(query))
    else:
        rows = 1
    longest = max_length_q or query.shape[2]
    window = sliding_window if sliding_window and sliding_window < longest else 0
    if fused and kernel and softcap is None and not dropout and rows == 1 and _varlen_takes(query, value, window):
        out = _varlen(query, key, value, cu_seq_lens_q, longest, scaling, window)
    else:
        attend = _attend_operator if torch.compiler.is_compiling() else _attend
        out = attend(query, key, value, cu_seq_lens_q, scaling, window, softcap or 0.0, fused, dropout)
    return out.reshape(rows, -1, *out.shape[2:]), None


def _one_row(states: Tensor) -> Tensor:
    """[rows, heads, width, size] as [1, heads, rows * width, size]."""
    rows, heads, width, size = states.shape
    return states.transpose(0, 1).reshape(1, heads, rows * width, size)


def _varlen_takes(query: Tensor, value: Tensor, window: int) -> bool:
    size, low = query.shape[-1], query.dtype in {torch.bfloat16, torch.float16}
    fits = size == value.shape[-1] and size <= VARLEN_HEAD and size % 8 == 0
    return varlen is not None and query.is_cuda and low and fits and (not window or "window_size" in _VARLEN_TAKES)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float, window: int
) -> Tensor:
    """All documents in one call of the flash kernel; tensors as in :func:`_documents`, of one row; window 0: none."""
    given: dict[str, Any] = {"window_size": (window - 1, 0)} if "window_size" in _VARLEN_TAKES else {"is_causal": True}
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # [width, heads, size]
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in _VARLEN_TAKES:
        given["enable_gqa"] = True
    elif groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if "scale" in _VARLEN_TAKES:
        given["scale"] = scaling
    elif scaling != query.shape[-1] ** -0.5:
        query = query * (scaling * query.shape[-1] ** 0.5)
    attended = varlen.varlen_attn(query, key, value, starts, starts, longest, longest, **given)
    return cast("Tensor", attended)[None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    scaling: float,
    window: int,
    softcap: float,
    fused: bool,
    dropout: float,
) -> Tensor:
    """Documents one by one, neighbours of equal length together; [1, width, heads, size]."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    written_out = softcap != 0.0 or not fused
    parts = []
    for at, count, length in _runs(starts.tolist()):
        q, k, v = (  # [count, heads, length, size], views
            x[0, :, at : at + count * length].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value)
        )
        banded = _band(length, window, query.device) if written_out or 0 < window < length else None
        if banded is not None and written_out:
            attended = _by_hand(q, k, v, banded, scaling, softcap, dropout)
        else:
            attended = scaled_dot_product_attention(q, k, v, banded, dropout, banded is None, scale=scaling)
        parts.append(attended.transpose(1, 2).reshape(1, count * length, query.shape[1], value.shape[-1]))
    return torch.cat(parts, 1)


_attend_operator = torch.library.custom_op("ppl_assets::attend_documents", _attend, mutates_args=())
""":func:`_attend` as one node of a compiled graph, which cannot follow its loop."""


@_attend_operator.register_fake
def _(query: Tensor, _key: Tensor, value: Tensor, *_rest: object) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])


def _runs(starts: list[int]) -> Iterator[tuple[int, int, int]]:
    """Where each run of documents of equal length begins, how many there are, and their length; empty ones are not."""
    at = 0
    for length, run in groupby(high - low for low, high in pairwise(starts)):
        count = sum(1 for _ in run)
        if length:
            yield at, count, length
        at += count * length


@lru_cache(maxsize=8)
def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Which places a place sees: those before it and itself, at most ``window`` where that is not 0; bool [l, l]."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    return seen.triu_(1 - window) if window else seen


def _by_hand(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scaling: float, softcap: float, dropout: float) -> Tensor:
    """Softmax written out, in float32 or wider as transformers' eager attention has it."""
    products = torch.matmul(q, k.transpose(2, 3)) * scaling
    if softcap:
        products = torch.tanh(products / softcap) * softcap
    products = products.masked_fill(~seen, torch.finfo(products.dtype).min)
    wide = torch.promote_types(products.dtype, torch.float32)
    return torch.matmul(drop(torch.softmax(products, -1, dtype=wide).to(q.dtype), dropout), v)


@cache
def _register() -> None:
    """Make the three known to transformers, on first use: its model code takes seconds to import."""
    global varlen, _VARLEN_TAKES  # noqa: PLW0603 - what an import at the top would bind
    if torch.cuda.is_available():
        with suppress(ImportError):  # torch before 2.10
            varlen = importlib.import_module("torch.nn.attention.varlen")
            _VARLEN_TAKES = frozenset(inspect.signature(varlen.varlen_attn).parameters)
    transformers.AttentionInterface.register(FUSED, _documents)
    transformers.AttentionInterface.register(SPLIT, partial(_documents, kernel=False))
    transformers.AttentionInterface.register(PLAIN, partial(_documents, fused=False))


def use_document_attention(model: transformers.PreTrainedModel, kernel: bool = True) -> bool:
    """Make the model attend document by document; False where its attention cannot be replaced.

    Args:
        model: the model.
        kernel: use the variable-length kernel where the device has it.
    """
    _register()
    now = _attention_of(model)
    if now not in {FUSED, SPLIT, PLAIN}:
        if not model._can_set_attn_implementation():  # noqa: SLF001 - transformers has no public question
            return False
        model.__dict__["_ppl_assets_own_attention"] = now
    own = model.__dict__.get("_ppl_assets_own_attention", now)
    _set_attention(model, PLAIN if own == "eager" else FUSED if kernel and _has_kernel(model.device) else SPLIT)
    return True


def restore_own_attention(model: transformers.PreTrainedModel) -> None:
    """Give the model the attention back that it had before :func:`use_document_attention`."""
    _set_attention(model, model.__dict__.get("_ppl_assets_own_attention") or _attention_of(model))


def _has_kernel(device: torch.device) -> bool:
    """Whether the variable-length kernel runs on a device; off CUDA nothing asks for it."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= VARLEN_CAPABILITY


def _attention_of(model: transformers.PreTrainedModel) -> str:
    return str(model.config._attn_implementation)  # noqa: SLF001 - transformers has no public reader


def _set_attention(model: transformers.PreTrainedModel, name: str) -> None:
    if _attention_of(model) != name:
        model.set_attn_implementation(name)
