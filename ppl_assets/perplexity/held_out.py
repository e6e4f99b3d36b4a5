"""The chunks on which losses are measured: test and general text, in a fixed order, up to a token budget."""

import hashlib

import numpy as np
import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.tables import CHUNKS, TEST_DOCUMENTS


def held_out_chunks(snapshot: Snapshot, split: str, corpora: list[str], tokens: int) -> pl.DataFrame:
    """The first chunks of a split in the order of a hash of their id, until ``tokens`` are reached.

    The order does not depend on corpora or files, so a larger budget extends the set, and the same content gives the
    same set.

    Args:
        snapshot: the lake.
        split: test or general.
        corpora: corpus partitions of the study. Held-out documents of one that left the study stay in the set until
            test documents are drawn again: every trial was measured on them.
        tokens: budget; the chunk that passes it is the last.

    Returns:
        chunk_id and tokens (list of token ids).
    """
    sql = """SELECT chunk_id, any_value(tokens) AS tokens, any_value(n_tokens) AS n_tokens FROM {chunks}
             WHERE split = $split AND (list_contains($corpora, corpus)
               OR corpus IN (SELECT corpus FROM {test_documents} WHERE split = $split)) GROUP BY chunk_id"""
    rows = snapshot.query_once(sql, (CHUNKS, TEST_DOCUMENTS), {"split": split, "corpora": corpora})
    rows = rows.with_columns(pl.col("chunk_id").map_elements(_order, return_dtype=pl.String).alias("order")).sort(
        "order"
    )
    before = rows["n_tokens"].cum_sum() - rows["n_tokens"]
    return rows.filter(before < tokens).select("chunk_id", "tokens")


def token_arrays(column: pl.Series) -> list[np.ndarray]:
    """Token ids as int32 arrays, one a chunk."""
    if column.is_empty():
        return []
    lengths = column.list.len().to_numpy()
    flat = column.explode(empty_as_null=False).to_numpy().astype(np.int32)
    if len(flat) != lengths.sum():
        raise ValueError(f"{len(flat)} token ids for chunks of {lengths.sum()} tokens; chunks again")
    return np.split(flat, np.cumsum(lengths)[:-1])


def _order(chunk_id: str) -> str:
    return hashlib.blake2b(chunk_id.encode(), digest_size=8, person=b"held-out").hexdigest()
