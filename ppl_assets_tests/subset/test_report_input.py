"""Which token counts the law's surface is shown at, and how a path is said."""

from pathlib import Path

import polars as pl
import pytest

from ppl_assets.subset.report_input import MOST_LAYERS, layer_tokens, shown_path
from ppl_assets_tests.subset.report_factory import BUDGET, COUNTS, regime_table, trial_table

LOSSES = trial_table(regime_table())


def test_layers_are_the_counts_measured_after_warm_up_and_the_selections():
    assert layer_tokens(LOSSES, BUDGET) == COUNTS[1:].tolist()
    assert layer_tokens(LOSSES, 10 * BUDGET) == [*COUNTS[1:].tolist(), 10 * BUDGET]


def test_a_count_near_the_selections_gives_way_to_it():
    selected = int(COUNTS[3] * 1.02)
    assert layer_tokens(LOSSES, selected) == [COUNTS[1], COUNTS[2], selected, *COUNTS[4:]]


def test_counts_that_trials_hardly_differ_in_are_one():
    uneven = LOSSES.with_columns(
        pl.when(pl.col("point") > 0).then(pl.col("tokens") + pl.col("seed") % 3).otherwise("tokens").alias("tokens")
    )
    assert len(layer_tokens(uneven, BUDGET)) == 6


@pytest.mark.parametrize("points", [7, 8, 40])
def test_many_counts_are_thinned_but_first_and_last_stay(points):
    rows = [
        {"point": point, "tokens": 1_000 * 2**point if points < 10 else int(1_000 * 1.2**point), "is_warmup": False}
        for point in range(1, points + 1)
    ]
    losses = pl.DataFrame(rows)
    layers = layer_tokens(losses, 10**9)
    assert len(layers) <= MOST_LAYERS
    assert layers[0] == rows[0]["tokens"]
    assert layers[-2:] == [rows[-1]["tokens"], 10**9]


def test_before_any_trial_there_is_the_selections_count():
    assert layer_tokens(LOSSES.head(0), BUDGET) == [BUDGET]


def test_an_export_below_the_study_is_named_from_there():
    assert shown_path(Path("/work/team/data/exports/a1"), Path("/work/team")) == str(Path("data/exports/a1"))
    assert shown_path(Path("/lake/exports/a1"), Path("/work/team")) == str(Path("/lake/exports/a1"))
