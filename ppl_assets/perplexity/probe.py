"""Whether a model keeps packed documents apart, found by trying.

Belongs here: the passes that are compared, and what a model that fails is given back. How documents are attended is in
``attention``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

from ppl_assets.failures import is_out_of_memory
from ppl_assets.perplexity.attention import restore_own_attention, use_document_attention
from ppl_assets.perplexity.head import PROBE_DOCUMENTS, PROBE_TOKENS, backbone_states, tolerance
from ppl_assets.perplexity.precision import computing_in

UNMOVED = 1e-6
"""How far the states of a document may move, relatively, when its neighbour is another: equal shapes round equally."""


@dataclass(frozen=True)
class Packing:
    """Whether documents may share rows.

    Attributes:
        kept: whether packed documents have the states that they have alone.
        kernel: whether the variable-length kernel may be used; otherwise documents are attended by length.
        why: what is wrong, in words, where either is False.
    """

    kept: bool
    kernel: bool = True
    why: str = ""

    def set_attention(self, model: transformers.PreTrainedModel) -> None:
        """Make the model attend as was found right: document by document, or in its own way."""
        if self.kept:
            use_document_attention(model, self.kernel)
        else:
            restore_own_attention(model)


def find_packing(
    model: transformers.PreTrainedModel, longest: int = PROBE_TOKENS, products: torch.dtype | None = None
) -> Packing:
    """Make the model attend document by document, and say whether packed documents have the states they have alone.

    It is found by trying, with documents of different lengths, the first as long as any that will come (windows, scaled
    rotations and sparse attention show at full length only): together each has the states that it has alone under the
    model's own attention, and another first document leaves the states of the rest as they were. Both are asked in
    float32 whatever the model holds, since narrow rounding would hide an answer of some per cent; then once more with
    the kernels and the dtype that will be used, and where those fail without the variable-length kernel. A model that
    fails gets its own attention back. The answer is remembered with the model, and with its copies.

    Args:
        model: the model; its attention is replaced.
        longest: longest document that will come, in tokens.
        products: what matrix products are computed in, under autocast; None: in the weights' dtype.
    """
    known: dict[tuple[int, torch.dtype | None], Packing] = model.__dict__.setdefault("_ppl_assets_packs", {})
    restore_own_attention(model)
    if (longest, products) not in known:
        known[longest, products] = _found(model, max(longest, PROBE_TOKENS), products)
    known[longest, products].set_attention(model)
    return known[longest, products]


def _found(model: transformers.PreTrainedModel, longest: int, products: torch.dtype | None) -> Packing:
    narrow = products or (model.dtype if model.dtype.itemsize < 4 else None)
    was_training = model.training
    model.eval()
    try:
        with computing_in(model, torch.float32):
            fault = _fault(model, longest, tolerance(torch.float32))
        if fault or narrow is None:
            return Packing(not fault, why=fault)
        with torch.autocast(model.device.type, products, enabled=products is not None):
            fault = _fault(model, longest, tolerance(narrow))
            other = fault and _fault(model, longest, tolerance(narrow), kernel=False)
        return Packing(not other, not fault, fault)
    finally:
        model.train(was_training)


@torch.no_grad()
def _fault(model: transformers.PreTrainedModel, longest: int, most: float, kernel: bool = True) -> str:
    """What is wrong with the states of packed documents, in words; empty where they are off by ``most`` at most.

    The model's own attention is in place before and after.
    """
    lengths = [longest, *(PROBE_TOKENS - 3 * number for number in range(1, PROBE_DOCUMENTS))]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(sum(lengths), device=model.device) * 7919 + 13) % vocabulary
    documents = list(ids.split(lengths))
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])[None]
    starts = torch.tensor([0, *lengths], device=model.device).cumsum(0).to(torch.int32)
    backbone = model.base_model
    alone = [backbone_states(backbone, document[None]) for document in documents]
    try:
        if not use_document_attention(model, kernel):
            return f"the attention of {type(model).__name__} cannot be replaced"
        packed, beside = (
            backbone_states(backbone, torch.cat([first, *documents[1:]])[None], positions, starts, longest)
            for first in (documents[0], (documents[0] + 1) % vocabulary)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return str(error).strip().split("\n")[0]  # no positions, an attention that is not ours, or no such kernel
    finally:
        restore_own_attention(model)
    together = packed.split(lengths)  # each by itself: a long document's many places would outweigh the short ones
    off = max(_apart(one, other) for one, other in zip(together, alone, strict=True))
    moved = _apart(beside[longest:], packed[longest:])
    if off > most:
        return f"packed states are off by {off:.1e} of their size, {most:.0e} is accepted"
    if moved > UNMOVED:
        return f"another neighbour moves packed states by {moved:.1e} of their size, {UNMOVED:.0e} is accepted"
    return ""


def _apart(states: Tensor, others: Tensor) -> float:
    """Norm of the difference over the norm; infinite where something is not finite."""
    apart = float((states - others).double().norm() / others.double().norm().clamp(min=1e-12))
    return apart if math.isfinite(apart) else math.inf
