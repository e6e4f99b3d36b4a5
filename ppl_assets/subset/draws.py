"""Which chunks each strategy takes, in training order."""

from dataclasses import dataclass

import polars as pl

from ppl_assets.markdown import as_markdown_table
from ppl_assets.regimes.documents import Documents
from ppl_assets.regimes.drawn import Drawn, Target
from ppl_assets.regimes.limits import Limit
from ppl_assets.regimes.ordering import prefix_order
from ppl_assets.regimes.pool import Pool
from ppl_assets.study import Study
from ppl_assets.subset.selection import SelectionOptions, select, select_documents


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
    """The study's selection method and objective, its limits of corpora, and how often a chunk may be taken."""
    limits = tuple(Limit(*limit) for limit in limits_of(study))
    asked = study.selection
    return SelectionOptions(asked.method, asked.objective, limits=limits, repeats=asked.repeats)


def limits_of(study: Study) -> list[tuple[str, float, float]]:
    """Name, least and most share of each limited corpus: what the limits add to the inputs of a selection."""
    return [(name, corpus.min_share, corpus.max_share) for name, corpus in study.limited_corpora.items()]


def shares_within_limits(study: Study, partitions: pl.DataFrame) -> str:
    """Least, most and selected share of each limited corpus as a Markdown table; empty where none is limited.

    Args:
        study: the study.
        partitions: corpus and n_tokens of each corpus partition that was selected from.
    """
    groups, total = groups_of(study), int(partitions["n_tokens"].sum())
    taken = [0] * (len(study.limited_corpora) + 1)
    for partition, tokens in partitions.select("corpus", "n_tokens").iter_rows():
        taken[groups.get(partition, 0)] += tokens
    rows = [
        {"corpus": name, "min_share": least, "max_share": most, "share": tokens / total}
        for (name, least, most), tokens in zip(limits_of(study), taken[1:], strict=True)
    ]
    return as_markdown_table(pl.DataFrame(rows)) if rows else ""


def groups_of(study: Study) -> dict[str, int]:
    """Group of each partition of a corpus whose share is limited, from 1 on in the order of the limits; else empty."""
    names = list(study.limited_corpora)
    named = ((partition, study.corpus_of(partition)[0]) for partition in study.corpus_partitions())
    return {partition: names.index(name) + 1 for partition, name in named if name in names}


def draw(
    name: str,
    study: Study,
    pool: Pool,
    target: Target,
    seed: int,
    prefixes: list[int],
    documents: Documents | None = None,
) -> OrderedDraw:
    """Draw a strategy's subset and order it like a trial's: every prefix has the whole's moments.

    With ``documents`` whole ones are drawn, and their order keeps them together.
    """
    if documents is not None:
        whole = select_documents(name, documents, target, seed=seed)
        return OrderedDraw(whole, pool.drawn(whole.index))
    drawn = select(name, pool.candidates, target, seed=seed, options=options_of(study))
    return OrderedDraw(drawn, ordered(pool.drawn(drawn.index), seed, prefixes))


def ordered(rows: pl.DataFrame, seed: int, prefixes: list[int]) -> pl.DataFrame:
    """Rows in a training order whose prefixes have the whole's moments; ``rank`` numbers it."""
    total = int(rows["n_tokens"].sum())
    within = [min(count, total) for count in prefixes]
    order, _ = prefix_order(rows["ppl"].to_numpy(), rows["n_tokens"].to_numpy(), seed=seed, prefixes=within)
    return rows[order.tolist()].with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int64))
