"""The surface that answers to the pointer, read back from its JSON."""

import base64
import gzip
import json

import numpy as np
import polars as pl
import pytest

from ppl_assets.plots.layers import Mark
from ppl_assets.plots.live import bokeh_scripts, live_surface
from ppl_assets.subset.report import draw_live
from ppl_assets_tests.subset.report_factory import BUDGET, report_input, without


@pytest.fixture(scope="module")
def data():
    return report_input()


@pytest.fixture(scope="module")
def live(data):
    return draw_live(data)


def named(live):
    """Renderers by name."""
    return {
        model["attributes"]["name"]: model for model in models(live, "GlyphRenderer") if "name" in model["attributes"]
    }


def models(live, kind):
    """Every model of a kind, however deep."""
    found = []

    def walk(node):
        if isinstance(node, dict):
            if node.get("name") == kind and node.get("type") == "object":
                found.append(node)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(live.item["doc"])
    return found


def column(renderer, name):
    """A column of a renderer's data source."""
    entries = dict(renderer["attributes"]["data_source"]["attributes"]["data"]["entries"])
    value = entries[name]
    if isinstance(value, dict) and value["type"] == "ndarray":
        return np.frombuffer(gzip.decompress(base64.b64decode(value["array"]["data"])), dtype=value["dtype"])
    return value


def test_it_is_valid_json_of_bearable_size(live):
    text = json.dumps(live.item, allow_nan=False)
    assert len(text) < 60_000 + 40_000 * len(live.layers)
    assert len("".join(bokeh_scripts())) < 1_500_000


def test_the_cells_hold_the_laws_own_numbers_and_moments(data, live):
    cells = named(live)["cells-0"]
    mean, deviation, loss, low, high = (
        column(cells, name) for name in ("mean", "deviation", "loss_1", "low_1", "high_1")
    )
    place = len(mean) // 2
    said = data.forecast.at(float(mean[place]), float(deviation[place]), data.layers.tokens[1])
    assert [loss[place], low[place], high[place]] == pytest.approx([said.loss, said.low, said.high], rel=1e-5)
    assert column(cells, "x")[place] == pytest.approx(np.log(mean[place]), rel=1e-6)


def test_one_layer_is_seen_first_that_of_the_selections_tokens(live):
    seen = {name for name, model in named(live).items() if model["attributes"].get("visible", True)}
    assert {name for name in seen if "-" in name and not name.startswith("mark")} == {"cells-1", "lines-1", "trials-1"}
    assert live.start == 1
    assert live.layers[1].tokens == BUDGET


def test_a_trial_shows_what_it_measured_at_the_layers_tokens(data, live):
    trials = named(live)["trials-0"]
    layer = live.layers[0]
    names, notes, losses = (column(trials, name) for name in ("name", "note", "loss"))
    row = data.trial_losses.filter(pl.col("trial") == "grid-00-s0", pl.col("tokens") == layer.tokens).row(0, named=True)
    place = list(names).index("trial grid-00-s0")
    assert losses[place] == pytest.approx(row["test_loss"])
    assert notes[place] == f"measured {row['test_loss']:.3f} nats after {layer.tokens:,} tokens"
    assert layer.measured == 12


def test_trials_without_a_measurement_at_the_layer_are_shown_without_a_loss(data):
    short = data.trial_losses.filter(pl.col("tokens") < BUDGET)
    live = live_surface(data.layers, short, [], BUDGET)
    trials = named(live)["trials-1"]
    assert np.isnan(column(trials, "loss")).all()
    assert set(column(trials, "note")) == {"not at this token count"}
    assert live.layers[1].measured == 0


def test_the_marks_are_optimum_selection_target_and_corpus(data, live):
    assert live.marks == ("optimum", "selection", "test set", "corpus")
    (place,) = column(named(live)["mark-optimum"], "place")
    assert place == "mean 303, deviation 103"
    no_spread = data.landscape.with_columns(
        deviation=pl.when(pl.col("scope") != "test").then("deviation").otherwise(0.0)
    )
    assert draw_live(without(data, landscape=no_spread)).marks == ("optimum", "selection", "corpus")


def test_both_axes_say_what_they_are_and_that_they_are_logarithmic(live):
    labels = {axis["attributes"]["axis_label"] for axis in models(live, "LinearAxis")}
    assert labels == {"mean perplexity of the subset (log scale)", "deviation of perplexity (log scale)"}
    (bar,) = models(live, "ColorBar")
    assert bar["attributes"]["title"] == "predicted test loss, nats a token"


def test_ticks_are_round_perplexities_at_their_logarithms(live):
    axis = models(live, "LinearAxis")[0]
    words = {float(place): text for place, text in axis["attributes"]["major_label_overrides"]["entries"]}
    assert len(words) >= 3
    for place, text in words.items():
        assert float(text.replace(",", "")) == pytest.approx(np.exp(place))


def test_without_intervals_the_pointer_says_none(data):
    bare = data.layers.__class__(
        **{**vars(data.layers), "low": data.layers.low * np.nan, "high": data.layers.high * np.nan}
    )
    texts = [
        tool["attributes"]["tooltips"] for tool in models(live_surface(bare, data.trial_losses, [], 1), "HoverTool")
    ]
    assert any("no interval" in text for text in texts)
    assert not any("@low" in text for text in texts)


def test_a_mark_far_from_the_trials_is_inside_the_frame(data):
    live = live_surface(data.layers, data.trial_losses, [Mark("corpus", 5_000.0, 9_000.0)], BUDGET)
    ends = [(r["attributes"]["start"], r["attributes"]["end"]) for r in models(live, "Range1d")]
    assert any(start < np.log(5_000) < end for start, end in ends)
    assert any(start < np.log(9_000) < end for start, end in ends)


def test_layers_that_do_not_fit_their_axes_are_refused(data):
    with pytest.raises(ValueError, match="not layers of 1 token counts"):
        data.layers.__class__(**{**vars(data.layers), "tokens": (1,)})
