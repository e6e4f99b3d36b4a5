"""Whether a model keeps packed documents apart, found by trying.

Belongs here: the passes that are compared, and what a model that fails is given back. How documents are attended is in
``attention``.
"""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ppl_assets.perplexity.attention import restore_own_attention, use_document_attention
from ppl_assets.perplexity.device import is_out_of_memory
from ppl_assets.perplexity.head import PROBE_DOCUMENTS, PROBE_TOKENS, backbone_states, tolerance
from ppl_assets.perplexity.precision import computing_in

UNMOVED = 1e-6
"""How far the states of a document may move, relatively, when its neighbour is another: equal shapes round equally."""


def keeps_documents_apart(
    model: PreTrainedModel, longest: int = PROBE_TOKENS, products: torch.dtype | None = None
) -> bool:
    """Make the model attend document by document, and say whether packed documents have the states they have alone.

    It is found by trying, with documents of different lengths, the first as long as any that will come (windows, scaled
    rotations and sparse attention show at full length only): together each has the states that it has alone under the
    model's own attention, and another first document leaves the states of the rest as they were. Both are asked in
    float32 whatever the model holds, since narrow rounding would hide an answer of some per cent; then once more with
    the kernels and the dtype that will be used. A model that fails gets its own attention back. The answer is
    remembered with the model, and with its copies.

    Args:
        model: the model; its attention is replaced.
        longest: longest document that will come, in tokens.
        products: what matrix products are computed in, under autocast; None: in the weights' dtype.
    """
    known: dict[tuple[int, torch.dtype | None], bool] = model.__dict__.setdefault("_ppl_assets_packs", {})
    restore_own_attention(model)
    if (longest, products) not in known:
        known[longest, products] = _found_apart(model, max(longest, PROBE_TOKENS), products)
    if known[longest, products]:
        use_document_attention(model)
    return known[longest, products]


def _found_apart(model: PreTrainedModel, longest: int, products: torch.dtype | None) -> bool:
    narrow = products or (model.dtype if model.dtype.itemsize < 4 else None)
    was_training = model.training
    model.eval()
    try:
        with computing_in(model, torch.float32):
            kept = _is_apart(model, longest, tolerance(torch.float32))
        if kept and narrow is not None:
            with torch.autocast(model.device.type, products, enabled=products is not None):
                kept = _is_apart(model, longest, tolerance(narrow))
    finally:
        model.train(was_training)
    return kept


@torch.no_grad()
def _is_apart(model: PreTrainedModel, longest: int, most: float) -> bool:
    """Whether documents of one row have the states they have alone, up to ``most``; own attention before and after."""
    lengths = [longest, *(PROBE_TOKENS - 3 * number for number in range(1, PROBE_DOCUMENTS))]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(sum(lengths), device=model.device) * 7919 + 13) % vocabulary
    documents = list(ids.split(lengths))
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])[None]
    starts = torch.tensor([0, *lengths], device=model.device).cumsum(0).to(torch.int32)
    backbone = model.base_model
    alone = [backbone_states(backbone, document[None]) for document in documents]
    try:
        replaced = use_document_attention(model)
        packed, beside = (
            backbone_states(backbone, torch.cat([first, *documents[1:]])[None], positions, starts, longest)
            for first in (documents[0], (documents[0] + 1) % vocabulary)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return False  # no positions, an attention that is not ours, or no such kernel
    finally:
        restore_own_attention(model)
    together = packed.split(lengths)  # each by itself: a long document's many places would outweigh the short ones
    kept = all(_apart(one, other) <= most for one, other in zip(together, alone, strict=True))
    return replaced and kept and _apart(beside[longest:], packed[longest:]) <= UNMOVED


def _apart(states: Tensor, others: Tensor) -> float:
    """Norm of the difference over the norm; infinite where something is not finite."""
    apart = float((states - others).double().norm() / others.double().norm().clamp(min=1e-12))
    return apart if math.isfinite(apart) else math.inf
