"""The law's surface that answers to the pointer: a Bokeh figure as JSON, for a page that needs no network.

Belongs here: the figure. Does not belong here: what moves it (``subset/templates/surface.js``) and where it stands.
The axes are linear in ln(mean) and ln(deviation) with ticks in plain perplexities, so that a grid even in logarithms is
made of equal cells. There is no zoom: it would take a phone's scrolling, and the hull fills the frame.
"""

import math
from collections.abc import Sequence
from typing import Any

import contourpy
import numpy as np
import polars as pl
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, LinearColorMapper, Range1d
from bokeh.models.annotations import ColorBar
from bokeh.plotting import figure
from bokeh.resources import Resources
from numpy.typing import NDArray

from ppl_assets.plots.grid import SurfaceByTokens, loss_levels, shades
from ppl_assets.plots.layers import NEAR, Layer, LiveSurface, Mark
from ppl_assets.plots.style import FAINT, INK, MUTED, PAPER, SELECTED, TEST, log_ticks, perplexity_text, plain_text

HEIGHT = 500
"""Pixels, whatever the width."""

MARGIN = 0.08
"""Of the frame's width and height, left free around what is drawn."""

_LOOKS: dict[str, dict[str, Any]] = {
    "optimum": {"marker": "star", "size": 17, "fill_color": "#f0e442", "line_color": INK},
    "selection": {"marker": "circle", "size": 21, "fill_color": None, "line_color": SELECTED, "line_width": 2.5},
    "test set": {"marker": "square", "size": 10, "fill_color": TEST, "line_color": PAPER},
    "corpus": {"marker": "diamond", "size": 14, "fill_color": INK, "line_color": PAPER},
}


def bokeh_scripts() -> list[str]:
    """The library's own scripts, whole: what the figure needs and no widgets, tables or mathematics."""
    return list(Resources(mode="inline", components=["bokeh"]).js_raw)


def live_surface(
    surface: SurfaceByTokens, trial_losses: pl.DataFrame, marks: Sequence[Mark], tokens: int
) -> LiveSurface:
    """Heat map of predicted loss inside the hull, a layer a token count, with contours, trials and marks.

    Args:
        surface: predictions with intervals.
        trial_losses: table ``trial_losses``, rows of one setting.
        marks: places to show.
        tokens: the token count seen first; the nearest layer is taken.
    """
    plot = _frame(surface, trial_losses, marks)
    cells, inside = _cells(surface), surface.inside
    shown = [surface.loss[number][inside] for number in range(len(surface.tokens))]
    ends = [(levels[0], levels[-1]) for levels in map(loss_levels, shown)]
    start = int(np.argmin(np.abs(np.log(np.array(surface.tokens) / tokens))))
    low, high = ends[start]
    mapper = LinearColorMapper(palette=shades(256), low=low, high=high, nan_color=FAINT, name="shade")
    for number in range(len(surface.tokens)):
        _paint(plot, surface, cells, number, mapper, visible=number == start)
    _hull(plot, surface)
    layers = []
    for number, (count, (low, high)) in enumerate(zip(surface.tokens, ends, strict=True)):
        measured = _trials(plot, trial_losses, count, number, mapper, visible=number == start)
        layers.append(Layer(count, float(low), float(high), measured))
    _marks(plot, marks)
    bar = ColorBar(
        color_mapper=mapper, orientation="horizontal", height=10, padding=2, margin=0, major_tick_line_color=None,
        bar_line_color=None, background_fill_color=None, major_label_text_color=MUTED,
        major_label_text_font_size="12px", title="predicted test loss, nats a token", title_text_font_style="normal",
        title_text_color=MUTED, title_text_font_size="12px",
    )  # fmt: skip
    plot.add_layout(bar, "above")
    return LiveSurface(dict(json_item(plot)), tuple(layers), start, tuple(mark.name for mark in marks))


def _frame(surface: SurfaceByTokens, trial_losses: pl.DataFrame, marks: Sequence[Mark]) -> Any:
    """The empty figure: limits that hold everything, ticks in plain perplexities, no tools but the pointer's."""
    measured = _measured(trial_losses)
    ends = []
    for number, column in enumerate(("mu", "sigma")):
        places = [getattr(mark, column) for mark in marks]
        values = np.log([*surface.hull[:, number], *measured[column].to_list(), *places])
        margin = max(MARGIN * float(np.ptp(values)), 0.05)
        ends.append((float(values.min() - margin), float(values.max() + margin)))
    across, up = (Range1d(start=low, end=high) for low, high in ends)
    plot = figure(
        x_range=across, y_range=up, height=HEIGHT, sizing_mode="stretch_width", tools="",
        toolbar_location=None, background_fill_color=PAPER, border_fill_color=None, outline_line_color=FAINT,
        x_axis_label="mean perplexity of the subset (log scale)", y_axis_label="deviation of perplexity (log scale)",
        min_border_right=12,
    )  # fmt: skip
    plot.grid.visible = False
    for axis, (low, high), most in ((plot.xaxis, ends[0], 6), (plot.yaxis, ends[1], 8)):
        ticks = log_ticks(math.exp(low), math.exp(high), most)
        places = [math.log(tick) for tick in ticks]
        axis.ticker = FixedTicker(ticks=places)
        axis.major_label_overrides = dict(zip(places, map(plain_text, ticks), strict=True))
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = MUTED
        axis.axis_line_color = axis.major_tick_line_color = FAINT
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "12px"
    return plot


def _cells(surface: SurfaceByTokens) -> ColumnDataSource:
    """One row a grid point in the hull or next to it: place, moments, loss and interval of every layer."""
    keep = _widened(surface.inside)
    mu, sigma = np.meshgrid(surface.mu, surface.sigma)
    columns = {"x": np.log(mu[keep]), "y": np.log(sigma[keep]), "mean": mu[keep], "deviation": sigma[keep]}
    for number in range(len(surface.tokens)):
        for name, values in (("loss", surface.loss), ("low", surface.low), ("high", surface.high)):
            columns[f"{name}_{number}"] = values[number][keep]
    return ColumnDataSource({name: values.astype(np.float32) for name, values in columns.items()})


def _widened(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its neighbours: the hull's edge cuts through these cells, and a cover hides what lies outside."""
    padded = np.pad(inside, 1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any(axis=(2, 3)))


def _paint(
    plot: Any, surface: SurfaceByTokens, cells: ColumnDataSource, number: int, mapper: LinearColorMapper, visible: bool
) -> None:
    """One layer: cells that show their moments, loss and interval under the pointer, and contour lines."""
    u, v = np.log(surface.mu), np.log(surface.sigma)
    loss = f"loss_{number}"
    color = {"field": loss, "transform": mapper}
    painted = plot.rect(
        "x", "y", width=u[1] - u[0], height=v[1] - v[0], source=cells, fill_color=color, line_color=color,
        name=f"cells-{number}", visible=visible,
    )  # fmt: skip
    small = "0.0" if min(surface.mu[0], surface.sigma[0]) < 100 else "0,0"
    words = f"mean <b>@mean{{{small}}}</b>, deviation <b>@deviation{{{small}}}</b><br>"
    words += f"predicted <b>@{loss}{{0.000}}</b> nats a token<br>"
    finite = bool(np.isfinite(surface.low[number][surface.inside]).all())
    words += f"interval @low_{number}{{0.000}} to @high_{number}{{0.000}}" if finite else "no interval"
    plot.add_tools(HoverTool(renderers=[painted], tooltips=words, point_policy="follow_mouse", attachment="below"))
    levels = loss_levels(surface.loss[number][surface.inside])
    generator = contourpy.contour_generator(u, v, surface.loss[number])
    lines = [np.asarray(line) for level in levels for line in generator.lines(level)]
    xs, ys = ([line[:, axis].astype(np.float32) for line in lines] for axis in (0, 1))
    plot.multi_line(xs, ys, color="#5f7f93", line_width=0.7, name=f"lines-{number}", visible=visible)


def _hull(plot: Any, surface: SurfaceByTokens) -> None:
    """The hull's outline, and a cover over everything outside it."""
    corners = np.log(surface.hull)
    far = [(r.start - 1.0, r.end + 1.0) for r in (plot.x_range, plot.y_range)]
    (left, right), (bottom, top) = far
    plot.multi_polygons(
        xs=[[[[left, right, right, left], corners[:, 0].tolist()]]],
        ys=[[[[bottom, bottom, top, top], corners[:, 1].tolist()]]],
        fill_color=PAPER,
        line_color=None,
    )
    plot.patch(corners[:, 0], corners[:, 1], fill_color=None, line_color=INK, line_width=1.2)


def _trials(
    plot: Any, trial_losses: pl.DataFrame, tokens: int, number: int, mapper: LinearColorMapper, visible: bool
) -> int:
    """A dot a trial, in the colour of the loss that it measured at this layer; returns how many did."""
    away = (pl.col("tokens") / tokens).log().abs()
    nearest = _measured(trial_losses).sort(away, "trial").group_by("trial", maintain_order=True).first()
    rows = nearest.with_columns(is_here=away <= NEAR).sort("trial")
    here = rows["is_here"]
    said = [
        f"{loss:.3f} nats after {seen:,} tokens{', warm-up' if warm else ''}" if is_here else "not at this token count"
        for loss, seen, warm, is_here in rows.select("test_loss", "tokens", "is_warmup", "is_here").iter_rows()
    ]
    source = ColumnDataSource(
        {
            "x": rows["mu"].log().to_numpy(),
            "y": rows["sigma"].log().to_numpy(),
            "name": [f"trial {name}" for name in rows["trial"]],
            "place": _places(rows["mu"].to_list(), rows["sigma"].to_list()),
            "note": [f"measured {text}" if text[0].isdigit() else text for text in said],
            "loss": rows.select(pl.when("is_here").then("test_loss"))["test_loss"].to_numpy(),
        }
    )
    dots = plot.scatter(
        "x", "y", size=10, source=source, fill_color={"field": "loss", "transform": mapper}, line_color=INK,
        line_width=1.2, name=f"trials-{number}", visible=visible,
    )  # fmt: skip
    plot.add_tools(_named_hover(dots))
    return int(here.sum())


def _marks(plot: Any, marks: Sequence[Mark]) -> None:
    """Named places, and the cross of the optimum's interval under them."""
    for mark in marks:
        if mark.cross is not None:
            (left, right), (bottom, top) = mark.cross
            ends = [[left, mark.mu], [mark.sigma, bottom], [right, mark.mu], [mark.sigma, top]]
            plot.segment(*(np.log(end).tolist() for end in ends), line_color=INK, line_width=1.6)
    for mark in sorted(marks, key=lambda mark: list(_LOOKS).index(mark.name), reverse=True):
        place = _places([mark.mu], [mark.sigma])
        columns: dict[str, Any] = {"x": [math.log(mark.mu)], "y": [math.log(mark.sigma)]}
        columns |= {"name": [mark.name], "place": place, "note": [mark.note]}
        source = ColumnDataSource(columns)
        drawn = plot.scatter("x", "y", source=source, name=f"mark-{mark.name}", **_LOOKS[mark.name])
        plot.add_tools(_named_hover(drawn))


def _named_hover(drawn: Any) -> HoverTool:
    """The pointer's text over a named place: above it, since the surface's own stands below the pointer."""
    words = "<b>@name</b><br>@place<br>@note"
    return HoverTool(renderers=[drawn], tooltips=words, attachment="above")


def _places(mu: Sequence[float], sigma: Sequence[float]) -> list[str]:
    """Moments in words."""
    return [f"mean {perplexity_text(m)}, deviation {perplexity_text(s)}" for m, s in zip(mu, sigma, strict=True)]


def _measured(trial_losses: pl.DataFrame) -> pl.DataFrame:
    """What was measured after training began, of runs that have a spread and did not diverge."""
    return trial_losses.filter(pl.col("point") > 0, pl.col("status") == "ok", pl.col("sigma") > 0)
