"""Trial losses against tokens with the fitted curves, and what the fit leaves over."""

import math
from typing import Any

import numpy as np
import polars as pl

from ppl_assets.plots.strategies import base_losses
from ppl_assets.plots.style import (
    FAINT,
    FITTED,
    INK,
    MUTED,
    TEST,
    Size,
    encode,
    log_axis,
    new_figure,
    perplexity_text,
    styled,
    tokens_text,
    words,
)

MOST_LETTERS = 16
"""Letters of a run's name in a chart of residuals; a longer one is cut, since the panels are an inch or two wide."""

CURVE_COLUMNS = ("trial", "tokens", "predicted_loss")
"""Predictions of the chosen form along each trial: any token counts, dense enough for a smooth line."""

NO_CURVES = pl.DataFrame(schema=dict(zip(CURVE_COLUMNS, (pl.String, pl.Float64, pl.Float64), strict=True)))
"""Where there is no law yet, or none was fitted."""

RESIDUAL_COLUMNS = ("form", "link", "trial", "tokens", "predicted_loss", "test_loss")
"""Fitted against measured, one row per form, link and observation used in the fit."""


def loss_curves(trial_losses: pl.DataFrame, curves: pl.DataFrame, regimes: pl.DataFrame, size: Size = "page") -> bytes:
    """Small multiples, one panel per regime: measured losses, the fitted curve, and every other run in grey.

    Args:
        trial_losses: table ``trial_losses``, rows of one setting.
        curves: columns of ``CURVE_COLUMNS``; may be empty.
        regimes: table ``regimes``; a trial that it lacks has its own panel.
        size: page or small.

    Returns:
        PNG bytes.

    Raises:
        ValueError: no trial has a measurement after training began.
    """
    trained = trial_losses.filter(pl.col("tokens") > 0, pl.col("test_loss").is_finite())
    if trained.is_empty():
        raise ValueError("no trial has a measurement after training began; run the trials first")
    panels = _panels(trained, regimes)
    base, _ = base_losses(trial_losses)
    columns = _columns(len(panels), size)
    rows = math.ceil(len(panels) / columns)
    with styled(size):
        figure = new_figure(size, (1.75 if size == "page" else 1.15) * rows + 0.6)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (title, trials) in zip(grid.flat, panels, strict=False):
            axes.set_xscale("log")
            _panel(axes, trained, curves, trials, size)
            axes.set_title(title, fontsize=8.0 if size == "page" else 6.8)
            if base is not None:
                axes.axhline(base, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        _frame(grid[0, 0], trained, base, size)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel(
            "tokens of continual pre-training (log scale)", fontsize=9 if size == "page" else 7.6, color=MUTED
        )
        figure.supylabel("test loss, nats a token", fontsize=9 if size == "page" else 7.6, color=MUTED)
        return encode(figure)


def _columns(panels: int, size: Size) -> int:
    """Panels a row: three to five on a page, two on a phone, with the fewest empty places."""
    if size == "small":
        return min(panels, 2 if panels <= 12 else 3)
    return min(panels, min((5, 4, 3) if panels <= 15 else (5, 4), key=lambda columns: -panels % columns))


def _panels(trained: pl.DataFrame, regimes: pl.DataFrame) -> list[tuple[str, list[str]]]:
    """Title and trials of each panel, ordered by mean and deviation of perplexity."""
    trials = (
        trained.select("trial").unique().join(regimes.select("trial", "regime", "mu", "sigma"), on="trial", how="left")
    )
    named = trials.with_columns(pl.coalesce("regime", "trial").alias("regime"))
    grouped = (
        named.group_by("regime")
        .agg(pl.col("mu", "sigma").mean(), pl.col("trial").sort())
        .sort("mu", "sigma", nulls_last=True)
    )
    panels = []
    for row in grouped.iter_rows(named=True):
        moments = (
            f"mean {perplexity_text(row['mu'])}, spread {perplexity_text(row['sigma'])}"
            if row["mu"] is not None
            else row["regime"]
        )
        seeds = f" ({len(row['trial'])} runs)" if len(row["trial"]) > 1 else ""
        panels.append((moments + seeds, row["trial"]))
    return panels


def _panel(axes: Any, trained: pl.DataFrame, curves: pl.DataFrame, trials: list[str], size: Size) -> None:
    """One regime: the others faint, its own fit as a line, its own measurements as dots."""
    for _, run in trained.filter(~pl.col("trial").is_in(trials)).sort("tokens").group_by("trial", maintain_order=True):
        axes.plot(run["tokens"], run["test_loss"], color=FAINT, linewidth=0.5, alpha=0.7)
    for _, run in curves.filter(pl.col("trial").is_in(trials)).sort("tokens").group_by("trial", maintain_order=True):
        axes.plot(run["tokens"], run["predicted_loss"], color=FITTED, linewidth=1.4, alpha=0.8)
    own = trained.filter(pl.col("trial").is_in(trials))
    mark = 3.4 if size == "page" else 2.4
    for warm, face in ((False, INK), (True, "#ffffff")):
        part = own.filter((pl.col("is_warmup") | (pl.col("status") != "ok")) == warm)
        axes.plot(
            part["tokens"],
            part["test_loss"],
            "o",
            markersize=mark,
            markerfacecolor=face,
            markeredgecolor=INK,
            markeredgewidth=0.7,
        )
    last = own.filter(pl.col("tokens") == own["tokens"].max())
    if last["test_loss"].mean() is not None:
        value = float(last["test_loss"].mean())  # type: ignore[arg-type]
        axes.annotate(
            f"{value:.2f}",
            (float(last["tokens"][0]), value),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.4 if size == "page" else 6.4,
        )
    axes.grid(axis="y")


def _frame(axes: Any, trained: pl.DataFrame, base: float | None, size: Size) -> None:
    """Shared limits, ticks and the base model's name; a diverged run does not flatten the rest."""
    tokens = trained["tokens"].to_numpy()
    first, last = float(tokens.min()), float(tokens.max())
    axes.set_xlim(first / 1.25, last * (1.9 if size == "page" else 2.4))
    log_axis(axes.xaxis, first * 0.99, last * 1.01, tokens_text, most=5 if size == "page" else 3)
    ok = trained.filter(pl.col("status") == "ok")["test_loss"]
    values = (ok if len(ok) else trained["test_loss"]).to_numpy()
    low, high = float(values.min()), max(float(np.quantile(values, 0.99)), base or 0.0)
    span = max(high - low, 1e-3)
    axes.set_ylim(low - 0.1 * span, high + 0.22 * span)
    if base is not None:
        text, font = f"base model {base:.3f}", 7.4 if size == "page" else 6.4
        spot = (last * 1.8, base)
        axes.annotate(text, spot, (0, 1.5), textcoords="offset points", ha="right", va="bottom", fontsize=font)


def residuals(table: pl.DataFrame, noise_pct: float | None = None, size: Size = "page") -> bytes:
    """Residual in % of the measured loss, by form: above against tokens, below against the predicted loss.

    Each run is one thin line, since its points share seed and order; the run with the largest residual is named.

    Args:
        table: columns of ``RESIDUAL_COLUMNS``; forms are drawn in the order of their first row, at most four
            (two where small).
        noise_pct: seed noise, % of loss; shaded where known.
        size: page or small.

    Returns:
        PNG bytes.

    Raises:
        ValueError: the table is empty.
    """
    if table.is_empty():
        raise ValueError("there is no fitted observation to draw; fit the law first")
    table = table.with_columns((100.0 * (pl.col("test_loss") / pl.col("predicted_loss") - 1.0)).alias("residual"))
    groups = list(table.group_by("form", "link", maintain_order=True))[: 4 if size == "page" else 2]
    shown = pl.concat([group for _, group in groups])
    reach = max(float(shown["residual"].abs().max()) * 1.4, 1e-6)  # type: ignore[arg-type]
    with styled(size):
        figure = new_figure(size, 4.2 if size == "page" else 3.6)
        grid = figure.subplots(2, len(groups), sharey=True, sharex="row", squeeze=False)
        for column, ((form, link), group) in enumerate(groups):
            rms = math.sqrt(float((group["residual"] ** 2).mean()))  # type: ignore[arg-type]
            count = f"n = {len(group)} ({group['trial'].n_unique()} runs)"
            grid[0, column].set_title(
                f"{words(str(form))}, {link} link\nrms {rms:.2f} %, {count}",
                fontsize=8.2 if size == "page" else 6.4,
            )
            for row, variable in enumerate(("tokens", "predicted_loss")):
                _residual_panel(grid[row, column], group, variable, noise_pct)
        grid[0, 0].set_ylim(-reach, reach)
        low, high = float(shown["tokens"].min()), float(shown["tokens"].max())  # type: ignore[arg-type]
        for axes in grid[0]:
            axes.set_xscale("log")
            log_axis(axes.xaxis, low * 0.99, high * 1.01, tokens_text, most=5 if size == "page" else 4)
            axes.set_xlabel("tokens (log scale)")
        for axes in grid[1]:
            axes.set_xlabel("fitted loss, nats a token")
        for axes in grid[:, 0]:
            axes.set_ylabel("residual, % of loss")
        return encode(figure)


def _residual_panel(axes: Any, group: pl.DataFrame, variable: str, noise_pct: float | None) -> None:
    """One form against one variable."""
    if noise_pct:
        axes.axhspan(-noise_pct, noise_pct, color="#e3e7ea", linewidth=0, zorder=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    worst = group.sort(pl.col("residual").abs(), descending=True)["trial"][0]
    for (trial,), run in group.sort("tokens").group_by("trial", maintain_order=True):
        color, width = (TEST, 1.2) if trial == worst else (FAINT, 0.7)
        axes.plot(run[variable], run["residual"], color=color, linewidth=width, zorder=3 if trial == worst else 1)
        axes.plot(
            run[variable], run["residual"], "o", color=TEST if trial == worst else MUTED, markersize=2.4, zorder=4
        )
    run = group.filter(pl.col("trial") == worst)
    far = run.sort(pl.col("residual").abs(), descending=True).row(0, named=True)
    up = 1 if far["residual"] > 0 else -1
    middle = float(group[variable].median())  # type: ignore[arg-type]
    side = "left" if far[variable] <= middle else "right"
    note = axes.annotate(
        _short_name(str(worst)),
        (far[variable], far["residual"]),
        (0, 4 * up),
        textcoords="offset points",
        color=TEST,
        ha=side,
        va="bottom" if up > 0 else "top",
    )
    note.set_in_layout(False)  # else the layout makes room beside the panel for a text that lies inside it
    axes.grid(axis="y")


def _short_name(trial: str) -> str:
    """A run's regime, cut where it is long."""
    name = trial.rpartition("-s")[0] or trial
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
