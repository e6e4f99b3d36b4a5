"""The optimum over all forms that predict as well as the chosen one."""

import pytest

from ppl_assets.law.across import across_forms, across_sentence
from ppl_assets.law.choice import choose, fit_all, judged
from ppl_assets.law.law_rows import law_rows
from ppl_assets.law.region import SearchRegion
from ppl_assets_tests.law.synthetic import trials


@pytest.fixture(scope="module")
def results():
    obs = trials("quadratic bowl", run_noise=0.01, point_noise=0.01, seed=2)
    return fit_all(obs, SearchRegion.of(obs), replicates=30)


def test_the_union_holds_what_each_form_says(results):
    chosen = choose(results)
    named = {r.name: r.optimum for r in results}
    assert len(chosen.across.forms) > 1
    for name in chosen.across.forms:
        best = named[name]
        assert chosen.across.mu[0] <= best.mu_interval[0] <= best.mu_interval[1] <= chosen.across.mu[1]
        assert chosen.across.sigma[0] <= best.sigma_interval[0] <= best.sigma_interval[1] <= chosen.across.sigma[1]
        assert chosen.across.equal_share >= best.equals.share


def test_the_chosen_form_comes_first_and_alone_has_the_union(results):
    chosen = choose(results, "paper")
    rows = law_rows(judged(results, chosen), 0, None)
    assert chosen.across.forms[0] == chosen.name
    assert rows["across_mu_low"].null_count() == rows.height - 1


def test_without_refits_nothing_is_claimed():
    obs = trials("quadratic bowl", run_noise=0.01)
    assert choose(fit_all(obs, SearchRegion.of(obs), replicates=0)).across is None
    assert across_forms({}) is None


def test_the_sentence_says_that_one_form_alone_is_believed_true(results):
    across = choose(results).across
    sentence = across_sentence("; ".join(across.forms), across.mu, across.sigma, across.equal_share)
    assert f"{len(across.forms)} forms predict as well" in sentence
    assert "assume that it is the true one" in sentence
