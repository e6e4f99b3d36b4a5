"""Write a selection as files ready to train on: Parquet, JSONL and a manifest, whole or not at all.

Everything is written into a hidden folder beside the final one and renamed at the end, so that a killed run leaves
nothing under the final name; the next run removes what it left.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ppl_assets.durable import flush
from ppl_assets.errors import UserError

SCHEMA = pa.schema(
    [
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("chunk_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("ppl", pa.float64(), nullable=False),
    ]
)
"""Columns of ``subset.parquet``; rows are in training order."""

LINE_FIELDS = ("text", "source", "corpus", "doc_id", "chunk_id")
"""Fields of a line of ``subset.jsonl``."""

PARQUET, JSONL, MANIFEST = "subset.parquet", "subset.jsonl", "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class ExportError(UserError, ValueError):
    """The export cannot be written from what was given."""


def write_export(
    folder: Path, selection_id: str, batches: Iterable[pa.RecordBatch], manifest: Mapping[str, Any]
) -> Path:
    """Write ``folder/selection_id`` from batches in training order; memory follows the batch.

    An export of the same selection is replaced: set aside, then the new one takes its name, so between two renames
    there is none, and never a half one. One process at a time writes a selection.

    Args:
        folder: where exports lie; made if absent.
        selection_id: name of the export: letters, digits, _ and -.
        batches: record batches with the columns of SCHEMA.
        manifest: what was selected, from what and how; JSON values. Rows, tokens and file names are added.

    Returns:
        The folder written.

    Raises:
        ExportError: a name or column that is not accepted, ranks that do not count up from 0, or no row at all.
    """
    if not _NAME.fullmatch(selection_id):
        raise ExportError(f"selection id {selection_id!r} cannot name a folder; use letters, digits, _ and -")
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / selection_id
    remove_leftovers(folder, selection_id)
    unfinished = folder / f".{selection_id}.{uuid.uuid4().hex}.part"
    unfinished.mkdir()
    try:
        rows, tokens = _write_rows(unfinished, batches)
        added = {"selection_id": selection_id, "rows": rows, "tokens": tokens, "files": [PARQUET, JSONL]}
        _write_synced(unfinished / MANIFEST, json.dumps({**manifest, **added}, ensure_ascii=False, indent=2) + "\n")
        flush(unfinished)
        _put_in_place(unfinished, final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return final


def remove_leftovers(folder: Path, selection_id: str) -> None:
    """Remove what killed runs left of a selection; put an old export back that was set aside and not replaced."""
    final = folder / selection_id
    for old in sorted(folder.glob(f".{selection_id}.*.old")):
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)
    for part in folder.glob(f".{selection_id}.*.part"):
        shutil.rmtree(part)


def _write_rows(folder: Path, batches: Iterable[pa.RecordBatch]) -> tuple[int, int]:
    """Stream the batches into both files; rows and tokens written."""
    rows = tokens = 0
    with (
        pq.ParquetWriter(folder / PARQUET, SCHEMA, compression="zstd") as parquet,
        (folder / JSONL).open("w", encoding="utf-8", newline="\n") as lines,
    ):
        for given in batches:
            batch = _checked(given, rows)
            parquet.write_batch(batch)
            lines.writelines(_line(row) for row in batch.select(LINE_FIELDS).to_pylist())
            rows += batch.num_rows
            tokens += sum(batch.column("n_tokens").to_pylist())
        lines.flush()
        os.fsync(lines.fileno())
    if rows == 0:
        raise ExportError("there are no rows to export; select at least one chunk")
    flush(folder / PARQUET)
    return rows, tokens


def _checked(batch: pa.RecordBatch, rows: int) -> pa.RecordBatch:
    """The batch with the columns of SCHEMA, after checking that its ranks go on from ``rows``."""
    missing = [name for name in SCHEMA.names if name not in batch.schema.names]
    if missing:
        raise ExportError(f"a batch lacks {', '.join(missing)}; give the columns {', '.join(SCHEMA.names)}")
    empty = [name for name in SCHEMA.names if batch.column(name).null_count]
    if empty:
        raise ExportError(
            f"rows {rows} to {rows + batch.num_rows - 1} have no {', '.join(empty)}; every column needs a value"
        )
    batch = batch.select(SCHEMA.names).cast(SCHEMA)
    if batch.column("rank").to_pylist() != list(range(rows, rows + batch.num_rows)):
        raise ExportError(f"ranks do not count up by one at row {rows}; give the batches in training order")
    return batch


def _line(row: dict[str, str]) -> str:
    """One row as one line; U+2028, U+2029 and U+0085 are escaped, since str.splitlines breaks lines there."""
    line = json.dumps(row, ensure_ascii=False)
    for mark in ("\u2028", "\u2029", "\u0085"):
        line = line.replace(mark, f"\\u{ord(mark):04x}")
    return line + "\n"


def _write_synced(path: Path, text: str) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(unfinished: Path, final: Path) -> None:
    """Rename the finished folder to its final name, setting an earlier one aside."""
    if final.exists():
        old = final.with_name(unfinished.name.removesuffix(".part") + ".old")
        final.rename(old)
        unfinished.rename(final)
        shutil.rmtree(old)
    else:
        unfinished.rename(final)
    flush(final.parent)
