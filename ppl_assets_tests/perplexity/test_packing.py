"""Packing loses no item, overfills no row, and wastes little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.perplexity.packing import NO_TARGET, build_rows, pack, plan_rows, sequence


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=60), st.integers(60, 200))
def test_every_item_is_in_exactly_one_row_and_no_row_overflows(lengths, row_tokens):
    rows = pack(lengths, row_tokens)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[item] for item in row) <= row_tokens for row in rows)
    assert len(rows) <= 2 * sum(lengths) / row_tokens + 1  # no two rows are both at most half full


def test_realistic_lengths_fill_rows_to_98_percent():
    lengths = np.random.default_rng(0).integers(20, 400, 2000).tolist()
    assert sum(lengths) / (512 * len(pack(lengths, 512))) > 0.98


@pytest.mark.parametrize("lengths", [[0], [9]])
def test_an_item_that_fits_no_row_is_refused(lengths):
    with pytest.raises(ValueError, match="item 0"):
        pack(lengths, 8)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 300), st.booleans(), st.booleans())
def test_plans_hold_every_item_once_and_only_packed_rows_are_mixed(lengths, row_tokens, packs, one_row):
    plans = plan_rows(lengths, row_tokens, packs, one_row)
    assert sorted(item for plan in plans for row in plan.rows for item in row) == list(range(len(lengths)))
    for plan in plans:
        assert packs or not plan.packed
        assert plan.packed or all([lengths[i] for i in row] == [plan.width] for row in plan.rows)
        assert not (plan.packed and one_row) or len(plan.rows) == 1
        assert len(plan.rows) == 1 or len(plan.rows) * plan.width <= row_tokens


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=12), st.sampled_from([0, None]))
def test_rows_feed_all_but_the_last_token_and_predict_all_but_the_first(lengths, prefix):
    sequences = [sequence(np.arange(1, n + 1) + 100 * i, prefix) for i, n in enumerate(lengths)]
    for plan in plan_rows([len(s) - 1 for s in sequences], 50):
        rows = build_rows(plan, sequences)
        fed = [sequences[i][:-1] for row in plan.rows for i in row]
        wanted = [sequences[i][1:] for row in plan.rows for i in row]
        places = rows.targets != NO_TARGET
        np.testing.assert_array_equal(rows.inputs[places], np.concatenate(fed))
        np.testing.assert_array_equal(rows.targets[places], np.concatenate(wanted))
        if rows.positions is not None:
            np.testing.assert_array_equal(rows.positions[places], np.concatenate([np.arange(len(s)) for s in fed]))
