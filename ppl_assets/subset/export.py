"""Write a selection as a folder ready to train on, whole or not at all: Parquet, JSONL, a dataset card and a manifest.

Everything is written into a hidden folder beside the final one and renamed at the end, so that a killed run leaves
nothing under the final name; the next run removes what it left.
"""

import json
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock

from ppl_assets.durable import flush
from ppl_assets.subset.card import Description, Source, dataset_card
from ppl_assets.subset.shards import SCHEMA, ExportError, ShardWriter

FORMAT = 2
"""Of the folder; raise it when files, columns or card change, and exports of earlier formats are written again.

1: subset.parquet and subset.jsonl, no card.
2: numbered files in two folders, a dataset card.
"""

GROUP_ROWS = 2048
"""Rows written at a time, a row group of the Parquet files: the same rows give the same bytes, however they come."""

MANIFEST, CARD = "manifest.json", "README.md"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def write_export(
    folder: Path,
    selection_id: str,
    batches: Iterable[pa.RecordBatch],
    description: Description,
    shard_tokens: int | None = None,
) -> Path:
    """Write ``folder/selection_id`` from batches in training order; memory follows the batch.

    An export of the same selection is replaced: set aside, then the new one takes its name, so between two renames
    there is none, and never a half one. Processes that write the same selection do so in turn.

    Args:
        folder: where exports lie; made if absent.
        selection_id: name of the export: letters, digits, _ and -.
        batches: record batches with the columns of SCHEMA.
        description: what was selected, from what and how.
        shard_tokens: most tokens of a file; None: one file of each format.

    Returns:
        The folder written.

    Raises:
        ExportError: a name or column that is not accepted, ranks that do not count up from 0, or no row at all.
    """
    if not _NAME.fullmatch(selection_id):
        raise ExportError(f"selection id {selection_id!r} cannot name a folder; use letters, digits, _ and -")
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / selection_id
    with _turn(folder / f".{selection_id}.lock"):  # what another process has begun is no leftover
        remove_leftovers(folder, selection_id)
        unfinished = folder / f".{selection_id}.{uuid.uuid4().hex}.part"
        unfinished.mkdir()
        try:
            _write_files(unfinished, selection_id, batches, description, shard_tokens)
            _put_in_place(unfinished, final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return final


@contextmanager
def _turn(file: Path) -> Iterator[None]:
    """Wait for one's turn. The lock's file does not stay: who waited for it sees that it is gone and asks anew."""
    with FileLock(file):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps an open file
                file.unlink()


def is_export(folder: Path, sources: Sequence[Source], shard_tokens: int | None) -> bool:
    """Whether a folder holds a whole export of the present format, with these licences and files of this size.

    An export of an earlier version, or one whose files were deleted, is none: it is to be written again. Corpora that
    came or went since then do not matter: what was selected is of none of them.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    if manifest.get("format") != FORMAT or manifest.get("shard_tokens") != shard_tokens:
        return False
    if not has_these_licences(manifest["sources"], sources):
        return False
    return all((folder / name).is_file() for name in (CARD, *manifest["files"]))


def has_these_licences(told: Sequence[Mapping[str, Any]], sources: Sequence[Source]) -> bool:
    """Whether no corpus of these has another licence in what a manifest told."""
    licences = {source.corpus: source.licence for source in sources}
    return all(licences.get(one["corpus"], one["licence"]) == one["licence"] for one in told)


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


def _write_files(
    folder: Path,
    selection_id: str,
    batches: Iterable[pa.RecordBatch],
    description: Description,
    shard_tokens: int | None,
) -> None:
    """Everything that an export holds, on disk."""
    corpora: dict[str, tuple[int, int]] = {}
    rows = 0
    with ShardWriter(folder, shard_tokens) as writer:
        for batch in _regrouped(_all_checked(batches)):
            writer.write(batch)
            rows += batch.num_rows
            _count(batch, corpora)
    if rows == 0:
        raise ExportError("there are no rows to export; select at least one chunk")
    shards, files = writer.finish()
    manifest = {
        **asdict(description),
        "format": FORMAT,
        "selection_id": selection_id,
        "rows": rows,
        "tokens": sum(shard.tokens for shard in shards),
        "corpora": {name: {"chunks": n, "tokens": tokens} for name, (n, tokens) in sorted(corpora.items())},
        "shard_tokens": shard_tokens,
        "shards": [asdict(shard) for shard in shards],
        "files": files,
    }
    _write_synced(folder / CARD, dataset_card(description, selection_id, corpora))
    _write_synced(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    flush(folder)


def _all_checked(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches with the columns of SCHEMA, after checking that their ranks go on from one to the next."""
    rows = 0
    for given in batches:
        yield _checked(given, rows)
        rows += given.num_rows


def _regrouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of GROUP_ROWS, the last one shorter."""
    held: list[pa.RecordBatch] = []
    room = GROUP_ROWS
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, room)
            held.append(part)
            start, room = start + part.num_rows, room - part.num_rows
            if room == 0:
                yield pa.concat_batches(held)
                held, room = [], GROUP_ROWS
    if held:
        yield pa.concat_batches(held)


def _count(batch: pa.RecordBatch, corpora: dict[str, tuple[int, int]]) -> None:
    """Add a batch to the chunks and tokens of each corpus partition."""
    table = pa.Table.from_batches([batch]).group_by("corpus").aggregate([("n_tokens", "count"), ("n_tokens", "sum")])
    for row in table.to_pylist():
        chunks, tokens = corpora.get(row["corpus"], (0, 0))
        corpora[row["corpus"]] = chunks + row["n_tokens_count"], tokens + row["n_tokens_sum"]


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


def _write_synced(path: Path, text: str) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    flush(path)


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
