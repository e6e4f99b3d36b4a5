from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ppl_assets.law.checks import checks
from ppl_assets.law.choice import candidates, choose, fit_all, judged
from ppl_assets.law.law_rows import law_rows
from ppl_assets.law.observations import measured_noise
from ppl_assets.law.region import SearchRegion
from ppl_assets_tests.law.synthetic import GRID, trials


def study(name: str, noise: float = 0.001, replicates: int = 20, regimes=None, seed: int = 0):
    obs = trials(name, run_noise=noise, point_noise=noise, seed=seed, regimes=regimes)
    region = SearchRegion.of(obs)
    return obs, region, fit_all(obs, region, noise_pct=measured_noise(obs), replicates=replicates)


@pytest.fixture(scope="module")
def bowl():
    return study("quadratic bowl")


def passed(findings) -> dict[str, bool]:
    return {finding.name: finding.passed for finding in findings}


def test_every_form_is_fitted_with_every_link(bowl):
    assert [r.key for r in bowl[2]] == candidates()
    assert len(bowl[2]) == 12


def test_the_true_form_is_chosen_and_the_reason_says_why(bowl):
    chosen = choose(bowl[2])
    assert chosen.key == ("quadratic", "anchored", "deviation", "raw")
    assert "left-out runs" in chosen.choice_reason
    assert chosen.optimum.kind == "interior_bowl"


def test_forms_that_the_target_cannot_rest_on_get_fewer_refits(monkeypatch):
    monkeypatch.setattr("ppl_assets.law.choice.FEWER_REFITS", 5)
    results = study("quadratic bowl")[2]
    refits = {r.key: len(r.bootstrap.E) for r in results}
    chosen = choose(results)
    assert {r.name for r in results if refits[r.key] > 5} >= {chosen.name, *chosen.across.forms}
    assert refits["paper", "paper", "deviation", "raw"] > 5
    assert refits["d_only", "paper", "deviation", "raw"] <= 5


def test_a_form_that_errs_less_but_has_no_floor_is_named_in_the_reason(bowl):
    results, best = bowl[2], choose(bowl[2])
    floorless = [replace(r, fit=replace(r.fit, status="e_at_bound")) if r.key == best.key else r for r in results]
    chosen = choose(floorless)
    assert chosen.key != best.key
    assert f"{best.name} errs less" in chosen.choice_reason
    assert "its status is e_at_bound" in chosen.choice_reason
    for said in (chosen.choice_reason, best.choice_reason):
        assert "best of all" not in said
        assert "every other form." not in said
    assert "could not be chosen" not in best.choice_reason


def test_the_error_that_the_choice_rests_on_is_stored(bowl):
    chosen = choose(bowl[2])
    row = law_rows(judged(bowl[2], chosen), 0, None).filter(pl.col("is_chosen")).row(0, named=True)
    assert row["loo_run_pct"] == pytest.approx(100 * np.mean(chosen.left_out.by_run))
    assert row["loo_regime_pct"] == pytest.approx(100 * np.mean(chosen.left_regimes.by_run))
    assert f"{row['loo_run_pct']:.2f} % on average" in row["choice_reason"]
    assert f"all their runs: {row['loo_regime_pct']:.2f} %" in row["choice_reason"]


def test_all_forms_are_compared_on_the_same_points(bowl):
    assert len({(r.fit.points, r.fit.set_aside) for r in bowl[2]}) == 1


def test_weights_sum_to_one_within_a_link(bowl):
    for link in ("paper", "anchored"):
        assert sum(r.aicc_weight for r in bowl[2] if r.fit.link == link) == pytest.approx(1.0)


def test_one_form_is_marked_and_every_other_says_why_not(bowl):
    rows = judged(bowl[2], choose(bowl[2]))
    assert [r.is_chosen for r in rows].count(True) == 1
    assert all(r.choice_reason for r in rows)


def test_the_papers_form_can_be_asked_for_and_the_price_is_said(bowl):
    chosen = choose(bowl[2], "paper")
    assert chosen.key == ("paper", "paper", "deviation", "raw")
    assert "would have been chosen" in chosen.choice_reason


def test_the_papers_form_is_taken_with_the_reading_of_sigma_asked_for(bowl):
    chosen = choose(bowl[2], "paper", "variance")
    assert chosen.key == ("paper", "paper", "variance", "raw")
    assert "sigma read as variance" in chosen.choice_reason
    assert [r.key for r in judged(bowl[2], chosen) if r.is_chosen] == [chosen.key]


def test_a_reading_of_sigma_that_was_not_fitted_is_refused_in_words(bowl):
    fitted = [r for r in bowl[2] if r.fit.sigma_kind == "deviation"]
    with pytest.raises(ValueError, match="sigma as variance is not among the results"):
        choose(fitted, "paper", "variance")


def test_a_sound_study_passes_its_checks(bowl):
    obs, region, results = bowl
    findings = checks(results, choose(results), obs, region, measured_noise(obs))
    assert all(passed(findings).values()), [f.sentence for f in findings if not f.passed]


def test_a_law_of_adapters_says_that_it_is_none_of_full_training(bowl):
    obs, region, results = bowl
    findings = checks(results, choose(results), obs, region, measured_noise(obs), screening=True)
    assert [f.name for f in findings if not f.passed] == ["full_training"]
    assert {f.severity for f in findings if not f.passed} == {"warn"}


@pytest.mark.parametrize(("kept", "is_said"), [(20, False), (15, True), (0, True)])
def test_dropped_refits_are_counted_and_said(bowl, kept, is_said):
    obs, region, results = bowl
    chosen = choose(results)
    refits = replace(
        chosen.bootstrap,
        E=chosen.bootstrap.E[:kept],
        coefficients=chosen.bootstrap.coefficients[:kept],
        failed=20 - kept,
    )
    poor = replace(chosen, bootstrap=refits)
    assert law_rows([poor], 0, None)["refits_failed"].item() == 20 - kept
    assert passed(checks(results, poor, obs, region))["refits_complete"] is not is_said


def test_where_only_tokens_matter_the_checks_say_so():
    obs, region, results = study("nothing", noise=0.002, seed=2)
    result = passed(checks(results, choose(results), obs, region, measured_noise(obs)))
    assert not result["optimum_inside"]
    assert not result["surface_significant"]
    assert not result["better_than_tokens_alone"]


def test_few_runs_a_short_span_and_no_repeats_are_said():
    obs, region, results = study("edge", regimes=GRID[:3] + GRID[6:])
    short = obs.subset(obs.tokens > 8_000)
    result = passed(checks(fit_all(short, region, replicates=0), choose(results), short, region))
    assert not result["enough_runs"]
    assert not result["token_span"]
    assert not result["noise_measured"]


def test_units_that_rule_a_bowl_out_are_said():
    regimes = [(m, s) for m in (4.0, 6.0, 8.0) for s in (2.0, 3.0, 5.0)]
    obs, region, results = study("edge", regimes=regimes, replicates=0)
    result = passed(checks(results, choose(results, "paper"), obs, region))
    assert not result["bowl_possible"]


def test_too_few_points_end_in_words_not_in_an_error():
    obs = trials("edge", regimes=GRID[:1])
    region = SearchRegion.of(obs)
    results = fit_all(obs, region)
    chosen = choose(results)
    assert not chosen.fit.is_usable
    assert not passed(checks(results, chosen, obs, region))["law_fitted"]


def test_the_same_study_gives_the_same_choice(bowl):
    again = study("quadratic bowl")[2]
    assert choose(again).key == choose(bowl[2]).key
    assert np.array_equal(choose(again).bootstrap.E, choose(bowl[2]).bootstrap.E)
