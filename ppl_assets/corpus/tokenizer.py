"""The base model's tokenizer, loaded without the model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ppl_assets.errors import UserError

if TYPE_CHECKING:
    import transformers


class TokenizerError(UserError, ValueError):
    """The model's tokenizer cannot be used; the message says why and what to do."""


def load_tokenizer(folder: str | Path) -> transformers.PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder: chunks need its character offsets.

    Raises:
        TokenizerError: there is none, it cannot be loaded, or it is a slow one.
    """
    import transformers  # noqa: PLC0415 - takes a second, which only a step that cuts text should cost

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise TokenizerError(
            f"{folder} has no tokenizer that can be loaded; put its tokenizer.json there "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise TokenizerError(f"{folder} has only a slow tokenizer; give a folder with tokenizer.json")
    return tokenizer


cached_tokenizer = lru_cache(maxsize=2)(load_tokenizer)
""":func:`load_tokenizer` once a process: one process runs many partitions."""
