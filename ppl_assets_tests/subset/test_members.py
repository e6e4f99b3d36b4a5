"""The final subset from a lake: the same rows whether its candidates are loaded or read in batches."""

import functools
import hashlib
import operator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from ppl_assets.lake import Lake, Provenance, Snapshot
from ppl_assets.regimes.candidates import Candidates, SelectionError, StreamedCandidates
from ppl_assets.regimes.drawn import Target
from ppl_assets.regimes.limits import Limit
from ppl_assets.regimes.pool import read_pool, stored_pool
from ppl_assets.subset.members import OrderedMembers, draw_members, member_batches, origin_of
from ppl_assets.subset.selection import SelectionOptions
from ppl_assets.tables import CHUNKS, FINAL_SUBSET, PERPLEXITY_LANDSCAPE, PERPLEXITY_SCORES, LakeTable

CORPORA = ["a", "b"]
FENCE = (5.0, 400.0)
TARGET = Target(60.0, 35.0, 20_000)
LOADED, STREAMED = 1.0, 1e-9
"""GiB that hold all candidates, and none of them."""


def rows_of(table: LakeTable, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows of a table; a column that is not given gets some value of its type."""
    some = {pa.string(): "x", pa.int64(): 1, pa.float64(): 1.0, pa.bool_(): True}
    filled = {column.name: some.get(column.type, []) for column in table.columns}
    return pl.DataFrame([filled | row for row in rows], schema=pl.Schema(table.schema))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Two corpora of 1500 chunks, of which some are held out, beyond the fence, not scored, or in both."""
    draw = np.random.default_rng(0)
    lake = Lake.under(tmp_path_factory.mktemp("lake"))
    for corpus in CORPORA:
        chunks, scores = [], []
        for number in range(1500):
            shared = number < 40
            name = hashlib.blake2b(f"{'' if shared else corpus} {number}".encode(), digest_size=16).hexdigest()
            ppl = 50.0 + number if shared else float(np.exp(4 + 0.8 * draw.standard_normal()))
            same = {"chunk_id": name, "corpus": corpus, "n_tokens": 32 + number % 40}
            split = "test" if 100 <= number < 150 else "candidate"
            chunks.append(same | {"split": split, "doc_id": f"doc {name}", "source": f"{corpus}/{number}.txt"})
            status = "non_finite" if number % 100 == 99 else "ok"
            scores.append(same | {"scorer_id": "now", "status": status, "ppl": ppl, "log_ppl": float(np.log(ppl))})
        writes = [
            lake.stage(table, rows_of(table, rows), corpus)
            for table, rows in ((CHUNKS, chunks), (PERPLEXITY_SCORES, scores))
        ]
        lake.commit(writes, Provenance("chunks", corpus, "run", "1", "in", "version"))
    landscape = [{"scope": "candidates", "scorer_id": "now", "fence_low": FENCE[0], "fence_high": FENCE[1]}]
    write = lake.stage(PERPLEXITY_LANDSCAPE, rows_of(PERPLEXITY_LANDSCAPE, landscape))
    lake.commit([write], Provenance("perplexity_landscape", "", "run", "1", "in", "version"))
    return lake.snapshot()


def selected(snapshot: Snapshot, folder: Path, memory_gib: float) -> tuple[OrderedMembers, pl.DataFrame]:
    with stored_pool(snapshot, CORPORA, folder, memory_gib) as pool:
        made = draw_members(pool, TARGET, 3, [2000, 20_000], SelectionOptions())
        rows = pa.Table.from_batches(member_batches(snapshot, pool, made.index, "selection", "now"))
    return made, pl.DataFrame(pl.from_arrow(rows))


def test_loaded_and_streamed_candidates_give_the_same_rows(snapshot: Snapshot, tmp_path: Path) -> None:
    (loaded, first), (streamed, second) = (selected(snapshot, tmp_path, gib) for gib in (LOADED, STREAMED))
    assert first.equals(second)
    assert loaded.subset_hash == streamed.subset_hash
    assert loaded.drawn.message == streamed.drawn.message
    assert list(tmp_path.iterdir()) == []


def test_memory_decides_what_is_loaded(snapshot: Snapshot, tmp_path: Path) -> None:
    for gib, kind in ((LOADED, Candidates), (STREAMED, StreamedCandidates)):
        with stored_pool(snapshot, CORPORA, tmp_path, gib) as pool:
            assert isinstance(pool.candidates, kind)


def test_a_stored_pool_holds_what_a_pool_in_memory_holds(snapshot: Snapshot, tmp_path: Path) -> None:
    pool = read_pool(snapshot, CORPORA)
    with stored_pool(snapshot, CORPORA, tmp_path, STREAMED) as stored:
        blocks = list(stored.candidates.blocks())
        names = pl.read_parquet(stored.names)
    keys = np.concatenate([block.key for block in blocks])
    np.testing.assert_array_equal(np.sort(keys), np.sort(pool.candidates.key))
    assert [int(name[:16], 16) for name in names["chunk_id"]] == keys.tolist()
    np.testing.assert_array_equal(names["ppl"], np.concatenate([block.ppl for block in blocks]))
    assert names.sort("chunk_id").equals(pool.rows.sort("chunk_id").select(names.columns))


def test_members_carry_their_document_and_file_in_training_order(snapshot: Snapshot, tmp_path: Path) -> None:
    made, rows = selected(snapshot, tmp_path, STREAMED)
    assert rows["rank"].to_list() == list(range(made.drawn.chunks))
    assert (rows["doc_id"] == "doc " + rows["chunk_id"]).all()
    assert rows["source"].str.starts_with(rows["corpus"] + "/").all()
    assert int(rows["n_tokens"].sum()) == made.drawn.tokens
    assert rows["ppl"].is_between(*FENCE).all()
    assert set(rows.columns) == {column.name for column in FINAL_SUBSET.columns}
    assert rows["chunk_id"].is_unique().all()


def test_the_origin_is_of_each_members_corpus_document_and_file_in_training_order(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    with stored_pool(snapshot, CORPORA, tmp_path, STREAMED) as pool:
        index = draw_members(pool, TARGET, 3, [2000, 20_000], SelectionOptions()).index
        origin = origin_of(snapshot, pool, index)
        assert origin_of(snapshot, pool, index[::-1]) != origin
        members = pa.Table.from_batches(member_batches(snapshot, pool, index, "selection", "now"))
    rows = pl.DataFrame(pl.from_arrow(members))
    texts = ["\x1f".join(map(str, row)) for row in rows.select("rank", "corpus", "doc_id", "source").iter_rows()]
    digests = [int.from_bytes(hashlib.md5(text.encode()).digest(), "little") for text in texts]  # noqa: S324
    assert int(origin, 16) == functools.reduce(operator.xor, digests)


def test_limits_of_corpora_are_kept_whether_loaded_or_streamed(snapshot: Snapshot, tmp_path: Path) -> None:
    options = SelectionOptions(limits=[Limit("b", most=0.2)])
    rows = []
    for gib in (LOADED, STREAMED):
        with stored_pool(snapshot, CORPORA, tmp_path, gib, {"b": 1}) as pool:
            made = draw_members(pool, TARGET, 3, [2000, 20_000], options)
            batches = pa.Table.from_batches(member_batches(snapshot, pool, made.index, "selection", "now"))
        rows.append(pl.DataFrame(pl.from_arrow(batches)))
        assert made.drawn.objective < 1e-8
    assert rows[0].equals(rows[1])
    tokens = dict(rows[0].group_by("corpus").agg(pl.col("n_tokens").sum()).iter_rows())
    assert 0.2 * TARGET.tokens - 72 < tokens["b"] <= 0.2 * TARGET.tokens
    assert read_pool(snapshot, CORPORA, {"b": 1}).candidates.group is not None


def test_the_lake_takes_the_members_as_they_come(snapshot: Snapshot, tmp_path: Path) -> None:
    lake = Lake.under(tmp_path / "other")
    with stored_pool(snapshot, CORPORA, tmp_path, STREAMED) as pool:
        made = draw_members(pool, TARGET, 3, [2000, 20_000], SelectionOptions())
        write = lake.stage(FINAL_SUBSET, member_batches(snapshot, pool, made.index, "selection", "now"))
    assert write.rows == made.drawn.chunks


def test_the_greedy_selection_refuses_what_memory_does_not_hold(snapshot: Snapshot, tmp_path: Path) -> None:
    with (
        stored_pool(snapshot, CORPORA, tmp_path, STREAMED) as pool,
        pytest.raises(SelectionError, match=r"greedy_dos compares all \d+ chunks in memory, and selection.memory_gib"),
    ):
        draw_members(pool, TARGET, 3, [2000], SelectionOptions(method="greedy_dos"))


def test_queries_stay_within_the_memory_given_and_what_was_before_comes_back(tmp_path: Path) -> None:
    lake = Lake.under(tmp_path)

    def limit() -> object:
        with lake.cursor() as cursor:
            return cursor.execute("SELECT current_setting('memory_limit')").fetchone()

    before = limit()
    with lake.memory(0.5):
        assert limit() == ("512.0 MiB",)
    assert limit() == before
    lake.close()
