"""Stream rows into numbered files of two formats: Parquet with all columns, JSON lines with text and origin.

A shard holds the same rows in both formats. How many there will be is known at the end, so files get their names then:
``parquet/train-00000-of-00012.parquet``, whose alphabetical order is the training order.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
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
"""Columns of the Parquet files; rows are in training order."""

LINE_FIELDS = ("text", "source", "corpus", "doc_id", "chunk_id")
"""Fields of a line of the JSONL files; all are strings."""

PARQUET, JSONL = "parquet", "jsonl"
"""Folders of the two formats, and the endings of their files."""

MOST_SHARDS = 99_999
"""As many as five digits can number, so that files sort by name as they were written."""


class ExportError(UserError, ValueError):
    """The export cannot be written from what was given."""


@dataclass(frozen=True)
class Shard:
    """One file of each format, and what is in it.

    Attributes:
        rows: chunks.
        tokens: their tokens, as the base model's tokenizer counts them.
    """

    rows: int
    tokens: int


class ShardWriter:
    """Writes record batches of SCHEMA, in training order, into the shards of a folder; memory follows the batch.

    Leave the ``with`` block, then call :meth:`finish`.

    Args:
        folder: an empty folder that exists.
        shard_tokens: most tokens of a shard; a chunk that is longer has one of its own. None: a single shard.
    """

    def __init__(self, folder: Path, shard_tokens: int | None) -> None:
        self._folder = folder
        self._most = shard_tokens
        self._done: list[Shard] = []
        self._open: _OpenShard | None = None
        for name in (PARQUET, JSONL):
            (folder / name).mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows, beginning a new shard wherever the next row would make the present one too long.

        Raises:
            ExportError: there are more shards than five digits can number.
        """
        tokens, start = batch.column("n_tokens").to_numpy(), 0
        while start < batch.num_rows:
            shard = self._open or self._begin()
            fitting = self._fitting(shard, tokens[start:])
            if fitting:
                shard.write(batch.slice(start, fitting), int(tokens[start : start + fitting].sum()))
                start += fitting
            if start < batch.num_rows:
                self._close()

    def finish(self) -> tuple[list[Shard], list[str]]:
        """Give the files their names; the shards, and the paths of all files relative to the folder."""
        names = []
        for kind in (PARQUET, JSONL):
            for number in range(len(self._done)):
                name = f"train-{number:05d}-of-{len(self._done):05d}.{kind}"
                (self._folder / kind / _temporary(number)).rename(self._folder / kind / name)
                names.append(f"{kind}/{name}")
            flush(self._folder / kind)
        return self._done, names

    def _fitting(self, shard: "_OpenShard", tokens: npt.NDArray[np.int64]) -> int:
        """How many of the coming rows, int64 [n] tokens each, the shard still takes; the first one where it is new."""
        if self._most is None:
            return len(tokens)
        fitting = int(np.searchsorted(np.cumsum(tokens), self._most - shard.tokens, side="right"))
        return max(fitting, int(shard.rows == 0))

    def _begin(self) -> "_OpenShard":
        if len(self._done) == MOST_SHARDS:
            raise ExportError(
                f"export.shard_tokens = {self._most} makes more than {MOST_SHARDS:,} files of each format; raise it"
            )
        self._open = _OpenShard(self._folder, len(self._done))
        return self._open

    def _close(self) -> None:
        if self._open is not None:
            self._done.append(self._open.close())
            self._open = None


class _OpenShard:
    """The shard that is being written."""

    def __init__(self, folder: Path, number: int) -> None:
        self._paths = [folder / kind / _temporary(number) for kind in (PARQUET, JSONL)]
        self._parquet = pq.ParquetWriter(self._paths[0], SCHEMA, compression="zstd")
        self._lines = self._paths[1].open("w", encoding="utf-8", newline="\n")
        self.rows = self.tokens = 0

    def write(self, batch: pa.RecordBatch, tokens: int) -> None:
        self._parquet.write_batch(batch)
        self._lines.writelines(_line(row) for row in batch.select(LINE_FIELDS).to_pylist())
        self.rows += batch.num_rows
        self.tokens += tokens

    def close(self) -> Shard:
        self._parquet.close()
        self._lines.close()
        for path in self._paths:
            flush(path)
        return Shard(self.rows, self.tokens)


def _temporary(number: int) -> str:
    return f"{number:05d}.part"


def _line(row: dict[str, str]) -> str:
    """One row as one line; U+2028, U+2029 and U+0085 are escaped, since str.splitlines breaks lines there."""
    line = json.dumps(row, ensure_ascii=False)
    for mark in ("\u2028", "\u2029", "\u0085"):
        line = line.replace(mark, f"\\u{ord(mark):04x}")
    return line + "\n"
