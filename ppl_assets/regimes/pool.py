"""The sampler's view of the lake: selectable chunks as arrays, and the rows they came from.

Two views: :class:`Pool` holds every row in memory, for trials and rivals; :class:`StoredPool` holds them in a file of
its own, for the final subset, whose candidates may be many more than fit.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.candidates import selectable_batches, selectable_chunks
from ppl_assets.regimes.candidates import Candidates, ChunkSource, StreamedCandidates
from ppl_assets.regimes.design import Trial
from ppl_assets.tables import REGIMES

BATCH_ROWS = 1 << 18
"""Rows of a stored pool that are read or written at a time: 5 MB of numbers."""

CHUNK_BYTES = 24
"""Memory of a loaded candidate: perplexity, length and key."""

NAMES = pa.schema([("chunk_id", pa.string()), ("corpus", pa.string()), ("n_tokens", pa.int64()), ("ppl", pa.float64())])
NUMBERS = pa.schema([("ppl", pa.float64()), ("n_tokens", pa.int32()), ("key", pa.uint64())])
GROUP = pa.field("group", pa.int16())
"""Columns of a stored pool's two files; the last only where shares of corpora are limited. Numbers are read in every
pass, and Arrow's own format takes a tenth of the time of Parquet, whose compression finds nothing in hashes and
mantissas."""


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


@dataclass(frozen=True)
class StoredPool:
    """Candidates in files.

    Attributes:
        names: Parquet file with the columns of NAMES.
        candidates: the same rows in the same order; positions are row numbers.
    """

    names: Path
    candidates: ChunkSource


def read_pool(snapshot: Snapshot, corpora: Sequence[str], groups: Mapping[str, int] | None = None) -> Pool:
    """Everything that may be selected from these corpora.

    Args:
        snapshot: the lake.
        corpora: corpus partitions of the study.
        groups: group of each partition whose share is limited; nothing where none is.
    """
    rows = selectable_chunks(snapshot, corpora)
    group = None
    if groups:
        group = rows["corpus"].replace_strict(groups, default=0, return_dtype=pl.Int16).to_numpy()
    candidates = Candidates(rows["ppl"].to_numpy(), rows["n_tokens"].to_numpy(), rows["key"].to_numpy(), group)
    return Pool(rows.drop("key"), candidates)


@contextmanager
def stored_pool(
    snapshot: Snapshot,
    corpora: Sequence[str],
    folder: Path,
    memory_gib: float,
    groups: Mapping[str, int] | None = None,
) -> Iterator[StoredPool]:
    """Everything that may be selected from these corpora, in files that are gone afterwards.

    Args:
        snapshot: the lake.
        corpora: corpus partitions of the study.
        folder: where the files are made; about 80 bytes a chunk.
        memory_gib: candidates that take less are loaded, others are read in batches in every pass.
        groups: group of each partition whose share is limited; nothing where none is.
    """
    schema = NUMBERS.append(GROUP) if groups else NUMBERS
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="candidates-", dir=folder) as place:
        names, numbers = Path(place) / "names.parquet", Path(place) / "numbers.arrow"
        with (
            pq.ParquetWriter(names, NAMES, compression="zstd", use_dictionary=["corpus"]) as for_names,
            pa.ipc.new_file(str(numbers), schema) as for_numbers,
        ):
            for batch in selectable_batches(snapshot, corpora, BATCH_ROWS):
                for_names.write_batch(batch.select(NAMES.names).cast(NAMES))
                if groups:
                    batch = _with_group(batch, groups)  # noqa: PLW2901 - the same rows
                for_numbers.write_batch(batch.select(schema.names).cast(schema))
        yield StoredPool(names, stored_candidates(numbers, memory_gib))


def stored_candidates(file: Path, memory_gib: float) -> ChunkSource:
    """The candidates of an Arrow file: loaded where they fit, else read in batches.

    Args:
        file: the columns of NUMBERS, and GROUP where shares are limited; none of its values is null.
        memory_gib: memory that loaded candidates may take, GiB.
    """
    with pa.OSFile(str(file)) as opened:
        reader = pa.ipc.open_file(opened)
        rows, is_grouped = int(reader.count_rows()), GROUP.name in reader.schema.names
    if rows * CHUNK_BYTES > memory_gib * 2**30:
        return StreamedCandidates(lambda: _batches(file))
    columns: list[Any] = [np.empty(rows), np.empty(rows, np.int64), np.empty(rows, np.uint64)]
    if is_grouped:
        columns.append(np.empty(rows, np.int16))
    start = 0
    for batch in _batches(file):
        end = start + batch[0].size
        for column, part in zip(columns, batch, strict=True):
            column[start:end] = part
        start = end
    return Candidates(*columns)


def _with_group(batch: pa.RecordBatch, groups: Mapping[str, int]) -> pa.RecordBatch:
    """The batch with the group of each row's corpus."""
    of_row = [groups.get(corpus, 0) for corpus in batch.column("corpus").to_pylist()]
    return batch.append_column(GROUP, pa.array(of_row, GROUP.type))


def _batches(file: Path) -> Iterator[tuple[np.ndarray, ...]]:
    """Perplexities, lengths, keys and groups where there are some, in the order of the rows."""
    with pa.OSFile(str(file)) as opened:
        reader = pa.ipc.open_file(opened)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            yield tuple(column.to_numpy() for column in batch.columns)


def trial_rows(trials: Sequence[Trial], pool: Pool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of ``regimes`` and of ``regime_partitions`` for drawn trials."""
    columns = {column.name for column in REGIMES.columns} - {"trial", "chunks"}
    rows = [{name: getattr(t, name) for name in columns} | {"trial": t.name, "chunks": t.index.size} for t in trials]
    members = [pool.drawn(trial.index).with_columns(trial=pl.lit(trial.name)) for trial in trials]
    return pl.DataFrame(rows, schema=pl.Schema(REGIMES.schema)), pl.concat(members)
