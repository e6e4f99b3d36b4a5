"""Adapters: a screening, never mixed with full training."""

import dataclasses
import importlib.util

import pytest
import torch

from ppl_assets.trials import lora
from ppl_assets.trials.recipe import setting_id
from ppl_assets.trials.trainer import Trainer
from ppl_assets_tests.perplexity.tiny import policy, tiny_model
from ppl_assets_tests.trials.small import CHUNKS, HELD_OUT, RECIPE, losses, resumable, run

ADAPTERS = dataclasses.replace(RECIPE, lora_rank=4, learning_rate=1e-2)
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is an optional dependency")


@needs_peft
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_only_adapters_are_trained_and_the_model_is_left_alone(name):
    model = tiny_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = Trainer(model, ADAPTERS, HELD_OUT, 0)
    assert trainer._trained
    assert all("lora_" in key for key in trainer._trained)
    assert not any("lm_head" in key for key in trainer._trained)
    frozen = {key: p.clone() for key, p in trainer._model.named_parameters() if not p.requires_grad}
    trainer.step(CHUNKS[:4], 1e-2)
    held = dict(trainer._model.named_parameters())
    assert all(torch.equal(held[key], value) for key, value in frozen.items())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


@needs_peft
def test_a_run_with_adapters_starts_at_the_base_models_loss_learns_and_is_the_same_twice(tmp_path):
    full, points = run(), run(recipe=ADAPTERS)
    assert points[0].test_loss == pytest.approx(full[0].test_loss, rel=1e-6)
    assert points[-1].test_loss < points[0].test_loss
    assert losses(points) == losses(run(recipe=ADAPTERS)) == losses(resumable(tmp_path, "llama", recipe=ADAPTERS))
    assert losses(points) != losses(run(recipe=ADAPTERS, seed=5))  # adapters are drawn


def test_adapters_and_full_training_never_share_a_setting():
    adapters = dataclasses.replace(RECIPE, lora_rank=4)
    assert setting_id("m", RECIPE, ["a"], [], policy()) != setting_id("m", adapters, ["a"], [], policy())


def test_without_peft_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(lora.AdapterError, match=r"needs peft.*pip install peft"):
        run(recipe=ADAPTERS)
