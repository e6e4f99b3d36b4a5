"""The small language model that a study can pre-train itself: tokenizer and weights from plain text, no network.

Belongs here: a byte-level BPE tokenizer and a Llama-type model trained from scratch on CPU in minutes. The result is an
ordinary model folder, so everything after this stage treats it like any other base model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.head import backbone_states, read_head, summed_nll

RECIPE_VERSION = "1"
"""Raise it when a change here changes the weights."""

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_CHARACTERS = 6_000_000
"""Characters the tokenizer is trained on; more changes few merges and costs seconds."""

WARMUP_SHARE, DECAY_SHARE = 0.05, 0.3
"""Shares of the run over which the rate rises, and falls to zero at the end (warm-up, stable, decay)."""

WEIGHT_DECAY, MAX_GRAD_NORM, ADAM_BETAS = 0.1, 1.0, (0.9, 0.95)

Progress = Callable[[int, int, float], None]
"""Called with tokens done, tokens in all, loss of the step."""


@dataclass(frozen=True)
class Recipe:
    """How the small model is built and trained.

    Attributes:
        vocabulary: tokens of the byte-level BPE, end of text included.
        hidden: width.
        layers: transformer blocks.
        heads: attention heads; divides ``hidden``.
        context: context length in tokens.
        tokens: tokens of pre-training.
        learning_rate: peak rate.
        batch_tokens: tokens a step.
        seed: of the initial weights and of the order of documents.
    """

    vocabulary: int = 4096
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 256
    tokens: int = 600_000
    learning_rate: float = 3e-3
    batch_tokens: int = 2048
    seed: int = 0


def recipe_fingerprint(recipe: Recipe, texts: Iterable[str]) -> str:
    """Hash of recipe, code and texts, whatever the order of the texts; 32 hexadecimal digits."""
    hashes = sorted(_text_hash(text) for text in texts)
    settings = json.dumps([asdict(recipe), RECIPE_VERSION], sort_keys=True).encode()
    return hashlib.blake2b(settings + b"".join(hashes), digest_size=16).hexdigest()


def pretrain(recipe: Recipe, texts: Iterable[str], folder: Path, progress: Progress | None = None) -> Path:
    """Train tokenizer and model, or find them already trained.

    Deterministic: recipe and set of texts decide every weight on one machine and thread count. The folder appears at
    once when everything is done; a killed run leaves none.

    Args:
        recipe: the recipe.
        texts: general text, one string a document.
        folder: where trained models are kept, one subfolder a fingerprint.
        progress: called after each step.

    Returns:
        The model's folder: safetensors, tokenizer, ``recipe.json``.

    Raises:
        ModelError: there is too little text to train on.
    """
    documents = [text for text in texts if text.strip()]
    fingerprint = recipe_fingerprint(recipe, documents)
    target = folder / f"recipe-{fingerprint}"
    if (target / "recipe.json").is_file():
        return target
    documents.sort(key=lambda text: hashlib.blake2b(_text_hash(text), key=str(recipe.seed).encode()).digest())
    tokenizer = train_tokenizer(recipe, documents)
    rows = _token_rows(recipe, documents, tokenizer)
    model, loss = _train(recipe, rows, int(tokenizer.bos_token_id), progress)
    record = {"recipe": asdict(recipe), "fingerprint": fingerprint, "documents": len(documents), "final_loss": loss}
    transformers.utils.logging.disable_progress_bar()  # of saving, which takes milliseconds
    with saved_at_once(target) as partial:
        model.save_pretrained(partial, safe_serialization=True)
        tokenizer.save_pretrained(partial)
        (partial / "recipe.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")
    return target


class saved_at_once:  # noqa: N801 - used like a function
    """A folder that appears complete or not at all: written beside ``target``, then renamed."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> Path:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._partial = Path(tempfile.mkdtemp(prefix=f".{self._target.name}-", dir=self._target.parent))
        return self._partial

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._partial.chmod(0o755)
                os.rename(self._partial, self._target)  # noqa: PTH104 - fails where the target has files
        except OSError:
            if not self._target.is_dir():  # otherwise another process was first, with the same content
                raise
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


def train_tokenizer(recipe: Recipe, documents: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE trained on the first documents; any text can be encoded, and decodes to itself."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_up_to(documents, TOKENIZER_CHARACTERS), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=recipe.context
    )


def _text_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _up_to(documents: Sequence[str], characters: int) -> Iterator[str]:
    for document in documents:
        yield document
        characters -= len(document)
        if characters <= 0:
            return


def _token_rows(
    recipe: Recipe, documents: Sequence[str], tokenizer: transformers.PreTrainedTokenizerFast
) -> np.ndarray:
    """Documents joined by bos and cut into rows of ``context`` tokens; int64 [rows, context].

    Text is encoded until there is enough for one pass of the recipe; less text is seen several times.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True  # the string "<|endoftext|>" inside a document is text
    ids: list[int] = []
    for document in documents:
        ids += [int(tokenizer.bos_token_id), *backend.encode(document, add_special_tokens=False).ids]
        if len(ids) >= recipe.tokens + recipe.context:
            break
    rows = len(ids) // recipe.context
    if rows == 0:
        raise ModelError(
            f"the general text holds {len(ids)} tokens; pre-training needs at least context = "
            f"{recipe.context}: give more text"
        )
    return np.array(ids[: rows * recipe.context], dtype=np.int64).reshape(rows, recipe.context)


def build_model(recipe: Recipe, vocabulary: int, bos_id: int) -> transformers.LlamaForCausalLM:
    """Llama with tied embeddings and random weights; 1.33 million parameters in the default recipe."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=math.ceil(recipe.hidden * 8 / 3 / 32) * 32,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=bos_id,
        eos_token_id=bos_id,
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config).float()


def _rate(done: float) -> float:
    """Share of the peak rate when a share ``done`` of the steps is over."""
    return min(1.0, done / WARMUP_SHARE, (1.0 - done) / DECAY_SHARE)


def _train(
    recipe: Recipe, rows: np.ndarray, bos_id: int, progress: Progress | None
) -> tuple[transformers.LlamaForCausalLM, float]:
    """The trained model and the mean loss of its last twenty steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_model(recipe, recipe.vocabulary, bos_id)
    head = read_head(model)
    model.train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, recipe.learning_rate, ADAM_BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    batch = max(1, recipe.batch_tokens // recipe.context)
    steps = math.ceil(recipe.tokens / (batch * recipe.context))
    order = np.random.default_rng(recipe.seed)
    queue = np.empty(0, dtype=np.int64)
    losses = []
    for step in range(steps):
        if len(queue) < batch:
            queue = np.concatenate(
                [queue, *(order.permutation(len(rows)) for _ in range(math.ceil(batch / len(rows))))]
            )
        taken, queue = queue[:batch], queue[batch:]
        targets = torch.from_numpy(rows[taken])  # [batch, context]
        # every row starts after bos, as every chunk is scored
        inputs = torch.cat([torch.full((batch, 1), bos_id), targets[:, :-1]], dim=1)
        hidden = backbone_states(model.base_model, inputs)  # [batch * context, hidden]
        loss = summed_nll(hidden, targets.reshape(-1), head) / targets.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _rate((step + 0.5) / steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if progress:
            progress((step + 1) * targets.numel(), steps * targets.numel(), losses[-1])
    return model.eval(), float(np.mean(losses[-20:]))
