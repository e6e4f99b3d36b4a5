"""From chunks and scores to rows of ``perplexity_scores``, and back from a killed run.

Belongs here: the table's derived columns, and the spool in which finished batches wait for the partition's one commit.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from ppl_assets.durable import flush
from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.scores import Scores, bits_per_byte
from ppl_assets.tables import CHUNKS, PERPLEXITY_SCORES

_SCHEMA = pl.Schema(PERPLEXITY_SCORES.schema)


def score_rows(chunks: pl.DataFrame, scores: Scores, corpus: str, scorer_id: str) -> pl.DataFrame:
    """Rows of ``perplexity_scores``.

    Args:
        chunks: chunk_id, n_tokens, n_bytes, first_token_bytes of the scored chunks, in the scores' order.
        scores: their scores.
        corpus: corpus partition.
        scorer_id: the scorer.
    """
    n_tokens = chunks["n_tokens"].to_numpy()
    first_unscored = scores.n_scored < n_tokens
    scored_bytes = chunks["n_bytes"].to_numpy() - np.where(first_unscored, chunks["first_token_bytes"].to_numpy(), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_byte = bits_per_byte(scores.nll, np.maximum(scored_bytes, 1))
    rows = pl.DataFrame(
        {
            "chunk_id": chunks["chunk_id"],
            "corpus": corpus,
            "scorer_id": scorer_id,
            "n_tokens": n_tokens,
            "n_scored": scores.n_scored,
            "scored_bytes": scored_bytes,
            "nll": scores.nll,
            "nll_square_sum": scores.nll_square_sum,
            "ppl": scores.ppl,
            "log_ppl": scores.log_ppl,
            "bits_per_byte": per_byte,
            "max_token_nll": scores.max_token_nll,
            "nll_first_half": scores.nll_first_half,
            "nll_second_half": scores.nll_second_half,
            "status": scores.status,
        }
    )
    return rows.with_columns(pl.col(pl.Float64).fill_nan(None)).select(list(_SCHEMA)).cast(_SCHEMA)


def carried_rows(snapshot: Snapshot, corpus: str, scorer_id: str) -> pl.DataFrame:
    """Rows for the chunks of a partition that another corpus holds too, and that have a score there.

    A chunk's score is of its tokens and the scorer: a renamed corpus, or one that moved into another, is not scored
    again. Its bytes are this partition's.
    """
    sql = """SELECT s.*, c.n_bytes, c.first_token_bytes FROM {perplexity_scores} AS s
             JOIN {chunks} AS c ON c.chunk_id = s.chunk_id AND c.corpus = $corpus
             WHERE s.corpus <> $corpus AND s.scorer_id = $scorer AND s.status = 'ok'
             QUALIFY row_number() OVER (PARTITION BY s.chunk_id ORDER BY s.corpus) = 1"""
    rows = snapshot.query(sql, (PERPLEXITY_SCORES, CHUNKS), {"corpus": corpus, "scorer": scorer_id})
    unscored = pl.when(pl.col("n_scored") < pl.col("n_tokens")).then("first_token_bytes").otherwise(0)
    rows = rows.with_columns(corpus=pl.lit(corpus), scored_bytes=pl.col("n_bytes") - unscored)
    per_byte = bits_per_byte(rows["nll"].to_numpy(), np.maximum(rows["scored_bytes"].to_numpy(), 1))
    return rows.with_columns(pl.Series("bits_per_byte", per_byte)).select(list(_SCHEMA)).cast(_SCHEMA)


class ScoreSpool:
    """Finished batches of one partition under one scorer, kept until they are committed.

    A killed run leaves whole files only, and so does lost power: a batch is written beside its name, to the disk, and
    renamed, and the folder is written too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.part"):
            left.unlink()

    def add(self, rows: pl.DataFrame) -> None:
        """Keep one batch."""
        name = f"{max((int(file.stem) for file in self.folder.glob('*.parquet')), default=-1) + 1:06d}.parquet"
        partial = self.folder / f"{name}.part"
        try:
            rows.write_parquet(partial)
            flush(partial)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        partial.rename(self.folder / name)
        flush(self.folder)

    def rows(self) -> pl.DataFrame:
        """Everything kept."""
        files = sorted(self.folder.glob("*.parquet"))
        return pl.concat([pl.read_parquet(file) for file in files]) if files else pl.DataFrame(schema=_SCHEMA)

    def clear(self) -> None:
        """Forget everything: it has been committed."""
        for file in self.folder.glob("*.parquet"):
            file.unlink()
        self.folder.rmdir()


def digest(rows: pl.DataFrame) -> str:
    """Fingerprint of every value of these rows, in their order; 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=16)
    for column in rows.iter_columns():
        is_text = column.dtype == pl.String
        filled = column.fill_null("") if is_text else column.cast(pl.Float64).fill_null(float("nan"))
        state.update("\n".join(filled).encode() if is_text else filled.to_numpy().tobytes())
    return state.hexdigest()


def merged(parts: Iterable[pl.DataFrame], chunk_ids: set[str]) -> pl.DataFrame:
    """The rows of these chunks, each once a scorer, sorted: the same whether or not the run was interrupted."""
    rows = pl.concat([part.select(list(_SCHEMA)) for part in parts])
    return (
        rows.filter(pl.col("chunk_id").is_in(list(chunk_ids)))
        .unique(["scorer_id", "chunk_id"], keep="first")
        .sort("scorer_id", "chunk_id")
    )
