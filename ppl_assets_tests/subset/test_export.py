"""Exports: what is written comes back, in order, in files of the size asked for, whole or not at all."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.subset.card import Source
from ppl_assets.subset.export import is_export, write_export
from ppl_assets.subset.handover import differing_files
from ppl_assets.subset.shards import LINE_FIELDS, SCHEMA, ExportError
from ppl_assets_tests.subset.export_factory import SOURCES, batch, description

PARQUET, JSONL = "parquet/train-00000-of-00001.parquet", "jsonl/train-00000-of-00001.jsonl"


def ranks(folder: Path) -> list[list[int]]:
    """Ranks in every Parquet file, by name; the lines of the JSONL file of the same number must be the same rows."""
    found = []
    for file in sorted((folder / "parquet").iterdir()):
        rows = pq.read_table(file).to_pylist()
        lines = (folder / "jsonl" / file.name).with_suffix(".jsonl").read_text("utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [{name: row[name] for name in LINE_FIELDS} for row in rows]
        found.append([row["rank"] for row in rows])
    return found


def test_files_of_a_given_size_hold_the_rows_in_training_order(tmp_path: Path) -> None:
    folder = write_export(tmp_path, "sel", [batch(list("abc")), batch(list("defg"), 3)], description(), shard_tokens=9)
    assert ranks(folder) == [[0, 1], [2, 3], [4, 5], [6]]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["shards"] == [{"rows": 2, "tokens": 8}] * 3 + [{"rows": 1, "tokens": 4}]
    assert manifest["files"][:2] == ["parquet/train-00000-of-00004.parquet", "parquet/train-00001-of-00004.parquet"]
    assert sorted(manifest["files"]) == sorted(str(path.relative_to(folder)) for path in folder.glob("*/*"))


def test_without_a_size_there_is_one_file_of_each_format(tmp_path: Path) -> None:
    folder = write_export(tmp_path, "sel", [batch(list("abc")), batch(list("defg"), 3)], description())
    assert sorted(str(path.relative_to(folder)) for path in folder.glob("*/*")) == [JSONL, PARQUET]


def test_a_chunk_longer_than_a_file_has_its_own(tmp_path: Path) -> None:
    batches = [batch(["a"]), batch(["long"], 1, tokens=50), batch(["b", "c"], 2)]
    assert ranks(write_export(tmp_path, "sel", batches, description(), shard_tokens=8)) == [[0], [1], [2, 3]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=5).filter(any), st.integers(1, 30))
def test_no_file_could_have_taken_the_next_chunk(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], most: int
) -> None:
    batches, place = [], 0
    for part in lengths:
        rows = [batch(["x"], place + k, tokens=n) for k, n in enumerate(part)]
        place += len(part)
        batches += [pa.Table.from_batches(rows).combine_chunks().to_batches()[0]] if rows else [batch([])]
    folder = write_export(tmp_path_factory.mktemp("export"), "sel", batches, description(), shard_tokens=most)
    flat = [n for part in lengths for n in part]
    files = ranks(folder)
    assert [rank for file in files for rank in file] == list(range(len(flat)))
    for file, following in zip(files, [*files[1:], []], strict=True):
        held = sum(flat[rank] for rank in file)
        assert held <= most or len(file) == 1
        assert not following or held + flat[following[0]] > most


def test_more_files_than_five_digits_can_number_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppl_assets.subset.shards.MOST_SHARDS", 2)
    with pytest.raises(ExportError, match="shard_tokens = 4 makes more than 2 files"):
        write_export(tmp_path, "sel", [batch(list("abc"))], description(), shard_tokens=4)
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_known_by_its_format_licences_and_file_size(tmp_path: Path) -> None:
    folder = write_export(tmp_path, "sel", [batch(list("abc"))], description(), shard_tokens=9)
    assert is_export(folder, SOURCES, 9)
    assert is_export(folder, [*SOURCES, Source("later", "mit", ["later"])], 9)
    assert not is_export(folder, SOURCES, None)
    assert not is_export(folder, [Source("docs", "mit", ["docs"]), SOURCES[1]], 9)
    (folder / "jsonl" / "train-00000-of-00002.jsonl").unlink()
    assert not is_export(folder, SOURCES, 9)


def test_an_export_of_the_first_format_is_replaced(tmp_path: Path) -> None:
    old = tmp_path / "sel"
    old.mkdir()
    (old / "manifest.json").write_text('{"selection_id": "sel", "files": ["subset.parquet", "subset.jsonl"]}')
    for name in ("subset.parquet", "subset.jsonl"):
        (old / name).touch()
    assert not is_export(old, SOURCES, None)
    write_export(tmp_path, "sel", [batch(["a"])], description())
    assert is_export(old, SOURCES, None)
    assert not list(old.glob("subset.*"))


def test_no_folder_and_a_broken_manifest_are_no_export(tmp_path: Path) -> None:
    assert not is_export(tmp_path / "none", SOURCES, None)
    (tmp_path / "manifest.json").write_text("{")
    assert not is_export(tmp_path, SOURCES, None)


def test_the_manifest_says_what_is_in_the_folder(tmp_path: Path) -> None:
    batches = [batch(["a", "b"]), batch(["c"], 2, corpus="code-001"), batch(["d"], 3)]
    folder = write_export(tmp_path, "sel", batches, description())
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["reached"] == {"mean_perplexity": 10.01, "deviation": 2.99}
    assert (manifest["selection_id"], manifest["rows"], manifest["tokens"]) == ("sel", 4, 16)
    assert manifest["corpora"] == {"code-001": {"chunks": 1, "tokens": 4}, "docs": {"chunks": 3, "tokens": 12}}
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "jsonl", "manifest.json", "parquet"]


def test_a_second_export_replaces_the_first_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_export(tmp_path, "sel", [batch(["old"])], description())
    folder = write_export(tmp_path, "sel", [batch(["new", "er"])], description())
    assert pq.read_table(folder / PARQUET).num_rows == 2
    assert [path.name for path in tmp_path.iterdir()] == ["sel"]


def test_a_failure_midway_keeps_the_earlier_export_and_leaves_no_half_one(tmp_path: Path) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield batch(["half"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_export(tmp_path, "sel", failing(), description())
    assert list(tmp_path.iterdir()) == []
    folder = write_export(tmp_path, "sel", [batch(["whole"])], description())
    with pytest.raises(KeyboardInterrupt):
        write_export(tmp_path, "sel", failing(), description())
    assert pq.read_table(folder / PARQUET).column("text").to_pylist() == ["whole"]


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".sel.0a.part").mkdir()
    (tmp_path / ".sel.0a.part" / "subset.jsonl").write_text("half")
    (tmp_path / ".other.0b.part").mkdir()
    write_export(tmp_path, "sel", [batch(["whole"])], description())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0b.part", "sel"]


def test_an_export_killed_between_the_two_renames_is_put_back(tmp_path: Path) -> None:
    write_export(tmp_path, "sel", [batch(["old"])], description()).rename(tmp_path / ".sel.0c.old")
    with pytest.raises(ExportError, match="no rows"):
        write_export(tmp_path, "sel", [], description())
    assert pq.read_table(tmp_path / "sel" / PARQUET).column("text").to_pylist() == ["old"]


def test_ranks_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="row 1"):
        write_export(tmp_path, "sel", [batch(["a"]), batch(["b"], 2)], description())


def test_the_same_rows_give_the_same_bytes_however_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppl_assets.subset.export.GROUP_ROWS", 3)
    whole = write_export(tmp_path / "whole", "sel", [batch(list("abcdefgh"))], description(), shard_tokens=20)
    parts = [batch(list("ab")), batch(list("cdefg"), 2), batch([], 7), batch(["h"], 7)]
    given = write_export(tmp_path / "parts", "sel", parts, description(), shard_tokens=20)
    assert differing_files(whole, given) == []
    assert pq.ParquetFile(given / "parquet/train-00000-of-00002.parquet").num_row_groups == 2


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="lacks ppl"):
        write_export(tmp_path, "sel", [batch(["a"]).drop_columns(["ppl"])], description())


def test_a_null_is_named(tmp_path: Path) -> None:
    loose = pa.schema([field.with_nullable(True) for field in SCHEMA])
    rows = pa.RecordBatch.from_pylist([{**batch(["a"]).to_pylist()[0], "doc_id": None}], schema=loose)
    with pytest.raises(ExportError, match="no doc_id"):
        write_export(tmp_path, "sel", [rows], description())


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="cannot name a folder"):
        write_export(tmp_path, name, [batch(["a"])], description())


def test_two_that_write_one_selection_do_so_in_turn(tmp_path):
    began, go_on = threading.Event(), threading.Event()

    def slowly():
        began.set()
        assert go_on.wait(30)
        yield batch(["a", "b"])

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write_export, tmp_path, "sel", slowly(), description())
        assert began.wait(30)
        second = pool.submit(write_export, tmp_path, "sel", [batch(["a", "b"])], description())
        time.sleep(0.3)
        assert not second.done()
        go_on.set()
        assert first.result(30) == second.result(30) == tmp_path / "sel"
    assert (tmp_path / "sel" / "manifest.json").is_file()
    assert not list(tmp_path.glob(".*.part"))
