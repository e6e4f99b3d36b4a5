"""Base models in memory: loaded once a process, since one process runs many partitions. Do not change them."""

from __future__ import annotations

from functools import lru_cache

import transformers

from ppl_assets.perplexity.base_model import BaseModel
from ppl_assets.perplexity.models import load_model
from ppl_assets.perplexity.oracle import compute_in_float64


@lru_cache(maxsize=2)
def cached_model(base: BaseModel, device: str, dtype: str, attention: str) -> transformers.PreTrainedModel:
    """The base model."""
    return load_model(base, device, dtype, attention)


@lru_cache(maxsize=1)
def oracle_model(base: BaseModel, attention: str) -> transformers.PreTrainedModel:
    """The base model from its checkpoint once more, on the CPU, computing in float64."""
    return compute_in_float64(load_model(base, "cpu", "auto", attention))
