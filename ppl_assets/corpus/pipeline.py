"""One corpus partition from files to chunks: read, clean, deduplicate, keep test text out, cut.

Belongs here: the order of these steps and what happens to each document. Does not belong here: storing the result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ppl_assets.corpus.chunking import BATCH_CHARACTERS, Chunk, Chunker
from ppl_assets.corpus.cleaning import Deduplicator, Signature, normalize, signature, text_hash
from ppl_assets.corpus.errors import CorpusError
from ppl_assets.corpus.files import list_files
from ppl_assets.corpus.held_out import TestSet
from ppl_assets.corpus.readers import read_documents
from ppl_assets.corpus.record_batches import ChunkColumns
from ppl_assets.corpus.rows import Document, RejectedRow
from ppl_assets.study import Study
from ppl_assets.tables import CLEANING_COUNTS, REJECTED_ROWS

LISTED_REJECTIONS = 100_000
"""Rejected rows that are listed; further ones are only counted, so that memory stays bounded."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Cleaned:
    """A document on its way to the chunker."""

    document: Document
    split: str
    text: str


def build_chunks(
    study: Study,
    partition: str,
    tokenizer: Any,
    tokenizer_id: str,
    test_documents: TestSet,
    progress: Progress | None = None,
) -> "ChunkStream":
    """The chunks of one corpus partition, as a stream to be iterated once.

    Role ``test`` and ``general``: the documents of ``test_documents``. Role ``candidate``: those of ``test_documents``
    where documents were held out of it, and every other document that is neither a duplicate within the partition nor
    near a test document, cut into chunks that neither repeat within the partition nor overlap test text.

    Args:
        study: the study.
        partition: a key of ``study.corpus_partitions()``.
        tokenizer: fast Hugging Face tokenizer, or ``tokenizers.Tokenizer``.
        tokenizer_id: its fingerprint.
        test_documents: what to keep out.
        progress: called now and then with documents read and chunks kept so far.
    """
    return ChunkStream(study, partition, tokenizer, tokenizer_id, test_documents, progress)


def require_context(tokens: int, context_length: int, model: str) -> None:
    """Refuse chunks that the base model cannot read whole.

    As many tokens as the context are fine, prefix or not: the last token is predicted and never fed.

    Raises:
        CorpusError: a chunk is longer than the model's context.
    """
    if tokens > context_length:
        raise CorpusError(
            f"chunks.tokens = {tokens} exceeds the context of base model {model}, {context_length} tokens; lower "
            "chunks.tokens, or name a model with a longer context."
        )


class ChunkStream:
    """Record batches of ``tables.CHUNKS``; after the last one, what was rejected and what became of every document.

    Iterating raises ``TruncatedFile`` or ``BadRow`` where a file or row is fatal: write what it yields in one
    transaction. The same files give the same rows in the same order.

    Every document read has exactly one outcome in ``counts``: ``kept`` (a candidate with at least one chunk),
    ``held_out`` (in the test or general split, with at least one chunk), ``not_held_out`` (role general, outside the
    general split), ``exact_duplicate``, ``near_duplicate``, ``near_test``, ``empty``, ``too_short`` (no full chunk),
    ``no_chunk_left`` (every chunk is a duplicate or overlaps test text), ``rejected:REASON``. Outcomes that end in
    ``_chunk`` count dropped chunks of documents counted elsewhere: ``duplicate_chunk``, ``test_overlap_chunk`` and
    ``short_chunk`` (a document's last tokens).
    """

    def __init__(
        self,
        study: Study,
        partition: str,
        tokenizer: Any,
        tokenizer_id: str,
        test_documents: TestSet,
        progress: Progress | None,
    ) -> None:
        self.name, self.settings, self.bucket = study.corpus_of(partition)
        self.partition = partition
        self._options = study.chunks
        self._tests = test_documents
        self._chunker = Chunker(tokenizer, tokenizer_id, tokens=study.chunks.tokens, shortest=study.chunks.shortest)
        self._columns = ChunkColumns(partition, tokenizer_id)
        self._progress = progress or (lambda _documents, _chunks: None)
        self._seen = Deduplicator(study.chunks.near_duplicate_threshold, study.chunks.permutations)
        self._seen_chunks: set[bytes] = set()
        self._rejected: list[RejectedRow] = []
        self._counts: dict[str, list[int]] = {}
        self._kept_chunks = 0
        self._state = "new"

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        if self._state != "new":
            raise CorpusError(f"the chunks of {self.partition} were already read; call build_chunks again.")
        self._state = "begun"
        for batch in self._batches():
            yield from self._chunk(batch)
        if rest := self._columns.take():
            yield rest
        self._state = "done"

    @property
    def rejected(self) -> pa.Table:
        """Rows that could not be read, as ``tables.REJECTED_ROWS``.

        At most ``LISTED_REJECTIONS``; further ones, and empty texts, are only counted.
        """
        self._require_done()
        rows = [
            {
                "corpus": self.partition,
                "source": r.source,
                "position": r.position,
                "reason": r.reason,
                "detail": r.detail,
            }
            for r in self._rejected
        ]
        return pa.Table.from_pylist(rows, schema=REJECTED_ROWS.schema)

    @property
    def counts(self) -> pa.Table:
        """Documents and characters by outcome, as ``tables.CLEANING_COUNTS``."""
        self._require_done()
        rows = [
            {"corpus": self.partition, "outcome": outcome, "documents": documents, "characters": characters}
            for outcome, (documents, characters) in sorted(self._counts.items())
        ]
        return pa.Table.from_pylist(rows, schema=CLEANING_COUNTS.schema)

    def _require_done(self) -> None:
        if self._state != "done":
            raise CorpusError(f"the chunks of {self.partition} are not all read yet; iterate to the end first.")

    def _batches(self) -> Iterator[list[_Cleaned]]:
        """Documents to cut, about ``BATCH_CHARACTERS`` at a time."""
        batch: list[_Cleaned] = []
        characters = documents = 0
        files = list_files(self.settings, bucket=self.bucket)
        for row in read_documents(self.name, files, self.settings):
            documents += 1
            if isinstance(row, RejectedRow):
                self._reject(row)
            elif cleaned := self._clean(row):
                batch.append(cleaned)
                characters += len(cleaned.text)
            if characters >= BATCH_CHARACTERS:
                yield batch
                self._progress(documents, self._kept_chunks)
                batch, characters = [], 0
        yield batch
        self._progress(documents, self._kept_chunks)

    def _reject(self, row: RejectedRow) -> None:
        if row.reason == "empty":
            self._count("empty", 0)
            return
        self._count(f"rejected:{row.reason}", 0)
        if len(self._rejected) < LISTED_REJECTIONS:
            self._rejected.append(row)

    def _clean(self, document: Document) -> _Cleaned | None:
        """The document with its split, or None where it goes no further, which is then counted."""
        text = normalize(document.text)
        if not text:
            self._count("empty", 0)
            return None
        digest = text_hash(text)
        split = self._tests.split_of(document.doc_id, digest)
        outcome = "" if split else self._outcome(text, digest)
        if outcome:
            self._count(outcome, len(text))
            return None
        return _Cleaned(document, split or "candidate", text)

    def _outcome(self, text: str, digest: str) -> str:
        """Why a document outside the test set is not cut; empty for a candidate that is."""
        if self.settings.role == "general":
            return "not_held_out"
        if self.settings.role == "test":
            return "exact_duplicate" if digest in self._tests.known_hashes else "near_duplicate"
        minhash: Signature | None = None
        if self._seen.needs_signatures:
            minhash = signature(text, self._options.shingle, self._options.permutations)
        if self._tests.guard.is_near(digest, minhash):
            return "near_test"
        found = self._seen.add(digest, minhash)
        return "" if found == "new" else found

    def _chunk(self, batch: list[_Cleaned]) -> Iterator[pa.RecordBatch]:
        """Cut a batch of documents, and yield record batches as they fill."""
        for cleaned, chunks in zip(batch, self._chunker.chunk_many(c.text for c in batch), strict=True):
            kept = 0
            for chunk in chunks:
                if dropped := self._drop_reason(chunk, cleaned.split):
                    self._count(dropped, len(chunk.text))
                    continue
                kept += 1
                self._columns.add(chunk, cleaned.document, cleaned.split)
                if self._columns.is_full:
                    yield self._columns.take()
            self._kept_chunks += kept
            self._count(_document_outcome(cleaned.split, chunks, kept), len(cleaned.text))

    def _drop_reason(self, chunk: Chunk, split: str) -> str:
        """Why a chunk is dropped; empty where it is kept."""
        if not chunk.is_kept:
            return "short_chunk"
        key = bytes.fromhex(chunk.chunk_id)
        if key in self._seen_chunks:
            return "duplicate_chunk"
        self._seen_chunks.add(key)
        if split != "candidate":
            return ""
        if int(chunk.chunk_id[:16], 16) >= self._options.sample * 2**64:
            return "unsampled_chunk"
        return "test_overlap_chunk" if self._tests.guard.overlap(chunk.text).is_leak else ""

    def _count(self, outcome: str, characters: int) -> None:
        count = self._counts.setdefault(outcome, [0, 0])
        count[0] += 1
        count[1] += characters


def _document_outcome(split: str, chunks: list[Chunk], kept: int) -> str:
    if kept:
        return "kept" if split == "candidate" else "held_out"
    return "no_chunk_left" if any(chunk.is_kept for chunk in chunks) else "too_short"
