import multiprocessing
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from ppl_assets.lake import Lake, LakeError, Provenance, Snapshot
from ppl_assets.tables import CLEANING_COUNTS, PERPLEXITY_SCORES, SCORERS, TABLES, TEST_DOCUMENTS


def provenance(partition: str = "", inputs: str = "in", **facts: str) -> Provenance:
    return Provenance("chunks", partition, "run-1", "1", inputs, "version", {"base_model": 3}, facts)


def counts(corpus: str, *documents: int) -> pl.DataFrame:
    rows = [
        {"corpus": corpus, "outcome": f"outcome-{i}", "documents": n, "characters": 0} for i, n in enumerate(documents)
    ]
    return pl.DataFrame(rows, schema=pl.Schema(CLEANING_COUNTS.schema))


def put(lake: Lake, corpus: str, *documents: int, **facts: str) -> int:
    return lake.commit([lake.stage(CLEANING_COUNTS, counts(corpus, *documents), corpus)], provenance(corpus, **facts))


@pytest.fixture
def lake(tmp_path):
    made = Lake.under(tmp_path)
    yield made
    made.close()


def test_every_declared_table_exists_in_a_new_lake(lake):
    snapshot = lake.snapshot()
    for table in TABLES.values():
        assert snapshot.read(table).columns == [column.name for column in table.columns]


def test_writing_a_partition_replaces_it_and_leaves_the_others(lake):
    put(lake, "a", 1, 2)
    put(lake, "b", 5)
    put(lake, "a", 7)
    assert sorted(lake.snapshot().read(CLEANING_COUNTS).select("corpus", "documents").iter_rows()) == [
        ("a", 7),
        ("b", 5),
    ]


def test_a_past_snapshot_still_reads_as_it_was(lake):
    first = put(lake, "a", 1)
    put(lake, "a", 2)
    assert lake.snapshot(first).read(CLEANING_COUNTS)["documents"].to_list() == [1]


def test_what_is_small_is_asked_once_a_snapshot_and_never_mixed_up_between_them(lake, monkeypatch):
    first, asked, ask = put(lake, "a", 1), [], Snapshot._read
    monkeypatch.setattr(Snapshot, "_read", lambda self, *given: asked.append(given) or ask(self, *given))
    frame = lake.snapshot(first).read(CLEANING_COUNTS, where={"corpus": "a"})
    frame[0, "documents"] = 99  # the reader's own copy
    put(lake, "a", 2)
    assert lake.snapshot(first).read(CLEANING_COUNTS, where={"corpus": "a"})["documents"].to_list() == [1]
    assert len(asked) == 1
    assert lake.snapshot().read(CLEANING_COUNTS, where={"corpus": "a"})["documents"].to_list() == [2]
    assert lake.snapshot(first).read(CLEANING_COUNTS, where={"corpus": "b"}).is_empty()
    assert lake.snapshot(first).latest("chunks", "a").snapshot == first
    assert lake.snapshot().latest("chunks", "a").snapshot > first


def test_a_query_for_every_partition_is_asked_once_a_snapshot_and_is_part_of_what_was_read(lake, monkeypatch):
    asked, ask = [], Lake.query
    monkeypatch.setattr(Lake, "query", lambda self, *given: asked.append(given) or ask(self, *given))
    sql = "SELECT documents FROM {cleaning_counts} WHERE corpus = $corpus"
    for kept in (1, 2):
        put(lake, "a", kept)
        put(lake, "b", 7)
        for _ in range(2):
            snapshot = lake.snapshot()
            found = [snapshot.query_once(sql, [CLEANING_COUNTS], {"corpus": name}) for name in ("a", "b")]
            assert [frame["documents"].to_list() for frame in found] == [[kept], [7]]
            assert snapshot.reads == {"cleaning_counts": snapshot.number}
            found[0][0, "documents"] = 99  # the reader's own copy
    assert len(asked) == 4


def test_large_answers_and_old_ones_are_not_kept(lake, monkeypatch):
    put(lake, "a", 1)
    monkeypatch.setattr("ppl_assets.lake.REMEMBERED", 2)
    for value in range(3):
        lake.remembered(("question", str(value)), lambda: None)
    assert [value for _, value in lake._remembered] == ["1", "2"]
    monkeypatch.setattr("ppl_assets.lake.SMALL_BYTES", 0)
    lake.snapshot().read(CLEANING_COUNTS)
    assert len(lake._remembered) == 2


def test_what_every_partition_asks_is_kept_though_it_is_not_small_and_makes_room_for_later_snapshots(lake, monkeypatch):
    answer = 8 * 10_000  # bytes
    monkeypatch.setattr("ppl_assets.lake.SMALL_BYTES", answer // 2)
    monkeypatch.setattr("ppl_assets.lake.REMEMBERED_BYTES", 5 * answer // 2)
    asked, ask = [], Lake.query
    monkeypatch.setattr(Lake, "query", lambda self, *given: asked.append(given) or ask(self, *given))
    sql, snapshots = "SELECT n.range FROM {cleaning_counts}, range(10000) n", []
    for kept in (1, 2, 3):
        put(lake, "a", kept)
        snapshots.append(lake.snapshot())
        for _ in range(2):
            snapshots[-1].query_once(sql, [CLEANING_COUNTS])
    assert len(asked) == 3
    for snapshot in reversed(snapshots):
        snapshot.query_once(sql, [CLEANING_COUNTS])
    assert len(asked) == 4  # the oldest alone had to go


def test_a_folder_that_was_moved_is_read_and_written_where_it_lies_now(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    lake = Lake.under(before)
    put(lake, "a", 1, 2)
    lake.close()
    before.rename(after)
    lake = Lake.under(after)
    put(lake, "b", 3)
    assert sorted(lake.snapshot().read(CLEANING_COUNTS)["corpus"].unique()) == ["a", "b"]
    assert not before.exists()
    lake.close()


def test_a_snapshot_remembers_what_was_read(lake):
    put(lake, "a", 1)
    snapshot = lake.snapshot()
    snapshot.read(CLEANING_COUNTS)
    assert snapshot.reads == {"cleaning_counts": snapshot.number}


def test_lineage_leads_from_a_row_to_its_run_and_what_it_read(lake):
    put(lake, "a", 1, corpus_version="abc")
    row = (
        lake.snapshot()
        .query(
            """SELECT l.run_id, l.code_version, json_extract_string(l.facts, '$.corpus_version') AS corpus_version,
                  json_extract(l.reads, '$.base_model') AS model_snapshot
           FROM {cleaning_counts} AS t JOIN lake.lineage AS l ON l.snapshot_id = t.snapshot_id""",
            [CLEANING_COUNTS],
        )
        .row(0, named=True)
    )
    assert row == {"run_id": "run-1", "code_version": "1", "corpus_version": "abc", "model_snapshot": "3"}


def test_latest_commit_carries_inputs_and_facts(lake):
    assert lake.latest("chunks", "a") is None
    snapshot = put(lake, "a", 1, corpus_version="abc")
    latest = lake.latest("chunks", "a")
    assert (latest.snapshot, latest.inputs, latest.facts) == (snapshot, "in", {"corpus_version": "abc"})


def test_several_tables_are_one_snapshot(lake):
    before = lake.snapshot().number
    documents = pl.DataFrame(schema=pl.Schema(TEST_DOCUMENTS.schema))
    lake.commit([lake.stage(CLEANING_COUNTS, counts("a", 1), "a"), lake.stage(TEST_DOCUMENTS, documents)], provenance())
    assert lake.snapshot().number <= before + 1


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda t: t.drop("outcome"), "lack columns"),
        (lambda t: t.with_columns(extra=pl.lit(1)), "unknown columns"),
        (lambda t: t.with_columns(pl.col("documents").cast(pl.String)), "declared int64"),
        (lambda t: t.with_columns(documents=pl.lit(None, pl.Int64)), "empty values"),
        (lambda t: t.with_columns(corpus=pl.lit("b")), "partition"),
    ],
)
def test_rows_that_are_not_as_declared_are_refused_and_nothing_is_staged(lake, broken, sentence):
    put(lake, "a", 1)
    with pytest.raises(LakeError, match=sentence):
        lake.stage(CLEANING_COUNTS, broken(counts("a", 2)), "a")
    assert lake.snapshot().read(CLEANING_COUNTS)["documents"].to_list() == [1]
    assert list(lake.staging.iterdir()) == []


def test_a_stream_that_fails_half_way_leaves_the_old_rows(lake):
    put(lake, "a", 1)

    def batches():
        yield from counts("a", 2, 3).to_arrow().to_batches()
        raise OSError("file is truncated")

    with pytest.raises(OSError, match="truncated"):
        lake.stage(CLEANING_COUNTS, batches(), "a")
    assert lake.snapshot().read(CLEANING_COUNTS)["documents"].to_list() == [1]


def test_scan_yields_batches_and_filters_by_lists(lake):
    for corpus in ("a", "b", "c"):
        put(lake, corpus, *range(50))
    batches = list(lake.snapshot().scan(CLEANING_COUNTS, ["documents"], {"corpus": ["a", "c"]}, batch_rows=32))
    assert sum(batch.num_rows for batch in batches) == 100
    assert all(isinstance(batch, pa.RecordBatch) for batch in batches)


def test_unknown_column_is_refused(lake):
    with pytest.raises(LakeError, match="has no column nil"):
        lake.snapshot().read(PERPLEXITY_SCORES, ["nil"])


def test_a_table_of_another_version_is_refused_with_what_to_do(lake):
    with lake.cursor() as cursor:
        cursor.execute("ALTER TABLE lake.cleaning_counts ADD COLUMN extra INTEGER")
    lake.close()
    with pytest.raises(LakeError, match=r"point storage\.root at a new folder"):
        lake.snapshot()


def test_a_lake_of_an_earlier_version_gets_the_columns_that_may_be_empty_and_keeps_its_rows(lake):
    policy = {"scorer_id": "s", "model_id": "m", "tokenizer_id": "t", "first_token": "bos", "prefix_id": 1}
    policy |= {"window_tokens": 64, "dtype": "float32", "attention": "sdpa", "code_version": "2"}
    late = ["device", "shares_rows", "torch_version", "transformers_version", "package_version", "tokens_per_second"]
    row = {**policy, **dict.fromkeys(late)}
    lake.commit([lake.stage(SCORERS, pl.DataFrame([row], schema=pl.Schema(SCORERS.schema)), "s")], provenance())
    with lake.cursor() as cursor:
        for name in ["prefix_id", *late]:  # one that stood between others comes back at the end
            cursor.execute(f"ALTER TABLE lake.scorers DROP COLUMN {name}")
        (earlier,) = cursor.execute("SELECT max(snapshot_id) FROM ducklake_snapshots('lake')").fetchone()
    lake.close()
    assert lake.snapshot(earlier).read(SCORERS).row(0, named=True) == row | {"prefix_id": None}
    assert lake.snapshot(earlier).read(SCORERS).schema == pl.Schema(SCORERS.schema)
    (batch,) = lake.snapshot(earlier).scan(SCORERS, ["device", "model_id"])
    assert batch.to_pylist() == [{"device": None, "model_id": "m"}]
    assert lake.snapshot().read(SCORERS).row(0, named=True) == row | {"prefix_id": None}
    row |= {"device": "cpu", "shares_rows": True, "torch_version": "2", "transformers_version": "5"}
    lake.commit([lake.stage(SCORERS, pl.DataFrame([row], schema=pl.Schema(SCORERS.schema)), "s")], provenance())
    assert lake.snapshot().read(SCORERS).rows(named=True) == [row]


def _write_many(root, corpus):
    lake = Lake.under(root)
    for n in range(6):
        put(lake, corpus, n)


def test_four_writers_at_once_lose_nothing(tmp_path):
    Lake.under(tmp_path).snapshot()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, f"c{i}")) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    lake = Lake.under(tmp_path)
    assert sorted(lake.snapshot().read(CLEANING_COUNTS)["corpus"].to_list()) == ["c0", "c1", "c2", "c3"]
    with lake.cursor() as cursor:
        assert cursor.execute("SELECT count(*) FROM lake.lineage WHERE asset = 'chunks'").fetchone() == (24,)


def test_a_killed_writer_leaves_the_old_rows(tmp_path):
    lake = Lake.under(tmp_path)
    put(lake, "a", 1)
    lake.close()
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path.cwd())!r})
        from pathlib import Path
        from ppl_assets.lake import Lake
        from ppl_assets.tables import CLEANING_COUNTS
        from ppl_assets_tests.test_lake import counts
        lake = Lake.under(Path({str(tmp_path)!r}))
        write = lake.stage(CLEANING_COUNTS, counts("a", *range(1000)), "a")
        with lake.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("DELETE FROM lake.cleaning_counts")
            cursor.execute("INSERT INTO lake.cleaning_counts SELECT * FROM read_parquet(?)", [str(write.file)])
            print("written", flush=True)
            import time; time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"written\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lake.snapshot().read(CLEANING_COUNTS)["documents"].to_list() == [1]
    assert put(lake, "a", 2) > 0
