"""Further measures of trained strategies, and how far the selection's are from each rival's.

Which side of a measure is better only its maker knows (accuracy up, perplexity down): no verdict is given.
"""

import json
from dataclasses import dataclass

import polars as pl

from ppl_assets import plots
from ppl_assets.subset.comparison import SELECTED, Difference, paired_difference


@dataclass(frozen=True)
class MeasureRow:
    """One measure of one strategy.

    Attributes:
        measure: its name.
        strategy: the strategy.
        seeds: seeds that have it.
        mean: over seeds.
        deviation: between seeds; None with one.
        difference: the selection's less this strategy's, paired by seed; None for the selection itself, or where no
            seed is shared.
    """

    measure: str
    strategy: str
    seeds: int
    mean: float
    deviation: float | None
    difference: Difference | None


def measure_rows(strategy_losses: pl.DataFrame, confidence: float) -> list[MeasureRow]:
    """Every measure of every strategy, by measure, the selection first; empty where none was taken.

    Args:
        strategy_losses: table ``strategy_losses``.
        confidence: level of the intervals.
    """
    taken = downstream_table(plots.final_losses(strategy_losses))
    table, rows = taken.filter(pl.col("value").is_finite()), []
    mine = table.filter(pl.col("strategy") == SELECTED).select("measure", "seed", pl.col("value").alias("selected"))
    order = [pl.col("measure"), pl.col("strategy") != SELECTED, pl.col("strategy"), pl.col("seed")]
    grouped = table.sort(order).group_by("measure", "strategy", maintain_order=True)
    for (measure, strategy), group in grouped:
        shared = group.join(mine, on=["measure", "seed"])
        difference = None
        if strategy != SELECTED and not shared.is_empty():
            difference = paired_difference(shared["selected"], shared["value"], confidence)
        values = group["value"]
        rows.append(
            MeasureRow(str(measure), str(strategy), len(values), float(values.mean()), values.std(), difference)  # type: ignore[arg-type]
        )
    return rows


def downstream_table(last: pl.DataFrame) -> pl.DataFrame:
    """Further measures of trained models: strategy, seed, measure, value; empty where none were taken.

    Args:
        last: last rows of ``strategy_losses``, one a strategy and seed.
    """
    rows = [
        {"strategy": row["strategy"], "seed": row["seed"], "measure": name, "value": value}
        for row in last.iter_rows(named=True)
        for name, value in json.loads(row["downstream"] or "{}").items()
    ]
    schema = {"strategy": pl.String, "seed": pl.Int64, "measure": pl.String, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema)
