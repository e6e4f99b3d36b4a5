"""Which rivals are measured, and on which chunks."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.environment import note, quiet
from benchmarks.models import LONGEST, SHAPES, chunk_lengths, random_chunks, random_model, sorted_sample
from benchmarks.others import evaluate_procedure, lm_eval_rolling, sorted_padded, vllm_prompt_logprobs
from benchmarks.timing import Rival

BATCH = 16
CORPUS = 4_096
"""Chunks of the corpus that the batches of ``sorted_padded`` are taken from."""

NAMES = ("sorted_padded", "sorted_padded_small_corpus", "evaluate", "lm_eval_batch_1", "lm_eval_batch_16", "vllm")


def rivals(
    model_name: str, device: str, dtype: str, lengths: np.ndarray, evaluate_chunks: int, against: Sequence[str]
) -> Iterator[list[Rival]]:
    """Groups of those that are at hand; in a group they take turns. Where there is none, nobody: ours is timed alone.

    vLLM comes last and by itself, since its engine keeps its share of the device's memory from then on.

    Args:
        model_name: one of the shapes; the rivals share a model with the attention that transformers gives it.
        device: cpu or cuda.
        dtype: of the weights.
        lengths: of the chunks that all but two are timed on.
        evaluate_chunks: how many of them ``evaluate`` gets, whose padding makes it slow.
        against: names from :data:`NAMES`.
    """
    shape = SHAPES[model_name]
    chunks = random_chunks(lengths, shape.vocabulary)
    model = random_model(shape, device, dtype)
    few = [chunks[i] for i in _spread(lengths, evaluate_chunks)]
    sample = sorted_sample(chunk_lengths(CORPUS, longest=LONGEST, seed=3), BATCH, int(lengths.sum()))
    batches = random_chunks(sample, shape.vocabulary, seed=4)

    def padded(given: Sequence[np.ndarray]) -> np.ndarray:
        return sorted_padded(model, given, 0, BATCH)

    found = [
        Rival("sorted_padded", batches, padded),
        Rival("sorted_padded_small_corpus", chunks, padded),
        Rival("evaluate", few, lambda given: evaluate_procedure(model, given, 0, BATCH), low_sums=True),
    ]
    sizes = [size for size in (1, BATCH) if f"lm_eval_batch_{size}" in against]
    if sizes and importlib.util.find_spec("lm_eval") is None:
        note("lm-eval is not installed: vs_lm_eval is not measured")
    else:
        found += [Rival(f"lm_eval_batch_{size}", chunks, _lm_eval(model, shape.vocabulary, size)) for size in sizes]
    yield [rival for rival in found if rival.name in against] or [Rival("nobody", chunks, None)]
    if "vllm" in against and (engine := _vllm(model, device)):
        yield [Rival("vllm", chunks, engine)]


def filled_share(rival: Rival, batch: int = BATCH) -> float:
    """Real tokens over the places that batches sorted by length compute."""
    tokens = np.sort(rival.tokens)[::-1]
    return float(tokens.sum() / sum(tokens[at] * len(tokens[at : at + batch]) for at in range(0, len(tokens), batch)))


def _spread(lengths: np.ndarray, count: int) -> list[int]:
    """Chunks evenly spaced in order of length, the longest among them: the same distribution, fewer of them."""
    order = np.argsort(lengths, kind="stable")
    places = np.linspace(len(order) - 1, len(order) / count / 2, min(count, len(order)))
    return [int(order[int(place)]) for place in places]


def _lm_eval(model: Any, vocabulary: int, size: int) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """lm-eval with batches of this size, without its progress bars."""
    with quiet():
        rolling = lm_eval_rolling(model, _any_tokenizer(vocabulary), size)

    def silent(chunks: Sequence[np.ndarray]) -> np.ndarray:
        with quiet():
            return rolling(chunks)

    return silent


def _vllm(model: Any, device: str) -> Callable[[Sequence[np.ndarray]], np.ndarray] | None:
    if device != "cuda":
        note("vs_vllm is measured on CUDA only")
        return None
    try:
        return vllm_prompt_logprobs(model, 0, LONGEST)
    except ImportError as error:
        note(f"vLLM cannot be imported, vs_vllm is not measured ({error})")
        return None


def _any_tokenizer(vocabulary: int) -> Any:
    """lm-eval wants a tokenizer; nothing is encoded with it."""
    from tokenizers import Tokenizer, models  # noqa: PLC0415 - beside its only use
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    backend = Tokenizer(models.WordLevel({"<s>": 0, **{f"t{n}": n for n in range(1, min(vocabulary, 100))}}, "<s>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=4_096,
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<s>"),
    )
