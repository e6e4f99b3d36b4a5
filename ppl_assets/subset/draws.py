"""Which chunks each strategy takes, in training order."""

from dataclasses import dataclass

import polars as pl

from ppl_assets.regimes.drawn import Drawn, Target
from ppl_assets.regimes.ordering import prefix_order
from ppl_assets.regimes.pool import Pool
from ppl_assets.study import Study
from ppl_assets.subset.selection import SelectionOptions, select


@dataclass(frozen=True)
class OrderedDraw:
    """A drawn subset in training order.

    Attributes:
        drawn: what was drawn and what it reached.
        rows: rank, chunk_id, corpus, n_tokens, ppl, in training order.
    """

    drawn: Drawn
    rows: pl.DataFrame


def options_of(study: Study) -> SelectionOptions:
    """The study's selection method and objective."""
    return SelectionOptions(method=study.selection.method, objective=study.selection.objective)


def draw(name: str, study: Study, pool: Pool, target: Target, seed: int, prefixes: list[int]) -> OrderedDraw:
    """Draw a strategy's subset and order it like a trial's: every prefix has the whole's moments."""
    drawn = select(name, pool.candidates, target, seed=seed, options=options_of(study))
    return OrderedDraw(drawn, ordered(pool.drawn(drawn.index), seed, prefixes))


def ordered(rows: pl.DataFrame, seed: int, prefixes: list[int]) -> pl.DataFrame:
    """Rows in a training order whose prefixes have the whole's moments; ``rank`` numbers it."""
    total = int(rows["n_tokens"].sum())
    within = [min(count, total) for count in prefixes]
    order, _ = prefix_order(rows["ppl"].to_numpy(), rows["n_tokens"].to_numpy(), seed=seed, prefixes=within)
    return rows[order.tolist()].with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int64))
