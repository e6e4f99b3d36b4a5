"""The oracle is float64 throughout, whatever the weights are kept in."""

import pytest
import torch

from ppl_assets.perplexity.oracle import compute_in_float64, oracle_nll
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model, tiny_model64


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma2", "opt", "bloom", "mixtral", "qwen2_moe"])
def test_widening_one_module_at_a_time_gives_the_values_of_a_float64_model(name):
    chunk = chunks_of([40])[0]
    model = compute_in_float64(tiny_model(name))
    assert oracle_nll(model, chunk, policy()) == oracle_nll(tiny_model64(name), chunk, policy())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bfloat16_weights_are_widened_exactly():
    chunk, rounded = chunks_of([40])[0], tiny_model().to(torch.bfloat16)
    wide = oracle_nll(tiny_model().to(torch.bfloat16).double(), chunk, policy())
    assert oracle_nll(compute_in_float64(rounded), chunk, policy()) == pytest.approx(wide, rel=1e-6)
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}


def test_weights_are_narrow_again_when_a_pass_fails():
    model = compute_in_float64(tiny_model())
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[10_000]]))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
