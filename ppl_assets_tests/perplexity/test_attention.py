"""The variable-length kernel, with one written out by us in its place, since CPU has none; and without."""

import copy
import inspect
from types import SimpleNamespace

import pytest
import torch

from ppl_assets.perplexity import attention
from ppl_assets.perplexity.head import backbone_states
from ppl_assets.perplexity.precision import narrow_products
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model

LENGTHS = [29, 3, 1, 16]


def written_out(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), **given):
    """torch's ``varlen_attn`` [tokens, heads, size] by its documentation: places to the left and right are seen."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert (max_q, max_k, given.pop("enable_gqa", False)) == (
        max(LENGTHS),
        max(LENGTHS),
        query.shape[1] != key.shape[1],
    )
    assert not given
    groups, out = query.shape[1] // key.shape[1], torch.empty_like(query)
    for low, high in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (x[low:high].transpose(0, 1) for x in (query, key, value))
        places = torch.arange(high - low)
        away = places[:, None] - places[None]  # how far to the left
        left = high if window_size[0] < 0 else window_size[0]
        seen = (away <= left) & (away >= -window_size[1])
        products = q @ k.repeat_interleave(groups, 0).transpose(1, 2) * scale
        weights = products.masked_fill(~seen, -torch.inf).softmax(-1)
        out[low:high] = (weights @ v.repeat_interleave(groups, 0)).transpose(0, 1)
    return out


def of_torch(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    return written_out(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size, enable_gqa=enable_gqa
    )


@pytest.fixture
def kernel_of_this_torch(monkeypatch):
    """What a CUDA machine would have found of torch's kernel."""
    from torch.nn.attention import varlen

    monkeypatch.setattr(attention, "_VARLEN_TAKES", frozenset(inspect.signature(varlen.varlen_attn).parameters))


@pytest.mark.parametrize("window", [0, 1, 4, 16])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.usefixtures("kernel_of_this_torch")
def test_the_kernel_is_given_windows_groups_and_scale_as_it_means_them(window, key_heads, monkeypatch):
    monkeypatch.setattr(attention, "varlen", SimpleNamespace(varlen_attn=of_torch))
    torch.manual_seed(0)
    total = sum(LENGTHS)
    query = torch.randn(1, 4, total, 8)
    key, value = torch.randn(2, 1, key_heads, total, 8)
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    kernel = attention._varlen(query, key, value, starts, max(LENGTHS), 0.3, window)
    plain = attention._attend(query, key, value, starts, 0.3, window, 0.0, True, 0.0)
    torch.testing.assert_close(kernel, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("kernel_of_this_torch")
def test_the_kernels_call_is_one_graph(monkeypatch):
    """What it asks of torch is known before a model is compiled."""
    fake = torch.library.custom_op("ppl_assets_tests::kernel", stand_in, mutates_args=())
    fake.register_fake(lambda query, _scale: torch.empty_like(query))
    monkeypatch.setattr(
        attention,
        "varlen",
        SimpleNamespace(varlen_attn=lambda query, *_given, scale, **_named: fake(query, scale)),
    )
    query, (key, value) = torch.randn(1, 4, 48, 8), torch.randn(2, 1, 2, 48, 8)
    starts = torch.tensor([0, 16, 32, 48], dtype=torch.int32)
    torch._dynamo.reset()
    found = torch._dynamo.explain(lambda *given: attention._varlen(*given, 16, 0.3, 0))(query, key, value, starts)
    assert found.graph_break_count == 0, found.break_reasons


def test_a_backbone_that_attends_document_by_document_is_one_graph():
    model = Scorer(tiny_model(), policy()).model
    positions, starts = torch.arange(12).repeat(3)[None], torch.tensor([0, 12, 24, 36], dtype=torch.int32)
    torch._dynamo.reset()
    with torch.inference_mode():
        found = torch._dynamo.explain(backbone_states)(model.base_model, positions, positions, starts, 12)
    assert found.graph_break_count == 0, found.break_reasons


def stand_in(query: torch.Tensor, scale: float) -> torch.Tensor:
    return query * scale


def narrow_llama():
    model = tiny_model("llama")
    narrow_products(model, torch.float16)
    return model


def test_a_kernel_that_fails_is_done_without_and_its_words_are_said(monkeypatch):
    def fails(*_given):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nstack")

    chunks, said, model = chunks_of([20, 33, 5]), [], narrow_llama()
    expected = Scorer(copy.deepcopy(model), policy(dtype="float16"), 128).score(chunks).nll
    monkeypatch.setattr(attention, "_varlen_takes", lambda query, *_given: query.dtype.itemsize == 2)
    monkeypatch.setattr(attention, "_varlen", fails)
    scorer = Scorer(model, policy(dtype="float16"), 128, say=said.append)
    assert scorer.packs
    assert model.config._attn_implementation == attention.SPLIT
    assert len(said) == 1
    assert "the variable-length kernel fails (FlashAttention only supports Ampere GPUs or newer.)" in said[0]
    assert scorer.score(chunks).nll.tolist() == expected.tolist()


@pytest.mark.parametrize(("capability", "has"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_the_kernel_is_for_ampere_and_later(monkeypatch, capability, has):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert attention._has_kernel(torch.device("cuda")) is has
    assert attention._has_kernel(torch.device("cpu"))


def test_a_model_that_is_not_packed_says_what_is_wrong_and_by_how_much():
    said = []
    Scorer(tiny_model("phi3"), policy(), say=said.append)
    assert "alone (packed states are off by" in said[0]
    assert "of their size, 2e-04 is accepted): the model gets equal lengths" in said[0]
    Scorer(tiny_model("bloom"), policy(), say=said.append)
    assert "the attention of BloomForCausalLM cannot be replaced" in said[1]
