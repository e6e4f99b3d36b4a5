"""The guide for trainers does what it says: its blocks are run, or read, as they are printed."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer

from ppl_assets.subset.export import write_export
from ppl_assets_tests.subset.export_factory import batch, description

GUIDE = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text("utf-8")
END = "<end>"
TEXTS = [f"chunk {number} of the selection: {'word ' * (number % 5)}end" for number in range(40)]


def block(section: str, language: str) -> str:
    """The only code block of a section."""
    (body,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    return code


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a Llama of a few thousand parameters and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[END], initial_alphabet=alphabet)
    backend.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, eos_token_id=0
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def export(tmp_path: Path) -> str:
    """An export in several files, whose rows are longer than they will be encoded in."""
    batches = [batch(TEXTS[:25], tokens=40), batch(TEXTS[25:], 25, tokens=40)]
    return str(write_export(tmp_path, "sel", batches, description(), shard_tokens=600))


def test_the_trainer_trains_on_an_export_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, export: str
) -> None:
    seen = []
    step = Trainer.training_step

    def recorded(self, module, inputs, *rest, **named):
        seen.extend(inputs["input_ids"].tolist())
        return step(self, module, inputs, *rest, **named)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(Trainer, "training_step", recorded)
    names = {"export": export, "model": model}
    exec(compile(block("Hugging Face Trainer", "python"), "docs/trainers.md", "exec"), names)  # noqa: S102
    assert names["tokenizer"].batch_decode(seen, skip_special_tokens=True) == TEXTS
    assert (tmp_path / "continued" / "model.safetensors").is_file()


def test_the_axolotl_configuration_names_an_export_and_keeps_its_order() -> None:
    config = yaml.safe_load(block("axolotl", "yaml"))
    (dataset,) = config["datasets"]
    assert (dataset["split"], dataset["type"], dataset["field"]) == ("train", "completion", "text")
    order = ("shuffle_merged_datasets", "curriculum_sampling", "sample_packing_sequentially")
    assert [config[name] for name in order] == [False, True, True]


def test_the_torchtitan_configuration_is_python() -> None:
    compile(block("torchtitan", "python"), "docs/trainers.md", "exec")


def test_the_files_that_the_guide_names_are_those_of_an_export(tmp_path: Path) -> None:
    folder = write_export(tmp_path, "sel", [batch(["a"])], description())
    (table,) = re.findall(r"^An export is a folder.*?(?=^    \[export\])", GUIDE, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert set(json.loads((folder / "manifest.json").read_text("utf-8"))["files"]) <= set(listed)
