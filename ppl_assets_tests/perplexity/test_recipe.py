"""The small model is the same every time, and is there whole or not at all."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from transformers import AutoTokenizer

from ppl_assets.perplexity import recipe as recipe_module
from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.recipe import Recipe, _rate, build_model, pretrain, recipe_fingerprint
from ppl_assets_tests.perplexity.test_models import TEXTS, TINY


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_same_recipe_and_texts_give_the_same_bytes(tmp_path):
    first = pretrain(TINY, TEXTS, tmp_path / "a")
    second = pretrain(TINY, reversed(TEXTS), tmp_path / "b")  # the order they are read in does not matter
    assert files(first) == files(second)
    other = pretrain(replace(TINY, seed=1), TEXTS, tmp_path / "a")
    assert files(other)["model.safetensors"] != files(first)["model.safetensors"]


def test_a_trained_model_is_found_again_without_training(tmp_path, monkeypatch):
    first = pretrain(TINY, TEXTS, tmp_path)
    monkeypatch.setattr(recipe_module, "_train", lambda *_: pytest.fail("trained again"))
    assert pretrain(TINY, iter(TEXTS), tmp_path) == first
    assert recipe_fingerprint(TINY, TEXTS) != recipe_fingerprint(TINY, TEXTS[1:])


def test_a_killed_run_leaves_nothing_and_the_next_one_finishes(tmp_path):
    program = f"""
import os
from ppl_assets.perplexity.recipe import pretrain
from ppl_assets_tests.perplexity.test_models import TEXTS, TINY
from pathlib import Path
kill = lambda done, total, loss: os.kill(os.getpid(), 9) if done > 200 else None
pretrain(TINY, TEXTS, Path({str(tmp_path)!r}), kill)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == -9
    assert list(tmp_path.iterdir()) == []
    assert (pretrain(TINY, TEXTS, tmp_path) / "recipe.json").is_file()


def test_a_failed_save_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", lambda *_args, **_given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrain(TINY, TEXTS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_loss_falls_and_progress_ends_at_the_total(tmp_path):
    steps = []
    pretrain(replace(TINY, tokens=5000), TEXTS, tmp_path, lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] >= 5000
    assert steps[-1][2] < steps[0][2] - 1.0


def test_the_tokenizer_takes_any_text_and_special_strings_as_text(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(pretrain(TINY, TEXTS, tmp_path))
    text = "naïve 😀\t\x00 <|endoftext|> ok"
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0


def test_the_default_recipe_has_one_and_a_third_million_parameters():
    assert sum(p.numel() for p in build_model(Recipe(), 4096, 0).parameters()) == 1_328_256


def test_the_rate_rises_stays_and_falls_to_zero():
    assert [_rate(x) for x in (0.0, 0.025, 0.05, 0.5, 0.7)] == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0])
    assert [_rate(x) for x in (0.85, 1.0)] == pytest.approx([0.5, 0.0])


def test_too_little_text_is_refused(tmp_path):
    with pytest.raises(ModelError, match="give more text"):
        pretrain(TINY, ["a b c"], tmp_path)
