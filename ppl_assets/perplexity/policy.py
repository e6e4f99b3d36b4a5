"""Everything that decides a score besides the chunk, and its fingerprint."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, cast

from ppl_assets.perplexity.errors import ModelError

SCORER_VERSION = "3"
"""Raise it when a change in scorer, head, packing or attention changes a score; every chunk is then rescored.

2: documents are attended one by one, and the head's log-sum-exp goes by tiles (the last digits of float32).
3: narrow products accumulate in float32 on CUDA.
"""


@dataclass(frozen=True)
class ScorePolicy:
    """Everything that decides a score besides the chunk.

    Attributes:
        first_token: what predicts a chunk's first token: a bos or eos prefix, or nothing (it is then not scored).
        prefix_id: token id of the prefix; None where ``first_token`` is unscored.
        window_tokens: longest chunk, one window each.
        dtype: matrix products, float32, float16 (states float32) or bfloat16; softmax and sums are float32 or wider.
        attention: attention implementation.
        model_id: fingerprint of the base model.
        tokenizer_id: fingerprint of the tokenizer.
        code_version: version of this code.
    """

    first_token: Literal["bos", "eos", "unscored"]
    prefix_id: int | None
    window_tokens: int
    dtype: str
    attention: str
    model_id: str
    tokenizer_id: str
    code_version: str = SCORER_VERSION

    @property
    def scorer_id(self) -> str:
        """Fingerprint of all fields, 32 hexadecimal digits."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=16).hexdigest()


def resolve_policy(
    *,
    first_token: str,
    window_tokens: int,
    dtype: str,
    attention: str,
    device: str,
    bos_id: int | None,
    eos_id: int | None,
    model_id: str,
    tokenizer_id: str,
    model_attention: str = "sdpa",
) -> ScorePolicy:
    """The policy with every ``auto`` decided: bos, else eos, else unscored; float16 products on CUDA, else float32.

    float16 costs what bfloat16 costs and rounds eight times finer; docs/scoring.md has both measured. For attention
    ``auto`` is ``model_attention``, the :func:`attention_of` the model.

    Raises:
        ModelError: a prefix is asked for that the tokenizer does not have.
    """
    ids = {"bos": bos_id, "eos": eos_id, "unscored": None}
    if first_token == "auto":  # noqa: S105 - a policy's name
        first_token = "bos" if bos_id is not None else "eos" if eos_id is not None else "unscored"
    if first_token not in ids:
        raise ModelError(f"first_token = {first_token!r}: accepted are auto, bos, eos and unscored")
    if first_token != "unscored" and ids[first_token] is None:  # noqa: S105 - a policy's name
        raise ModelError(f"first_token = {first_token!r}, but the tokenizer has no {first_token} token; use auto")
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    return ScorePolicy(
        first_token=cast("Literal['bos', 'eos', 'unscored']", first_token),
        prefix_id=ids[first_token],
        window_tokens=window_tokens,
        dtype=dtype,
        attention=model_attention if attention == "auto" else attention,
        model_id=model_id,
        tokenizer_id=tokenizer_id,
    )


def attention_of(architecture: str) -> str:
    """The attention that ``auto`` is for a model class: sdpa, or eager where transformers cannot.

    Gemma 2 caps attention logits, which sdpa cannot. Loading a model class takes several seconds, which is why the
    base model's row in the lake keeps the answer.
    """
    import transformers  # noqa: PLC0415 - asked once a base model

    return "sdpa" if getattr(getattr(transformers, architecture, None), "_supports_sdpa", True) else "eager"
