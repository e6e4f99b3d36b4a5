"""The lake's tables as they are declared and as they are stored: made, extended, refused; rows checked against them."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from ppl_assets.lake_records import LakeError
from ppl_assets.lake_transactions import retrying, roll_back
from ppl_assets.lake_views import VIEWS
from ppl_assets.tables import TABLES, Column, LakeTable

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.uint32(): "UINTEGER",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}


def create_tables(connection: duckdb.DuckDBPyConnection, catalog: str) -> None:
    """Create what is missing; refuse a table whose columns are not the declared ones.

    A column that may be empty and that a table of an earlier version lacks is added: its old rows do not say.
    """
    sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE database_name = 'lake'"
    stored: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(sql).fetchall():
        stored.setdefault(table, {})[column] = kind
    added: list[tuple[LakeTable, Column]] = []
    for table in TABLES.values():
        if table.name not in stored:
            continue
        held = stored[table.name]
        late = [column for column in table.columns if column.nullable and column.name not in held]
        declared = {c.name: sql_type(c.type) for c in table.columns if c not in late}
        if held != declared:
            raise LakeError(
                f"table {table.name} in the lake at {catalog} was written by another version: "
                f"{_differences(held, declared)}; use that version, or point storage.root at a new folder"
            )
        added += [(table, column) for column in late]
    missing = [table for table in TABLES.values() if table.name not in stored]
    if missing or added or not stored.keys() >= VIEWS.keys():
        retrying(2.0)(_create, connection, missing, added)


def _differences(held: dict[str, str], declared: dict[str, str]) -> str:
    """What tells a stored table's columns (name to type) from the declared ones, in words."""
    found = [f"it has {name}, which is not known here" for name in held if name not in declared]
    found += [f"it lacks {name}" for name in declared if name not in held]
    both = [name for name in held if name in declared]
    found += [f"{name} is {held[name]}, here {declared[name]}" for name in both if held[name] != declared[name]]
    return ", ".join(found)


def _create(
    connection: duckdb.DuckDBPyConnection, missing: Sequence[LakeTable], added: Sequence[tuple[LakeTable, Column]]
) -> None:
    connection.execute("BEGIN")
    try:
        for table in missing:
            columns = ", ".join(
                f"{c.name} {sql_type(c.type)}{'' if c.nullable else ' NOT NULL'}" for c in table.columns
            )
            connection.execute(f"CREATE TABLE IF NOT EXISTS lake.{table.name} ({columns})")
            if table.partition == "corpus":
                connection.execute(f"ALTER TABLE lake.{table.name} SET PARTITIONED BY (corpus)")
        for table, column in added:
            kind = sql_type(column.type)
            connection.execute(f"ALTER TABLE lake.{table.name} ADD COLUMN IF NOT EXISTS {column.name} {kind}")
        for name, query in VIEWS.items():
            connection.execute(f"CREATE OR REPLACE VIEW lake.{name} AS {query}")
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def checked(table: LakeTable, batch: pa.RecordBatch, partition: str | None) -> pa.RecordBatch:
    """The batch with the declared column order and nullability."""
    names = [column.name for column in table.columns]
    if set(batch.schema.names) != set(names):
        missing, unknown = sorted(set(names) - set(batch.schema.names)), sorted(set(batch.schema.names) - set(names))
        raise LakeError(f"rows for table {table.name} lack columns {missing} and have unknown columns {unknown}")
    arrays = []
    for column in table.columns:
        array = batch.column(column.name)
        if array.type != column.type:
            if not _same_kind(array.type, column.type):
                raise LakeError(f"{table.name}.{column.name} is {array.type}, declared {column.type}")
            array = array.cast(column.type)
        if array.null_count and not column.nullable:
            raise LakeError(f"{table.name}.{column.name} has {array.null_count} empty values; none is allowed")
        arrays.append(array)
    if partition is not None:
        found = set(batch.column(table.partition).unique().to_pylist())
        if found - {partition}:
            raise LakeError(
                f"rows for {table.name} partition {partition!r} hold partition {sorted(found - {partition})}"
            )
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def _same_kind(given: pa.DataType, declared: pa.DataType) -> bool:
    """Whether the two differ only in width or offset size (large_string for string), or the given one is all null."""
    if pa.types.is_null(given):
        return True
    if pa.types.is_list(given) or pa.types.is_large_list(given):
        return pa.types.is_list(declared) and _same_kind(given.value_type, declared.value_type)
    text = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    if any(kind(given) for kind in text):
        return bool(pa.types.is_string(declared))
    if pa.types.is_integer(given):
        return bool(pa.types.is_integer(declared))
    if pa.types.is_floating(given):
        return bool(pa.types.is_floating(declared))
    return bool(given == declared)


def sql_type(kind: pa.DataType) -> str:
    """The type of a declared column in SQL."""
    if pa.types.is_list(kind):
        return f"{_SQL_TYPES[kind.value_type]}[]"
    return _SQL_TYPES[kind]
