"""Errors that public scorers shipped without noticing: each is shown to be real, and shown not to be ours.

One test a row of the table that the scorer is built against; the size that each error has here is asserted, so that a
test cannot pass because both values are wrong in the same way.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ppl_assets.perplexity.accepted import ScoringError
from ppl_assets.perplexity.models import load_model, resolve_base_model
from ppl_assets.perplexity.oracle import oracle_nll
from ppl_assets.perplexity.recipe import Recipe, pretrain
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.perplexity.scores import bits_per_byte
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model, tiny_model64

BOS, EOS = 0, 1


def truth(chunk, prefix=BOS):
    return oracle_nll(tiny_model64(), chunk, policy(prefix))


def score(chunks, prefix=BOS, **changes):
    return Scorer(tiny_model(), policy(prefix, **changes)).score(chunks)


def log_probabilities(ids, dtype=torch.float64, **given):
    """Of every next token after the given rows of ids, float64 [rows, width, vocabulary]."""
    with torch.no_grad():
        return torch.log_softmax(tiny_model64()(input_ids=ids, **given).logits.to(dtype), -1)


def taken(logs, ids):
    """Summed nll of ``ids`` at the places of ``logs``."""
    return float(-logs.gather(-1, ids[..., None]).sum())


def rows(*chunks):
    return torch.tensor(np.stack([np.concatenate([[BOS], chunk]) for chunk in chunks])).long()


def test_packed_documents_see_each_other_when_positions_come_with_a_mask_or_a_cache():
    chunks, model = chunks_of([24, 24]), tiny_model()
    ids = rows(*chunks)[:, :-1].reshape(1, -1)
    positions = torch.arange(24).repeat(1, 2)
    with torch.no_grad():
        leaking = model(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits[0, 24:]
    wrong = taken(torch.log_softmax(leaking.double(), -1), torch.from_numpy(chunks[1]).long())
    assert abs(wrong / truth(chunks[1]) - 1) > 0.01  # the trap is real
    np.testing.assert_allclose(score(chunks).nll, [truth(chunk) for chunk in chunks], rtol=1e-6)


def test_a_bfloat16_checkpoint_is_computed_in_float32_where_the_policy_says_float32(tmp_path):
    recipe = Recipe(vocabulary=300, hidden=32, layers=1, heads=2, context=64, tokens=640, batch_tokens=128)
    texts = [f"def f{i}(x): return x + {i}\n" * 4 for i in range(40)]
    folder = Path(shutil.copytree(pretrain(recipe, texts, tmp_path), tmp_path / "bf16"))
    load_model(resolve_base_model(str(folder), "main", None, tmp_path, None)).to(torch.bfloat16).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    base = resolve_base_model(str(folder), "main", None, tmp_path, None)
    model, chunk = load_model(base, dtype="float32"), chunks_of([60])[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact = oracle_nll(load_model(base, dtype="float64"), chunk, policy())
    np.testing.assert_allclose(Scorer(model, policy()).score([chunk]).nll, exact, rtol=1e-6)
    careless = AutoModelForCausalLM.from_pretrained(folder)  # takes the checkpoint's dtype by itself
    assert careless.dtype == torch.bfloat16
    ids = rows(chunk)
    with torch.no_grad():
        loss = careless(input_ids=ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum()
    assert abs(-float(loss) / exact - 1) > 2e-4


def test_log_softmax_and_sum_are_never_in_bfloat16():
    model, chunk = tiny_model().to(torch.bfloat16), chunks_of([64])[0]
    ids = rows(chunk)
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1]).logits[0]
    low = float(-torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None]).sum())
    wide = taken(torch.log_softmax(logits.double(), -1), ids[0, 1:])
    ours = Scorer(model, policy(dtype="bfloat16")).score([chunk]).nll[0]
    assert low % 1 == 0.0  # 64 tokens already lie on a grid of whole nats
    assert abs(ours - wide) < abs(low - wide)
    assert ours != pytest.approx(float(torch.tensor(ours).bfloat16()), rel=1e-9)


def test_the_prefix_is_the_policys_once_and_in_every_chunk():
    chunk = chunks_of([30])[0]
    chunk = chunk[chunk != EOS]
    with_bos, with_eos = score([chunk]).nll[0], score([chunk], EOS).nll[0]
    np.testing.assert_allclose([with_bos, with_eos], [truth(chunk), truth(chunk, EOS)], rtol=1e-6)
    assert abs(with_eos / with_bos - 1) > 0.01  # a wrong prefix is another number
    twice = taken(log_probabilities(rows(np.concatenate([[BOS], chunk]))[:, 1:-1]), rows(chunk)[:, 1:])
    doubled = taken(log_probabilities(rows(np.concatenate([[BOS], chunk]))[:, :-1])[:, 1:], rows(chunk)[:, 1:])
    assert twice == pytest.approx(with_bos, rel=1e-6)
    assert abs(doubled / with_bos - 1) > 1e-3  # bos twice is another number too
    with pytest.raises(ScoringError, match="starts with token 0"):
        score([np.concatenate([[BOS], chunk]).astype(np.int32)])
    only_first = score([chunk, chunk]).nll  # every chunk gets its own
    np.testing.assert_allclose(only_first, with_bos, rtol=1e-6)


def test_padding_is_neither_scored_nor_attended():
    short, long = chunks_of([10, 60])
    padded = rows(np.concatenate([short, np.zeros(50, np.int32)]))
    scored = taken(log_probabilities(padded[:, :-1]), padded[:, 1:])
    left = rows(np.concatenate([np.zeros(50, np.int32), short]))
    attended = taken(log_probabilities(left[:, :-1])[:, 50:], left[:, 51:])
    assert abs(scored / truth(short) - 1) > 0.5
    assert abs(attended / truth(short) - 1) > 1e-3
    fixed = Scorer(tiny_model(), policy(), row_tokens=128, fixed_rows=True).score([short, long])
    for scores in (score([short, long]), fixed):
        np.testing.assert_allclose(scores.nll, [truth(short), truth(long)], rtol=1e-6)
        assert scores.n_scored.tolist() == [10, 60]


def test_logits_are_shifted_by_one():
    chunk = chunks_of([40])[0]
    ids = rows(chunk)
    unshifted = taken(log_probabilities(ids[:, 1:]), ids[:, 1:])  # the token itself is already seen
    assert abs(unshifted / truth(chunk) - 1) > 0.01
    np.testing.assert_allclose(score([chunk]).nll, truth(chunk), rtol=1e-6)


def test_bits_per_byte_are_in_bits_and_perplexity_divides_by_the_tokens_that_were_summed():
    chunk, n_bytes = chunks_of([20])[0], 55
    for prefix, scored in ((BOS, 20), (None, 19)):
        scores = score([chunk], prefix)
        assert scores.n_scored[0] == scored
        np.testing.assert_allclose(scores.ppl[0], math.exp(truth(chunk, prefix) / scored), rtol=1e-5)
    nats_per_byte = scores.nll[0] / n_bytes
    assert bits_per_byte(scores.nll, np.array([n_bytes]))[0] == pytest.approx(nats_per_byte * 1.442695, rel=1e-6)


def test_an_empty_document_has_no_score_rather_than_0_and_stops_nothing():
    chunks = [np.empty(0, np.int32), *chunks_of([1, 12])]
    scores = score(chunks, None)
    assert scores.status == ["empty", "one_token", "ok"]
    assert np.isnan([*scores.nll[:2], *scores.ppl[:2], *scores.max_token_nll[:2]]).all()
    np.testing.assert_allclose(scores.nll[2], truth(chunks[2], None), rtol=1e-6)
    assert scores.mean_nll() == pytest.approx(scores.nll[2] / 11)


def test_a_mean_loss_is_over_tokens_not_over_chunks_or_batches():
    chunks = chunks_of([2, 64, 5, 64, 3])
    scores = score(chunks)
    total = sum(truth(chunk) for chunk in chunks) / sum(len(chunk) for chunk in chunks)
    assert scores.mean_nll() == pytest.approx(total, rel=1e-6)
    assert abs(scores.log_ppl.mean() / total - 1) > 1e-3
