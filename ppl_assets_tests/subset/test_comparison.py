import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ppl_assets.subset.comparison import headline, paired_difference, tokens_to_reach

LOSSES = st.lists(
    st.tuples(st.floats(1.0, 10.0, allow_subnormal=False), st.floats(1.0, 10.0, allow_subnormal=False)),
    min_size=2,
    max_size=12,
)


@given(LOSSES)
def test_interval_is_that_of_the_paired_t_test(pairs):
    a, b = np.array(pairs).T
    if np.ptp(a - b) < 1e-6:
        return
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    difference = paired_difference(a, b, 0.95)
    assert difference.low == pytest.approx(expected.low, rel=1e-9, abs=1e-9)
    assert difference.high == pytest.approx(expected.high, rel=1e-9, abs=1e-9)
    assert difference.excludes_zero == (difference.low > 0 or difference.high < 0)


def test_excluding_zero_agrees_with_the_p_value():
    a, b = [5.65, 5.66, 5.67], [5.57, 5.60, 5.58]
    assert paired_difference(a, b, 0.95).excludes_zero == (stats.ttest_rel(a, b).pvalue < 0.05)


def test_one_seed_has_a_mean_and_no_interval():
    difference = paired_difference([5.6], [5.5], 0.95)
    assert difference.mean == pytest.approx(0.1)
    assert math.isnan(difference.low)
    assert math.isnan(difference.high)
    assert not difference.excludes_zero


@pytest.mark.parametrize(
    ("a", "b", "confidence", "words"),
    [([], [], 0.95, "at least one"), ([1.0], [1.0, 2.0], 0.95, "pairs"), ([math.nan], [1.0], 0.95, "finite"),
     ([1.0], [1.0], 95, "level")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_words(a, b, confidence, words):
    with pytest.raises(ValueError, match=words):
        paired_difference(a, b, confidence)


def test_tokens_to_reach_are_interpolated_on_the_log_axis():
    assert tokens_to_reach([0, 1_000, 4_000], [6.0, 5.8, 5.6], 5.7) == pytest.approx(2_000)


def test_tokens_beyond_what_was_measured_are_not_promised():
    assert tokens_to_reach([1_000, 4_000], [5.8, 5.6], 5.5) is None
    assert tokens_to_reach([0], [5.0], 5.5) is None


def test_a_loss_reached_by_the_first_measurement_gives_that_count():
    assert tokens_to_reach([4_000, 1_000], [5.6, 5.8], 5.9) == pytest.approx(1_000)


def losses(random: list[float], matched: list[float] | None = None) -> dict[str, dict[int, float]]:
    """Final losses by seed, the selection at 5.57 with a little spread."""
    table = {"selected": [5.571, 5.566, 5.574][: len(random)], "random": random}
    if matched is not None:
        table["matched"] = matched
    return {name: dict(enumerate(values)) for name, values in table.items()}


def test_a_win_is_said_with_both_losses_and_the_interval():
    head = headline(losses([5.648, 5.653, 5.660], [5.602, 5.596, 5.610]), 96_000)
    assert head.verdict == "better"
    assert head.sentences[0] == "The selection of 96,000 tokens beats random."
    assert "5.570 against 5.654" in head.sentences[1]
    assert "3 paired seeds); the interval excludes zero." in head.sentences[1]
    assert "It also beats 'matched'" in head.text


def test_a_loss_is_said_first():
    head = headline(losses([5.50, 5.49, 5.505], [5.4, 5.4, 5.41]), 96_000)
    assert head.verdict == "worse"
    assert head.sentences[0] == "The selection of 96,000 tokens does not beat random: it is worse."
    assert "The trials did not earn their price here." in head.text
    assert "higher (95\N{NO-BREAK SPACE}% interval 0." in head.text


def test_an_interval_that_includes_zero_is_said_to():
    ahead, behind = (headline(losses(values), 96_000) for values in ([5.60, 5.55, 5.59], [5.58, 5.53, 5.58]))
    assert ahead.verdict == behind.verdict == "unsure"
    assert ahead.sentences[0] == "The selection of 96,000 tokens is not shown to beat random."
    assert behind.sentences[0] == "The selection of 96,000 tokens does not beat random."
    assert all("which includes zero" in head.sentences[1] for head in (ahead, behind))


def test_a_single_seed_proves_nothing_and_says_so():
    ahead, behind = headline(losses([5.65]), 96_000), headline(losses([5.50]), 96_000)
    assert ahead.verdict == behind.verdict == "single_seed"
    assert "which proves nothing" in ahead.sentences[0]
    assert "does not beat random" in behind.sentences[0]
    assert "one seed, so no interval" in ahead.text


def test_nothing_trained_promises_nothing():
    head = headline({}, 96_000)
    assert head.verdict == "untrained"
    assert "nothing has been trained" in head.text
    assert head.gain("random") is None


def test_random_trained_on_other_seeds_is_not_compared():
    head = headline({"selected": {0: 5.5}, "random": {7: 5.6}}, 96_000)
    assert head.verdict == "no_random"


def test_a_better_rival_another_scale_and_a_useless_training_are_named():
    table = {**losses([5.66, 5.65, 5.66]), "middle": {0: 5.51, 1: 5.50, 2: 5.51}}
    head = headline(table, 96_000, trained_tokens=48_000, base_loss=5.40)
    assert "It does not beat 'middle', the best of the rivals, which need no trial" in head.text
    assert "48,000 tokens each" in head.text
    assert "did not lower the test loss at all" in head.text


@pytest.mark.parametrize(
    ("anew", "verdict", "sentence"),
    [
        ([5.58, 5.57, 5.59], "better", "drawn anew at the same place, one a seed, beat random too: 5.580"),
        ([5.70, 5.55, 5.64], "unsure", "are not shown to beat random: 5.630"),
        ([5.80, 5.81, 5.82], "unsure", "are worse than random: 5.810"),
    ],
)
def test_a_win_of_one_draw_counts_where_draws_anew_win_too(anew, verdict, sentence):
    table = {**losses([5.648, 5.653, 5.660]), "redrawn": dict(enumerate(anew))}
    head = headline(table, 96_000)
    assert head.verdict == verdict
    assert sentence in head.text
    assert head.gain("redrawn") is None  # no rival
    assert ("beats random, but other subsets drawn at the same place" in head.sentences[0]) is (verdict == "unsure")


def test_without_draws_anew_the_interval_is_said_to_be_of_one_subset():
    assert "over training orders of this one subset" in headline(losses([5.648, 5.653, 5.660]), 96_000).text


def test_the_best_rival_that_needs_no_trial_is_the_one_to_beat():
    table = {**losses([5.66, 5.65, 5.66], [5.63, 5.62, 5.63]), "middle": {0: 5.58, 1: 5.56, 2: 5.575}}
    head = headline(table, 96_000)
    assert head.best_free.rival == "middle"
    assert "It is not shown to beat 'middle'" in head.text


def test_a_matched_selection_owes_nothing_to_the_trials():
    table = losses([5.66, 5.65, 5.66], [5.56, 5.56, 5.57])
    head = headline(table, 96_000, is_matched=True)
    assert "the trials bought nothing" in head.text
    assert "earn their price" not in head.text
    table["middle"] = {0: 5.50, 1: 5.49, 2: 5.51}
    assert "The best measured rival is 'middle'" in headline(table, 96_000, is_matched=True).text
