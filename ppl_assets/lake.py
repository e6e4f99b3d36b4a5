"""The DuckLake tables: read at a snapshot, replace a partition in one transaction, record lineage.

Belongs here: storage. Does not belong here: what a table means (``tables.py``), when it is written (the stages'
``assets.py``), Dagster's view of it (``resources.py``).
"""

import importlib.resources
import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ppl_assets.lake_records import Commit, LakeError, Provenance, Write
from ppl_assets.lake_schema import checked, create_tables, sql_type
from ppl_assets.lake_transactions import retrying, roll_back
from ppl_assets.lake_views import LIVE_LINEAGE
from ppl_assets.tables import LakeTable

__all__ = ["Commit", "Lake", "LakeError", "Provenance", "Snapshot", "Write"]

REMEMBERED = 256
"""Answers that a process keeps; a read of the smallest table takes some 20 ms, and a stage asks again and again."""

SMALL_BYTES = 256 * 1024
"""Larger frames are not kept; commits are one row a partition, hundreds at most."""

WANTED_BYTES = 16 * 1024 * 1024
"""The same for an answer that every partition of an asset asks for again."""

REMEMBERED_BYTES = 4 * WANTED_BYTES
"""What all the answers that are kept may take together; the oldest go first."""

LONGEST_TURN = 600.0
"""Seconds after which a commit gives up on the one before it."""

Answer = TypeVar("Answer")


class Snapshot:
    """The lake as it was at one snapshot; remembers which tables were read."""

    def __init__(self, lake: "Lake", number: int) -> None:
        self._lake = lake
        self.number = number
        self.reads: dict[str, int] = {}

    def read(
        self, table: LakeTable, columns: Sequence[str] | None = None, where: Mapping[str, Any] | None = None
    ) -> pl.DataFrame:
        """Rows of a table; ``where`` maps a column to a value or to a list of values.

        A snapshot never changes, so what is small is asked of the lake once in a process. For anything that grows with
        the corpora use :meth:`scan`.
        """
        sql, values = self._select(table, columns, where)
        if any(isinstance(value, list) for value in values):
            return self._read(sql, values)
        return self._lake.remembered((sql, repr(values)), lambda: self._read(sql, values)).clone()

    def _read(self, sql: str, values: list[Any]) -> pl.DataFrame:
        with self._lake.cursor() as cursor:
            return cursor.execute(sql, values).pl()

    def only_row(self, table: LakeTable, where: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The one row of a small table.

        Raises:
            LakeError: there is none yet; the message names the asset to materialize.
        """
        rows = self.read(table, where=where)
        if rows.height != 1:
            which = f" with {', '.join(f'{name} = {value}' for name, value in where.items())}" if where else ""
            raise LakeError(
                f"table {table.name} has {rows.height} rows{which} where one is needed; materialize it first"
            )
        return rows.row(0, named=True)

    def commits(self, asset: str) -> dict[str, Commit]:
        """The newest commit of every partition of an asset, as of this snapshot."""
        key = (f"commits of {asset}", str(self.number))
        return dict(self._lake.remembered(key, lambda: self._lake.commits(asset, self.number)))

    def latest(self, asset: str, partition: str = "") -> Commit | None:
        """The newest commit of an asset partition as of this snapshot, or None where it was never written."""
        return self.commits(asset).get(partition)

    def scan(
        self,
        table: LakeTable,
        columns: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        batch_rows: int = 8192,
    ) -> Iterator[pa.RecordBatch]:
        """Rows of a table as record batches: memory follows the batch."""
        sql, values = self._select(table, columns, where)
        with self._lake.cursor() as cursor:
            yield from cursor.execute(sql, values).to_arrow_reader(batch_rows)

    def query(self, sql: str, tables: Iterable[LakeTable], parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Run a query in which ``{name}`` stands for each of ``tables`` at this snapshot."""
        return self._lake.query(self._bind(sql, tables), parameters)

    def query_once(
        self, sql: str, tables: Iterable[LakeTable], parameters: Mapping[str, Any] | None = None
    ) -> pl.DataFrame:
        """Like :meth:`query`, for what every partition of an asset asks: asked of the lake once a snapshot.

        The answer is kept up to ``WANTED_BYTES``; a larger one is asked again each time.
        """
        bound = self._bind(sql, tables)
        key = (bound, repr(sorted((parameters or {}).items())))
        return self._lake.remembered(key, lambda: self._lake.query(bound, parameters), WANTED_BYTES).clone()

    def stream(
        self,
        sql: str,
        tables: Iterable[LakeTable],
        parameters: Mapping[str, Any] | None = None,
        batch_rows: int = 8192,
    ) -> Iterator[pa.RecordBatch]:
        """Like :meth:`query`, as record batches."""
        yield from self._lake.stream(self._bind(sql, tables), parameters, batch_rows)

    def at(self, number: int) -> "Snapshot":
        """The same lake at another snapshot."""
        return self._lake.snapshot(number)

    def rows_of(self, table: LakeTable) -> str:
        """A subquery: the table's columns at this snapshot and its rows' ``snapshot_id``."""
        return f"(SELECT *, snapshot_id FROM {self._versioned(table)})"  # noqa: S608 - declared names

    def _bind(self, sql: str, tables: Iterable[LakeTable]) -> str:
        """Each ``{name}`` becomes a subquery."""
        return sql.format(**{table.name: self.rows_of(table) for table in tables})

    def _versioned(self, table: LakeTable) -> str:
        self.reads[table.name] = self.number
        return f"lake.{table.name} AT (VERSION => {self.number:d})"

    def _select(
        self, table: LakeTable, columns: Sequence[str] | None, where: Mapping[str, Any] | None
    ) -> tuple[str, list[Any]]:
        known = {column.name for column in table.columns}
        asked = list(columns) if columns else [column.name for column in table.columns]
        if unknown := (set(asked) | set(where or {})) - known:
            raise LakeError(
                f"table {table.name} has no column {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
            )
        since = self._lake.late_columns()
        late = {c.name: sql_type(c.type) for c in table.columns if since.get((table.name, c.name), 0) > self.number}
        shown = [f"NULL::{late[name]} AS {name}" if name in late else name for name in asked]
        clauses, values = [], []
        for column, value in (where or {}).items():
            several = isinstance(value, list | tuple | set)
            clauses.append(f"{column} IN (SELECT unnest(?))" if several else f"{column} = ?")
            values.append(list(value) if several else value)
        condition = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        return f"SELECT {', '.join(shown)} FROM {self._versioned(table)}{condition}", values  # noqa: S608 - declared names


class Lake:
    """A DuckLake catalog and its table files.

    One connection a process; cursors of it are safe to use from several threads. Readers are never blocked; a writer
    that lost a race repeats its whole short transaction.
    """

    def __init__(self, catalog: str, tables: str, staging: Path) -> None:
        """Remember where things lie; nothing is opened before the first use.

        Args:
            catalog: DuckLake catalog, e.g. ``sqlite:/path/catalog.sqlite`` or ``postgres:dbname=lake``.
            tables: folder or object-store prefix of the table files.
            staging: local folder in which rows are staged before their commit.
        """
        self.catalog = catalog
        self.tables = tables
        self.staging = staging
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._lock = threading.Lock()
        self._remembered: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self._late_columns: dict[tuple[str, str], int] | None = None

    @classmethod
    def under(cls, root: Path, catalog: str = "", tables: str = "") -> "Lake":
        """The lake of a study's storage section: SQLite and a local folder where nothing else is named."""
        folder = root / "lake"
        return cls(
            catalog or f"sqlite:{folder / 'catalog.sqlite'}", tables or str(folder / "tables"), folder / "staging"
        )

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor on the attached lake; close it, or use it as a context manager."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection.cursor()

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Run a query that may read several snapshots: :meth:`Snapshot.rows_of` names a table at one."""
        with self.cursor() as cursor:
            return cursor.execute(sql, dict(parameters or {})).pl()

    def stream(
        self, sql: str, parameters: Mapping[str, Any] | None = None, batch_rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """Like :meth:`query`, as record batches."""
        with self.cursor() as cursor:
            yield from cursor.execute(sql, dict(parameters or {})).to_arrow_reader(batch_rows)

    def remembered(self, key: tuple[str, str], ask: Callable[[], Answer], most_bytes: int | None = None) -> Answer:
        """The answer to a question about one snapshot: of the last ones, if it is small, else asked now."""
        with self._lock:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                return cast("Answer", self._remembered[key][0])
        answer = ask()
        size = int(answer.estimated_size()) if isinstance(answer, pl.DataFrame) else 0
        if size <= (most_bytes or SMALL_BYTES):
            with self._lock:
                self._remembered[key] = answer, size
                while len(self._remembered) > REMEMBERED or self._remembered_bytes() > REMEMBERED_BYTES:
                    self._remembered.popitem(last=False)
        return answer

    def _remembered_bytes(self) -> int:
        return sum(size for _, size in self._remembered.values())

    def late_columns(self) -> dict[tuple[str, str], int]:
        """Table and column to the snapshot since which the table has it, where that is not the first one.

        A table of an earlier version gets its new columns when it is opened; in earlier snapshots it lacks them.
        """
        if self._late_columns is None:
            sql = """SELECT t.table_name, c.column_name, c.begin_snapshot
                     FROM __ducklake_metadata_lake.ducklake_column AS c
                     JOIN __ducklake_metadata_lake.ducklake_table AS t USING (table_id)
                     WHERE c.begin_snapshot > t.begin_snapshot AND c.end_snapshot IS NULL AND t.end_snapshot IS NULL"""
            rows = self.query(sql).iter_rows()
            self._late_columns = {(table, column): number for table, column, number in rows}
        return self._late_columns

    @contextmanager
    def memory(self, gib: float) -> Iterator[None]:
        """Queries of this process take at most this much memory meanwhile; what does not fit goes to ``staging``."""
        with self.cursor() as cursor:
            cursor.execute(f"SET memory_limit = '{gib:.6f} GiB'")
            try:
                yield
            finally:
                cursor.execute("RESET memory_limit")

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._remembered.clear()
            self._late_columns = None

    def attach_statements(self, *, is_read_only: bool = False) -> list[str]:
        """The SQL that opens this lake in any DuckDB prompt."""
        kind = self.catalog.partition(":")[0]
        scanner = {"sqlite": "sqlite_scanner", "postgres": "postgres_scanner"}.get(kind)
        extensions = ["ducklake", *([scanner] if scanner else [])]
        if self.tables.startswith("s3://"):
            extensions += ["httpfs", "aws"]
        # The path that the catalog remembers is of where the folder lay when it was made; it may have been moved since.
        options = f"DATA_PATH {_quoted(self.tables)}, OVERRIDE_DATA_PATH true"
        if kind == "sqlite":
            options += ", META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT 10000"
        if is_read_only:
            options += ", READ_ONLY"
        return [
            *(_load(name) for name in extensions),
            f"ATTACH {_quoted('ducklake:' + self.catalog)} AS lake ({options})",
        ]

    def snapshot(self, number: int | None = None) -> Snapshot:
        """The lake at a snapshot, the newest by default.

        Raises:
            LakeError: there is no such snapshot: it is none yet, or lake_maintenance expired it.
        """
        sql = "SELECT max(snapshot_id), count(*) FILTER (snapshot_id = $number) FROM ducklake_snapshots('lake')"
        with self.cursor() as cursor:
            newest, found = cursor.execute(sql, {"number": number}).fetchone() or (0, 0)
        if number is not None and not found:
            why = "lake_maintenance expired it" if 0 <= number < newest else f"the newest one is {newest}"
            raise LakeError(
                f"the lake has no snapshot {number}: {why}; its selections are listed by ppl-assets selections"
            )
        return Snapshot(self, int(newest) if number is None else number)

    def stage(
        self, table: LakeTable, rows: pa.Table | pl.DataFrame | Iterable[pa.RecordBatch], partition: str | None = None
    ) -> Write:
        """Check rows against the declared schema and stage them for :meth:`commit`.

        Args:
            table: where they go.
            rows: a table, or batches that are written as they come.
            partition: value of the partition column they replace; None replaces the whole table.

        Raises:
            LakeError: a column is missing, unknown, of another type, or empty where that is not allowed; or a row
                belongs to another partition.
        """
        self.staging.mkdir(parents=True, exist_ok=True)
        file = self.staging / f"{table.name}-{uuid.uuid4().hex}.parquet"
        if isinstance(rows, pl.DataFrame):
            rows = rows.to_arrow()
        batches: Iterable[Any] = rows.to_batches() if isinstance(rows, pa.Table) else rows
        count = 0
        try:
            with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(checked(table, batch, partition))
                    count += batch.num_rows
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return Write(table, partition, file, count)

    def staged_rows(self, write: Write, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """What is staged, batch by batch."""
        with pq.ParquetFile(write.file) as file:
            yield from file.iter_batches(columns=list(columns) if columns else None)

    def discard(self, write: Write) -> None:
        """Forget staged rows that will not be committed."""
        write.file.unlink(missing_ok=True)

    def commit(self, writes: Sequence[Write], provenance: Provenance) -> int:
        """Replace the staged partitions in one transaction and return the snapshot it made.

        Raises:
            LakeError: the transaction lost every race; nothing was changed.
        """

        def replace(cursor: duckdb.DuckDBPyConnection) -> None:
            for write in writes:
                _replace(cursor, write)

        try:
            return self.transact(replace, provenance)
        finally:
            for write in writes:
                write.file.unlink(missing_ok=True)

    def transact(self, work: Callable[[duckdb.DuckDBPyConnection], object], provenance: Provenance) -> int:
        """Do ``work`` on a cursor in one transaction, again where it lost a race, and return the snapshot it made.

        Raises:
            LakeError: the transaction lost every race, or never had its turn; nothing was changed.
        """
        try:
            with self._turn():
                return retrying(5.0)(self._transact_once, work, provenance)
        except Timeout as error:
            raise LakeError(
                f"could not write {provenance.asset} {provenance.partition}: another process has been writing to "
                f"{self.catalog} for {LONGEST_TURN:.0f} s; end it, and run this again; nothing was changed"
            ) from error
        except duckdb.Error as error:
            raise LakeError(
                f"could not write {provenance.asset} {provenance.partition}: {error}; nothing was changed"
            ) from error

    def _turn(self) -> AbstractContextManager[Any]:
        """The writers of one machine commit to a SQLite catalog one after the other, and a dead one leaves its turn.

        Left to race, eight of them lost 16 commits of 179 after twelve attempts each, and came to one in 0.7 s.
        """
        if not self.catalog.startswith("sqlite:"):
            return nullcontext()
        file = self.catalog.removeprefix("sqlite:") + ".lock"
        return FileLock(file, timeout=LONGEST_TURN, poll_interval=0.02)

    def latest(self, asset: str, partition: str = "") -> Commit | None:
        """The newest commit of an asset partition, or None where it was never written."""
        return self.commits(asset).get(partition)

    def commits(self, asset: str, at: int | None = None) -> dict[str, Commit]:
        """The newest commit of every partition of an asset, of all or of those up to snapshot ``at``."""
        live = f"""SELECT partition, snapshot_id, inputs, data_version, run_id, facts FROM ({LIVE_LINEAGE})
                   WHERE asset = $asset"""  # noqa: S608 - our own view
        gone = "SELECT max(snapshot_id) + 1 - count(*) FROM ducklake_snapshots('lake')"  # they are numbered from 0
        with self.cursor() as cursor:
            rows = cursor.execute(live, {"asset": asset}).fetchall()
            expired = cursor.execute(gone).fetchone()
        if expired and expired[0]:
            rows += self.remembered(("past commits", str(expired[0])), self._past_commits).get(asset, [])
        newest = {row[0]: row for row in sorted(rows, key=lambda row: row[1]) if at is None or row[1] <= at}
        return {key: Commit(row[1], row[2], row[3], row[4], json.loads(row[5] or "{}")) for key, row in newest.items()}

    def _past_commits(self) -> dict[str, list[tuple[Any, ...]]]:
        """Commits whose snapshots expired, by asset."""
        sql = """SELECT asset, partition, snapshot_id, inputs, data_version, run_id, facts FROM lake.lineage
                 WHERE snapshot_id NOT IN (SELECT snapshot_id FROM ducklake_snapshots('lake'))"""
        found: dict[str, list[tuple[Any, ...]]] = {}
        with self.cursor() as cursor:
            for asset, *row in cursor.execute(sql).fetchall():
                found.setdefault(asset, []).append(tuple(row))
        return found

    def _transact_once(self, work: Callable[[duckdb.DuckDBPyConnection], object], provenance: Provenance) -> int:
        message = f"{provenance.asset} {provenance.partition}".strip()
        with self.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                work(cursor)
                cursor.execute(
                    "CALL lake.set_commit_message(?, ?, extra_info => ?)",
                    ["ppl_assets", message, provenance.as_json()],
                )
                cursor.execute("COMMIT")
            except BaseException:
                roll_back(cursor)
                raise
            sql = f"SELECT max(snapshot_id) FROM ({LIVE_LINEAGE}) WHERE asset = ? AND partition = ?"  # noqa: S608 - our own view
            row = cursor.execute(sql, [provenance.asset, provenance.partition]).fetchone()
        return int(row[0] or 0) if row else 0

    def _connect(self) -> duckdb.DuckDBPyConnection:
        if self.catalog.startswith("sqlite:"):
            Path(self.catalog.removeprefix("sqlite:")).parent.mkdir(parents=True, exist_ok=True)
        if "://" not in self.tables:
            Path(self.tables).mkdir(parents=True, exist_ok=True)
        self.staging.mkdir(parents=True, exist_ok=True)
        connection = duckdb.connect(
            config={"threads": 2, "preserve_insertion_order": True, "temp_directory": str(self.staging / "spilled")}
        )
        try:
            for statement in self.attach_statements():
                connection.execute(statement)
            create_tables(connection, self.catalog)
        except duckdb.Error as error:
            connection.close()
            raise LakeError(f"could not open the lake at {self.catalog}: {error}") from error
        return connection


def _replace(cursor: duckdb.DuckDBPyConnection, write: Write) -> None:
    name = write.table.name
    if write.partition is None:
        cursor.execute(f"DELETE FROM lake.{name}")  # noqa: S608 - declared name
    else:
        cursor.execute(f"DELETE FROM lake.{name} WHERE {write.table.partition} = ?", [write.partition])  # noqa: S608 - declared names
    if write.rows:
        columns = ", ".join(column.name for column in write.table.columns)
        # columns by name: those added to an older lake stand last in it, wherever they are declared
        sql = f"INSERT INTO lake.{name} ({columns}) SELECT {columns} FROM read_parquet(?)"  # noqa: S608 - declared names
        cursor.execute(sql, [str(write.file)])


def _quoted(text: str) -> str:
    """A SQL string literal, for the places where DuckDB takes no parameter."""
    return "'" + text.replace("'", "''") + "'"


def _load(extension: str) -> str:
    """The statement that loads an extension: from its PyPI package where installed, else by DuckDB's own loader."""
    try:
        package = importlib.resources.files(f"duckdb_extension_{extension}")
    except ModuleNotFoundError:
        return f"INSTALL {extension}; LOAD {extension}"
    file = package / "extensions" / f"v{duckdb.__version__}" / f"{extension}.duckdb_extension"
    return f"LOAD {_quoted(str(file))}" if file.is_file() else f"INSTALL {extension}; LOAD {extension}"
