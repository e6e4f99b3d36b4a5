"""A key of the scoring benchmark means one thing, or is null."""

import pytest

from benchmarks.asset_overhead import Overhead
from benchmarks.report import overhead_keys


@pytest.mark.parametrize(
    ("found", "beside", "inside"),
    [
        ([Overhead(11.0, 10.0, 8.8)], 1.25, 1.1),
        ([Overhead(11.0, 10.0, None)], None, 1.1),
        ([], None, None),
    ],
    ids=["beside_the_scorer_alone", "quick", "not_run"],
)
def test_what_the_asset_adds_is_null_where_it_was_not_run(found, beside, inside):
    keys = overhead_keys(found)
    assert (keys["asset_overhead"], keys["asset_over_scorer_inside"]) == (beside, inside)
