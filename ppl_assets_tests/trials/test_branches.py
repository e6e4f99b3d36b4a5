"""Decay branches measure what a falling rate gains, and leave the run and the law alone."""

import dataclasses

import polars as pl
import pytest

from ppl_assets.trials.recipe import branch_token_counts
from ppl_assets.trials.trainer import Trainer
from ppl_assets.trials.training import decay_offset, on_trunk, serves_the_law
from ppl_assets_tests.perplexity.tiny import tiny_model
from ppl_assets_tests.trials.small import CHUNKS, RECIPE, killed_in_the_middle, losses, resumable, run

BRANCHED = dataclasses.replace(RECIPE, decay_branches=2, decay_share=0.5)


def test_the_trunk_is_the_same_to_the_last_bit_with_and_without_branches():
    model = tiny_model("gpt2")  # with dropout
    points = run(recipe=BRANCHED, model=model)
    assert losses(points) == losses(run(model=model))
    assert [(point.point, point.branch, point.tokens) for point in points] == [
        (0, "trunk", 0), (1, "trunk", 128), (2, "trunk", 256), (2, "decay", 384), (3, "trunk", 512), (3, "decay", 768),
        (4, "trunk", 1024),
    ]  # fmt: skip


def test_the_rate_of_a_branch_falls_as_one_minus_the_square_root_and_the_trunks_does_not(monkeypatch):
    rates, step = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, chunks, rate: rates.append(rate) or step(self, chunks, rate))
    run(recipe=dataclasses.replace(BRANCHED, decay_branches=1))
    falling = [1.0 - ((number + 0.5) / 4.0) ** 0.5 for number in range(4)]
    assert [rate / RECIPE.learning_rate for rate in rates[8:12]] == pytest.approx(falling)
    assert set(rates[1:8] + rates[12:]) == {RECIPE.learning_rate}


def test_branches_start_at_the_largest_counts_that_leave_them_room():
    assert branch_token_counts(BRANCHED, 1024) == [256, 512]
    assert branch_token_counts(dataclasses.replace(BRANCHED, decay_branches=9), 1024) == [128, 256, 512]
    assert branch_token_counts(dataclasses.replace(BRANCHED, decay_share=1.0), 1000) == [128, 256]
    assert branch_token_counts(RECIPE, 1024) == []


def test_a_run_killed_in_a_branch_ends_with_the_same_losses_on_both(tmp_path):
    moment = "trainer.Trainer.step = after(11, trainer.Trainer.step)"  # 4 + 2 of a branch + 4, and into the next
    call = "resumable(Path({folder}), recipe=dataclasses.replace(RECIPE, decay_branches=2, decay_share=0.5))"
    killed_in_the_middle(tmp_path / "killed", moment, call)
    points = resumable(tmp_path / "killed", recipe=BRANCHED)
    expected = resumable(tmp_path / "undisturbed", recipe=BRANCHED)
    for branch in ("trunk", "decay"):
        assert losses(points, branch) == losses(expected, branch)


def test_a_branch_that_diverges_is_recorded_and_the_run_goes_on(monkeypatch):
    step = Trainer.step
    monkeypatch.setattr(
        Trainer, "step", lambda self, chunks, rate: step(self, chunks, rate if rate == RECIPE.learning_rate else 1e30)
    )
    points = run(recipe=dataclasses.replace(BRANCHED, warmup_share=0.0))
    assert [point.status for point in points if point.branch == "decay"] == ["diverged"] * 2
    assert losses(points) == losses(run(recipe=dataclasses.replace(RECIPE, warmup_share=0.0)))


def rows(points, screening=False):
    return pl.DataFrame([dataclasses.asdict(point) for point in points], infer_schema_length=None).with_columns(
        screening=pl.lit(screening)
    )


def test_the_offset_is_the_trunks_loss_at_as_many_tokens_less_the_branchs():
    points = rows(run(recipe=BRANCHED))
    loss = {(b, d): value for b, d, value in points.select("branch", "tokens", "test_loss").iter_rows()}
    weight = [0.5849625007, 0.5849625007]  # log2(1.5): 384 between 256 and 512, 768 between 512 and 1024
    there = [
        loss["trunk", low] * (1 - w) + loss["trunk", 2 * low] * w for low, w in zip((256, 512), weight, strict=True)
    ]
    expected = sum(t - loss["decay", d] for t, d in zip(there, (384, 768), strict=True)) / 2
    assert decay_offset(points) == pytest.approx(expected, rel=1e-6)
    assert decay_offset(points.filter(on_trunk())) is None
    old = points.filter(on_trunk()).with_columns(branch=pl.lit(None, pl.String))
    assert old.filter(on_trunk()).height == old.height  # written before there were branches


def test_a_run_with_few_measurements_or_with_adapters_says_so():
    points = rows(run(CHUNKS, BRANCHED))
    passed, sentence = serves_the_law(points)
    assert (passed, sentence.startswith("4 measurements after warm-up, 6 are wanted")) == (False, True)
    enough = dataclasses.replace(RECIPE, points=7, span=16.0, batch_tokens=16, warmup_share=0.0)
    assert serves_the_law(rows(run(CHUNKS, enough))) == (True, "7 measurements after warm-up.")
    passed, sentence = serves_the_law(rows(run(CHUNKS, enough), screening=True))
    assert not passed
    assert "not the law of full training" in sentence
