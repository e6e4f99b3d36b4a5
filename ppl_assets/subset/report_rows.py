"""The rows of the report's tables."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from ppl_assets import plots
from ppl_assets.subset.comparison import MATCHED, MIDDLE, RANDOM, Gain, Headline

if TYPE_CHECKING:
    from ppl_assets.subset.report import ReportInput


@dataclass(frozen=True)
class GainRow:
    """A line of the comparison table.

    Attributes:
        gain: the comparison.
        start: left end of the interval bar, 0 to 100 across the cell.
        end: right end.
        dot: place of the mean.
        zero: place of zero.
        beyond: right or left where the mean lies outside the scale; empty where it lies inside.
        words: what the interval allows to be said.
    """

    gain: Gain
    start: float
    end: float
    dot: float
    zero: float
    beyond: str
    words: str


def gain_rows(head: Headline) -> list[GainRow]:
    """The comparison table, random and matched first, with intervals on one common scale that holds zero.

    The scale is made for random, matched and middle: a rival far off (often lowest perplexity) would squeeze them.
    """
    order = sorted(head.gains, key=lambda gain: (gain.rival != RANDOM, gain.rival != MATCHED, gain.rival))
    near = [gain for gain in order if gain.rival in {RANDOM, MATCHED, MIDDLE}] or order
    ends = [0.0, *(end for gain in near for end in _ends(gain))]
    margin = 0.15 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin

    def place(value: float) -> float:
        return min(max(100.0 * (value - low) / (high - low), 0.0), 100.0)

    rows = []
    for gain in order:
        d = gain.difference
        start, end = _ends(gain)
        if d.n == 1:
            sure = "one seed: nothing is sure"
        elif not d.excludes_zero:
            sure = "not sure: includes zero"
        else:
            sure = "selection better" if d.mean > 0 else "selection worse"
        beyond = "right" if d.mean > high else "left" if d.mean < low else ""
        rows.append(GainRow(gain, place(start), place(end), place(d.mean), place(0.0), beyond, sure))
    return rows


def _ends(gain: Gain) -> tuple[float, float]:
    """Ends of a gain's interval; its mean twice where one seed gives none."""
    d = gain.difference
    return (d.mean, d.mean) if d.n == 1 else (d.low, d.high)


def trained_rows(data: "ReportInput") -> list[dict[str, Any]]:
    """What each strategy reached, best first; diverged runs are counted, not averaged."""
    finals = plots.final_losses(data.strategy_losses)
    summary = finals.group_by("strategy").agg(
        pl.len().alias("seeds"),
        pl.col("test_loss", "general_loss", "mu", "sigma", "seconds").mean(),
        pl.col("test_loss").std().alias("seed_deviation"),
    )
    diverged = data.strategy_losses.group_by("strategy").agg(
        pl.col("seed").filter(pl.col("status") != "ok").n_unique().alias("diverged")
    )
    return diverged.join(summary, on="strategy", how="left").sort("test_loss", "strategy", nulls_last=True).to_dicts()


def cleaning_rows(data: "ReportInput") -> tuple[list[str], list[str], list[dict[str, Any]]]:
    """Outcomes of documents in the order of their size, kept first; those of chunks; a row per corpus with both.

    An outcome that ends in ``_chunk`` counts dropped chunks of documents that have an outcome of their own.
    """
    counts = data.cleaning_counts.with_columns(of_chunks=pl.col("outcome").str.ends_with("_chunk"))
    totals = (
        counts.group_by("outcome", "of_chunks")
        .agg(pl.col("documents").sum())
        .sort("documents", "outcome", descending=[True, False])
    )
    outcomes = totals.filter(~pl.col("of_chunks"))["outcome"].to_list()
    rows = []
    for (corpus,), group in counts.sort("corpus").group_by("corpus", maintain_order=True):
        found: dict[str, int] = dict(
            group.group_by("outcome").agg(pl.col("documents").sum()).select("outcome", "documents").iter_rows()
        )
        total = int(group.filter(~pl.col("of_chunks"))["documents"].sum())
        kept = 100.0 * found.get("kept", 0) / total if total else 0.0
        characters = int(group.filter(pl.col("outcome") == "kept")["characters"].sum())
        rows.append({"corpus": corpus, "counts": found, "total": total, "kept_pct": kept, "characters": characters})
    return (
        sorted(outcomes, key=lambda outcome: outcome != "kept"),
        totals.filter(pl.col("of_chunks"))["outcome"].to_list(),
        rows,
    )


def trial_rows(data: "ReportInput") -> list[dict[str, Any]]:
    """Design and outcome of every trial."""
    last = data.trial_losses.sort("tokens").group_by("trial", maintain_order=True).last()
    final = last.select("trial", "test_loss", "general_loss", "seconds", "status", pl.col("tokens").alias("seen"))
    return data.regimes.join(final, on="trial", how="left").sort("mu", "sigma", "trial").to_dicts()
