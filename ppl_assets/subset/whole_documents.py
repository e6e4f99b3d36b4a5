"""Whole documents: which one every candidate chunk is of, and a selection's rows in a training order of documents."""

import hashlib

import numpy as np
import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.regimes.candidates import Candidates, ChunkSource, SelectionError
from ppl_assets.regimes.distribution import KeyArray
from ppl_assets.regimes.documents import Documents, chunk_order
from ppl_assets.tables import CHUNKS


def documents_of(snapshot: Snapshot, rows: pl.DataFrame, candidates: ChunkSource) -> Documents:
    """The documents of candidate chunks.

    Args:
        snapshot: the lake.
        rows: chunk_id and corpus of each candidate, in the candidates' order.
        candidates: the same chunks.

    Raises:
        SelectionError: the candidates are read in batches.
    """
    if not isinstance(candidates, Candidates):
        raise SelectionError(
            f'selection.unit = "document" holds all {candidates.count} chunks in memory, and selection.memory_gib does '
            'not: raise it or set selection.unit = "chunk"'
        )
    sql = "SELECT chunk_id, corpus, doc_id, position FROM {chunks} WHERE split = 'candidate'"
    origin = snapshot.query(sql, (CHUNKS,))
    found = rows.select("chunk_id", "corpus").join(origin, on=["chunk_id", "corpus"], how="left", maintain_order="left")
    number, key = _numbered(found)
    return Documents(candidates, number, found["position"].to_numpy(), key)


def in_document_order(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """A selection's rows in the training order of another seed; documents stay whole, ``rank`` numbers the order.

    Args:
        rows: rank, corpus, doc_id, ppl of each chunk.
        seed: any integer.
    """
    number, key = _numbered(rows)
    order = chunk_order(rows["ppl"].to_numpy(), number, rows["rank"].to_numpy(), key, seed)
    return rows[order.tolist()].with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int64))


def _numbered(rows: pl.DataFrame) -> tuple[np.ndarray, KeyArray]:
    """Number of each row's document, int64 [n], and a key of each document, [M]."""
    names = rows.select(pl.concat_str("corpus", pl.lit("\n"), "doc_id").alias("name"))["name"]
    unique = names.unique().sort()
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in unique)
    return unique.search_sorted(names).to_numpy().astype(np.int64), np.frombuffer(digests, "<u8").astype(np.uint64)
