"""The fitted law as a surface over mean and deviation of perplexity, no wider than what was tried."""

from typing import Any

import numpy as np
import polars as pl

from ppl_assets.plots.grid import LawSurface, in_hull, loss_levels, palette
from ppl_assets.plots.style import (
    INK,
    MUTED,
    SELECTED,
    TEST,
    Label,
    Size,
    encode,
    log_axis,
    new_figure,
    perplexity_text,
    place_labels,
    plain_text,
    styled,
    tokens_text,
)


def law_surface(
    surface: LawSurface,
    law: pl.DataFrame,
    trials: pl.DataFrame,
    reachable: pl.DataFrame,
    landscape: pl.DataFrame,
    selection: pl.DataFrame | None = None,
    size: Size = "page",
) -> bytes:
    """Contours of predicted loss inside the hull of the trials, with everything a reader wants to compare it with.

    Args:
        surface: the grid of predictions.
        law: the chosen row of table ``fitted_law`` (optimum and interval); may be empty.
        trials: table ``regimes``: a dot each.
        reachable: table ``reachable_region``; the boundary of the largest share, the tightest, is drawn.
        landscape: table ``perplexity_landscape``: moments of candidates and test set.
        selection: one row of table ``selections``, or None.
        size: page or small.

    Returns:
        PNG bytes.
    """
    with styled(size):
        figure = new_figure(size, 5.6 if size == "page" else 4.3)
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        labels = _marks(axes, law, landscape, selection)
        points = [(float(mu), float(sigma)) for mu, sigma in trials.select("mu", "sigma").iter_rows() if sigma > 0]
        _frame(axes, [*points, *((label.x, label.y) for label in labels), *map(tuple, surface.hull)], size)
        filled = _contours(axes, surface, size)
        _boundary(axes, reachable, len(points))
        if points:
            axes.plot(
                *zip(*points, strict=True),
                "o",
                markersize=4.2,
                markerfacecolor="#ffffff",
                markeredgecolor=INK,
                markeredgewidth=0.9,
                zorder=6,
            )
        _scale(figure, axes, filled, surface)
        axes.set_xlabel("mean perplexity of the subset (log scale)")
        axes.set_ylabel("standard deviation of perplexity (log scale)")
        place_labels(axes, labels, avoid=[*points, *_interval_points(law)])
        return encode(figure)


def _scale(figure: Any, axes: Any, filled: Any, surface: LawSurface) -> None:
    """The colour scale, with its unit, token count and form."""
    bar = figure.colorbar(filled, ax=axes, shrink=0.75, pad=0.01, aspect=26)
    bar.outline.set_visible(False)
    bar.set_label(f"predicted test loss at {tokens_text(surface.tokens)} tokens, nats a token\n{surface.form}")
    bar.ax.tick_params(length=0)


def _contours(axes: Any, surface: LawSurface, size: Size) -> Any:
    """Filled contours and thin labelled lines, clipped to the hull."""
    from matplotlib.patches import Polygon

    patch = Polygon(surface.hull, closed=True, facecolor="none", edgecolor=INK, linewidth=1.0, zorder=4)
    axes.add_patch(patch)
    inside = in_hull(surface.hull, surface.mu, surface.sigma)
    values = np.where(inside, surface.loss, np.nan)
    shown = values[np.isfinite(values)] if np.isfinite(values).any() else surface.loss[np.isfinite(surface.loss)]
    levels = loss_levels(shown)
    masked = np.ma.masked_invalid(surface.loss)
    filled = axes.contourf(surface.mu, surface.sigma, masked, levels=levels, cmap=palette(), extend="max", zorder=1)
    lines = axes.contour(
        surface.mu, surface.sigma, masked, levels=levels[1:-1], colors="#5f7f93", linewidths=0.5, zorder=2
    )
    filled.set_clip_path(patch)
    lines.set_clip_path(patch)
    filled.set_clim(levels[0], levels[-1])
    if size == "page":
        inner = Polygon(np.log(surface.hull), closed=True).get_path()
        for text in axes.clabel(lines, levels=levels[1:-1:2], fmt=plain_text, fontsize=7, colors=MUTED):
            place = np.log(text.get_position()) + np.array([[0.05, 0.0], [-0.05, 0.0], [0.0, 0.05], [0.0, -0.05]])
            if not inner.contains_points(place).all():
                text.remove()
    return filled


def _boundary(axes: Any, reachable: pl.DataFrame, count: int) -> None:
    """Least and greatest deviation that a subset of the largest share can have at each mean."""
    rows = reachable.filter(pl.col("share") == pl.col("share").max(), pl.col("sigma_high") > 0).sort("mu")
    if rows.is_empty():
        return
    low = np.maximum(rows["sigma_low"].to_numpy(), 1e-9)
    share, trials = 100.0 * float(rows["share"][0]), f"{count} trials"
    for edge in (low, rows["sigma_high"].to_numpy()):
        axes.plot(rows["mu"], edge, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=3)
    axes.plot(
        [], [], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), label=f"reachable with {share:.3g} % of the corpus"
    )
    axes.plot([], [], color=INK, linewidth=1.0, label="hull of the trials: the law is asked nowhere else")
    axes.plot(
        [], [], "o", markersize=4.2, markerfacecolor="#ffffff", markeredgecolor=INK, markeredgewidth=0.9, label=trials
    )
    axes.figure.legend(
        loc="outside upper left",
        frameon=False,
        ncols=3 if axes.figure.get_figwidth() > 6 else 1,
        labelcolor=MUTED,
        handlelength=2.2,
    )


def _marks(axes: Any, law: pl.DataFrame, landscape: pl.DataFrame, selection: pl.DataFrame | None) -> list[Label]:
    """Draw optimum with interval, selection, corpus and test set; return their labels, most important first."""
    labels: list[Label] = []
    optimum = next(law.filter(pl.col("mu_optimum").is_not_null()).iter_rows(named=True), None)
    for low, high in _intervals(law):
        axes.plot([low[0], high[0]], [low[1], high[1]], color=INK, linewidth=1.5, zorder=6, solid_capstyle="butt")
    if optimum is not None:
        labels.append(_label("optimum", optimum["mu_optimum"], optimum["sigma_optimum"], INK))
    for row in [] if selection is None else selection.iter_rows(named=True):
        same = optimum is not None and np.allclose(
            [row["mu"], row["sigma"]], [optimum["mu_optimum"], optimum["sigma_optimum"]], rtol=0.01
        )
        if same:
            labels[0] = _label("optimum, and the selection", row["mu"], row["sigma"], INK)
        else:
            labels.append(_label("selection", row["mu"], row["sigma"], SELECTED))
        axes.plot(row["mu"], row["sigma"], "o", markersize=14, mfc="none", mec=SELECTED, mew=1.8, zorder=7)
    if optimum is not None:
        spot = optimum["mu_optimum"], optimum["sigma_optimum"]
        axes.plot(*spot, "*", color="#f0e442", markersize=12, mec=INK, mew=0.9, zorder=8)
    for scope, name, mark, color in (("test", "test set", "s", TEST), ("candidates", "all candidates", "D", INK)):
        for row in landscape.filter(pl.col("scope") == scope, pl.col("deviation") > 0).iter_rows(named=True):
            axes.plot(
                row["mean"],
                row["deviation"],
                mark,
                color=color,
                markersize=6,
                markeredgecolor="#ffffff",
                markeredgewidth=0.8,
                zorder=7,
            )
            labels.append(_label(name, row["mean"], row["deviation"], color))
    return labels


def _label(name: str, mu: float, sigma: float, color: str) -> Label:
    """A named point with its moments."""
    return Label(mu, sigma, f"{name} ({perplexity_text(mu)}, {perplexity_text(sigma)})", color)


def _intervals(law: pl.DataFrame) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Ends of the optimum's intervals: along the mean and along the deviation, where both ends are known."""
    lines = []
    for row in law.filter(pl.col("mu_optimum").is_not_null()).head(1).iter_rows(named=True):
        mu, sigma = row["mu_optimum"], row["sigma_optimum"]
        if row["mu_low"] is not None and row["mu_high"] is not None:
            lines.append(((row["mu_low"], sigma), (row["mu_high"], sigma)))
        if row["sigma_low"] is not None and row["sigma_high"] is not None:
            lines.append(((mu, row["sigma_low"]), (mu, row["sigma_high"])))
    return lines


def _interval_points(law: pl.DataFrame) -> list[tuple[float, float]]:
    """Points along the intervals, which labels should leave visible."""
    shares = (0.0, 0.25, 0.75, 1.0)
    return [
        (low[0] + share * (high[0] - low[0]), low[1] + share * (high[1] - low[1]))
        for low, high in _intervals(law)
        for share in shares
    ]


def _frame(axes: Any, points: list[tuple[float, float]], size: Size) -> None:
    """Limits that hold every point with a margin; ticks in plain perplexities."""
    values = np.asarray(points, dtype=np.float64)
    ends = []
    for column in values.T:
        margin = max(0.08 * float(np.log(column.max() / column.min())), 0.05)
        ends.append((float(column.min() * np.exp(-margin)), float(column.max() * np.exp(margin))))
    axes.set_xlim(*ends[0])
    axes.set_ylim(*ends[1])
    log_axis(axes.xaxis, *ends[0], most=9 if size == "page" else 6)
    log_axis(axes.yaxis, *ends[1], most=9)
