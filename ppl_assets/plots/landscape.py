"""The perplexity landscape: how hard the candidate text is for the base model, and where the trials stand in it."""

import math
from typing import Any

import numpy as np
import polars as pl

from ppl_assets.plots.style import (
    FAINT,
    GRID,
    INK,
    MUTED,
    SELECTED,
    TEST,
    Size,
    encode,
    log_axis,
    new_figure,
    perplexity_text,
    styled,
)

MOST_LABELLED_BARS = 20
CANDIDATES, TEST_SCOPE = "candidates", "test"


def landscape(
    histogram: pl.DataFrame,
    landscape: pl.DataFrame,
    regimes: pl.DataFrame,
    selection: pl.DataFrame | None = None,
    size: Size = "page",
) -> bytes:
    """Distribution of chunk perplexity with the fence, over a strip of (mean, deviation) of every regime.

    Args:
        histogram: table ``landscape_histogram``; scopes candidates and test are drawn.
        landscape: table ``perplexity_landscape``.
        regimes: table ``regimes``; may be empty.
        selection: one row of table ``selections``, or None.
        size: page or small.

    Returns:
        PNG bytes.

    Raises:
        ValueError: the histogram has no candidates.
    """
    bars = _bars(landscape, regimes, selection)
    with styled(size):
        pitch = min(0.2, 3.6 / max(1, len(bars)))
        strip = max(0.6, pitch * len(bars))
        figure = new_figure(size, (3.1 if size == "page" else 2.6) + strip + 0.5)
        top, low = figure.subplots(2, 1, sharex=True, height_ratios=[2.6 if size == "page" else 2.1, strip])
        top.set_xscale("log")
        edges = _distribution(top, histogram, landscape, size)
        _strip(low, bars, edges)
        left, right = edges
        low.set_xlim(left, right)
        log_axis(low.xaxis, left, right, most=10 if size == "page" else 7)
        low.set_xlabel("perplexity of a chunk under the base model (log scale)")
        return encode(figure)


def chunk_histogram(log_ppl: np.ndarray, corpus: str) -> bytes:
    """Distribution of one corpus' chunk perplexity, small.

    Args:
        log_ppl: float64 [chunks], finite, at least one.
        corpus: its name.

    Returns:
        PNG bytes.
    """
    counts, edges = np.histogram(log_ppl, min(60, max(5, round(2 * len(log_ppl) ** 0.5))))
    middle = math.exp(float(np.median(log_ppl)))
    with styled("small"):
        figure = new_figure("small", 2.2)
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.stairs(counts, np.exp(edges), fill=True, color="#d5dbe0")
        axes.stairs(counts, np.exp(edges), color=MUTED, linewidth=0.9)
        axes.axvline(middle, color=TEST, linewidth=1.2)
        axes.set_ylim(0, counts.max() * 1.25)
        axes.annotate(
            f"median {perplexity_text(middle)}", (middle, counts.max() * 1.12), (4, 0), textcoords="offset points",
            color=TEST, va="center",
        )  # fmt: skip
        left, right = math.exp(edges[0]) / 1.05, math.exp(edges[-1]) * 1.05
        axes.set_xlim(left, right)
        log_axis(axes.xaxis, left, right, most=7)
        axes.set_xlabel(f"perplexity of a chunk of {corpus} (log scale)")
        axes.set_ylabel("chunks")
        axes.grid(axis="y")
        return encode(figure)


def _distribution(axes: Any, histogram: pl.DataFrame, landscape: pl.DataFrame, size: Size) -> tuple[float, float]:
    """Candidates filled, test set as a line, noise shaded; returns the range of perplexity shown."""
    filled = histogram.filter(pl.col("chunks") > 0, pl.col("scope").is_in([CANDIDATES, TEST_SCOPE]))
    if filled.filter(pl.col("scope") == CANDIDATES).is_empty():
        raise ValueError("the histogram has no chunk of scope 'candidates'; score the corpora first")
    left = float(np.exp(filled["log_low"].to_numpy().min())) / 1.05
    right = float(np.exp(filled["log_high"].to_numpy().max())) * 1.05
    peak = 0.0
    for scope, color, name in ((CANDIDATES, MUTED, "candidates"), (TEST_SCOPE, TEST, "test set")):
        rows = histogram.filter(pl.col("scope") == scope).sort("log_low")
        if not rows["chunks"].sum():
            continue
        edges = np.exp(np.append(rows["log_low"].to_numpy(), rows["log_high"].to_numpy()[-1]))
        widths = (rows["log_high"] - rows["log_low"]).to_numpy()
        chunks = rows["chunks"].to_numpy()
        density = 100.0 * chunks / chunks.sum() / widths * math.log(2.0)
        if scope == CANDIDATES:
            axes.stairs(density, edges, fill=True, color="#d5dbe0")
        axes.stairs(density, edges, color=color, linewidth=1.6 if scope == TEST_SCOPE else 0.9)
        peak = max(peak, float(density.max()))
        _name(axes, name, int(rows["chunks"].sum()), edges, density, color)
    _fence(axes, landscape, left, right, peak)
    axes.set_ylim(0, peak * (1.32 if size == "page" else 1.42))
    axes.set_ylabel("% of chunks per doubling" if size == "page" else "% per doubling")
    axes.grid(axis="y")
    axes.tick_params(axis="x", length=0, labelbottom=False)
    return left, right


def _name(axes: Any, name: str, chunks: int, edges: Any, density: Any, color: str) -> None:
    """Write a distribution's name and size: candidates on the left flank, the test set on its peak."""
    text = f"{name}\nn = {chunks:,}"
    if color == TEST:
        top = int(density.argmax())
        spot, offset, side, ink = (math.sqrt(edges[top] * edges[top + 1]), density[top]), (0, 5), "center", TEST
    else:
        flank = int(np.argmax(density >= 0.85 * density.max()))
        spot, offset, side, ink = (edges[flank], density[flank]), (-5, 3), "right", INK
    axes.annotate(text, spot, offset, textcoords="offset points", color=ink, ha=side, va="bottom")


def _fence(axes: Any, landscape: pl.DataFrame, left: float, right: float, peak: float) -> None:
    """Shade what lies beyond the fence and say how much it is."""
    row = next(landscape.filter(pl.col("scope") == CANDIDATES).iter_rows(named=True), None)
    if row is None:
        return
    for start, end in ((left, row["fence_low"]), (row["fence_high"], right)):
        if end > start:
            axes.axvspan(start, end, facecolor="#f4f5f6", edgecolor="#e6e9ec", hatch="///", linewidth=0, zorder=0)
    for fence in (row["fence_low"], row["fence_high"]):
        if left < fence < right:
            axes.axvline(fence, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    if left < row["fence_high"] < right:
        total = row["chunks"] + row["noise_chunks"]
        share = 100.0 * row["noise_chunks"] / total if total else 0.0
        axes.annotate(
            f"fence {perplexity_text(row['fence_high'])}\nnoise: {row['noise_chunks']:,} chunks ({share:.1f} %)",
            (row["fence_high"], peak * 0.62), (5, 0), textcoords="offset points", color=MUTED, va="center",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "#ffffff", "edgecolor": "none", "alpha": 0.9},
        )  # fmt: skip


def _bars(
    landscape: pl.DataFrame, regimes: pl.DataFrame, selection: pl.DataFrame | None
) -> list[tuple[str, float, float, str]]:
    """Name, mean, deviation and colour of each bar of the strip, top to bottom."""
    bars: list[tuple[str, float, float, str]] = []
    for scope, name, color in ((CANDIDATES, "all candidates", INK), (TEST_SCOPE, "test set", TEST)):
        bars += [
            (name, row["mean"], row["deviation"], color)
            for row in landscape.filter(pl.col("scope") == scope).iter_rows(named=True)
        ]
    if selection is not None:
        bars += [("selection", row["mu"], row["sigma"], SELECTED) for row in selection.iter_rows(named=True)]
    grouped = regimes.group_by("regime").agg(pl.col("mu", "sigma").mean(), pl.len().alias("runs")).sort("mu", "sigma")
    for row in grouped.iter_rows(named=True):
        runs = f" ({row['runs']} runs)" if row["runs"] > 1 else ""
        bars.append((f"{row['regime']}{runs}", row["mu"], row["sigma"], "#8b959e"))
    return bars


def _strip(axes: Any, bars: list[tuple[str, float, float, str]], edges: tuple[float, float]) -> None:
    """One horizontal bar a row: mean, and one deviation to each side; an arrow where it runs out of the frame."""
    left, right = edges
    for place, (_, mean, deviation, color) in enumerate(bars):
        start, end = max(mean - deviation, left), min(mean + deviation, right)
        axes.plot([start, end], [place, place], color=color, linewidth=2.2, alpha=0.55, solid_capstyle="butt")
        axes.plot(min(max(mean, left), right), place, "o", color=color, markersize=4)
        if mean - deviation < left:
            axes.plot(left, place, "<", color=color, markersize=3.5, clip_on=False)
        if mean + deviation > right:
            axes.plot(right, place, ">", color=color, markersize=3.5, clip_on=False)
        if len(bars) <= MOST_LABELLED_BARS:
            text = f"{perplexity_text(mean)} \N{PLUS-MINUS SIGN} {perplexity_text(deviation)}"
            axes.annotate(
                text,
                (1, place),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                color=color if color != "#8b959e" else MUTED,
            )
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_yticks(
        range(len(bars)), [name for name, *_ in bars] if len(bars) <= MOST_LABELLED_BARS else [""] * len(bars)
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.axhline(-0.6, color=FAINT, linewidth=0.8)
    if len(bars) > MOST_LABELLED_BARS:
        axes.set_ylabel(f"mean \N{PLUS-MINUS SIGN} deviation, {len(bars)} subsets")
