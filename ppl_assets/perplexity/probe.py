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

UNMOVED = 1e-6
"""How far the states of a document may move, relatively, when its neighbour is another: equal shapes round equally."""


def keeps_documents_apart(model: PreTrainedModel, longest: int = PROBE_TOKENS) -> bool:
    """Make the model attend document by document, and say whether packed documents have the states they have alone.

    It is found by trying, with documents of different lengths, the first as long as any that will come (windows, scaled
    rotations and sparse attention show at full length only): together they have the states that they have alone under
    the model's own attention, and another first document leaves the states of the rest as they were. The second
    question is the sharp one: rounding answers it with nothing, even in bfloat16, where the first allows some per cent.
    A model that fails gets its own attention back. The answer is remembered with the model, and with its copies.

    Args:
        model: the model; its attention is replaced.
        longest: longest document that will come, in tokens.
    """
    known: dict[int, bool] = model.__dict__.setdefault("_ppl_assets_packs", {})
    restore_own_attention(model)
    if longest not in known:
        known[longest] = _found_apart(model, max(longest, PROBE_TOKENS))
    elif known[longest]:
        use_document_attention(model)
    return known[longest]


def _found_apart(model: PreTrainedModel, longest: int) -> bool:
    was_training = model.training
    model.eval()
    lengths = [longest, *(PROBE_TOKENS - 3 * number for number in range(1, PROBE_DOCUMENTS))]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(sum(lengths), device=model.device) * 7919 + 13) % vocabulary
    documents = list(ids.split(lengths))
    other = (documents[0] + 1) % vocabulary
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])[None]
    starts = torch.tensor([0, *lengths], device=model.device).cumsum(0).to(torch.int32)
    backbone, replaced, kept = model.base_model, False, False
    with torch.no_grad():
        alone = torch.cat([backbone_states(backbone, document[None]) for document in documents])
        try:
            replaced = use_document_attention(model)
            packed, beside = (
                backbone_states(backbone, torch.cat([first, *documents[1:]])[None], positions, starts, longest)
                for first in (documents[0], other)
            )
            kept = _apart(packed, alone) <= tolerance(_products(alone))
            kept &= _apart(beside[longest:], packed[longest:]) <= UNMOVED
        except (TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            kept = False  # no positions, an attention that is not ours, or no such kernel
        finally:
            if not kept:
                restore_own_attention(model)
            model.train(was_training)
    return replaced and kept


def _products(states: Tensor) -> torch.dtype:
    """What the matrix products behind these states were computed in."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def _apart(states: Tensor, others: Tensor) -> float:
    """Norm of the difference over the norm; infinite where something is not finite."""
    apart = float((states - others).double().norm() / others.double().norm().clamp(min=1e-12))
    return apart if math.isfinite(apart) else math.inf
