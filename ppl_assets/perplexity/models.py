"""The frozen base model: found, checked, fingerprinted, loaded.

Belongs here: everything between what a study names and a loaded model. Weights come from safetensors or GGUF, never
from pickle; code that a checkpoint brings along is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
import xxhash
from tokenizers import Tokenizer

from ppl_assets.corpus.tokenizer import load_tokenizer
from ppl_assets.fingerprint import fingerprint
from ppl_assets.perplexity.base_model import BaseModel
from ppl_assets.perplexity.checkpoint import check_folder, config_fingerprint, file_hash, widest_dtype
from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.hub import download
from ppl_assets.perplexity.policy import attention_of
from ppl_assets.perplexity.precision import exact_buffers, narrow_products
from ppl_assets.perplexity.recipe import Progress, Recipe, pretrain, saved_at_once

GeneralTexts = Callable[[], Iterable[str]]


def resolve_base_model(
    source: str,
    revision: str,
    recipe: Recipe | None,
    cache: Path,
    general_texts: GeneralTexts | None,
    progress: Progress | None = None,
) -> BaseModel:
    """Find or make the base model and say exactly which one it is.

    Args:
        source: ``recipe``, a ``.gguf`` file, a local folder, or a Hugging Face id.
        revision: branch, tag or commit of a Hugging Face id; it is pinned to the commit.
        recipe: for source ``recipe``.
        cache: folder of trained and converted models.
        general_texts: for source ``recipe``: gives the text it is trained on.
        progress: called with tokens done, tokens in all and loss while a recipe trains.

    Raises:
        ModelError: the model cannot be had or used; one sentence says why and what to do.
    """
    weights = ""
    if source == "recipe":
        if recipe is None or general_texts is None:
            raise ModelError("source = 'recipe' needs a recipe and general text; give both, or name a model")
        folder = pretrain(recipe, general_texts(), cache, progress)
        revision = folder.name.removeprefix("recipe-")
    elif source.endswith(".gguf"):
        weights = revision = file_hash([_existing(Path(source))])
        folder = _converted(Path(source), cache / f"gguf-{weights}")
    elif Path(source).is_absolute() and Path(source).exists():
        folder, revision = Path(source), ""
    elif source.startswith((".", "/", "~")):
        raise ModelError(f"model folder {source} does not exist; name one that does, or a Hugging Face id")
    else:
        folder, revision = download(source, revision)
    files = check_folder(folder)
    widest_dtype(files)  # a damaged file is refused before anything is fingerprinted
    weights = weights or file_hash(files)
    return _described(source, folder, revision or weights, weights)


def has_changed(base: BaseModel) -> bool:
    """Whether weights or configuration on disk are others than those that the base model was resolved with.

    A converted GGUF file lies in a folder of ours that is named after it: only its configuration is looked at.

    Raises:
        ModelError: files are missing.
    """
    folder = Path(base.path)
    files = check_folder(folder)
    weights = base.weights_fingerprint if base.source.endswith(".gguf") else file_hash(files)
    return _model_id(weights, base.tokenizer_fingerprint, folder) != base.model_id


NARROW = frozenset({"float16", "bfloat16"})
"""Dtypes that only matrix products have."""


def load_model(
    base: BaseModel, device: str = "cpu", dtype: str = "float32", attention: str = "sdpa"
) -> transformers.PreTrainedModel:
    """The model in eval mode: in float32, with narrow products, or (``auto``) as the checkpoint holds it.

    ``from_pretrained`` without a dtype loads the checkpoint's (often bfloat16), and its losses are then off by 0.4 to
    1.7 % of perplexity; with ``auto`` it rounds to whatever config.json says. As the checkpoint holds it means: in the
    widest dtype of its weights. Where products are narrow only the inner matrices are: see
    :func:`ppl_assets.perplexity.precision.narrow_products`.

    Raises:
        ModelError: weights or configuration are not those that were resolved, or weights are missing from the
            checkpoint: transformers would fill them with random numbers.
    """
    if has_changed(base):
        raise ModelError(
            f"the weights or config.json in {base.path} have changed since base_model was materialized; "
            "materialize base_model again"
        )
    held = widest_dtype(check_folder(Path(base.path)))
    as_held = dtype in {"auto", *NARROW}
    transformers.utils.logging.disable_progress_bar()
    model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
        base.path,
        dtype=held if as_held else getattr(torch, dtype),
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    missing = sorted(loaded["missing_keys"]) + sorted(str(key) for key in loaded["mismatched_keys"])
    if missing:
        raise ModelError(
            f"{base.path} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}; "
            "give a complete checkpoint"
        )
    if as_held and held.itemsize < 4:
        exact_buffers(model)
    if dtype in NARROW:
        narrow_products(model, getattr(torch, dtype))
    return model.to(device).eval()


def tokenizer_fingerprint(tokenizer: transformers.PreTrainedTokenizerFast) -> str:
    """Hash of the serialized tokenizer, whatever truncation and padding were last set; 32 hexadecimal digits."""
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return xxhash.xxh3_128_hexdigest(copy.to_str().encode())


def _described(source: str, folder: Path, revision: str, weights: str) -> BaseModel:
    """Configuration and tokenizer of a checked folder."""
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(
            f"{folder} is no causal language model that transformers {transformers.__version__} knows; give one "
            f"({_first_line(error)})"
        ) from error
    tokenizer = load_tokenizer(folder)
    text_config: Any = config.get_text_config()
    context = getattr(text_config, "max_position_embeddings", None) or tokenizer.model_max_length
    if context > 2**31:  # transformers' "unlimited"
        raise ModelError(
            f"{folder} does not say how long its context is; add max_position_embeddings to its config.json"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model {rows}; give the model's own tokenizer"
        )
    tokens = tokenizer_fingerprint(tokenizer)
    return BaseModel(
        model_id=_model_id(weights, tokens, folder),
        source=source,
        path=str(folder),
        revision=revision,
        weights_fingerprint=weights,
        tokenizer_fingerprint=tokens,
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        vocabulary=len(tokenizer),
        context_length=int(context),
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
        attention=attention_of(type(model).__name__),
    )


def _model_id(weights: str, tokens: str, folder: Path) -> str:
    """Fingerprint of weights, tokenizer and configuration; 32 hexadecimal digits."""
    return fingerprint(weights, tokens, config_fingerprint(folder))


def _converted(file: Path, target: Path) -> Path:
    """A GGUF file as a safetensors folder in float32: dequantized once, loaded quickly ever after."""
    if (target / "config.json").is_file():
        return target
    transformers.utils.logging.disable_progress_bar()
    try:
        read = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, OSError, ImportError, NotImplementedError) as error:
        raise ModelError(
            f"{file} cannot be read as GGUF; give a file of an architecture that transformers converts "
            f"({_first_line(error)})"
        ) from error
    config = read.config
    if hasattr(config, "quantization_config"):  # marks the model as quantized, which it no longer is
        del config.quantization_config
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    with saved_at_once(target) as partial:
        model.save_pretrained(partial, safe_serialization=True)
        tokenizer.save_pretrained(partial)
    return target


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ModelError(f"model file {file} does not exist; name one that does")
    return file


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
