"""What training on each strategy's subset really gave: domain loss and forgetting, seed by seed."""

from typing import Any

import numpy as np
import polars as pl
import scipy

from ppl_assets.plots.style import (
    FAINT,
    INK,
    MUTED,
    PREDICTED,
    SELECTED,
    Size,
    encode,
    new_figure,
    styled,
    tokens_text,
    words,
)

SELECTED_STRATEGY = "selected"


def final_losses(strategy_losses: pl.DataFrame) -> pl.DataFrame:
    """The last measurement of every run that did not diverge: one row per strategy and seed.

    Args:
        strategy_losses: table ``strategy_losses``, rows of one setting.
    """
    diverged = strategy_losses.filter(pl.col("status") != "ok").select("strategy", "seed").unique()
    trained = strategy_losses.filter(pl.col("tokens") > 0).join(diverged, on=["strategy", "seed"], how="anti")
    return trained.sort("tokens").group_by("strategy", "seed", maintain_order=True).last().sort("strategy", "seed")


def base_losses(losses: pl.DataFrame) -> tuple[float | None, float | None]:
    """Test and general loss before any training (point 0), nats a token; None where not measured."""
    before = losses.filter(pl.col("point") == 0)
    test, general = before["test_loss"].mean(), before["general_loss"].mean()
    return (None if test is None else float(test)), (None if general is None else float(general))  # type: ignore[arg-type]


def strategies(strategy_losses: pl.DataFrame, confidence: float = 0.95, size: Size = "page") -> bytes:
    """Final losses by strategy, best first: a dot a seed, mean and t interval, the law's prediction, the base model.

    Args:
        strategy_losses: table ``strategy_losses``, rows of one setting.
        confidence: level of the intervals.
        size: page or small.

    Returns:
        PNG bytes.

    Raises:
        ValueError: no run has a final measurement.
    """
    finals = final_losses(strategy_losses)
    if finals.is_empty():
        raise ValueError("no strategy has a final measurement; train the strategies first")
    order = finals.group_by("strategy").agg(pl.col("test_loss").mean()).sort("test_loss")["strategy"].to_list()
    bases = base_losses(strategy_losses)
    counts: list[int] = sorted(finals.group_by("strategy").len()["len"])
    seeds = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    tokens = tokens_text(float(finals["tokens"].max()))  # type: ignore[arg-type]
    panels = [
        ("test_loss", f"Domain test loss after {tokens} tokens", bases[0]),
        ("general_loss", "General loss (forgetting)", bases[1]),
    ]
    with styled(size):
        page = size == "page"
        height = 0.34 * len(order) + 1.25 if page else 2 * (0.28 * len(order) + 1.05)
        figure = new_figure(size, max(height, 2.4))
        shape = (1, 2) if page else (2, 1)
        for axes, (column, title, base) in zip(np.ravel(figure.subplots(*shape, sharey=True)), panels, strict=True):
            _panel(axes, finals, order, column, base, confidence)
            axes.set_title(f"{title}\n", fontweight="bold")
            predicted = (
                "; diamond: law" if column == "test_loss" and finals["predicted_loss"].drop_nulls().len() else ""
            )
            text = f"nats a token\ndots: {seeds} seeds; bar: mean, {100 * confidence:g} % t interval{predicted}"
            axes.set_xlabel(text, fontsize=8.2 if page else 7.0)
        return encode(figure)


def _panel(
    axes: Any, finals: pl.DataFrame, order: list[str], column: str, base: float | None, confidence: float
) -> None:
    """One measure: strategies down, loss across."""
    values = finals[column].drop_nulls().to_numpy()
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_yticks(range(len(order)), [words(name) for name in order])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    if not values.size:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=MUTED)
        return
    for place, strategy in enumerate(order):
        rows = finals.filter(pl.col("strategy") == strategy)
        color = SELECTED if strategy == SELECTED_STRATEGY else INK
        axes.axhline(place, color="#eef0f2", linewidth=0.8, zorder=0)
        _row(axes, place, rows, column, color, confidence)
    _base_line(axes, base)


def _row(axes: Any, place: int, rows: pl.DataFrame, column: str, color: str, confidence: float) -> None:
    """One strategy: seeds, mean with interval, prediction, and the mean in figures at the right edge."""
    losses = rows[column].drop_nulls().to_numpy()
    if not losses.size:
        return
    mean, n = float(losses.mean()), len(losses)
    if n > 1:
        half = float(scipy.stats.t.ppf(0.5 + confidence / 2, n - 1) * losses.std(ddof=1) / np.sqrt(n))
        axes.plot(
            [mean - half, mean + half], [place, place], color=color, linewidth=5, alpha=0.22, solid_capstyle="butt"
        )
    axes.plot([mean, mean], [place - 0.28, place + 0.28], color=color, linewidth=1.3, zorder=3)
    spread = np.linspace(-0.13, 0.13, n) if n > 1 else np.zeros(1)
    axes.plot(losses, place + spread, "o", color=color, markersize=3.4, zorder=4, markeredgewidth=0)
    text = f"{mean:.3f}" if n > 1 else f"{mean:.3f} (1 seed)"
    axes.annotate(
        text,
        (1, place),
        (5, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=color,
    )
    predicted = rows["predicted_loss"].drop_nulls().mean()
    if column == "test_loss" and predicted is not None:
        axes.plot(
            predicted,
            place,
            "D",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor=PREDICTED,
            markeredgewidth=1.2,
            zorder=5,
        )


def _base_line(axes: Any, base: float | None) -> None:
    """The loss before training, as a line; as words at the edge where a line would squeeze the rest."""
    low, high = axes.get_xlim()
    if base is None:
        return
    span = high - low
    if low - 2 * span <= base <= high + 2 * span:
        axes.set_xlim(min(low, base - 0.04 * span), max(high, base + 0.04 * span))
        axes.axvline(base, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        text, side = f"base {base:.3f}", "right" if base > (low + high) / 2 else "left"
        axes.annotate(
            text,
            (base, 1),
            (0, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=side,
            va="bottom",
            color=MUTED,
        )
        return
    right = base > high
    text = f"base {base:.3f} \N{RIGHTWARDS ARROW}" if right else f"\N{LEFTWARDS ARROW} base {base:.3f}"
    axes.annotate(
        text,
        (1.0 if right else 0.0, 1),
        (0, 2),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom",
        color=MUTED,
    )
    axes.spines["right" if right else "left"].set(visible=True, color=FAINT, linestyle=(0, (4, 3)))
