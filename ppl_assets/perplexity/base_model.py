"""The base model as the lake records it; finding and loading it is in ``models.py``, which needs torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BaseModel:
    """The resolved base model; the columns of table base_model, where each is described."""

    model_id: str
    source: str
    path: str
    revision: str
    weights_fingerprint: str
    tokenizer_fingerprint: str
    architecture: str
    parameters: int
    vocabulary: int
    context_length: int
    bos_id: int | None
    eos_id: int | None
    attention: str | None = None
