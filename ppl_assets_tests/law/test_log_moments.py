"""A truth that speaks of log moments: the forms in log moments find it, and none of them is chosen."""

from dataclasses import replace

import numpy as np
import pytest

from ppl_assets.law.choice import candidates, choose, fit_all, judged
from ppl_assets.law.law_rows import law_rows
from ppl_assets.law.observations import Observations
from ppl_assets.law.region import SearchRegion
from ppl_assets_tests.law.synthetic import trials


def told_by_logs() -> Observations:
    """The quadratic bowl of the moments under other raw moments: a heavy tail that differs from run to run."""
    seen = trials("quadratic bowl", run_noise=0.001, point_noise=0.001)
    tail = np.exp(np.random.default_rng(5).normal(0.0, 0.5, (2, len(seen.runs))))[:, seen.run_index]
    return replace(
        seen, mu=seen.mu * tail[0], sigma=seen.sigma * tail[1], log_mu=np.log(seen.mu), log_sigma=np.log(seen.sigma)
    )


@pytest.fixture(scope="module")
def results():
    obs = told_by_logs()
    return fit_all(obs, SearchRegion.of(obs), replicates=20)


def test_every_surface_is_fitted_in_both_statistics(results):
    assert [r.key for r in results] == candidates(with_logs=True)
    assert len(results) == 12 + 8


def test_the_true_form_in_log_moments_predicts_best(results):
    best = min(results, key=lambda r: r.error_pct)
    assert best.key == ("quadratic", "anchored", "deviation", "log")
    assert best.optimum.kind == "interior_bowl"
    assert "geometric mean perplexity" in best.optimum.sentence


def test_a_form_in_log_moments_is_never_chosen_and_the_reason_says_that_it_is_better(results):
    chosen = choose(results)
    assert chosen.key.statistics == "raw"
    assert "clearly better, but subsets are drawn by raw moments" in chosen.choice_reason


def test_rows_in_log_moments_have_names_of_their_own(results):
    rows = law_rows(judged(results, choose(results)), 0, None)
    assert rows.filter(statistics="log")["form"].str.starts_with("log_").all()
    assert rows.height == rows.unique(["form", "link", "sigma_kind"]).height
