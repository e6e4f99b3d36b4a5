"""Chunks gathered into Arrow record batches of bounded size."""

import numpy as np
import pyarrow as pa

from ppl_assets.corpus.chunking import Chunk
from ppl_assets.corpus.rows import Document
from ppl_assets.tables import CHUNKS

BATCH_ROWS = 2000
BATCH_BYTES = 8 << 20


class ChunkColumns:
    """Collects chunks until a batch is full."""

    def __init__(self, partition: str, tokenizer_id: str) -> None:
        self._partition = partition
        self._tokenizer_id = tokenizer_id
        self._rows: list[tuple[Chunk, Document, str]] = []
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether ``BATCH_ROWS`` or ``BATCH_BYTES`` (text and tokens) are reached."""
        return len(self._rows) >= BATCH_ROWS or self._bytes >= BATCH_BYTES

    def add(self, chunk: Chunk, document: Document, split: str) -> None:
        """Take one chunk."""
        self._rows.append((chunk, document, split))
        self._bytes += chunk.n_bytes + chunk.tokens.nbytes

    def take(self) -> pa.RecordBatch | None:
        """What was collected, as ``tables.CHUNKS``, leaving nothing; None where nothing was."""
        if not self._rows:
            return None
        rows, self._rows, self._bytes = self._rows, [], 0
        chunks = [chunk for chunk, _, _ in rows]
        lengths = np.array([len(chunk.tokens) for chunk in chunks], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns = {
            "chunk_id": pa.array([chunk.chunk_id for chunk in chunks]),
            "corpus": pa.repeat(self._partition, len(rows)),
            "split": pa.array([split for _, _, split in rows]),
            "doc_id": pa.array([document.doc_id for _, document, _ in rows]),
            "source": pa.array([document.source for _, document, _ in rows]),
            "position": pa.array([chunk.position for chunk in chunks], pa.int64()),
            "text": pa.array([chunk.text for chunk in chunks]),
            "tokens": pa.ListArray.from_arrays(offsets, np.concatenate([chunk.tokens for chunk in chunks])),
            "n_tokens": pa.array(lengths),
            "n_bytes": pa.array([chunk.n_bytes for chunk in chunks], pa.int64()),
            "first_token_bytes": pa.array([chunk.first_token_bytes for chunk in chunks], pa.int64()),
            "tokenizer_id": pa.repeat(self._tokenizer_id, len(rows)),
        }
        return pa.record_batch([columns[name] for name in CHUNKS.schema.names], schema=CHUNKS.schema)
