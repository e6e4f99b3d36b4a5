"""Documents out of files: JSON lines, Parquet, CSV, text trees and docstrings, one at a time in constant memory.

Belongs here: what a document or a bad row is, ids, sampling, the format of a file. The formats themselves are read by
``tabular.py`` (rows) and ``whole_files.py`` (one document a file).
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

import xxhash

from ppl_assets.corpus.compression import SUFFIXES
from ppl_assets.corpus.errors import BadRow
from ppl_assets.corpus.files import SourceFile
from ppl_assets.corpus.rows import Document, Plan, RejectedRow, Row
from ppl_assets.corpus.tabular import csv_rows, jsonl_rows, parquet_rows
from ppl_assets.corpus.whole_files import docstring_rows, text_rows
from ppl_assets.sections import CorpusSection

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
}
"""Formats by suffix where ``format = 'auto'``; every other file is one document of plain text."""

_ROWS: dict[str, Callable[[SourceFile, Plan], Iterator[Row | RejectedRow]]] = {
    "jsonl": jsonl_rows,
    "parquet": parquet_rows,
    "csv": csv_rows,
    "text": text_rows,
    "docstrings": docstring_rows,
}


def read_documents(
    corpus_name: str, files: Iterable[SourceFile], settings: CorpusSection
) -> Iterator[Document | RejectedRow]:
    """Every document of some files, and every row that cannot be one.

    A document's id is ``CORPUS:FILE:POSITION``, or ``CORPUS:FILE:ID`` where ``id_field`` is set (a repeated id gets
    ``#POSITION``): it does not change when files are added. ``sample`` keeps an id by its hash; without ``id_field``
    that is decided before a row is decoded or a file opened, and rows left out are not checked.

    Memory: one row. A JSON line may take 6 bytes a character of ``max_characters`` and 64 KiB more (an escape is six
    bytes); a longer one is passed over, not loaded. With ``id_field``, 8 bytes hash a row of one file are held as well.

    Args:
        corpus_name: first part of every id.
        files: as listed by ``list_files``.
        settings: format, fields, sample and limits.

    Raises:
        TruncatedFile: a compressed or Parquet file is damaged or cut off.
        BadRow: the first bad row, with ``on_bad_row = 'fail'``. An empty text is not a bad row.
    """
    for file in files:
        ids = _Ids(corpus_name, file, settings)
        plan = Plan(settings, skips=ids.is_left_out)
        for row in _ROWS[format_of(file, settings)](file, plan):
            if isinstance(row, RejectedRow):
                _fail_if_asked(file, row, settings)
                yield row
            elif doc_id := ids.name(row):
                yield Document(doc_id, row.text, file.relative, row.position)


def format_of(file: SourceFile, settings: CorpusSection) -> str:
    """The format a file is read as: the one asked for, else by its name without a compression suffix."""
    if settings.format != "auto":
        return settings.format
    name = PurePosixPath(file.url.lower())
    if name.suffix in SUFFIXES:
        name = name.with_suffix("")
    return FORMATS.get(name.suffix, "text")


def is_sampled(doc_id: str, share: float) -> bool:
    """Whether an id is among the share of ids kept; a larger share keeps all that a smaller one does."""
    return share >= 1.0 or xxhash.xxh3_64_intdigest(doc_id.encode()) < share * 2**64


def _fail_if_asked(file: SourceFile, row: RejectedRow, settings: CorpusSection) -> None:
    if settings.on_bad_row == "fail" and row.reason != "empty":
        place = file.url if row.position is None else f"{file.url}, line or row {row.position}"
        raise BadRow(
            f"{place}: {row.reason}: {row.detail} Correct it, or set on_bad_row = 'skip' to count and skip it."
        )


class _Ids:
    """Ids of the documents of one file."""

    def __init__(self, corpus_name: str, file: SourceFile, settings: CorpusSection) -> None:
        self._prefix = f"{corpus_name}:{file.relative}:"
        self._share = settings.sample
        self._by_position = not settings.id_field
        self._seen: set[int] = set()

    def is_left_out(self, position: int) -> bool:
        """Whether sampling leaves a position out, where the position alone decides."""
        return self._by_position and not is_sampled(f"{self._prefix}{position}", self._share)

    def name(self, row: Row) -> str:
        """The id of a row; empty where sampling leaves it out."""
        if self._by_position or row.identity is None:
            return f"{self._prefix}{row.position}"
        doc_id = self._prefix + row.identity.encode("utf-8", "backslashreplace").decode()
        if not is_sampled(doc_id, self._share):
            return ""
        while (key := xxhash.xxh3_64_intdigest(doc_id.encode())) in self._seen:
            doc_id += f"#{row.position}"
        self._seen.add(key)
        return doc_id
