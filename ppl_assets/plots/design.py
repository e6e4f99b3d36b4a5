"""The trial design: which (mean, deviation) a subset of each share of the candidates can have, and where trials lie."""

from typing import Any

import numpy as np
import polars as pl

from ppl_assets.plots.style import (
    FAINT,
    INK,
    MUTED,
    TEST,
    Label,
    Size,
    encode,
    log_axis,
    new_figure,
    perplexity_text,
    place_labels,
    styled,
)

_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 2)), (0, (1, 3)))
_LEAST_RATIO = 1e-2
"""Deviations below this share of the greatest are cut off: a band of equal scores has none, and log axes no zero."""


def trial_design(reachable: pl.DataFrame, trials: pl.DataFrame, landscape: pl.DataFrame, size: Size = "page") -> bytes:
    """Outline of the reachable region at every share, with a dot a regime and the moments of corpus and test set.

    Args:
        reachable: table ``reachable_region``; one outline a share.
        trials: table ``regimes``; may be empty.
        landscape: table ``perplexity_landscape``.
        size: page or small.

    Returns:
        PNG bytes.

    Raises:
        ValueError: there is no outline.
    """
    rows = reachable.filter(pl.col("sigma_high") > 0).sort("share", "mu")
    if rows.is_empty():
        raise ValueError("the reachable region has no outline; materialize regime_partitions first")
    with styled(size):
        figure = new_figure(size, 4.8 if size == "page" else 3.8)
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        _outlines(axes, rows)
        points = [(float(mu), float(sigma)) for mu, sigma in trials.select("mu", "sigma").iter_rows() if sigma > 0]
        if points:
            dots = axes.plot(*zip(*points, strict=True), "o", zorder=6, markersize=4.2, label=f"{len(points)} trials")
            dots[0].set(markerfacecolor="#ffffff", markeredgecolor=INK, markeredgewidth=0.9)
        labels = _marks(axes, landscape)
        _frame(axes, rows, [*points, *((label.x, label.y) for label in labels)], size)
        axes.set_xlabel("mean perplexity of the subset (log scale)")
        axes.set_ylabel("standard deviation of perplexity (log scale)")
        columns = 4 if size == "page" else 2
        figure.legend(loc="outside upper left", frameon=False, ncols=columns, labelcolor=MUTED, handlelength=2.2)
        place_labels(axes, labels, avoid=points)
        return encode(figure)


def _outlines(axes: Any, rows: pl.DataFrame) -> None:
    """One closed curve a share; the largest share, the tightest, is filled."""
    shares = rows["share"].unique().sort().to_list()
    for number, share in enumerate(reversed(shares)):
        part = rows.filter(pl.col("share") == share)
        high = part["sigma_high"].to_numpy()
        low = np.maximum(part["sigma_low"].to_numpy(), _LEAST_RATIO * high.max())
        mu = part["mu"].to_numpy()
        if number == 0:
            axes.fill_between(mu, low, np.maximum(high, low), color=FAINT, alpha=0.25, linewidth=0, zorder=1)
        axes.plot(
            np.concatenate([mu, mu[::-1], mu[:1]]),
            np.concatenate([low, high[::-1], low[:1]]),
            color=MUTED,
            linewidth=1.0,
            linestyle=_DASHES[number % len(_DASHES)],
            zorder=2,
            label=f"reachable with {100 * share:.3g} %",
        )


def _marks(axes: Any, landscape: pl.DataFrame) -> list[Label]:
    """The corpus' and the test set's own moments."""
    labels = []
    for scope, name, mark, color in (("test", "test set", "s", TEST), ("candidates", "all candidates", "D", INK)):
        for row in landscape.filter(pl.col("scope") == scope, pl.col("deviation") > 0).iter_rows(named=True):
            axes.plot(
                row["mean"], row["deviation"], mark, color=color, markersize=5.5, mec="#ffffff", mew=0.8, zorder=7
            )
            text = f"{name} ({perplexity_text(row['mean'])}, {perplexity_text(row['deviation'])})"
            labels.append(Label(row["mean"], row["deviation"], text, color))
    return labels


def _frame(axes: Any, rows: pl.DataFrame, points: list[tuple[float, float]], size: Size) -> None:
    """Limits that hold outlines and points."""
    high = rows["sigma_high"].to_numpy()
    mu = np.concatenate([rows["mu"].to_numpy(), [x for x, _ in points]])
    sigma = np.concatenate(
        [high[high > _LEAST_RATIO * high.max()], [y for _, y in points], [_LEAST_RATIO * high.max()]]
    )
    for axis, limit, values, most in (
        (axes.xaxis, axes.set_xlim, mu, 9 if size == "page" else 6),
        (axes.yaxis, axes.set_ylim, sigma, 9),
    ):
        cut = axis is axes.yaxis and values.min() == _LEAST_RATIO * high.max()  # outlines end there, out of sight
        low, top = float(values.min()) * (1.03 if cut else 1 / 1.08), float(values.max()) * 1.08
        limit(low, top)
        log_axis(axis, low, top, most=most)
