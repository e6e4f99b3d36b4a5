"""A measurement is of the weights' mean over the last steps before it, and the run itself does not notice."""

import dataclasses

import pytest
import torch

from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.trials import checkpoints
from ppl_assets.trials.recipe import setting_id
from ppl_assets.trials.trainer import Trainer
from ppl_assets_tests.perplexity.tiny import policy, tiny_model
from ppl_assets_tests.trials.small import HELD_OUT, RECIPE, killed_in_the_middle, losses, resumable, run

LAST_STEPS = dataclasses.replace(RECIPE, average_share=0.0)
QUARTER = dataclasses.replace(RECIPE, average_share=0.25)
"""Steps 2, 4, 7 and 8, 13 to 16 count in the measurements after 2, 4, 8 and 16."""


def weights_after_each_step(monkeypatch, recipe):
    """The run's points, and its weights after each step."""
    seen, step = [], Trainer.step

    def kept(self, chunks, rate):
        loss = step(self, chunks, rate)
        seen.append({name: value.double() for name, value in self.state().items() if name.startswith("weight.")})
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", kept)
        return run(recipe=recipe), seen


def loss_of(weights):
    """Test loss of the mean of several states."""
    model = tiny_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.stack([state[f"weight.{name}"] for state in weights]).mean(0))
    return HELD_OUT.losses(Scorer(model, policy(), 64, "cpu"))[0]


def test_a_measurement_is_of_the_mean_of_the_weights_over_its_last_steps(monkeypatch):
    points, seen = weights_after_each_step(monkeypatch, QUARTER)
    for point, steps in zip(points[1:], ([2], [4], [7, 8], [13, 14, 15, 16]), strict=True):
        assert point.test_loss == pytest.approx(loss_of([seen[step - 1] for step in steps]), rel=1e-6)
    assert points[-1].test_loss != pytest.approx(loss_of(seen[-1:]), rel=1e-4)  # so the mean is another model


def test_the_run_itself_is_the_same_with_and_without(monkeypatch):
    points, averaged = weights_after_each_step(monkeypatch, QUARTER)
    plain, last = weights_after_each_step(monkeypatch, LAST_STEPS)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(averaged, last, strict=True) for name in a)
    assert losses(points)[:3] == losses(plain)[:3]  # means of one step
    assert losses(points)[3:] != losses(plain)[3:]


def test_no_step_counts_in_two_measurements():
    counts = [128, 160, 192]
    half = dataclasses.replace(RECIPE, average_share=0.5)
    counted = [[seen for seen in range(32, due + 1, 32) if half.is_averaged(seen, last, due)]
               for last, due in zip([0, *counts], counts, strict=False)]  # fmt: skip
    assert counted == [[96, 128], [160], [192]]


def test_a_run_killed_within_an_average_goes_on_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MINUTES", 0.0)
    moment = "checkpoints.MINUTES = 0.0\ntrainer.Trainer.step = after(14, trainer.Trainer.step)"
    call = "resumable(Path({folder}), recipe=dataclasses.replace(RECIPE, average_share=0.25))"
    killed_in_the_middle(tmp_path / "killed", moment, call)
    said = []
    points = resumable(tmp_path / "killed", said=said, recipe=QUARTER)
    assert f"at {14 * 64:,} tokens" in said[0]
    assert losses(points) == losses(resumable(tmp_path / "undisturbed", recipe=QUARTER))


def test_the_measured_model_is_the_one_handed_on():
    handed = []
    points = run(recipe=QUARTER, downstream=lambda model: handed.append(model.state_dict()) or {})
    model = tiny_model()
    model.load_state_dict(handed[0])
    assert HELD_OUT.losses(Scorer(model, policy(), 64, "cpu"))[0] == points[-1].test_loss


def test_averaged_losses_are_of_another_setting_and_plain_ones_of_that_of_before():
    def name(recipe):
        return setting_id("m", recipe, ["a"], ["b"], policy())

    assert name(QUARTER) != name(LAST_STEPS)
    assert name(LAST_STEPS) == "8ad49a71ddfb696c77cd54a811c6645d"
