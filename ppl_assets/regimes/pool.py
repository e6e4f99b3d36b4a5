"""The sampler's view of the lake: selectable chunks as arrays, and the rows they came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.candidates import selectable_chunks
from ppl_assets.regimes.candidates import Candidates
from ppl_assets.regimes.design import Trial
from ppl_assets.tables import REGIMES


@dataclass(frozen=True)
class Pool:
    """Candidates and their identities, row by row.

    Attributes:
        rows: chunk_id, corpus, n_tokens, ppl of each candidate.
        candidates: the same as the sampler wants it.
    """

    rows: pl.DataFrame
    candidates: Candidates

    def drawn(self, index: np.ndarray) -> pl.DataFrame:
        """The rows at these positions, in this order, numbered by ``rank``."""
        return self.rows[index.tolist()].with_row_index("rank").with_columns(pl.col("rank").cast(pl.Int64))


def read_pool(snapshot: Snapshot, corpora: Sequence[str]) -> Pool:
    """Everything that may be selected from these corpora."""
    rows = selectable_chunks(snapshot, corpora).select("chunk_id", "corpus", "n_tokens", "ppl")
    keys = np.array([int(chunk_id[:16], 16) for chunk_id in rows["chunk_id"]], dtype=np.uint64)
    return Pool(rows, Candidates(rows["ppl"].to_numpy(), rows["n_tokens"].to_numpy(), keys))


def trial_rows(trials: Sequence[Trial], pool: Pool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of ``regimes`` and of ``regime_partitions`` for drawn trials."""
    columns = {column.name for column in REGIMES.columns} - {"trial", "chunks"}
    rows = [{name: getattr(t, name) for name in columns} | {"trial": t.name, "chunks": t.index.size} for t in trials]
    members = [pool.drawn(trial.index).with_columns(trial=pl.lit(trial.name)) for trial in trials]
    return pl.DataFrame(rows, schema=pl.Schema(REGIMES.schema)), pl.concat(members)
