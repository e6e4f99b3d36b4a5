"""Exports: what is written comes back, whole or not at all."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.subset.export import LINE_FIELDS, SCHEMA, ExportError, write_export

AWKWARD = [
    "two\nlines\r\nand \"quotes\" and 'more' \\n",
    "separators \u2028 and \u2029 and \u0085 and \x0b\x0c\x1c\x1e",
    "emoji 👩‍🔬 and astral 𝄞, combining e\u0301, rtl \u202eabc",
    "controls \x01\x07\x1b\x7f\ttab",
    "",
    '{"json": "inside"}\n',
]


def batch(texts: list[str], start: int = 0) -> pa.RecordBatch:
    rows = [
        {
            "rank": start + place,
            "chunk_id": f"c{start + place}",
            "doc_id": "d",
            "corpus": "docs",
            "source": "a b/ü.txt",
            "text": text,
            "n_tokens": 4,
            "ppl": 1.5,
        }
        for place, text in enumerate(texts)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def test_awkward_characters_survive_in_both_files(tmp_path: Path) -> None:
    folder = write_export(tmp_path, "sel", [batch(AWKWARD[:3]), batch(AWKWARD[3:], 3)], {"model": "m"})
    lines = (folder / "subset.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == AWKWARD
    assert set(json.loads(lines[0])) == set(LINE_FIELDS)
    assert pq.read_table(folder / "subset.parquet").column("text").to_pylist() == AWKWARD


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_comes_back_line_by_line(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = write_export(tmp_path_factory.mktemp("export"), "sel", [batch(texts)], {})
    with (folder / "subset.jsonl").open(encoding="utf-8") as lines:
        assert [json.loads(line)["text"] for line in lines] == texts
    assert pq.read_table(folder / "subset.parquet").column("text").to_pylist() == texts


def test_the_manifest_says_what_is_in_the_folder(tmp_path: Path) -> None:
    folder = write_export(tmp_path, "sel", [batch(AWKWARD)], {"mu": 3.5, "licences": {"docs": "MIT"}})
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["mu"] == 3.5
    assert (manifest["selection_id"], manifest["rows"], manifest["tokens"]) == ("sel", 6, 24)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "subset.jsonl", "subset.parquet"]


def test_a_second_export_replaces_the_first_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_export(tmp_path, "sel", [batch(["old"])], {})
    folder = write_export(tmp_path, "sel", [batch(["new", "er"])], {})
    assert pq.read_table(folder / "subset.parquet").num_rows == 2
    assert [path.name for path in tmp_path.iterdir()] == ["sel"]


def test_a_failure_midway_keeps_the_earlier_export_and_leaves_no_half_one(tmp_path: Path) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield batch(["half"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_export(tmp_path, "sel", failing(), {})
    assert list(tmp_path.iterdir()) == []
    folder = write_export(tmp_path, "sel", [batch(["whole"])], {})
    with pytest.raises(KeyboardInterrupt):
        write_export(tmp_path, "sel", failing(), {})
    assert pq.read_table(folder / "subset.parquet").column("text").to_pylist() == ["whole"]


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".sel.0a.part").mkdir()
    (tmp_path / ".sel.0a.part" / "subset.jsonl").write_text("half")
    (tmp_path / ".other.0b.part").mkdir()
    write_export(tmp_path, "sel", [batch(["whole"])], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0b.part", "sel"]


def test_an_export_killed_between_the_two_renames_is_put_back(tmp_path: Path) -> None:
    write_export(tmp_path, "sel", [batch(["old"])], {}).rename(tmp_path / ".sel.0c.old")
    with pytest.raises(ExportError, match="no rows"):
        write_export(tmp_path, "sel", [], {})
    assert pq.read_table(tmp_path / "sel" / "subset.parquet").column("text").to_pylist() == ["old"]


def test_ranks_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="row 1"):
        write_export(tmp_path, "sel", [batch(["a"]), batch(["b"], 2)], {})


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="lacks ppl"):
        write_export(tmp_path, "sel", [batch(["a"]).drop_columns(["ppl"])], {})


def test_a_null_is_named(tmp_path: Path) -> None:
    loose = pa.schema([field.with_nullable(True) for field in SCHEMA])
    rows = pa.RecordBatch.from_pylist([{**batch(["a"]).to_pylist()[0], "doc_id": None}], schema=loose)
    with pytest.raises(ExportError, match="no doc_id"):
        write_export(tmp_path, "sel", [rows], {})


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="cannot name a folder"):
        write_export(tmp_path, name, [batch(["a"])], {})
