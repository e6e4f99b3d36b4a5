"""Every character that a text can hold comes back the same from every reader that a trainer may use."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.corpus.cleaning import normalize
from ppl_assets.subset.export import write_export
from ppl_assets_tests.subset.export_factory import batch, description

SURROGATES = range(0xD800, 0xE000)
EVERY = "".join(chr(point) for point in range(0x10000) if point not in SURROGATES)
AWKWARD = {
    "every character of the basic plane": EVERY,
    "every one in a text of its own place": "|".join(EVERY[0x20:0x3000]),
    "beyond the basic plane": "\U0001f469\u200d\U0001f52c \U0001d11e \U0010ffff \U0001f1e9\U0001f1ea",
    "line ends": "a\nb\r\nc\rd\u2028e\u2029f\u0085g\x0bh\x0ci\x1cj\x1dk\x1el",
    "nothing but line ends": "\u2028\u2029\u0085\r\n",
    "quotes and backslashes": '"double" \'single\' `back` \\ \\n \\u0041 \\\\ \\" /\\/',
    "byte order mark first": "\ufeffa\ufeff",
    "bidi marks": "\u202ea\u202c \u200fb \u2066c\u2069 \u200ed",
    "combining marks": "e\u0301 \u1112\u1161\u11ab Z" + "\u0300\u0336" * 200,
    "no characters": "\ufffe\uffff\ufdd0\ufffd\u200b\u00ad",
    "NUL": "\x00a\x00",
    "other controls": "\x01\x07\x08\x1a\x1b[31m\x7f\x9f\t",
    "empty": "",
    "JSON": '{"text": [1, null]}\n',
    "like another type": "2020-01-01",
    "like no value": "null",
    "a very long line": "long \U0001f469 " * 200_000,
    "surrounded by spaces": "  a\u00a0\u3000 ",
}
TEXTS = list(AWKWARD.values())


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in several files: the reader has to put them together."""
    return write_export(tmp_path_factory.mktemp("exports"), "sel", [batch(TEXTS)], description(), shard_tokens=20)


def lines(export: Path, read: Callable[[Path], list[str]]) -> list[str]:
    return [json.loads(line)["text"] for file in sorted(export.glob("jsonl/*")) for line in read(file)]


def of_datasets(export: Path, **options: object) -> list[str]:
    rows = datasets.load_dataset(str(export), split="train", cache_dir=str(export.parent / "cache"), **options)
    return [row["text"] for row in rows]


READERS: dict[str, Callable[[Path], list[str]]] = {
    "Parquet, pyarrow": lambda export: pq.read_table(export / "parquet")["text"].to_pylist(),
    "Parquet, polars": lambda export: pl.read_parquet(export / "parquet/*.parquet")["text"].to_list(),
    "Parquet, duckdb": lambda export: _duckdb("read_parquet($files)", export / "parquet/*.parquet"),
    "Parquet, datasets": of_datasets,
    "Parquet, datasets streaming": lambda export: of_datasets(export, streaming=True),
    "JSONL, open": lambda export: lines(export, lambda file: list(file.open(encoding="utf-8"))),
    "JSONL, str.splitlines": lambda export: lines(export, lambda file: file.read_text("utf-8").splitlines()),
    "JSONL, bytes": lambda export: lines(export, lambda file: list(file.open("rb"))),
    "JSONL, polars": lambda export: pl.concat(map(pl.read_ndjson, sorted(export.glob("jsonl/*"))))["text"].to_list(),
    "JSONL, duckdb": lambda export: _duckdb("read_ndjson($files)", export / "jsonl/*.jsonl"),
    "JSONL, datasets": lambda export: of_datasets(export, data_dir="jsonl"),
    "JSONL, datasets streaming": lambda export: of_datasets(export, data_dir="jsonl", streaming=True),
}


def _duckdb(source: str, files: Path) -> list[str]:
    return [
        text for (text,) in duckdb.connect().execute(f"SELECT text FROM {source}", {"files": str(files)}).fetchall()
    ]


@pytest.mark.parametrize("reader", READERS)
def test_every_text_comes_back_in_its_place(export: Path, reader: str) -> None:
    read = READERS[reader](export)
    assert len(read) == len(TEXTS)
    assert [name for name, text in zip(AWKWARD, read, strict=True) if text != AWKWARD[name]] == []


def test_a_jsonl_file_has_a_line_a_row_whatever_breaks_lines(export: Path) -> None:
    for file in export.glob("jsonl/*"):
        raw = file.read_bytes()
        assert len(raw.decode().splitlines()) == raw.count(b"\n")
        assert b"\x00" not in raw


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = write_export(tmp_path_factory.mktemp("export"), "sel", [batch(texts)], description())
    assert READERS["JSONL, open"](folder) == READERS["JSONL, str.splitlines"](folder) == texts
    assert READERS["Parquet, pyarrow"](folder) == texts


def test_lone_surrogates_and_controls_never_reach_an_export() -> None:
    cleaned = normalize("a\x00b\ud800c\udfffd\ufeffe\x1bf" + "".join(map(chr, SURROGATES)) + EVERY)
    assert cleaned.startswith("ab\ufffdc\ufffddef")
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in cleaned)
