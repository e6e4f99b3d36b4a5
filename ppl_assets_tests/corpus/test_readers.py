import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ppl_assets.corpus.errors import BadRow, CorpusError, TruncatedFile
from ppl_assets.corpus.rows import Document, RejectedRow

TEXTS = ["first text", 'second,\n"quoted" text', "dritter Text: \u00fc\u4e2d\U0001f600"]


def zstd_in_frames(content):
    """Two frames, as pzstd and appending writers make."""
    half = len(content) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))


COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstd_in_frames, ".bz2": bz2.compress, ".xz": lzma.compress}


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv_of(texts):
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    return ("id,text\r\n" + "".join(f"{n},{text}\r\n" for n, text in enumerate(quoted))).encode()


def reasons(rows):
    return [(row.position, row.reason) for row in rows if isinstance(row, RejectedRow)]


def texts(rows):
    return [row.text for row in rows if isinstance(row, Document)]


CONTENT = {"jsonl": jsonl({"text": text} for text in TEXTS), "csv": csv_of(TEXTS), "txt": "\n".join(TEXTS).encode()}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("kind", CONTENT)
def test_every_format_reads_the_same_under_every_compression(tmp_path, corpus, read, kind, suffix):
    (tmp_path / f"a.{kind}{suffix}").write_bytes(COMPRESSIONS[suffix](CONTENT[kind]))
    assert texts(read(corpus(tmp_path))) == (["\n".join(TEXTS)] if kind == "txt" else TEXTS)


@pytest.mark.parametrize(("name", "made"), [("a.jsonl", ".gz"), ("a.jsonl.gz", ""), ("a.jsonl.zst", ".xz")])
def test_first_bytes_decide_the_compression_not_the_suffix(tmp_path, corpus, read, name, made):
    (tmp_path / name).write_bytes(COMPRESSIONS[made](CONTENT["jsonl"]))
    assert texts(read(corpus(tmp_path))) == TEXTS


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_a_truncated_compressed_file_is_fatal_and_named(tmp_path, corpus, read, suffix):
    content = jsonl({"text": f"text {number * 7919 % 1000}"} for number in range(2000))
    (tmp_path / f"cut.jsonl{suffix}").write_bytes(COMPRESSIONS[suffix](content)[:-20])
    with pytest.raises(TruncatedFile, match=rf"cut\.jsonl{suffix} is a .* damaged or ends too early"):
        read(corpus(tmp_path))


def test_garbage_after_a_zstd_frame_is_fatal(tmp_path, corpus, read):
    (tmp_path / "a.jsonl.zst").write_bytes(zstd_in_frames(CONTENT["jsonl"]) + b"garbage")
    with pytest.raises(TruncatedFile):
        read(corpus(tmp_path))


def test_bad_json_rows_are_named_by_line_and_the_rest_is_read(tmp_path, corpus, read):
    lines = [
        b'\xef\xbb\xbf{"text": "good"}', b"", b"{broken", b'{"body": "x"}', b'{"text": null}', b'{"text": 5}', b"[1]",
        b'{"text": "\xff"}', b'{"text": " "}', b'{"text": "' + b"x" * 101 + b'"}', b'{"text": "last"}',
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = read(corpus(tmp_path, max_characters=100))
    assert texts(rows) == ["good", "last"]
    assert reasons(rows) == [
        (3, "invalid_json"), (4, "missing_field"), (5, "null_text"), (6, "not_text"), (7, "missing_field"),
        (8, "invalid_utf8"), (9, "empty"), (10, "over_long"),
    ]  # fmt: skip
    assert [row.doc_id for row in rows if isinstance(row, Document)] == ["c:a.jsonl:1", "c:a.jsonl:11"]


def test_a_bad_row_is_fatal_where_the_corpus_asks_for_it(tmp_path, corpus, read):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n{"text": "good"}\n{broken\n')
    with pytest.raises(BadRow, match=r"a\.jsonl, line or row 3: invalid_json: .*on_bad_row"):
        read(corpus(tmp_path, on_bad_row="fail"))


def test_an_endless_line_is_passed_over_without_being_loaded(tmp_path, corpus, read, peak_memory):
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as stream:
        stream.write(b'{"text": "')
        for _ in range(30):
            stream.write(b"x" * (1 << 20))
        stream.write(b'"}\n{"text": "after"}\n')
    rows, peak = peak_memory(lambda: read(corpus(tmp_path, max_characters=1000)))
    assert texts(rows) == ["after"]
    assert reasons(rows) == [(1, "over_long")]
    assert peak < 4 << 20


def test_a_big_compressed_file_is_read_in_constant_memory(tmp_path, corpus, peak_memory):
    from ppl_assets.corpus.files import list_files
    from ppl_assets.corpus.readers import read_documents

    line = json.dumps({"text": "some words of a document " * 40}).encode() + b"\n"
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as stream:
        for _ in range(30):
            stream.write(line * 1000)
    settings = corpus(tmp_path)
    count, peak = peak_memory(lambda: sum(1 for _ in read_documents("c", list_files(settings), settings)))
    assert count == 30_000
    assert peak < 2 << 20


def test_csv_keeps_newlines_in_quotes_and_counts_by_line(tmp_path, corpus, read):
    content = b'\xef\xbb\xbfid,text\n7,"two\nlines"\n8,ok\n9\n10,"\xff"\n11,\n12,"end"\n'
    (tmp_path / "a.csv").write_bytes(content)
    rows = read(corpus(tmp_path))
    assert [(row.position, row.text) for row in rows if isinstance(row, Document)] == [
        (2, "two\nlines"), (4, "ok"), (8, "end")
    ]  # fmt: skip
    assert reasons(rows) == [(5, "missing_field"), (6, "invalid_utf8"), (7, "empty")]


def test_a_csv_field_may_exceed_the_libraries_limit_but_not_ours(tmp_path, corpus, read):
    long = "word " * 60_000
    content = f'text\n"{long}"\nshort\n"{"a line" + chr(10)}{long * 3}{chr(10)}still inside"\nafter\n'
    (tmp_path / "a.csv").write_text(content)
    rows = read(corpus(tmp_path, max_characters=310_000))
    assert [len(text) for text in texts(rows)] == [300_000, 5, 5]
    assert reasons(rows) == [(4, "over_long")]


def test_a_csv_row_that_exceeds_the_line_limit_is_left_at_its_closing_quote(tmp_path, corpus, read):
    inside = "\n".join(["a line, of many"] * 20_000)
    (tmp_path / "a.csv").write_text(f'id,text\n1,"{inside}"\n2,after\n')
    rows = read(corpus(tmp_path, max_characters=100))
    assert texts(rows) == ["after"]
    assert [(row.position) for row in rows] == [2, 20_002]


def test_a_table_without_the_text_column_is_rejected_as_a_whole(tmp_path, corpus, read):
    (tmp_path / "a.csv").write_text("id,body\n1,x\n")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "c.parquet")
    assert reasons(read(corpus(tmp_path))) == [(None, "missing_field"), (None, "missing_field"), (None, "not_text")]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.binary()]
)
def test_parquet_reads_every_kind_of_text_column_over_row_groups(tmp_path, corpus, read, kind):
    values = [*TEXTS, None] * 200
    column = pa.array(values, pa.binary() if kind == pa.binary() else pa.string()).cast(kind)
    pq.write_table(pa.table({"text": column, "n": range(800)}), tmp_path / "a.parquet", row_group_size=300)
    rows = read(corpus(tmp_path))
    assert texts(rows) == TEXTS * 200
    assert reasons(rows)[:2] == [(4, "null_text"), (8, "null_text")]


def test_a_truncated_or_wrapped_parquet_file_is_fatal_and_named(tmp_path, corpus, read):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS * 100}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(TruncatedFile, match=r"a\.parquet is not a whole Parquet file"):
        read(corpus(tmp_path))
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(CorpusError, match="Parquet inside gzip"):
        read(corpus(tmp_path))


def test_a_text_tree_rejects_binary_and_undecodable_files_and_reads_utf16(tmp_path, corpus, read):
    (tmp_path / "a.bin").write_bytes(b"head\0tail")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "c.txt").write_bytes("\ufeffbom".encode())
    (tmp_path / "d.txt").write_bytes("wide".encode("utf-16"))
    (tmp_path / "e.txt").write_bytes(b"")
    (tmp_path / "f.txt").write_bytes(b"x" * 500)
    rows = read(corpus(tmp_path, max_characters=100))
    assert texts(rows) == ["bom", "wide"]
    assert [(row.source, row.reason) for row in rows if isinstance(row, RejectedRow)] == [
        ("a.bin", "binary_file"), ("b.txt", "invalid_utf8"), ("e.txt", "empty"), ("f.txt", "over_long")
    ]  # fmt: skip


def test_docstrings_of_a_file_make_one_document_in_source_order(tmp_path, corpus, read):
    source = '"""Module."""\nclass A:\n    """Class."""\n    def f(self):\n        """Method\n\n        indented."""\n'
    (tmp_path / "a.py").write_text(source + 'async def g():\n    "Last \\d."\n')
    (tmp_path / "b.py").write_text("def broken(:\n")
    (tmp_path / "c.py").write_text("x = 1\n")
    (tmp_path / "d.txt").write_text("not Python")
    rows = read(corpus(tmp_path, format="docstrings"))
    assert texts(rows) == ["Module.\n\nClass.\n\nMethod\n\nindented.\n\nLast \\d."]
    assert [row.reason for row in rows[1:]] == ["invalid_python", "empty"]


def test_ids_are_stable_when_files_are_added_and_repeated_ids_stay_distinct(tmp_path, corpus, read):
    (tmp_path / "m.jsonl").write_bytes(jsonl({"id": name, "text": "t"} for name in ("a", "b", "a", None, 7)))
    settings = corpus(tmp_path, id_field="id")
    before = [row.doc_id for row in read(settings)]
    assert before == ["c:m.jsonl:a", "c:m.jsonl:b", "c:m.jsonl:a#3", "c:m.jsonl:4", "c:m.jsonl:7"]
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"id": "a", "text": "t"}]))
    assert [row.doc_id for row in read(settings)] == ["c:a.jsonl:a", *before]


def test_a_sample_is_a_stable_share_and_a_larger_one_contains_it(tmp_path, corpus, read):
    (tmp_path / "m.jsonl").write_bytes(jsonl({"text": f"text {n}"} for n in range(2000)))
    small, large = ({row.doc_id for row in read(corpus(tmp_path, sample=share))} for share in (0.2, 0.5))
    assert 320 < len(small) < 480
    assert small < large


def test_a_text_file_left_out_by_the_sample_is_never_opened(tmp_path, corpus, read):
    for number in range(40):
        (tmp_path / f"{number}.txt").write_bytes(b"\0 binary: rejected when opened")
    assert 0 < len(read(corpus(tmp_path, sample=0.3))) < 30
