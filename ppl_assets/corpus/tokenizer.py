"""The base model's tokenizer, loaded without the model."""

from functools import lru_cache
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ppl_assets.corpus.errors import CorpusError


@lru_cache(maxsize=2)
def load_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder or GGUF file.

    Raises:
        CorpusError: the model has no fast tokenizer, which offsets need.
    """
    file = Path(path)
    if file.suffix == ".gguf":
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    else:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise CorpusError(
            f"the tokenizer at {path} is not a fast one; chunks need character offsets: use a model that has one"
        )
    return tokenizer
