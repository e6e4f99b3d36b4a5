import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from ppl_assets import plots
from ppl_assets.plots.style import MARKDOWN_LIMIT, SELECTED, TEST, perplexity_text, tokens_text
from ppl_assets.subset.report import draw
from ppl_assets_tests.subset.report_factory import report_input, strategy_table, table, without

CHARTS = {"landscape", "trials", "law", "residuals", "strategies"}


@pytest.fixture(scope="module")
def data():
    return report_input()


@pytest.fixture(scope="module")
def small(data):
    return draw(data, "small")


def test_every_chart_is_drawn_and_small_ones_fit_an_event_log_row(small):
    assert set(small) == CHARTS
    for png in small.values():
        assert png.startswith(b"\x89PNG")
        assert 5_000 < len(png) < 70_000


def test_small_marks_keep_their_colour(small):
    pixels = np.asarray(Image.open(io.BytesIO(small["law"])).convert("RGB"), dtype=int)
    for color in (TEST, "#f0e442", SELECTED):
        wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        assert np.abs(pixels - wanted).max(axis=2).min() <= 12


def test_drawing_twice_gives_the_same_bytes(data, small):
    assert plots.strategies(data.strategy_losses, size="small") == small["strategies"]


def test_drawing_leaves_matplotlib_as_it_was(data):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.strategies(data.strategy_losses, size="small")
    assert dict(mpl.rcParams) == before


def test_markdown_carries_the_image_and_a_safe_alt(small):
    text = plots.as_markdown(small["strategies"], "losses]( of [x]")
    assert text.startswith("![losses ( of  x ](data:image/png;base64,")
    assert text.endswith(")")


def test_markdown_of_a_big_image_is_encoded_smaller():
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    assert len(buffer.getvalue()) > MARKDOWN_LIMIT
    assert len(plots.as_markdown(buffer.getvalue(), "noise")) < MARKDOWN_LIMIT * 4 / 3 + 100


def test_an_image_that_cannot_be_made_small_is_refused(small, monkeypatch):
    monkeypatch.setattr("ppl_assets.plots.style.MARKDOWN_LIMIT", 100)
    with pytest.raises(ValueError, match="size='small'"):
        plots.as_markdown(small["strategies"], "losses")


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("size", ["small", "page"])
@pytest.mark.parametrize("name", ["grid_00", "a-run-with-quite-a-name-of-its-own", "x" * 90])
def test_residuals_of_a_run_with_a_long_name_leave_room_for_their_panels(data, name, size):
    named = data.residuals.with_columns(trial=pl.lit(name) + pl.col("trial").str.replace("-s", "."))
    assert plots.residuals(named, 0.1, size).startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("rows", [1, 7, 60])
def test_few_residuals_can_be_drawn_small_without_a_warning(data, rows):
    assert plots.residuals(data.residuals.head(rows), None, "small").startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error::UserWarning")
def test_every_small_chart_is_drawn_without_a_warning(data):
    assert set(draw(data, "small")) == CHARTS


def test_names_are_never_read_as_mathematics(data):
    named = data.regimes.with_columns(pl.lit(r"$\frac{x$").alias("regime"))
    assert plots.landscape(data.histogram, data.landscape, named, size="small").startswith(b"\x89PNG")


def test_a_dirty_corpus_with_more_spread_than_mean_can_be_drawn(data):
    dirty = data.landscape.with_columns(mean=pl.lit(884.0), deviation=pl.lit(1666.0))
    law = data.fitted_law.filter(pl.col("is_chosen"))
    assert data.surface is not None
    assert plots.landscape(data.histogram, dirty, data.regimes, data.selection, "small")
    assert plots.law_surface(
        data.surface, law.head(0), data.regimes.head(0), data.reachable.head(0), dirty, None, "small"
    )


@pytest.mark.parametrize("size", ["page", "small"])
def test_the_design_is_drawn_with_an_outline_a_share(data, size):
    shares = pl.concat([data.reachable, data.reachable.with_columns(pl.col("share") / 16, pl.col("sigma_high") * 1.2)])
    picture = plots.trial_design(shares, data.regimes, data.landscape, size)
    assert picture.startswith(b"\x89PNG")
    assert picture != plots.trial_design(shares, data.regimes.head(2), data.landscape, size)
    assert picture != plots.trial_design(data.reachable, data.regimes, data.landscape, size)
    with pytest.raises(ValueError, match="materialize regime_partitions first"):
        plots.trial_design(data.reachable.head(0), data.regimes, data.landscape)


def test_a_diverged_run_is_left_out_of_the_final_losses():
    losses = strategy_table({"selected": 0.0, "random": 0.1}, seeds=2)
    gone = (pl.col("strategy") == "random") & (pl.col("seed") == 1) & (pl.col("point") == 5)
    losses = losses.with_columns(pl.when(gone).then(pl.lit("diverged")).otherwise("status").alias("status"))
    assert plots.final_losses(losses).select("strategy", "seed").rows() == [
        ("random", 0),
        ("selected", 0),
        ("selected", 1),
    ]


def test_one_seed_and_no_general_loss_can_be_drawn():
    losses = strategy_table({"selected": 0.0, "random": 0.1}, seeds=1)
    losses = losses.with_columns(general_loss=pl.lit(None, pl.Float64), predicted_loss=pl.lit(None, pl.Float64))
    assert plots.strategies(losses, size="small").startswith(b"\x89PNG")


def test_missing_data_is_refused_in_words(data):
    with pytest.raises(ValueError, match="run the trials first"):
        plots.loss_curves(data.trial_losses.head(0), data.curves, data.regimes)
    with pytest.raises(ValueError, match="train the strategies first"):
        plots.strategies(table("strategy_losses", []))
    with pytest.raises(ValueError, match="score the corpora first"):
        plots.landscape(data.histogram.head(0), data.landscape, data.regimes)
    with pytest.raises(ValueError, match="fit the law first"):
        plots.residuals(data.residuals.head(0))
    with pytest.raises(ValueError, match="finite grid"):
        plots.LawSurface(np.ones(3), np.ones(2), np.ones((3, 2)), np.ones((3, 2)), 1, "paper")


def test_a_chart_without_data_is_left_out(data):
    bare = without(data, curves=pl.DataFrame(), residuals=pl.DataFrame(), surface=None)
    bare = without(bare, strategy_losses=table("strategy_losses", []), histogram=data.histogram.head(0))
    assert set(draw(bare, "small")) == {"trials"}


@pytest.mark.parametrize(
    ("value", "text"), [(7.314, "7.31"), (23.44, "23.4"), (239.4, "239"), (1666.0, "1,670"), (0.0, "0.0")]
)
def test_perplexities_have_three_digits(value, text):
    assert perplexity_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(512, "512"), (4_096, "4.1 k"), (65_536, "66 k"), (1_200_000, "1.2 M")])
def test_token_counts_are_short(value, text):
    assert tokens_text(value) == text
