"""How a run is computed changes its losses by rounding alone: smaller passes, activations computed again."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.trials.recipe import Execution
from ppl_assets.trials.trainer import Trainer, accelerator_on
from ppl_assets_tests.perplexity.tiny import chunks_of, tiny_model
from ppl_assets_tests.trials.small import HELD_OUT, RECIPE, losses, run

MIXED = chunks_of([5, 9, 16, 21, 3, 30, 17] * 12)


def trainer(name="llama", **given):
    return Trainer(tiny_model(name), RECIPE, HELD_OUT, 0, execution=Execution(**given))


def gradients(found):
    return {name: parameter.grad for name, parameter in found._trained.items()}


@pytest.mark.parametrize("micro_tokens", [8, 32, 50])
def test_a_step_in_parts_has_the_loss_and_the_gradients_of_a_whole_one(micro_tokens):
    whole, parts = trainer(), trainer(micro_tokens=micro_tokens)
    assert float(whole.gradients(MIXED[:7])) == pytest.approx(float(parts.gradients(MIXED[:7])), rel=1e-6)
    expected = gradients(whole)
    for name, found in gradients(parts).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-6)


def test_no_pass_holds_more_than_asked_unless_a_chunk_is_longer(monkeypatch):
    widths = []
    states = Scorer.hidden_states

    def hidden_states(self, rows, *given):
        widths.append(rows.inputs.size)
        return states(self, rows, *given)

    monkeypatch.setattr(Scorer, "hidden_states", hidden_states)
    trainer(micro_tokens=20).gradients(MIXED[:7])
    assert sorted(widths) == [14, 16, 20, 21, 30]  # 9 + 5 and 17 + 3 share a row
    assert sum(widths) == sum(map(len, MIXED[:7]))


@pytest.mark.parametrize("micro_tokens", [16, 48])
def test_a_run_in_parts_has_the_losses_of_a_whole_one_to_rounding(micro_tokens):
    expected, points = losses(run(MIXED)), run(MIXED, execution=Execution(micro_tokens=micro_tokens))
    for found, whole in zip(losses(points), expected, strict=True):
        assert found == pytest.approx(whole, rel=1e-4)
    assert {point.micro_tokens for point in points[1:]} == {micro_tokens}


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_activations_computed_again_change_no_loss(name):
    model = tiny_model(name)
    again = run(MIXED, model=model, execution=Execution(gradient_checkpointing=True))
    assert losses(again) == losses(run(MIXED, model=model))


def test_activations_are_really_computed_again():
    calls = []
    model = trainer("llama", gradient_checkpointing=True)
    layer = model._model.base_model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_given: calls.append(1))
    model.gradients(MIXED[:3])
    assert len(calls) == 2


def limited_memory(monkeypatch, places):
    """Passes with gradients over more than ``places`` run out of memory."""
    states = Scorer.hidden_states

    def hidden_states(self, rows, *given):
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and rows.inputs.size > places:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(self, rows, *given)

    monkeypatch.setattr(Scorer, "hidden_states", hidden_states)


def test_where_memory_runs_out_the_step_is_done_again_in_halves_and_it_is_recorded(monkeypatch):
    expected = losses(run(MIXED))
    limited_memory(monkeypatch, 40)
    points = run(MIXED)
    for found, whole in zip(losses(points), expected, strict=True):
        assert found == pytest.approx(whole, rel=1e-4)
    assert points[0].micro_tokens is None
    assert all(30 <= point.micro_tokens <= 40 for point in points[1:])


def test_a_chunk_that_does_not_fit_alone_is_an_error_that_says_what_to_do(monkeypatch):
    limited_memory(monkeypatch, 20)
    with pytest.raises(ModelError, match=r"one chunk of 30 tokens does not fit.*gradient_checkpointing"):
        run(MIXED)


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    def broken(*_given):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("ppl_assets.trials.trainer.summed_nll", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(MIXED)


def test_a_state_given_back_makes_the_same_steps():
    one = trainer("gpt2")
    one.step(MIXED[:7], 1e-3)
    kept = one.state()
    first = [one.step(MIXED[at : at + 7], 1e-3) for at in (7, 14)]
    one.restore(kept)
    assert [one.step(MIXED[at : at + 7], 1e-3) for at in (7, 14)] == first
    assert set(kept) >= {"random.cpu", "moment.0.exp_avg", "moment.0.step"}


def test_accelerate_is_begun_anew_where_it_was_set_up_otherwise():
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True, mixed_precision="bf16")
    assert accelerator_on("cpu").mixed_precision == "no"
    kept = accelerator_on("cpu").state
    assert accelerator_on("cpu").state.__dict__ is kept.__dict__
