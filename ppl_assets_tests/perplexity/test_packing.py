"""Packing loses no item, overfills no row, and wastes little."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.perplexity.packing import NARROWEST, build_rows, fixed_width, pack, plan_rows, sequence


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
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 300), st.booleans())
def test_plans_hold_every_item_once_and_only_packed_passes_are_mixed(lengths, row_tokens, packs):
    plans = plan_rows(lengths, row_tokens, packs)
    assert sorted(item for plan in plans for item in plan.items) == list(range(len(lengths)))
    for plan in plans:
        assert plan.packed == packs
        assert packs or len({lengths[item] for item in plan.items}) == 1
        assert len(plan.items) == 1 or sum(lengths[item] for item in plan.items) <= row_tokens


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(2, 20), min_size=1, max_size=12),
    st.sampled_from([0, None]),
    st.booleans(),
    st.sampled_from([0, 64]),
)
def test_rows_feed_all_but_the_last_token_and_predict_all_but_the_first(lengths, prefix, packs, width):
    sequences = [sequence(np.arange(1, n + 1) + 100 * i, prefix) for i, n in enumerate(lengths)]
    for plan in plan_rows([len(s) - 1 for s in sequences], 50, packs):
        rows = build_rows(plan, sequences, width, 20)
        fed = [sequences[i][:-1] for i in plan.items]
        filled = sum(len(tokens) for tokens in fed)
        assert rows.lengths == [len(tokens) for tokens in fed]
        np.testing.assert_array_equal(rows.inputs.reshape(-1)[:filled], np.concatenate(fed))
        np.testing.assert_array_equal(rows.targets, np.concatenate([sequences[i][1:] for i in plan.items]))
        if not packs:
            continue
        assert rows.inputs.shape == (1, width or filled)
        documents = np.diff(rows.starts)
        assert documents[: len(fed)].tolist() == rows.lengths
        assert rows.starts[-1] == rows.inputs.size
        assert documents.max() <= rows.longest == 20
        np.testing.assert_array_equal(rows.positions[0], np.concatenate([np.arange(n) for n in documents]))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.sampled_from([256, 1023, 1024, 2046]))
def test_a_fixed_width_holds_the_row_and_divides_the_budget_or_is_a_multiple_of_it(filled, row_tokens):
    width = fixed_width(filled, row_tokens)
    assert width >= filled
    assert width % row_tokens == 0 or row_tokens % width == 0
    assert width >= row_tokens / NARROWEST


@pytest.mark.parametrize("row_tokens", [1, 255, 256, 1023, 2046, 2048, 16_384])
def test_fixed_widths_are_few(row_tokens):
    """A compiled graph is made for every width: the budget, its half, and so on to a sixteenth, and no other."""
    widths = {fixed_width(filled, row_tokens) for filled in range(1, row_tokens + 1)}
    halves = {row_tokens // 2**n for n in range(5) if row_tokens % 2**n == 0}
    assert widths == halves
    assert len(widths) <= 5


def test_mixed_lengths_fill_fixed_rows_to_99_percent():
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(5.3, 0.9, 3500), 8, 2048).astype(int)  # mean near 300
    plans = plan_rows(lengths, 16_384)
    slots = sum(fixed_width(int(lengths[plan.items].sum()), 16_384) for plan in plans)
    assert lengths.sum() / slots > 0.99
