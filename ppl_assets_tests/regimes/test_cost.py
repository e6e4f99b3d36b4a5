"""What trials cost is said, and held against the budget, before one is trained."""

import dataclasses

import dagster as dg
import polars as pl
import pytest

from ppl_assets.automation.instance import study_instance
from ppl_assets.automation.plan import status_lines
from ppl_assets.automation.run import RunError
from ppl_assets.regimes.cost import (
    Speed,
    TrialCost,
    affordable,
    budget_problem,
    cost_of_trials,
    evaluation_tokens,
    measured_prefixes,
    measured_speed,
)
from ppl_assets.regimes.stored import design
from ppl_assets.tables import PERPLEXITY_LANDSCAPE, REACHABLE_REGION, SCORERS, TRIAL_LOSSES
from ppl_assets.trials.trainer import Trainer

TWO_TRIALS = TrialCost(2, 2000, 500, 3600.0, "as measured")


def facts(study):
    return study.platform.study, study.platform.lake.snapshot()


def with_budget(study, **keys):
    settings = study.platform.study
    return settings.model_copy(update={"trials": settings.trials.model_copy(update=keys)})


def test_the_cost_is_what_the_trials_really_took(finished_study):
    settings, snapshot = facts(finished_study)
    cost = cost_of_trials(settings, snapshot)
    losses = snapshot.read(TRIAL_LOSSES)
    last = losses.group_by("trial").agg(pl.col("tokens", "seconds").max())
    assert cost.trials == last.height
    assert cost.trained == last["tokens"].sum() == design(snapshot)["tokens"].sum()
    assert cost.evaluated == losses.height * evaluation_tokens(settings, snapshot)
    training = cost.evaluated / (3 * last["tokens"].sum() / last["seconds"].sum()) + last["seconds"].sum()
    assert cost.seconds == pytest.approx(training, rel=1e-6)
    assert "earlier trials, cpu" in cost.source


def test_decay_branches_cost_their_tokens_and_a_measurement_each(finished_study):
    settings, snapshot = facts(finished_study)
    plain = cost_of_trials(settings, snapshot)
    branched = with_budget(finished_study, decay_branches=2, decay_share=0.2)
    cost = cost_of_trials(branched, snapshot)
    counts = measured_prefixes(settings)
    assert cost.trained - plain.trained == plain.trials * sum(round(0.2 * count) for count in counts[-3:-1])
    assert cost.evaluated - plain.evaluated == plain.trials * 2 * evaluation_tokens(settings, snapshot)
    assert cost.seconds > plain.seconds
    assert "trials.decay_branches" in budget_problem(with_budget(finished_study, decay_branches=2, max_tokens=1), cost)
    most = with_budget(finished_study, decay_branches=16, decay_share=1.0, max_tokens=plain.tokens)
    assert cost_of_trials(most, snapshot).trained > 1.8 * plain.trained
    assert budget_problem(most, cost_of_trials(most, snapshot))


def test_the_cost_of_branches_is_that_of_a_run_with_branches(study, monkeypatch):
    monkeypatch.setenv("PPL__TRIALS__DECAY_BRANCHES", "2")
    settings, snapshot = facts(study)
    trial = design(snapshot)[:1]
    trained, step = [], Trainer.step
    monkeypatch.setattr(
        Trainer, "step", lambda run, chunks, rate: trained.extend(map(len, chunks)) or step(run, chunks, rate)
    )
    assert study.materialize("run_trial", trial["trial"][0]).success
    cost = cost_of_trials(settings, snapshot, trial)
    losses = study.platform.lake.snapshot().read(TRIAL_LOSSES).filter(pl.col("branch") == "decay")
    assert sum(trained) == pytest.approx(cost.trained, abs=3 * 32)  # whole chunks
    run = study.platform.lake.snapshot().latest("trial_losses", trial["trial"][0]).facts["trial_fingerprint"]
    measured = study.platform.lake.snapshot().read(TRIAL_LOSSES, where={"trial_fingerprint": run})
    assert losses.height == 2
    assert cost.evaluated == measured.height * evaluation_tokens(settings, snapshot)


def test_before_any_trial_the_speed_is_a_third_of_the_scorers(finished_study):
    settings, snapshot = facts(finished_study)
    before = finished_study.platform.lake.snapshot(snapshot.latest("regime_partitions").snapshot)
    speed = measured_speed(settings, before)
    assert speed.scoring == pytest.approx(before.read(SCORERS)["tokens_per_second"][0])
    assert speed.training == pytest.approx(speed.scoring / 3)
    assert "a third of the scorer's" in speed.source


def test_without_any_measured_speed_the_time_is_unknown_and_said_to_be(finished_study):
    settings, snapshot = facts(finished_study)
    before = finished_study.platform.lake.snapshot(snapshot.latest("base_model").snapshot)
    assert measured_speed(settings, before) is None
    cost = cost_of_trials(settings, before, design(snapshot))
    assert cost.seconds is cost.hours is None
    assert "device time unknown" in cost.sentence


def test_a_budget_that_is_exceeded_is_one_sentence_with_a_remedy(finished_study):
    assert budget_problem(with_budget(finished_study, max_tokens=2500, max_hours=1.0), TWO_TRIALS) == ""
    tokens = budget_problem(with_budget(finished_study, max_tokens=2499), TWO_TRIALS)
    assert "trials.max_tokens = 2,499, but the 2 trials take 2,500 tokens (2,000 trained, 500 evaluated)" in tokens
    assert "raise it to 2,500, or lower" in tokens
    assert "max_hours = 0.5" in budget_problem(with_budget(finished_study, max_hours=0.5), TWO_TRIALS)
    unknown = TrialCost(2, 2000, 500, None, "nothing was measured")
    assert budget_problem(with_budget(finished_study, max_hours=0.5), unknown) == ""


def test_trials_that_are_done_count_with_their_seconds_and_the_rest_at_the_present_speed(finished_study, monkeypatch):
    settings, snapshot = facts(finished_study)
    before = finished_study.platform.lake.snapshot(snapshot.latest("regime_partitions").snapshot)
    trials = design(snapshot)
    took = snapshot.read(TRIAL_LOSSES).group_by("trial").agg(pl.col("seconds").max())["seconds"].sum()
    monkeypatch.setattr("ppl_assets.regimes.cost.measured_speed", lambda *_given: Speed(1.0, 1e12, "a slow day"))
    assert cost_of_trials(settings, snapshot, trials).seconds == pytest.approx(took, abs=0.01)
    assert cost_of_trials(settings, before, trials).seconds == pytest.approx(trials["tokens"].sum(), abs=0.01)
    unknown = trials[:1].with_columns(trial=pl.lit("new"))
    both = cost_of_trials(settings, snapshot, pl.concat([trials, unknown]))
    assert both.seconds == pytest.approx(took + unknown["tokens"][0], abs=0.01)


def test_a_design_that_is_begun_is_not_stranded_by_a_slower_day(finished_study):
    begun = dataclasses.replace(TWO_TRIALS, seconds=1.15 * 3600.0, is_begun=True)
    limited = with_budget(finished_study, max_hours=1.0)
    assert budget_problem(limited, begun) == ""
    assert "about 1.15 device hours" in budget_problem(limited, dataclasses.replace(begun, is_begun=False))
    assert "about 1.25 device hours" in budget_problem(limited, dataclasses.replace(begun, seconds=1.25 * 3600.0))
    assert affordable(limited, begun) == 0  # nothing is added to it
    assert budget_problem(with_budget(finished_study, max_tokens=2499), begun)  # tokens are counted, not estimated


def test_a_design_is_begun_once_a_trial_of_it_was_trained_under_its_budget(study, monkeypatch):
    settings, snapshot = facts(study)
    before = study.platform.lake.snapshot(snapshot.latest("regime_partitions").snapshot)
    cost = cost_of_trials(settings, snapshot)
    assert cost.is_begun
    assert not cost_of_trials(settings, before, design(snapshot)).is_begun
    monkeypatch.setenv("PPL__TRIALS__MAX_HOURS", str(cost.hours / 1.1))  # lowered: that is not the estimate's noise
    assert not study.materialize("design_trials").success
    assert not cost_of_trials(*facts(study)).is_begun


def test_the_limit_that_is_advised_is_enough(finished_study):
    cost = dataclasses.replace(TWO_TRIALS, seconds=1.2341 * 3600.0)
    assert "raise it to 1.24" in budget_problem(with_budget(finished_study, max_hours=1.0), cost)
    assert budget_problem(with_budget(finished_study, max_hours=1.24), cost) == ""


def test_what_is_left_of_the_budget_pays_for_whole_trials(finished_study):
    assert affordable(with_budget(finished_study), TWO_TRIALS) is None
    assert affordable(with_budget(finished_study, max_tokens=2500 + 3 * 1250 + 1249), TWO_TRIALS) == 3
    assert affordable(with_budget(finished_study, max_tokens=99), TWO_TRIALS) == 0
    assert affordable(with_budget(finished_study, max_tokens=10**9, max_hours=1.6), TWO_TRIALS) == 1


def test_cost_outlines_and_regimes_are_shown_where_the_design_is(finished_study):
    with study_instance(finished_study.platform.study) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("regime_partitions"))
        lines = status_lines(finished_study.platform, instance)
    metadata = event.asset_materialization.metadata
    assert metadata["device_seconds"].value > 0
    assert "trained" in metadata["cost"].value
    assert "image/png" in metadata["region"].value
    assert any("12 trials" in line and "evaluated" in line for line in lines)


def test_the_region_is_outlined_at_smallest_and_largest_count_and_at_the_selections(finished_study):
    _, snapshot = facts(finished_study)
    shares = snapshot.read(REACHABLE_REGION)["share"].unique().sort()
    total = snapshot.only_row(PERPLEXITY_LANDSCAPE, {"scope": "candidates"})["tokens"]
    assert shares.to_list() == pytest.approx([256 / total, 4096 / total])  # the selection takes a trial's tokens here


def test_a_design_over_the_budget_is_stopped_before_a_trial_is_trained(study, monkeypatch):
    monkeypatch.setenv("PPL__TRIALS__LEARNING_RATE", "0.001")  # every trial would have to be trained anew
    monkeypatch.setenv("PPL__TRIALS__MAX_TOKENS", "1000")
    before = study.platform.lake.snapshot().read(TRIAL_LOSSES)
    with pytest.raises(RunError, match=r"trials_fit_the_budget failed: trials\.max_tokens = 1,000, but the 12 trials"):
        study.run()
    result = study.materialize("run_trial", before["trial"][0])
    assert not result.success
    assert study.platform.lake.snapshot().read(TRIAL_LOSSES).equals(before)
    monkeypatch.setenv("PPL__TRIALS__MAX_TOKENS", "1000000")
    assert study.materialize("design_trials").success
