"""Further measures of a trained model: taken once at the end, by a command of the team's own or by lm-eval."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from ppl_assets.sections import StrategiesSection
from ppl_assets.trials.downstream import Downstream, DownstreamError, lm_eval_command, measures_of
from ppl_assets.trials.trainer import Trainer
from ppl_assets_tests.perplexity.tiny import tiny_model
from ppl_assets_tests.trials.small import RECIPE, losses, resumable, run

NORM = """
import json, sys
from safetensors.torch import load_file
weights = load_file(sys.argv[1] + "/model.safetensors")
json.dump({"norms": {"all": sum(float(w.double().square().sum()) for w in weights.values())}}, open(sys.argv[2], "w"))
"""

UNLUCKY = "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"


def command(program):
    return (sys.executable, "-c", program, "{model}", "{output}")


def measure(folder, program=NORM):
    return Downstream(command(program), folder / "scratch", lambda to: (to / "tokenizer.json").write_text("{}"))


def squares(model):
    return sum(float(value.double().square().sum()) for value in model.parameters())


def test_the_command_gets_the_models_weights_and_its_numbers_come_back(tmp_path):
    model = tiny_model("llama")
    assert measure(tmp_path)(model) == {"norms/all": pytest.approx(squares(model), rel=1e-12)}
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_folder_is_one_that_transformers_loads(tmp_path):
    model, kept = tiny_model("llama"), []

    def load(given, **_options):
        kept.append(AutoModelForCausalLM.from_pretrained(given[3]))
        Path(given[4]).write_text('{"x": 1}')
        return type("Done", (), {"returncode": 0})

    Downstream(command(""), tmp_path, lambda _: None, run=load)(model)
    for name, value in model.state_dict().items():
        assert torch.equal(kept[0].state_dict()[name], value)


def test_only_the_trained_model_is_measured_and_the_losses_are_those_of_a_run_without():
    seen = []

    def downstream(model):
        seen.append(squares(model))
        return {"norm": seen[-1]}

    points = run(model=tiny_model("gpt2"), downstream=downstream)
    assert losses(points) == losses(run(model=tiny_model("gpt2")))
    assert [point.downstream for point in points] == [None] * (len(points) - 1) + [{"norm": seen[0]}]
    assert seen[0] != pytest.approx(squares(tiny_model("gpt2")), rel=1e-6)


def test_a_run_whose_command_failed_is_measured_without_training_again(tmp_path, monkeypatch):
    with pytest.raises(DownstreamError, match="ended with code 3: out of luck; the trained run is kept"):
        resumable(
            tmp_path, downstream=measure(tmp_path, "import sys; print('out of luck', file=sys.stderr); sys.exit(3)")
        )
    monkeypatch.setattr(Trainer, "step", None)  # would fail if a step were taken
    points = resumable(tmp_path, downstream=measure(tmp_path))
    assert points[-1].downstream["norms/all"] > 0
    assert points[-1].tokens == RECIPE.tokens
    monkeypatch.setattr(Trainer, "__init__", None)
    assert resumable(tmp_path, downstream=None) == points  # and once measured, nothing is done at all


def test_a_run_that_was_over_before_measures_were_asked_for_is_trained_again(tmp_path):
    first = resumable(tmp_path)
    again = resumable(tmp_path, downstream=lambda model: {"norm": squares(model)})
    assert losses(again) == losses(first)
    assert again[-1].downstream


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("pass", "wrote no measure"),
        ("import sys; open(sys.argv[2], 'w').write('{')", "wrote no JSON"),
        ("import sys; open(sys.argv[2], 'w').write('[1, 2]')", "wrote no measure"),
        ('import sys; open(sys.argv[2], \'w\').write(\'{"a": "high", "b": true, "c": NaN}\')', "wrote no measure"),
    ],
)
def test_a_command_that_measures_nothing_is_refused_in_a_sentence(tmp_path, program, sentence):
    with pytest.raises(DownstreamError, match=sentence):
        measure(tmp_path, program)(tiny_model("llama"))


def test_a_program_that_is_not_there_is_named(tmp_path):
    asked = Downstream(("no-such-program", "{model}", "{output}"), tmp_path, lambda _: None)
    with pytest.raises(DownstreamError, match="'no-such-program' could not be started"):
        asked(tiny_model("llama"))


def test_of_lm_evals_report_the_results_are_taken():
    report = {
        "results": {"piqa": {"alias": "piqa", "acc,none": 0.61, "acc_stderr,none": 0.01, "acc_norm,none": 0.63}},
        "config": {"limit": 10},
    }
    assert measures_of(report) == {"piqa/acc": 0.61, "piqa/acc_norm": 0.63}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"downstream": ["run", "{model}"]}, "does not name {output}"),
        ({"downstream": ["run"]}, "does not name {model} and {output}"),
        ({"downstream": ["run", "{model}", "{output}"], "lm_eval_tasks": ["piqa"]}, "give one of them"),
        ({"lm_eval_arguments": ["--limit", "1"]}, "name the tasks"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence.replace("{", r"\{").replace("}", r"\}")):
        StrategiesSection(**given)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_lm_eval_measures_a_task_of_the_teams_own(tmp_path):
    (tmp_path / "task.jsonl").write_text(
        "".join(json.dumps({"q": f"{n} and", "a": " one", "b": " two"}) + "\n" for n in "abc")
    )
    (tmp_path / "own.yaml").write_text(
        f"""task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/task.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["one", "two"]
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""
    )
    base = Tokenizer(models.WordLevel({"<s>": 0, "?": 1, "and": 2, "one": 3, "two": 4}, "?"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, **dict.fromkeys(["bos_token", "eos_token"], "<s>"))
    asked = lm_eval_command(["own"], ["--include_path", str(tmp_path), "--device", "cpu"])
    found = Downstream(asked, tmp_path / "scratch", tokenizer.save_pretrained)(tiny_model("llama"))
    assert 0.0 <= found["own/acc"] <= 1.0
