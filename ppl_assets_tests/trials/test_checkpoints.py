"""A run that was killed goes on where it was and ends with the same losses; what cannot be trusted is not used."""

import dataclasses
import os
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ppl_assets.trials import checkpoints
from ppl_assets.trials.checkpoints import CheckpointFolder
from ppl_assets.trials.recipe import Execution
from ppl_assets.trials.trainer import Trainer
from ppl_assets_tests.perplexity.tiny import tiny_model
from ppl_assets_tests.trials.small import FINGERPRINT, HELD_OUT, RECIPE, killed_in_the_middle, losses, resumable, run

KILL = {
    "in_the_middle_of_a_step": ("trainer.Trainer.step = after(6, trainer.Trainer.step)", 256),
    "while_measuring": ("runner.Gauge.point = after(3, runner.Gauge.point)", 256),
    "half_a_checkpoint_written": (
        """
        def torn(tensors, file, header):
            whole(tensors, file, header)
            if len(header["run"]) > 0 and next(calls, None) is None:
                Path(file).write_bytes(Path(file).read_bytes()[:999])
                die()
        whole, calls = checkpoints.save_file, iter(range(2))
        checkpoints.save_file = torn
        """,
        256,
    ),
    "before_a_checkpoint_has_its_name": ("Path.replace = after(1, Path.replace)", 128),
    "after_a_checkpoint_has_its_name": ("checkpoints.flush = after(3, checkpoints.flush)", 256),
    "between_measurements": (
        "checkpoints.MINUTES = 0.0\ntrainer.Trainer.step = after(11, trainer.Trainer.step)",
        11 * 64,
    ),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return losses(resumable(tmp_path_factory.mktemp("undisturbed")))


@pytest.mark.parametrize("moment", KILL)
def test_a_run_killed_at_any_moment_ends_with_the_losses_of_an_undisturbed_one(tmp_path, undisturbed, moment):
    program, saved = KILL[moment]
    killed_in_the_middle(tmp_path, program, "resumable(Path({folder}))")
    said, seen = [], []
    points = resumable(tmp_path, said=said, progress=lambda tokens, *_rest: seen.append(tokens))
    assert losses(points) == undisturbed
    assert said[0].startswith(f"the run goes on from its checkpoint at {saved:,} tokens")
    assert seen[0] == saved + 64  # what was saved is not trained again


def test_checkpoints_change_nothing(undisturbed):
    assert losses(run(model=tiny_model("gpt2"))) == undisturbed


def test_a_run_that_is_over_is_not_trained_again_and_keeps_its_measurements_alone(tmp_path, monkeypatch):
    points = resumable(tmp_path)
    assert (tmp_path / "run.safetensors").stat().st_size < 8_000
    monkeypatch.setattr(Trainer, "__init__", None)  # would fail if it were made
    assert resumable(tmp_path) == points


def test_what_was_measured_on_one_device_is_taken_on_another(tmp_path, monkeypatch):
    points = resumable(tmp_path)
    from_cuda(tmp_path / "run.safetensors")
    monkeypatch.setattr(Trainer, "__init__", None)
    said = []
    assert resumable(tmp_path, said=said) == points
    assert said == ["the run was over: its 5 measurements are those of its checkpoint"]


def test_on_cuda_the_random_numbers_of_cuda_are_needed_too(tmp_path, monkeypatch):
    file = half_done(tmp_path)
    rewrite(file, lambda text: text.replace('"device": "cpu"', '"device": "cuda"'), is_sound=True)
    trainer = Trainer(tiny_model("gpt2"), RECIPE, HELD_OUT, 0)
    monkeypatch.setattr(Trainer, "device_type", "cuda")
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _device: torch.zeros(16, dtype=torch.uint8))
    said = []
    assert checkpoints.Checkpoint(file, FINGERPRINT, said.append).resume(trainer) is None
    assert "such as random.cuda" in said[0]


def test_only_the_last_checkpoint_is_kept_and_its_size_is_told_once(tmp_path, monkeypatch):
    kept, told = [], []
    save = checkpoints.Checkpoint.save
    monkeypatch.setattr(
        checkpoints.Checkpoint, "save", lambda *given: (save(*given), kept.append(sorted(tmp_path.iterdir())))
    )
    resumable(tmp_path, said=told)
    assert kept == [[tmp_path / "run.safetensors"]] * 4
    assert [sentence.split(" in ")[0] for sentence in told] == ["a checkpoint takes 0.4 MB"]


def half_done(folder):
    """A checkpoint in the middle of the run."""

    class EnoughError(Exception):
        pass

    def stop(tokens, *_rest):
        if tokens > 512:
            raise EnoughError

    with pytest.raises(EnoughError):
        resumable(folder, progress=stop)
    return folder / "run.safetensors"


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-5000] ^= 1
    file.write_bytes(content)


def renamed_parameters(file):
    def change(tensors):
        tensors["weight.renamed"] = tensors.pop(next(name for name in tensors if name.startswith("weight.")))

    rewrite(file, change=change, is_sound=True)


def another_shape(file):
    def change(tensors):
        name = next(name for name in tensors if name.endswith("exp_avg"))
        tensors[name] = torch.zeros(3)

    rewrite(file, change=change, is_sound=True)


def from_cuda(file):
    def change(tensors):
        tensors["random.cuda"] = torch.zeros(16, dtype=torch.uint8)

    rewrite(file, lambda text: text.replace('"device": "cpu"', '"device": "cuda"'), change, is_sound=True)


def rewrite(file, header=lambda text: text, change=lambda _tensors: None, is_sound=False):
    """The same file with another header or other tensors, and the digest that it had, or a new one."""
    with safe_open(file, "pt") as held:
        metadata, tensors = held.metadata(), {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - not a mapping
    change(tensors)
    run = header(metadata["run"])
    digest = checkpoints._digest(run, tensors) if is_sound else metadata["digest"]
    save_file(tensors, file, {"run": run, "digest": digest})


def rename(file):
    rewrite(file, lambda text: text.replace(FINGERPRINT, "e" * 32))


def another_loss(file):
    rewrite(file, lambda text: re.sub(r'("test_loss": \d+\.)(\d)', lambda m: m[1] + str(9 - int(m[2])), text, count=1))


def swap(file):
    """Two halves of a matrix change places: the sum of its words stays."""

    def change(tensors):
        name = next(name for name, value in tensors.items() if value.ndim == 2 and len(value) % 2 == 0)
        tensors[name] = tensors[name].roll(len(tensors[name]) // 2, 0).contiguous()

    rewrite(file, change=change)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "begins anew"),
        (flip, "has changed since"),
        (another_loss, "has changed since"),
        (swap, "has changed since"),
        (rename, "of another run"),
        (renamed_parameters, "not those of this run: 2 differ in name or shape, such as weight."),
        (another_shape, "1 differ in name or shape, such as moment."),
        (from_cuda, "its run was on cuda, and this one is on cpu"),
        (Path.unlink, "takes 0.4 MB"),
    ],
)
def test_a_checkpoint_that_cannot_be_trusted_is_ignored_with_a_sentence(tmp_path, undisturbed, damage, reason):
    damage(half_done(tmp_path))
    said = []
    assert losses(resumable(tmp_path, said=said)) == undisturbed
    assert reason in said[0]


def test_measurements_of_a_run_that_is_over_are_not_taken_where_a_digit_has_changed(tmp_path, undisturbed):
    resumable(tmp_path)
    another_loss(tmp_path / "run.safetensors")
    said = []
    assert losses(resumable(tmp_path, said=said)) == undisturbed
    assert "has changed since" in said[0]


def test_a_disk_that_is_full_does_not_end_the_run(tmp_path, undisturbed, monkeypatch):
    def full(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    said = []
    assert losses(resumable(tmp_path, said=said)) == undisturbed
    assert all("No space left" in sentence and "make room" in sentence for sentence in said)
    assert not list(tmp_path.iterdir())


def test_what_nobody_continued_for_a_month_is_dropped(tmp_path):
    old, new = CheckpointFolder(tmp_path).of("old"), CheckpointFolder(tmp_path).of("new")
    for checkpoint in (old, new):
        save_file({"none": torch.zeros(1)}, checkpoint.file)
    long_ago = time.time() - 31 * 86_400
    os.utime(old.file, (long_ago, long_ago))
    CheckpointFolder(tmp_path)
    assert [file.stem for file in tmp_path.iterdir()] == ["new"]
    new.remove()
    assert not list(tmp_path.iterdir())


def test_the_lower_of_two_limits_on_a_pass_holds_after_a_kill(tmp_path):
    half_done(tmp_path)
    points = resumable(tmp_path, execution=Execution(micro_tokens=32))
    assert [point.micro_tokens for point in points] == [None, None, None, None, 32]
    assert dataclasses.asdict(RECIPE)["tokens"] == points[-1].tokens
