"""Rows of JSON lines, CSV and Parquet files, without ever holding more than one row or one small batch."""

import csv
import json
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ppl_assets.corpus.compression import compression_of, open_decompressed
from ppl_assets.corpus.errors import CorpusError, TruncatedFile
from ppl_assets.corpus.files import SourceFile
from ppl_assets.corpus.rows import Plan, RejectedRow, Row

BOM = b"\xef\xbb\xbf"
PARQUET_ROWS = 256
"""Rows a record batch: documents of 100 kB then make 25 MB."""


def line_bytes(limit: int) -> int:
    """Longest line read for a text of ``limit`` characters: six bytes an escaped character, 64 KiB for other fields."""
    return 6 * limit + (1 << 16)


def skip_line(stream: BinaryIO) -> int:
    """Pass over the rest of a line in bounded memory; returns how many quotes it held."""
    quotes = 0
    while block := stream.readline(1 << 20):
        quotes += block.count(b'"')
        if block.endswith(b"\n"):
            break
    return quotes


def jsonl_rows(file: SourceFile, plan: Plan) -> Iterator[Row | RejectedRow]:
    """Rows of a JSON-lines file; positions are line numbers from 1, blank lines are passed over."""
    longest = line_bytes(plan.limit)
    with open_decompressed(file) as stream:
        position = 0
        while line := stream.readline(longest + 1):
            position += 1
            if len(line) > longest and not line.endswith(b"\n"):
                skip_line(stream)
                yield plan.over_long(file.relative, position, f"A line of more than {longest:,} bytes")
                continue
            if position == 1:
                line = line.removeprefix(BOM)  # only the first line can start with a byte order mark
            if not line.isspace() and line and not plan.skips(position):
                yield _json_row(file, plan, position, line)


def _json_row(file: SourceFile, plan: Plan, position: int, line: bytes) -> Row | RejectedRow:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RejectedRow(file.relative, position, "invalid_utf8", f"The line is not UTF-8: {error}.")
    except (ValueError, RecursionError) as error:
        return RejectedRow(file.relative, position, "invalid_json", f"The line is not JSON: {error}.")
    field = plan.settings.text_field
    if not isinstance(record, dict) or field not in record:
        given = (
            ", ".join(list(record)[:20]) if isinstance(record, dict) else f"a {type(record).__name__}, not an object"
        )
        return RejectedRow(file.relative, position, "missing_field", f"No field {field!r}; the line has {given}.")
    return plan.check(file.relative, position, record[field], record.get(plan.settings.id_field))


class _RowTooLong(Exception):  # noqa: N818  # a signal between the two halves of the CSV reader
    """A CSV row exceeds the limit."""


class _CsvLines:
    """Lines for ``csv.reader``, bounded a row, with what is needed to find the end of a row that is given up.

    Bytes that are not UTF-8 become lone surrogates, so that one bad row does not end the file.
    """

    def __init__(self, stream: BinaryIO, longest: int) -> None:
        self._stream = stream
        self._longest = longest
        self._row_bytes = 0
        self._row_quotes = 0
        self.line = 0

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._longest - self._row_bytes + 1)
        if not line:
            raise StopIteration
        self.line += 1
        if self.line == 1:
            line = line.removeprefix(BOM)
        self._row_bytes += len(line)
        self._row_quotes += line.count(b'"')
        if self._row_bytes > self._longest:
            if not line.endswith(b"\n"):
                self._row_quotes += skip_line(self._stream)
            raise _RowTooLong
        return line.decode("utf-8", "surrogateescape")

    def start_row(self) -> int:
        """Begin a row; returns the number of its first line."""
        self._row_bytes = self._row_quotes = 0
        return self.line + 1

    def give_up_row(self) -> None:
        """Pass over the rest of a row: inside quotes until the number of quotes is even at a line's end."""
        while self._row_quotes % 2 and (line := self._stream.readline(1 << 20)):
            self._row_quotes += line.count(b'"')
            if not line.endswith(b"\n"):
                self._row_quotes += skip_line(self._stream)
            self.line += 1


def csv_rows(file: SourceFile, plan: Plan) -> Iterator[Row | RejectedRow]:
    """Rows of a CSV file with a header (tabs where the name says .tsv); positions are the lines on which rows start."""
    csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is shorter than documents; _CsvLines bounds rows instead
    with open_decompressed(file) as stream:
        lines = _CsvLines(stream, line_bytes(plan.limit))
        reader = csv.reader(lines, delimiter="\t" if ".tsv" in file.url.lower() else ",")
        header: list[str] | None = None
        while True:
            position = lines.start_row()
            try:
                cells = next(reader, None)
            except _RowTooLong:
                lines.give_up_row()
                yield plan.over_long(file.relative, position, "A row of too many bytes, or with a quote never closed")
                continue
            except csv.Error as error:
                yield RejectedRow(file.relative, position, "invalid_csv", f"The row is not CSV: {error}.")
                continue
            if cells is None:
                return
            if header is None:
                header = cells
                if plan.settings.text_field not in header:
                    yield _no_column(file, plan, header)
                    return
            elif cells and not plan.skips(position):
                yield _csv_row(file, plan, position, dict(zip(header, cells, strict=False)))


def _csv_row(file: SourceFile, plan: Plan, position: int, record: dict[str, str]) -> Row | RejectedRow:
    text = record.get(plan.settings.text_field)
    if text is None:
        detail = f"The row ends before column {plan.settings.text_field!r}."
        return RejectedRow(file.relative, position, "missing_field", detail)
    identity = record.get(plan.settings.id_field)
    return plan.check(file.relative, position, text.encode("utf-8", "surrogateescape"), identity)


def _no_column(file: SourceFile, plan: Plan, columns: list[str]) -> RejectedRow:
    given = ", ".join(columns[:20])
    return RejectedRow(file.relative, None, "missing_field", f"No column {plan.settings.text_field!r}; it has {given}.")


def parquet_rows(file: SourceFile, plan: Plan) -> Iterator[Row | RejectedRow]:
    """Rows of a Parquet file by small record batches; positions are row numbers from 1.

    Raises:
        TruncatedFile: the file is cut off or damaged.
        CorpusError: the file is compressed as a whole; Parquet compresses inside.
    """
    with file.open() as stream:
        if compression := compression_of(stream.read(10)):
            raise CorpusError(
                f"{file.url} is Parquet inside {compression}, which cannot be read in parts; decompress it."
            )
        stream.seek(0)
        try:
            yield from _parquet_rows(file, plan, stream)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise TruncatedFile(
                f"{file.url} is not a whole Parquet file ({str(error).splitlines()[0]}); "
                "download or write it again, or leave it out with exclude."
            ) from error


def _parquet_rows(file: SourceFile, plan: Plan, stream: BinaryIO) -> Iterator[Row | RejectedRow]:
    settings = plan.settings
    table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
    names = table.schema_arrow.names
    if settings.text_field not in names:
        yield _no_column(file, plan, names)
        return
    kind = table.schema_arrow.field(settings.text_field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (_is_text(kind) or pa.types.is_null(kind)):
        yield RejectedRow(file.relative, None, "not_text", f"Column {settings.text_field!r} holds {kind}, not text.")
        return
    wanted = [name for name in {settings.text_field: None, settings.id_field: None} if name in names]
    position = 0
    for batch in table.iter_batches(PARQUET_ROWS, columns=wanted):
        texts = batch.column(settings.text_field).cast(pa.large_binary())
        identities: Any = batch.column(settings.id_field) if settings.id_field in wanted else None
        for row, text in enumerate(texts):
            position += 1
            if not plan.skips(position):
                identity = None if identities is None else identities[row].as_py()
                yield plan.check(file.relative, position, text.as_py(), identity)


def _is_text(kind: pa.DataType) -> bool:
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return is_string or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
