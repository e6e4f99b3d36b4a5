"""What holds on CUDA: the same code as on CPU, other kernels.

On a machine that has torch and transformers alone: ``python -m pytest --noconftest`` this file.
"""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ppl_assets.perplexity import attention
from ppl_assets.perplexity.head import backbone_states
from ppl_assets.perplexity.landscape import moments
from ppl_assets.perplexity.models import load_model, resolve_base_model
from ppl_assets.perplexity.oracle import oracle_nll
from ppl_assets.perplexity.precision import narrow_products
from ppl_assets.perplexity.recipe import Recipe, pretrain
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model, tiny_model64

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

RECIPE = Recipe(vocabulary=2048, hidden=256, layers=4, heads=4, context=256, tokens=400_000)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small model that knows something: random weights would exaggerate what rounding does."""
    texts = [f"{n} plus {m} is {n + m}, and {n} times {m} is {n * m}.\n" * 3 for n in range(90) for m in range(20)]
    folder = tmp_path_factory.mktemp("gpu")
    return resolve_base_model(str(pretrain(RECIPE, texts, folder)), "main", None, folder, None)


def random_text(count=400, longest=250):
    lengths = np.random.default_rng(0).integers(20, longest, count)
    random = np.random.default_rng(1)
    return [random.integers(1, RECIPE.vocabulary, n).astype(np.int32) for n in lengths]


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "opt"])
def test_float32_equals_the_oracle(name):
    chunks = chunks_of([20] * 6 + [2, 3, 64, 5, 31, 17, 17, 40, 33, 2])
    scorer = Scorer(tiny_model(name), policy(), row_tokens=256, device="cuda")
    expected = [oracle_nll(tiny_model64(name), chunk, policy()) for chunk in chunks]
    np.testing.assert_allclose(scorer.score(chunks).nll, expected, rtol=1e-6)
    assert scorer.packs


def test_the_default_stays_within_the_promise_of_narrow_products(trained):
    chunks, given = random_text(), {"window_tokens": 256}
    exact = Scorer(load_model(trained), policy(**given)).score(chunks)
    low = Scorer(load_model(trained, dtype="float16"), policy(dtype="float16", **given), device="cuda").score(chunks)
    assert np.abs(low.log_ppl - exact.log_ppl).max() <= 5e-4
    assert spearmanr(low.ppl, exact.ppl).statistic >= 0.9999
    ours, theirs = moments(low.ppl), moments(exact.ppl)
    assert ours.mean == pytest.approx(theirs.mean, rel=5e-4)
    assert ours.variance == pytest.approx(theirs.variance, rel=5e-3)


def test_the_variable_length_kernel_is_used_and_agrees_with_one_document_at_a_time(trained, monkeypatch):
    chunks, calls = random_text(60), []
    inner = attention._varlen
    monkeypatch.setattr(attention, "_varlen", lambda *given: calls.append(1) or inner(*given))
    given = policy(dtype="float16", window_tokens=256)
    fused = Scorer(load_model(trained, dtype="float16"), given, device="cuda").score(chunks)
    assert calls
    monkeypatch.setattr(attention, "_varlen_takes", lambda *_given: False)
    split = Scorer(load_model(trained, dtype="float16"), given, device="cuda").score(chunks)
    np.testing.assert_allclose(fused.log_ppl, split.log_ppl, atol=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "mistral"])
def test_windows_and_caps_in_narrow_products_agree_with_the_oracle(name):
    chunks = chunks_of([64, 50, 20, 20, 33, 60])
    model = tiny_model(name)
    narrow_products(model, torch.float16)
    scorer = Scorer(model, policy(dtype="float16"), row_tokens=256, device="cuda")
    expected = [oracle_nll(tiny_model64(name), chunk, policy()) for chunk in chunks]
    np.testing.assert_allclose(scorer.score(chunks).nll, expected, rtol=5e-3)  # random weights: as on CPU


def test_a_compiled_model_agrees(trained):
    chunks, given, told = random_text(120), policy(dtype="float16", window_tokens=256), []
    model = load_model(trained, dtype="float16")
    plain = Scorer(copy.deepcopy(model), given, 4096, "cuda").score(chunks)
    compiled = Scorer(model, given, 4096, "cuda", compiled=True, say=told.append)
    np.testing.assert_allclose(compiled.score(chunks).log_ppl, plain.log_ppl, atol=1e-3)
    assert compiled.compiled, told


def test_a_backbone_with_the_kernel_is_one_graph(trained):
    model = Scorer(load_model(trained, dtype="float16"), policy(dtype="float16"), device="cuda").model
    starts = torch.tensor([0, 12, 24, 36], dtype=torch.int32, device="cuda")
    positions = torch.arange(12, device="cuda").repeat(3)[None]
    torch._dynamo.reset()
    with torch.inference_mode(), torch.autocast("cuda", torch.float16):
        found = torch._dynamo.explain(backbone_states)(model.base_model, positions, positions, starts, 12)
    assert found.graph_break_count == 0, found.break_reasons


def test_running_out_of_memory_halves_the_rows_and_goes_on(trained):
    chunks = random_text(300)
    scorer = Scorer(load_model(trained), policy(window_tokens=256), 65_536, "cuda")
    expected = Scorer(load_model(trained), policy(window_tokens=256), 2048, "cuda").score(chunks).nll
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 96 * 2**20) / total)
    try:
        np.testing.assert_allclose(scorer.score(chunks).nll, expected, rtol=1e-6)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert scorer.row_tokens < 65_536
