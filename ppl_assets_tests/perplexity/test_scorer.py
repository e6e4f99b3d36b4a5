"""The scorer equals the float64 one-chunk-at-a-time oracle, whatever the batch; and the errors others shipped."""

import copy
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ppl_assets.perplexity import attention
from ppl_assets.perplexity import head as head_module
from ppl_assets.perplexity.accepted import ScoringError
from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.head import read_head
from ppl_assets.perplexity.oracle import oracle_nll
from ppl_assets.perplexity.policy import attention_of, resolve_policy
from ppl_assets.perplexity.probe import find_packing
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets_tests.perplexity.tiny import (
    CONTEXT,
    VOCABULARY,
    chunks_of,
    policy,
    random_model,
    tiny_model,
    tiny_model64,
)

ARCHITECTURES = ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "granite", "opt", "mistral", "mixtral"]
SCORERS = {}


def scorer_of(name, prefix=0, row_tokens=128, fixed=False):
    key = (name, prefix)
    if key not in SCORERS:
        SCORERS[key] = Scorer(tiny_model(name), policy(prefix))
    SCORERS[key].row_tokens, SCORERS[key]._fixed = row_tokens, fixed
    return SCORERS[key]


def oracle(name, chunks, prefix=0):
    return np.array([oracle_nll(tiny_model64(name), chunk, policy(prefix)) for chunk in chunks])


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("prefix", [0, None])
def test_scores_equal_the_oracle_for_every_architecture(name, prefix):
    chunks = chunks_of([20] * 6 + [2, 3, 64, 5, 31, 17, 17, 40, 33, 2])
    scores = scorer_of(name, prefix).score(chunks)
    assert scores.status == ["ok"] * len(chunks)
    np.testing.assert_allclose(scores.nll, oracle(name, chunks, prefix), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["llama", "qwen2", "qwen3", "gpt2", "gemma2", "granite", "opt", "bloom"]),
    lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=14),
    row_tokens=st.sampled_from([1, 40, 128, 1000]),
    fixed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_lengths_order_and_batch_size_do_not_change_a_score(name, lengths, row_tokens, fixed, seed):
    chunks = chunks_of(lengths, seed)
    scores = scorer_of(name, row_tokens=row_tokens, fixed=fixed).score(chunks)
    np.testing.assert_allclose(scores.nll, oracle(name, chunks), rtol=1e-6)
    np.testing.assert_array_equal(scores.n_scored, lengths)


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["llama", "qwen2", "qwen3", "gpt2"]),
    weights=st.integers(0, 10_000),
    hidden=st.sampled_from([16, 32, 48]),
    layers=st.integers(1, 4),
    kind=st.sampled_from(["copies", "beginnings", "one_token", "endings"]),
)
@example(name="llama", weights=282, hidden=48, layers=4, kind="beginnings")
def test_random_models_score_as_the_oracle_beside_neighbours_that_would_give_the_text_away(
    name, weights, hidden, layers, kind
):
    model = random_model(name, weights, hidden, layers)
    chunk = chunks_of([40], weights)[0]
    neighbours = {
        "copies": [chunk] * 3,
        "beginnings": [chunk[:at] for at in (39, 20, 1)],
        "one_token": [np.full(n, chunk[0], np.int32) for n in (64, 40, 3)],
        "endings": [np.concatenate([chunk[20:], chunk])[:CONTEXT], chunk[::-1].copy()],
    }[kind]
    chunks = [*neighbours, chunk, *neighbours]
    model64 = copy.deepcopy(model).double()
    expected = [oracle_nll(model64, tokens, policy()) for tokens in chunks]
    # A chunk of one token has the rounding of a single logit: with 300 such models transformers' own float32 misses
    # float64 by up to 1.2e-6 of the score. So each may miss by a unit in the last place of a float32 from 8 to 16.
    nll = Scorer(model, policy(), row_tokens=512).score(chunks).nll
    np.testing.assert_allclose(nll, expected, rtol=1e-6, atol=2**-20)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_change_a_score(threads):
    chunks, before = chunks_of([64, 33, 9, 9, 50]), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        nll = scorer_of("llama").score(chunks).nll
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(nll, oracle("llama", chunks), rtol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_neighbour_cannot_change_a_score(name):
    chunk, width = chunks_of([23])[0], 50
    scorer = scorer_of(name, row_tokens=200)
    with_copy = scorer.score(
        [chunk, chunk[:-1], np.full(width, 5, np.int32), chunk]
    )  # a copy would make it predictable
    with_noise = scorer.score([chunk, *chunks_of([7, 11, 64, 3], seed=3)])
    alone = oracle(name, [chunk])[0]
    np.testing.assert_allclose([with_copy.nll[0], with_copy.nll[3], with_noise.nll[0]], alone, rtol=1e-6)


def test_mixed_lengths_really_share_a_row_where_the_model_keeps_them_apart():
    assert [plan.packed for plan in scorer_of("llama").plans([3, 5, 9, 20], 128)] == [True]
    assert find_packing(tiny_model("llama")).kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_lets_documents_see_each_other_is_not_packed(monkeypatch, dtype):
    model, inner = tiny_model().to(dtype), attention._documents

    def leaking(*given, cu_seq_lens_q=None, **named):  # one long document, whatever it is told
        return inner(*given, cu_seq_lens_q=cu_seq_lens_q if cu_seq_lens_q is None else cu_seq_lens_q[[0, -1]], **named)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, attention.FUSED, leaking)
    assert not find_packing(model).kept
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.undo()
    assert find_packing(tiny_model().to(dtype)).kept


@pytest.mark.parametrize("name", ["qwen2_moe", "phi3"])
@pytest.mark.parametrize("fixed", [False, True])
def test_what_shows_at_full_length_only_is_found_and_not_packed(name, fixed):
    model, chunks = tiny_model(name), chunks_of([60, 20, 20, 9, 64])
    scorer = Scorer(model, policy(), 128, fixed_rows=fixed)
    assert not scorer.packs
    np.testing.assert_allclose(scorer.score(chunks).nll, oracle(name, chunks), rtol=1e-6)


def test_each_scorer_of_one_model_gets_the_attention_that_it_asked_for():
    model, chunks, whole = tiny_model("qwen2_moe"), chunks_of([12, 9, 12]), chunks_of([64, 40])
    short, long = (Scorer(model, policy(window_tokens=window)) for window in (12, 64))
    assert (short.packs, long.packs) == (True, False)
    long = Scorer(model, policy(window_tokens=64))
    Scorer(model, policy(window_tokens=12))  # replaces the attention
    for _ in range(2):
        np.testing.assert_allclose(long.score(whole).nll, oracle("qwen2_moe", whole), rtol=1e-6)
        np.testing.assert_allclose(short.score(chunks).nll, oracle("qwen2_moe", chunks), rtol=1e-6)
    again = Scorer(model, policy(window_tokens=64))
    assert not again.packs
    np.testing.assert_allclose(again.score(whole).nll, oracle("qwen2_moe", whole), rtol=1e-6)
    np.testing.assert_allclose(
        Scorer(model, policy(window_tokens=12)).score(chunks).nll, oracle("qwen2_moe", chunks), rtol=1e-6
    )


def test_a_model_whose_attention_cannot_be_replaced_is_scored_by_length_with_its_own():
    model = tiny_model("bloom")
    scorer, chunks = Scorer(model, policy()), chunks_of([20, 20, 7, 64])
    assert not scorer.packs
    assert model.config._attn_implementation not in {attention.FUSED, attention.PLAIN}
    assert [plan.packed for plan in scorer.plans([20, 20, 7, 64], 128)] == [False] * 3
    np.testing.assert_allclose(scorer.score(chunks).nll, oracle("bloom", chunks), rtol=1e-6)


def test_every_computed_place_holds_a_token_unless_rows_have_fixed_widths():
    free, fixed = Scorer(tiny_model(), policy()), Scorer(tiny_model(), policy(), row_tokens=128, fixed_rows=True)
    chunks = chunks_of([64, 64, 50, 14, 9])
    for scorer in (free, fixed):
        scorer.score(chunks)
    assert (free.tokens, free.slots) == (201, 201)
    assert (fixed.tokens, fixed.slots) == (201, 128 + 128)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_a_compiled_backbone_gives_the_same_scores(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    scorer, chunks = Scorer(tiny_model(), policy(), row_tokens=128, compiled=True), chunks_of([64, 30, 9, 64, 12])
    np.testing.assert_allclose(scorer.score(chunks).nll, oracle("llama", chunks), rtol=1e-6)
    assert scorer.compiled


def test_a_backbone_that_does_not_compile_is_run_as_it_is(monkeypatch):
    said, chunks = [], chunks_of([9, 9])
    monkeypatch.setattr(torch, "compile", lambda *_a, **_k: lambda **_given: (_ for _ in ()).throw(RuntimeError("no")))
    scorer = Scorer(tiny_model(), policy(), compiled=True, say=said.append)
    np.testing.assert_allclose(scorer.score(chunks).nll, oracle("llama", chunks), rtol=1e-6)
    assert not scorer.compiled
    assert "not compiled" in said[0]


def test_the_sum_has_every_token_and_logits_are_shifted_by_one():
    chunk = chunks_of([12])[0]
    logits = tiny_model64("llama")(input_ids=torch.tensor([[0, *chunk.tolist()]])).logits[0].log_softmax(-1).detach()
    by_hand = [-float(logits[at, token]) for at, token in enumerate(chunk)]
    scores = scorer_of("llama").score([chunk])
    assert scores.n_scored[0] == 12
    np.testing.assert_allclose(scores.nll[0], sum(by_hand), rtol=1e-6)
    np.testing.assert_allclose(scores.nll_square_sum[0], sum(x * x for x in by_hand), rtol=1e-6)
    np.testing.assert_allclose(scores.max_token_nll[0], max(by_hand), rtol=1e-6)
    np.testing.assert_allclose(scores.nll_first_half[0], sum(by_hand[:6]), rtol=1e-6)
    np.testing.assert_allclose(scores.nll_second_half[0], sum(by_hand[6:]), rtol=1e-6)
    np.testing.assert_allclose(scores.ppl[0], math.exp(sum(by_hand) / 12), rtol=1e-5)


def test_an_unscored_first_token_is_neither_summed_nor_counted():
    chunk = chunks_of([12])[0]
    with_bos, without = scorer_of("llama", 0).score([chunk]), scorer_of("llama", None).score([chunk])
    assert (with_bos.n_scored[0], without.n_scored[0]) == (12, 11)
    np.testing.assert_allclose(without.log_ppl[0], oracle("llama", [chunk], None)[0] / 11, rtol=1e-6)


def test_empty_and_one_token_chunks_get_a_reason_and_never_zero():
    chunks = [np.array([], np.int32), np.array([5], np.int32), chunks_of([9])[0]]
    unscored = scorer_of("llama", None).score(chunks)
    assert unscored.status == ["empty", "one_token", "ok"]
    assert np.isnan(unscored.nll[:2]).all()
    assert np.isnan(unscored.ppl[:2]).all()
    scored = scorer_of("llama", 0).score(chunks)
    assert scored.status == ["empty", "ok", "ok"]
    assert scored.n_scored.tolist() == [0, 1, 9]
    assert scorer_of("llama").score([]).status == []


def test_a_loss_that_is_not_finite_has_no_score():
    model = tiny_model("llama")
    scorer = Scorer(model, policy())
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = float("nan")
    scores = scorer.score([np.array([3, 7, 4], np.int32)])
    assert scores.status == ["non_finite"]
    assert np.isnan(scores.nll[0])


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.ones(CONTEXT + 1, np.int32), "65 tokens"),
        (np.array([0, 3, 4], np.int32), "starts with token 0"),
        (np.array([3, VOCABULARY], np.int32), "outside 0 to 96"),
        (np.array([3.0, 4.5]), "chunk 2 holds float64 values"),
    ],
    ids=["too_long", "bos_twice", "foreign_token", "not_integers"],
)
def test_an_impossible_chunk_is_refused_before_anything_is_scored(chunk, message):
    done = []
    with pytest.raises(ScoringError, match=message):
        scorer_of("llama").score([*chunks_of([9, 9]), chunk], progress=lambda *tokens: done.append(tokens))
    assert done == []


def test_weights_of_another_dtype_than_the_policy_are_refused():
    with pytest.raises(ModelError, match="bfloat16"):
        Scorer(tiny_model("llama").to(torch.bfloat16), policy())


def test_bfloat16_scores_stay_near_the_oracle_and_off_its_grid():
    chunks = chunks_of([40, 40])
    scores = Scorer(tiny_model("llama").to(torch.bfloat16), policy(dtype="bfloat16")).score(chunks)
    np.testing.assert_allclose(scores.nll, oracle("llama", chunks), rtol=0.02)
    assert (scores.nll != torch.tensor(scores.nll).bfloat16().double().numpy()).all()


def test_a_head_that_does_something_unknown_is_refused(monkeypatch):
    model = tiny_model("llama")
    original = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: original(hidden) * 3.0)
    with pytest.raises(ModelError, match="changes its logits"):
        read_head(model)


def test_running_out_of_memory_halves_the_rows_and_loses_nothing(monkeypatch):
    scorer = Scorer(tiny_model("llama"), policy(), row_tokens=512)
    chunks = chunks_of([16] * 20 + [9, 33])
    expected = scorer.score(chunks).nll
    inner, passes = scorer.hidden_states, []

    def small_memory(rows):
        if rows.inputs.size > 100:
            raise torch.OutOfMemoryError
        passes.append(rows.inputs.size)
        return inner(rows)

    monkeypatch.setattr(scorer, "hidden_states", small_memory)
    np.testing.assert_allclose(scorer.score(chunks).nll, expected, rtol=1e-6)
    assert scorer.row_tokens == 64
    assert max(passes) <= 100
    monkeypatch.setattr(scorer, "hidden_states", lambda _rows: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(ModelError, match="one chunk of 33 tokens"):
        scorer.score(chunks)


@pytest.mark.parametrize("error", [RuntimeError("no such kernel"), KeyboardInterrupt(), torch.OutOfMemoryError()])
@pytest.mark.parametrize("training", [True, False])
def test_a_pass_that_fails_leaves_the_model_in_the_mode_that_it_was_in(monkeypatch, error, training):
    model = tiny_model("llama").train(training)
    scorer, modes = Scorer(model, policy()), []

    def failing(_rows):
        modes.append(model.training)
        raise error

    monkeypatch.setattr(scorer, "hidden_states", failing)
    with pytest.raises((type(error), ModelError)):
        scorer.score(chunks_of([9, 9]))
    assert set(modes) == {False}  # it is scored without dropout
    assert {module.training for module in model.modules()} == {training}


def test_all_logits_never_exist_at_once(monkeypatch):
    monkeypatch.setitem(head_module.TILES, "cpu", (10, 7))
    seen = []
    inner = head_module._logits

    def watched(*given):
        logits = inner(*given)
        seen.append(logits.shape)
        return logits

    monkeypatch.setattr(head_module, "_logits", watched)
    for name in ("llama", "gemma2", "opt"):  # plain, capped, with its own output projection
        chunks, scorer = chunks_of([30, 30]), scorer_of(name, row_tokens=200)
        seen.clear()  # the head was checked with all logits of a few tokens
        np.testing.assert_allclose(scorer.score(chunks).nll, oracle(name, chunks), rtol=1e-6)
        assert max(rows for rows, _ in seen) == 10
        assert {entries for _, entries in seen} == {7, VOCABULARY % 7}


def test_a_tile_of_logits_takes_few_operations():
    """A GPU waits for every one of them, some hundred tiles a pass."""

    class Counting(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
            self.calls += not function.is_view
            return function(*args, **(kwargs or {}))

    def calls(vocabulary):
        head = head_module.Head(torch.randn(vocabulary, 16), None, 1.0, None, torch.float32)
        with Counting() as counting:
            head_module.token_nll(torch.randn(8, 16), torch.arange(8), head)
        return counting.calls

    _, entries = head_module.TILES["cpu"]
    assert (calls(9 * entries) - calls(4 * entries)) / 5 == 6  # product, own logit, highest, difference, exp, sum


def resolved(**changes):
    given = {
        "first_token": "auto",
        "window_tokens": 64,
        "dtype": "auto",
        "attention": "auto",
        "device": "cpu",
        "bos_id": 1,
        "eos_id": 2,
        "model_id": "m",
        "tokenizer_id": "t",
    }
    return resolve_policy(**{**given, **changes})


def test_auto_takes_bos_then_eos_then_leaves_the_first_token_unscored():
    assert (resolved().first_token, resolved().prefix_id) == ("bos", 1)
    assert (resolved(bos_id=None).first_token, resolved(bos_id=None).prefix_id) == ("eos", 2)
    assert resolved(bos_id=None, eos_id=None).prefix_id is None
    assert (resolved().dtype, resolved(device="cuda").dtype) == ("float32", "float16")
    assert (resolved().attention, resolved(model_attention="eager").attention) == ("sdpa", "eager")
    assert resolved(attention="sdpa", model_attention="eager").attention == "sdpa"
    assert (attention_of("LlamaForCausalLM"), attention_of("Gemma2ForCausalLM")) == ("sdpa", "eager")
    with pytest.raises(ModelError, match="no bos token"):
        resolved(bos_id=None, **{"first_token": "bos"})  # noqa: PIE804


def test_every_field_of_the_policy_is_in_the_scorers_fingerprint():
    changes = [
        {"bos_id": 3},
        {"first_token": "eos"},
        {"window_tokens": 32},
        {"dtype": "bfloat16"},
        {"attention": "eager"},
        {"model_id": "x"},
        {"tokenizer_id": "x"},
    ]
    ids = {resolved(**change).scorer_id for change in [{}, *changes]}
    assert len(ids) == len(changes) + 1
    assert resolved().scorer_id == resolved().scorer_id
