"""Models with random weights in the shapes of known ones, and chunks to score: speed does not depend on the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.environment import note
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.precision import narrow_products
from ppl_assets.perplexity.scorer import Scorer

DTYPES = {"cpu": "float32", "cuda": "float16"}
"""What a scorer multiplies in by default."""

CONTEXT = 4096
LONGEST = 2_048
"""Tokens of the longest chunk."""


@dataclass(frozen=True)
class Shape:
    """Size of a Llama: vocabulary, width, layers, heads, key and value heads, width of the feed-forward."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    tied: bool = True


SHAPES = {
    "1m": Shape(4_096, 128, 4, 4, 4, 352),  # the default study's base model
    "27m": Shape(16_000, 512, 6, 8, 8, 1_408),
    "42m": Shape(32_000, 512, 8, 8, 8, 1_408),
    "135m": Shape(49_152, 576, 30, 9, 3, 1_536),  # SmolLM2-135M
    "0.5b": Shape(151_936, 896, 24, 14, 2, 4_864),  # Qwen2.5-0.5B
    "3b": Shape(151_936, 2_048, 36, 16, 2, 11_008),  # Qwen2.5-3B
    "8b": Shape(128_256, 4_096, 32, 32, 8, 14_336, tied=False),  # Llama-3.1-8B
    "14b": Shape(152_064, 5_120, 48, 40, 8, 13_824, tied=False),  # Qwen2.5-14B
}


def random_model(shape: Shape, device: str, dtype: str, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of this shape in eval mode."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=shape.tied,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=getattr(torch, dtype))  # noqa: SLF001 - sets the dtype
    return model.eval()


def random_scorer(name: str, device: str, dtype: str, row_tokens: int | None, compiled: bool) -> Scorer:
    """Ours, with a random model of this name's shape and token 0 as the prefix."""
    policy = ScorePolicy("bos", 0, LONGEST, dtype, "sdpa", "random", "random")
    model = random_model(SHAPES[name], device, dtype)
    if dtype != "float32":
        narrow_products(model, getattr(torch, dtype))
    return Scorer(model, policy, row_tokens, device, compiled, say=note)


def chunk_lengths(count: int, mean: int = 300, longest: int = LONGEST, seed: int = 0) -> np.ndarray:
    """Log-normal lengths with this mean, the longest among them exactly ``longest``, in random order; int64 [count]."""
    random = np.random.default_rng(seed)
    drawn = np.clip(random.lognormal(0.0, 0.9, count), None, longest)
    for _ in range(30):  # clipping moves the mean
        drawn = np.clip(drawn * mean / drawn.mean(), 8, longest)
    lengths = drawn.astype(np.int64)
    lengths[int(lengths.argmax())] = longest
    return lengths


def sorted_sample(corpus: np.ndarray, batch: int, tokens: int) -> np.ndarray:
    """Whole batches of a corpus sorted by length, at evenly spaced places, with about ``tokens`` tokens; int64.

    A batch of a large sorted corpus holds chunks of nearly one length; a small corpus, sorted, has no such batches.
    """
    whole = len(corpus) // batch
    batches = np.sort(corpus)[: whole * batch].reshape(whole, batch)

    def taken(count: int) -> np.ndarray:
        return batches[((np.arange(count) + 0.5) * whole / count).astype(int)]

    count = min(range(1, whole + 1), key=lambda count: abs(int(taken(count).sum()) - tokens))
    return taken(count).reshape(-1)


def random_chunks(lengths: Sequence[int] | np.ndarray, vocabulary: int, seed: int = 1) -> list[np.ndarray]:
    """Chunks of random ids, none of them 0, the prefix; int32."""
    random = np.random.default_rng(seed)
    return [random.integers(1, vocabulary, int(length)).astype(np.int32) for length in lengths]
