"""Scores whose matrix products are float16: states stay float32, and what overflows is not lost."""

import copy

import numpy as np
import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from ppl_assets.corpus.tokenizer import load_tokenizer
from ppl_assets.perplexity import head, probe
from ppl_assets.perplexity import scorer as scorer_module
from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.models import load_model, resolve_base_model
from ppl_assets.perplexity.oracle import oracle_nll
from ppl_assets.perplexity.precision import float32_sums, narrow_products
from ppl_assets.perplexity.recipe import Recipe, pretrain
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model, tiny_model64

TEXTS = [f"{n} plus {m} is {n + m}, and {n} times {m} is {n * m}.\n" * 4 for n in range(30) for m in range(20)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    recipe = Recipe(vocabulary=400, hidden=64, layers=3, heads=2, context=64, tokens=60_000, batch_tokens=2048)
    folder = pretrain(recipe, TEXTS, tmp_path_factory.mktemp("narrow"))
    return resolve_base_model(str(folder), "main", None, folder, None)


@pytest.fixture(scope="module")
def chunks(base):
    tokenizer = load_tokenizer(base.path)
    return [np.array(tokenizer.encode(text, add_special_tokens=False)[:60], np.int32) for text in TEXTS[::20]]


def score(base, chunks, dtype, say=lambda _: None):
    given = policy(base.bos_id, dtype=dtype, window_tokens=60)
    return Scorer(load_model(base, dtype=dtype), given, row_tokens=256, say=say).score(chunks)


def test_only_inner_matrices_are_narrow_and_the_rest_keeps_every_bit(base):
    model, exact = load_model(base, dtype="float16"), dict(load_model(base).named_parameters())
    for name, parameter in model.named_parameters():
        held = exact[name].half() if "proj" in name else exact[name]
        assert torch.equal(parameter, held)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {kinds[name] for name in kinds if "proj" in name} == {torch.float16}
    assert {kinds[name] for name in kinds if "proj" not in name} == {torch.float32}
    assert Scorer(model, policy(dtype="float16")).packs


@pytest.mark.parametrize(("held", "said"), [("float16", "float32"), ("bfloat16", "float16"), ("float16", "bfloat16")])
def test_inner_matrices_of_another_dtype_than_the_policys_are_refused(held, said):
    model = tiny_model()
    narrow_products(model, getattr(torch, held))
    assert model.dtype == torch.float32  # that of the embedding
    with pytest.raises(ModelError, match=f"holds torch.{held} weights and the policy says {said}; load it as {said}"):
        Scorer(model, policy(dtype=said))


def test_float16_stays_within_the_promise_that_bfloat16_breaks(base, chunks):
    exact = score(base, chunks, "float32").log_ppl
    fine, coarse = (np.abs(score(base, chunks, dtype).log_ppl - exact).max() for dtype in ("float16", "bfloat16"))
    assert fine <= 5e-4
    assert coarse > 3 * fine


def test_what_is_not_finite_in_bfloat16_is_scored_in_float32(monkeypatch):
    """As in float16; the range is wider, and kernels still fail."""
    chunks, model, inner = chunks_of([20, 33]), tiny_model(), scorer_module.backbone_states
    scorer = Scorer(model, policy(dtype="bfloat16"), row_tokens=128)
    expected = Scorer(tiny_model(), policy()).score(chunks).nll
    monkeypatch.setattr(
        scorer_module,
        "backbone_states",
        lambda *given: inner(*given) * (torch.nan if torch.is_autocast_enabled("cpu") else 1.0),
    )
    scores = scorer.score(chunks)
    assert (scores.status, scorer.overflowed) == (["ok"] * 2, 2)
    np.testing.assert_allclose(scores.nll, expected, rtol=1e-6)


def large_model():
    """A model whose feed-forward sums pass 65,504, its inner matrices in float16."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight *= 300.0
        model.model.layers[0].mlp.down_proj.weight *= 3000.0
    narrow_products(model, torch.float16)
    return model


def test_what_overflows_float16_is_scored_in_float32_counted_and_said():
    narrow = large_model()
    chunks, told = chunks_of([20, 33, 64, 5]), []
    exact = Scorer(copy.deepcopy(narrow).float(), policy(), row_tokens=128).score(chunks)
    scorer = Scorer(narrow, policy(dtype="float16"), row_tokens=128, say=told.append)
    found = scorer.score(chunks)
    assert found.status == ["ok"] * 4
    assert scorer.overflowed == 4
    assert any("overflow float16" in sentence for sentence in told)
    np.testing.assert_allclose(found.nll, exact.nll, rtol=1e-6)
    assert {p.dtype for p in narrow.model.layers.parameters()} == {torch.float16, torch.float32}  # narrow again


def test_a_chunk_that_does_not_overflow_is_not_scored_again(base, chunks):
    told = []
    score(base, chunks, "float16", told.append)
    assert told == []


REDUCTIONS = [
    "allow_fp16_reduced_precision_reduction",
    "allow_fp16_reduced_precision_reduction_split_k",
    "allow_bf16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction_split_k",
    "allow_fp16_accumulation",
]


def precisions():
    matmul = torch.backends.cuda.matmul
    return [
        *(getattr(matmul, name) for name in REDUCTIONS),
        matmul.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
    ]


@pytest.fixture
def hasty():
    """A process in which every product may be rounded."""
    matmul, before = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_accumulation = (False, False), True
    yield precisions()
    torch.set_float32_matmul_precision(before)
    matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
    matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_accumulation = True, False


def test_products_accumulate_in_float32_whatever_the_process_says_which_is_left_as_it_was(hasty, monkeypatch):
    seen = []
    for module in (scorer_module, probe, head):
        inner = module.backbone_states
        monkeypatch.setattr(
            module, "backbone_states", lambda *given, inner=inner: seen.append(precisions()) or inner(*given)
        )
    Scorer(tiny_model(), policy()).score(chunks_of([20, 5]))
    assert len(seen) == 1 + 5 + 1
    for fp16, _, bf16, _, accumulation, cuda, cpu in seen:
        assert (fp16, bf16, accumulation, cuda, cpu) == (False, False, False, "ieee", "ieee")
    assert precisions() == hasty
    assert torch.get_float32_matmul_precision() == "medium"


def test_precision_that_was_set_in_torchs_newer_way_is_left_as_it_was():
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with float32_sums():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    torch.backends.cuda.matmul.fp32_precision = "none"


def test_a_model_that_is_not_finite_stays_so():
    model = tiny_model("llama").to(torch.float16).float()
    scorer = Scorer(model, policy(dtype="float16"), row_tokens=128)
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    assert scorer.score(chunks_of([20, 5])).status == ["non_finite"] * 2


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma2", "mixtral"])
def test_every_architecture_takes_narrow_products(name):
    chunks = chunks_of([20, 20, 33, 5, 64])
    scorer = Scorer(tiny_model(name), policy(dtype="float16"), row_tokens=128)
    expected = np.array([oracle_nll(tiny_model64(name), chunk, policy()) for chunk in chunks])
    assert scorer.packs
    np.testing.assert_allclose(scorer.score(chunks).nll, expected, rtol=5e-3)


def test_a_model_that_stretches_with_the_longest_document_is_found_under_narrow_products_too():
    """Its short documents are few places beside a long one, and rounding to 16 bits is allowed some per cent."""
    config = Phi3Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        pad_token_id=0,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        original_max_position_embeddings=512,
        rope_scaling={"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.5] * 4},
    )
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config).eval()
    for dtype in ("float32", "float16", "bfloat16"):
        assert not Scorer(copy.deepcopy(model), policy(window_tokens=1024, dtype=dtype)).packs


def test_training_multiplies_in_bfloat16_since_gradients_underflow_float16():
    scorer = Scorer(tiny_model("llama"), policy(dtype="float16"))
    assert (scorer.training_products, scorer.training_head.dtype) == (torch.bfloat16, torch.bfloat16)
    plain = Scorer(tiny_model("llama"), policy())
    assert (plain.training_products, plain.training_head.dtype) == (None, torch.float32)
