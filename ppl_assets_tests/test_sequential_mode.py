"""Sequential mode on the tiny study: batches are proposed, trained and fitted until there is a reason to stop."""

import polars as pl
import pytest

from ppl_assets.automation.instance import study_instance
from ppl_assets.automation.plan import INPUTS, partitions_of, pending
from ppl_assets.law.assets import next_trials_inputs
from ppl_assets.regimes import cost
from ppl_assets.regimes.cost import cost_of_trials
from ppl_assets.regimes.stored import UnknownTrialError, all_trials, proposals, trial_subset
from ppl_assets.tables import FITTED_LAW, NEXT_TRIALS, REGIMES, SEQUENTIAL_STEPS, TRIAL_LOSSES

DESIGNED = 12
"""Trials of the tiny study's design."""


def snapshot(study):
    return study.platform.lake.snapshot()


def registered(study) -> list[str]:
    with study_instance(study.platform.study) as instance:
        return list(instance.get_dynamic_partitions("trial"))


def due(study) -> list[str]:
    with study_instance(study.platform.study) as instance:
        return [
            f"{asset} {key}".strip()
            for asset in INPUTS
            for key in partitions_of(asset, study.platform, instance)
            if pending(asset, key, study.platform, instance)
        ]


def last_step(study) -> dict:
    return snapshot(study).read(SEQUENTIAL_STEPS).sort("step").row(-1, named=True)


@pytest.fixture
def sequential(study, monkeypatch):
    """The finished study in sequential mode, with a budget for three further trials and no other reason to stop."""
    each = last_step(study)["tokens"] // DESIGNED
    monkeypatch.setenv("PPL__TRIALS__MAX_TOKENS", str(each * (DESIGNED + 3) + each // 2))
    monkeypatch.setenv("PPL__TRIALS__MODE", "sequential")
    monkeypatch.setenv("PPL__TRIALS__BATCH", "2")
    monkeypatch.setenv("PPL__TRIALS__STOP_REGRET_PCT", "1e-6")
    monkeypatch.setenv("PPL__TRIALS__STOP_LOCATION_PCT", "1e-6")
    return study


def test_in_fixed_mode_nothing_is_proposed(finished_study):
    (step,) = snapshot(finished_study).read(SEQUENTIAL_STEPS).to_dicts()
    assert step["status"] == "fixed"
    assert "nothing is proposed" in step["sentence"]
    assert proposals(snapshot(finished_study)).is_empty()
    assert len(registered(finished_study)) == DESIGNED


@pytest.mark.timeout(900)  # two whole runs
def test_a_run_repeats_trials_law_and_proposals_until_the_budget_ends(sequential):
    outcomes = sequential.run()
    now = snapshot(sequential)
    steps = now.read(SEQUENTIAL_STEPS).sort("step")
    assert steps["status"].to_list()[-3:] == ["propose", "propose", "budget_spent"]
    assert steps["proposed"].to_list()[-3:] == [2, 1, 0]
    assert outcomes["trial_losses"].computed == 3
    assert outcomes["fitted_law"].computed == 2
    assert outcomes["next_trials"].computed == 3
    proposed = proposals(now)
    assert proposed["batch"].to_list() == [1, 1, 2]
    assert registered(sequential) == [*now.read(REGIMES)["trial"], *proposed["trial"]]
    losses = now.read(TRIAL_LOSSES)
    measured = losses.filter(pl.col("trial").is_in(proposed["trial"].to_list()))
    assert measured.group_by("trial").len()["len"].n_unique() == 1  # every trial at every token count
    assert losses["setting_id"].n_unique() == 1  # the mode is no part of the recipe
    assert now.only_row(FITTED_LAW, {"is_chosen": True})["runs"] == DESIGNED + 3
    assert "The budget is spent" in last_step(sequential)["sentence"]

    assert due(sequential) == []
    again = sequential.run()
    assert {asset: outcome.computed for asset, outcome in again.items()} == dict.fromkeys(again, 0)


def test_in_the_ui_one_materializes_next_trials_then_its_partitions_then_the_law(sequential):
    assert sequential.materialize("propose_trials").success
    new = proposals(snapshot(sequential))["trial"].to_list()
    assert len(new) == 2
    assert registered(sequential)[-2:] == new
    assert [step for step in due(sequential) if "trial_losses" in step] == [f"trial_losses {name}" for name in new]
    rows, seed = trial_subset(snapshot(sequential), new[0])
    assert rows["rank"].to_list() == list(range(rows.height))
    assert seed >= sequential.platform.study.study.seed

    assert sequential.materialize("propose_trials").success  # nothing was learned since: nothing more is proposed
    assert proposals(snapshot(sequential))["trial"].to_list() == new

    assert sequential.materialize("run_trial", new[0]).success
    assert sequential.materialize("fit_law").success
    assert sequential.materialize("propose_trials").success
    assert last_step(sequential)["status"] == "waiting"
    assert new[1] in last_step(sequential)["sentence"]
    assert proposals(snapshot(sequential))["trial"].to_list() == new

    assert sequential.materialize("design_trials").success  # the same design: its proposals stay
    assert registered(sequential)[-2:] == new


def test_proposals_that_no_longer_fit_are_passed_over_and_the_budget_is_said_to_be_spent(sequential, monkeypatch):
    hours = cost_of_trials(sequential.platform.study, snapshot(sequential)).hours
    monkeypatch.setenv("PPL__TRIALS__MAX_HOURS", str(2.0 * hours))
    assert sequential.materialize("propose_trials").success
    new = proposals(snapshot(sequential))["trial"].to_list()
    assert len(new) == 2

    with monkeypatch.context() as slow:
        slow.setattr(cost, "measured_speed", lambda *_given: cost.Speed(0.01, 1e12, "a slow day"))
        assert not [step for step in due(sequential) if "trial_losses" in step]
        assert not sequential.materialize("run_trial", new[0]).success
        sequential.run()
        step = last_step(sequential)
        assert step["status"] == "budget_spent"
        assert f"2 of {DESIGNED + 2} trials are not measured yet ({new[0]}, {new[1]})" in step["sentence"]
        assert "the budget no longer pays for them: trials.max_hours" in step["sentence"]
        assert due(sequential) == []
    assert [step for step in due(sequential) if "trial_losses" in step] == [f"trial_losses {name}" for name in new]


def test_a_changed_design_drops_what_was_proposed_for_the_old_one(sequential, monkeypatch):
    assert sequential.materialize("propose_trials").success
    new = proposals(snapshot(sequential))["trial"].to_list()
    before = next_trials_inputs(sequential.platform.study, sequential.platform.lake, snapshot(sequential)).digest
    monkeypatch.setenv("PPL__REGIMES__REPEATS", "0")
    assert sequential.materialize("design_trials").success
    now = snapshot(sequential)
    assert proposals(now).is_empty()
    assert registered(sequential) == all_trials(now)["trial"].to_list() == now.read(REGIMES)["trial"].to_list()
    assert next_trials_inputs(sequential.platform.study, sequential.platform.lake, now).digest != before
    with pytest.raises(UnknownTrialError, match="is not in the present design"):
        trial_subset(now, new[0])


def test_back_in_fixed_mode_the_proposals_are_taken_back(sequential, monkeypatch):
    assert sequential.materialize("propose_trials").success
    assert len(registered(sequential)) == DESIGNED + 2
    monkeypatch.setenv("PPL__TRIALS__MODE", "fixed")
    assert sequential.materialize("propose_trials").success
    assert len(registered(sequential)) == DESIGNED
    assert snapshot(sequential).read(NEXT_TRIALS).is_empty()
    assert due(sequential) == ["regime_partitions"]  # its budget has another value than when it was checked


def test_where_enough_is_known_no_trial_is_proposed(sequential, monkeypatch):
    monkeypatch.setenv("PPL__TRIALS__STOP_REGRET_PCT", "50")
    assert sequential.materialize("propose_trials").success
    assert last_step(sequential)["status"] == "regret_reached"
    assert last_step(sequential)["regret_bound_pct"] < 50
    assert len(registered(sequential)) == DESIGNED


def test_a_place_that_was_tried_is_repeated_with_another_seed(sequential):
    from ppl_assets.law.proposals import _regimes
    from ppl_assets.law.sequential import Pick
    from ppl_assets.regimes.design import Regime

    asked = all_trials(snapshot(sequential))
    centre = asked.filter(pl.col("regime") == "centre").row(0, named=True)
    pick, fresh = Pick(centre["mu_target"], centre["sigma_target"], 0.1), Pick(1.0, 2.0, 0.1)
    found = _regimes((pick, fresh, pick), [Regime("next-00", 1.0, 2.0)], asked)
    assert [(regime.name, regime.replicate) for regime in found] == [("centre", 2), ("next-00", 0), ("centre", 3)]
