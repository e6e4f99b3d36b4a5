"""The scorer agrees with other tools where they measure the same thing; where they do not, the reason is a test.

Where others differ, and why:

- ``evaluate`` reports the mean of the texts' perplexities; here sums and token counts are kept, since a mean of
  exponentials is ruled by its outliers. Loaded without a dtype it computes in the checkpoint's own (often bfloat16).
- lm-eval takes log-softmax in the model's dtype unless ``softmax_dtype`` says otherwise, and divides by words or bytes
  of the original text. It scores a text longer than the context in windows; here a longer chunk is refused.

Each difference is asserted too, so that it is known to be there and to be the only one.
"""

import importlib.util
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.others import evaluate_procedure, lm_eval_rolling, sorted_padded
from ppl_assets.corpus.tokenizer import load_tokenizer
from ppl_assets.perplexity.accepted import ScoringError
from ppl_assets.perplexity.models import load_model, resolve_base_model
from ppl_assets.perplexity.recipe import Recipe, pretrain
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.perplexity.scores import bits_per_byte
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model

TEXTS = [f"def f{i}(x):\n    return x + {i}  # number {i}\n" * (1 + i % 4) for i in range(40)]
LENGTHS = [3, 63, 20, 20, 7, 41, 5, 33, 63, 2, 18, 9]  # a prefix more is the tiny models' context

needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    recipe = Recipe(vocabulary=300, hidden=32, layers=2, heads=2, context=128, tokens=4096, batch_tokens=512)
    folder = pretrain(recipe, TEXTS, tmp_path_factory.mktemp("agreement"))
    return resolve_base_model(str(folder), "main", None, folder, None)


def ours(model, chunks, prefix_id=0):
    return Scorer(model, policy(prefix_id, window_tokens=128), row_tokens=256).score(chunks)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2"])
@pytest.mark.parametrize("other", [evaluate_procedure, sorted_padded])
def test_the_padded_procedures_of_others_give_the_same_sums(name, other):
    chunks = chunks_of(LENGTHS)
    found = other(tiny_model(name), chunks, prefix_id=0, batch_size=5)
    np.testing.assert_allclose(ours(tiny_model(name), chunks).nll, found, rtol=1e-5)


def test_the_mean_of_perplexities_that_evaluate_reports_is_another_number_than_the_perplexity_of_all():
    chunks, model = chunks_of(LENGTHS), tiny_model("gpt2")
    theirs = np.exp(evaluate_procedure(model, chunks, prefix_id=0) / np.array(LENGTHS))
    scores = ours(tiny_model("gpt2"), chunks)
    np.testing.assert_allclose(scores.ppl, theirs, rtol=5e-5)  # text by text the same: 1e-5 of up to 7 nats a token
    assert theirs.mean() > 1.5 * math.exp(scores.mean_nll())  # the shortest texts rule the mean


def test_a_bfloat16_checkpoint_loaded_as_evaluate_loads_it_is_another_number(base, tmp_path):
    folder = Path(shutil.copytree(base.path, tmp_path / "bf16"))
    load_model(base).to(torch.bfloat16).save_pretrained(folder)
    stored, chunks = resolve_base_model(str(folder), "main", None, folder, None), chunks_of([120] * 8)
    scores = ours(load_model(stored, dtype="float32"), chunks, base.bos_id).nll
    wide = evaluate_procedure(load_model(stored, dtype="float32"), chunks, base.bos_id)
    np.testing.assert_allclose(scores, wide, rtol=1e-5)  # the same weights
    as_loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert as_loaded.dtype == torch.bfloat16
    assert np.abs(evaluate_procedure(as_loaded, chunks, base.bos_id) / scores - 1).max() > 2e-4


def test_evaluates_own_perplexity_module_agrees_where_it_can_be_loaded(base):
    evaluate = pytest.importorskip("evaluate")
    try:
        perplexity = evaluate.load("perplexity", module_type="metric")
    except Exception as error:  # noqa: BLE001 - whatever stands between this machine and the hub
        pytest.skip(
            f"evaluate fetches its perplexity module from the hub, which is out of reach: {type(error).__name__}"
        )
    found = perplexity.compute(predictions=TEXTS[:8], model_id=base.path, batch_size=4)["perplexities"]
    tokenizer = load_tokenizer(base.path)
    chunks = [np.array(tokenizer.encode(text, add_special_tokens=False), np.int32) for text in TEXTS[:8]]
    np.testing.assert_allclose(ours(load_model(base), chunks, base.bos_id).ppl, found, rtol=1e-5)


@needs_lm_eval
@pytest.mark.parametrize("batch_size", [1, 5])
def test_lm_evals_rolling_loglikelihood_of_texts_agrees(base, batch_size):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = load_tokenizer(base.path)
    harness = HFLM(pretrained=load_model(base), tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=i)
        for i, text in enumerate(TEXTS[:9])
    ]
    chunks = [np.array(tokenizer.encode(text, add_special_tokens=False), np.int32) for text in TEXTS[:9]]
    assert len({len(chunk) for chunk in chunks}) > 3
    found = -np.array(harness.loglikelihood_rolling(requests, disable_tqdm=True))
    np.testing.assert_allclose(ours(load_model(base), chunks, base.bos_id).nll, found, rtol=1e-5)


@needs_lm_eval
def test_the_benchmarks_lm_eval_scores_the_very_same_chunks(base):
    chunks = chunks_of(LENGTHS)
    found = lm_eval_rolling(load_model(base), load_tokenizer(base.path), 4)(chunks)
    np.testing.assert_allclose(ours(load_model(base), chunks, base.bos_id).nll, found, rtol=1e-5)


@needs_lm_eval
def test_lm_evals_default_sums_in_the_models_dtype_which_in_bfloat16_is_another_number(base):
    model, tokenizer, chunks = load_model(base).to(torch.bfloat16), load_tokenizer(base.path), chunks_of([120] * 8)
    exact = Scorer(model, policy(dtype="bfloat16", window_tokens=128)).score(chunks).nll
    float32 = lm_eval_rolling(model, tokenizer, 4)(chunks)
    default = lm_eval_rolling(model, tokenizer, 4, softmax_dtype=None)(chunks)
    on_the_grid = torch.from_numpy(default).bfloat16().double().numpy()
    np.testing.assert_array_equal(default, on_the_grid)  # whole nats and more apart at this length
    assert np.abs(default / exact - 1).max() > 3 * np.abs(float32 / exact - 1).max()
    np.testing.assert_allclose(float32, exact, rtol=1e-3)  # what is left is the logits' own rounding


@needs_lm_eval
def test_bits_per_byte_are_lm_evals_over_all_texts_and_its_word_perplexity_is_another_number(base):
    from lm_eval.api.metrics import bits_per_byte as theirs
    from lm_eval.api.metrics import weighted_perplexity

    tokenizer, texts = load_tokenizer(base.path), TEXTS[:9]
    chunks = [np.array(tokenizer.encode(text, add_special_tokens=False), np.int32) for text in texts]
    scores, n_bytes = ours(load_model(base), chunks, base.bos_id), [len(text.encode()) for text in texts]
    found = -lm_eval_rolling(load_model(base), tokenizer, 4)(chunks)
    expected = theirs(list(zip(found.tolist(), n_bytes, strict=True)))
    assert bits_per_byte(scores.nll.sum(), sum(n_bytes)) == pytest.approx(expected, rel=1e-5)
    a_word = weighted_perplexity([(nll, len(text.split())) for nll, text in zip(found.tolist(), texts, strict=True)])
    assert a_word > 1.2 * math.exp(scores.mean_nll())  # a word is several tokens


@needs_lm_eval
def test_a_text_longer_than_the_context_is_refused_here_and_cut_into_windows_there(base):
    chunk, model = chunks_of([200])[0], load_model(base, dtype="float64")
    with pytest.raises(ScoringError, match="200 tokens"):
        ours(load_model(base), [chunk])
    found = lm_eval_rolling(load_model(base), load_tokenizer(base.path), 1)([chunk])
    first = ours(load_model(base), [chunk[:128]], base.bos_id).nll[0]
    ids = torch.from_numpy(chunk[200 - 129 :]).long()  # the last window is full: 56 tokens are its context only
    with torch.no_grad():
        logs = torch.log_softmax(model(input_ids=ids[None, :-1]).logits[0], -1)
    rest = -float(logs[56:].gather(1, ids[57:, None]).sum())
    assert found[0] == pytest.approx(first + rest, rel=1e-5)
