"""A lake that stays small: what goes, what must stay, and who may be reading meanwhile."""

import json
import multiprocessing
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ppl_assets import lake_maintenance
from ppl_assets.lake import Lake, LakeError, Provenance
from ppl_assets.lake_maintenance import NEWEST, READ, Maintained, maintain, plan
from ppl_assets.subset.changes import changes
from ppl_assets.subset.history import UnknownSelectionError, kept_selections, selections, selections_table
from ppl_assets.tables import CHUNKS, CLEANING_COUNTS, FINAL_SUBSET, TRIAL_LOSSES
from ppl_assets_tests.small_lake import SmallLake, rows
from ppl_assets_tests.test_lake import put

LATER = datetime.now(UTC) + timedelta(days=1)
"""Since then nothing was committed, and nobody reads or writes any more."""

DAY_AGO = datetime.now(UTC) - timedelta(days=1)


def tidy(lake: Lake, selected: dict[int, str], recent_since: datetime = LATER, **given) -> Maintained:
    made = Provenance("lake_maintenance", "", "run-m", "1", "", "")
    options = {"unused_since": LATER, "leftovers": [], "remove_orphans": True} | given
    return maintain(lake, plan(lake, selected, recent_since), made, **options)


def exports(small: SmallLake) -> Path:
    return Path(small.lake.tables).parent / "exports"


@pytest.fixture(scope="module")
def _replaced_template(_small_template, tmp_path_factory) -> tuple[Path, range]:
    """A small lake after two rounds of new rows, with a selection of the second; the snapshots of the first round."""
    folder = tmp_path_factory.mktemp("replaced")
    shutil.copytree(_small_template, folder, dirs_exist_ok=True)
    lake = Lake.under(folder)
    small, ends = SmallLake.reopened(lake), [lake.snapshot().number]
    for number in range(2):
        small.model("model-2")
        small.corpus("a", d1="c1 c2", d2=f"c3 n{number}")
        small.landscape()
        small.law("paper")
        ends.append(lake.snapshot().number)
    small.select("second", "c1 c3")
    lake.close()
    return folder, range(ends[0] + 1, ends[1] + 1)


@pytest.fixture
def gone(_replaced_template) -> range:
    """Snapshots in it from which nothing was selected."""
    return _replaced_template[1]


@pytest.fixture
def replaced(_replaced_template, tmp_path):
    """A copy of it."""
    shutil.copytree(_replaced_template[0], tmp_path, dirs_exist_ok=True)
    lake = Lake.under(tmp_path)
    yield SmallLake.reopened(lake)
    lake.close()


def commits(lake: Lake):
    lake.close()  # forget what was remembered
    return {asset: lake.commits(asset) for asset in ("base_model", "chunks", "perplexity_scores", "final_subset")}


def test_selections_and_what_they_come_from_stay_and_what_nothing_was_selected_from_goes(replaced, gone):
    first, second = selections(replaced.lake)
    kept = kept_selections(replaced.lake, exports(replaced), "all")
    decided = plan(replaced.lake, kept, LATER)
    assert set(gone) <= set(decided.expire)
    assert decided.keep[first.read_at] == decided.keep[second.read_at] == READ
    assert decided.keep[first.snapshot] == "a selection (storage.keep_selections = 'all')"
    assert decided.keep[second.snapshot] == NEWEST
    assert kept[second.snapshot] == "the tables speak of this selection"
    assert decided.reasons()["snapshots"].sum() == len(decided.keep)


def test_what_is_recent_stays_whatever_it_is(small):
    decided = plan(small.lake, {}, DAY_AGO)
    assert decided.expire == []
    assert set(decided.keep.values()) == {NEWEST, f"committed since {DAY_AGO:%Y-%m-%d %H:%M}"}


def test_a_selection_is_given_up_only_where_asked_for_and_without_an_export(replaced):
    first, second = selections(replaced.lake)
    assert set(kept_selections(replaced.lake, exports(replaced), "all")) == {first.snapshot, second.snapshot}
    assert set(kept_selections(replaced.lake, exports(replaced), "exported")) == {second.snapshot}
    folder = exports(replaced) / "copied by hand"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"lake_snapshot": first.snapshot}))
    kept = kept_selections(replaced.lake, exports(replaced), "exported")
    assert kept[first.snapshot] == "an export's manifest names it"


def test_the_export_of_a_study_that_was_moved_counts(replaced, tmp_path):
    replaced.select("elsewhere", "c1 c2", export_path=str(tmp_path / "old place"))
    replaced.select("third", "c1")
    elsewhere = selections(replaced.lake)[2].snapshot
    assert elsewhere not in kept_selections(replaced.lake, exports(replaced), "exported")
    (tmp_path / "old place").mkdir()
    (tmp_path / "old place" / "manifest.json").write_text("{}")
    assert kept_selections(replaced.lake, exports(replaced), "exported")[elsewhere] == "an export of it lies on disk"


def test_expired_snapshots_leave_their_commits_so_that_nothing_is_due_again_and_lineage_answers(replaced):
    sql = "SELECT * EXCLUDE (facts, reads), facts::VARCHAR, reads::VARCHAR FROM lake.lineage ORDER BY snapshot_id"
    before, lineage = commits(replaced.lake), replaced.lake.query(sql)
    reads = replaced.lake.query("SELECT * FROM lake.lineage_reads ORDER BY ALL")
    old = replaced.lake.snapshot().number
    done = tidy(replaced.lake, {})
    assert len(done.plan.expire) == old
    assert commits(replaced.lake) == before
    assert replaced.lake.query(sql)[: lineage.height].equals(lineage)
    assert (
        replaced.lake.query("SELECT * FROM lake.lineage_reads ORDER BY ALL")
        .filter(asset="chunks")
        .equals(reads.filter(asset="chunks"))
    )
    put(replaced.lake, "a", 1)
    later = commits(replaced.lake)
    assert later["chunks"]["a"].snapshot == replaced.lake.snapshot().number
    assert later["chunks"]["b"] == before["chunks"]["b"]


def test_an_expired_snapshot_is_refused_in_a_sentence_and_its_selection_is_listed_as_given_up(replaced):
    first, second = selections(replaced.lake)
    tidy(replaced.lake, kept_selections(replaced.lake, exports(replaced), "exported"))
    with pytest.raises(LakeError, match=f"no snapshot {first.snapshot}: lake_maintenance expired it"):
        replaced.lake.snapshot(first.snapshot)
    with pytest.raises(UnknownSelectionError, match=r"the rows of selection first .* are gone"):
        changes(replaced.lake, *selections(replaced.lake))
    assert selections_table(replaced.lake).select("selection", "rows").rows() == [
        ("second", "in the lake"),
        ("first", "given up"),
    ]
    assert replaced.lake.snapshot(second.snapshot).read(FINAL_SUBSET)["chunk_id"].to_list() == ["c1", "c3"]


def test_a_maintenance_killed_before_it_expired_shows_every_commit_once(small, monkeypatch):
    before = small.lake.query("SELECT count(*) FROM lake.lineage").item()
    with monkeypatch.context() as killed:
        killed.setattr(lake_maintenance, "AT_ONCE", 0)  # range() refuses it, after the commits were copied
        with pytest.raises(ValueError, match="range"):
            tidy(small.lake, {})
    assert small.lake.query("SELECT count(*) FROM lake.past_commits").item() > 0
    assert small.lake.query("SELECT count(*) FROM lake.lineage").item() == before + 1  # the maintenance itself
    tidy(small.lake, {})
    assert small.lake.query("SELECT count(*) - count(DISTINCT number) FROM lake.past_commits").item() == 0


def test_small_files_are_merged_and_every_snapshot_reads_what_it_read(small):
    numbers = []
    for name in ("t0", "t1", "t2", "t1"):
        points = [{"trial": name, "trial_fingerprint": name, "point": number} for number in range(12)]
        write = small.lake.stage(TRIAL_LOSSES, rows("trial_losses", *points), name)
        numbers.append(small.lake.commit([write], Provenance("trial_losses", name, "run-t", "1", "", "")))
    columns = ["trial", "point"]
    read = [small.lake.snapshot(number).read(TRIAL_LOSSES, columns).sort(columns) for number in numbers]
    own = "SELECT trial, point, snapshot_id FROM lake.trial_losses ORDER BY ALL"
    whose = small.lake.query(own)
    done = tidy(small.lake, {}, DAY_AGO)
    assert (done.merged, done.made) == (3, 1)
    assert done.after.files == done.before.files - 2  # the one that was replaced is still read by a recent snapshot
    small.lake.close()
    for number, held in zip(numbers, read, strict=True):
        assert small.lake.snapshot(number).read(TRIAL_LOSSES, columns).sort(columns).equals(held)
    assert small.lake.query(own).equals(whose)


def test_files_that_somebody_may_still_read_wait_on_disk(small):
    number = small.corpus("c", d1=" ".join(f"m{number}" for number in range(40)))  # more than the catalog itself keeps
    small.corpus("c", d1="m1")
    reader = small.lake.snapshot(number).scan(CHUNKS, ["chunk_id"], {"corpus": "c"}, batch_rows=1)
    read = next(reader).num_rows
    done = tidy(small.lake, {}, unused_since=DAY_AGO)
    assert (done.removed, done.waiting > 0) == (0, True)
    assert done.after.files >= done.before.files
    assert read + sum(batch.num_rows for batch in reader) == 40
    assert tidy(small.lake, {}).removed >= done.waiting


def test_a_maintained_lake_with_nothing_left_to_do_gets_no_new_snapshot(small):
    tidy(small.lake, {})
    number = small.lake.snapshot().number
    tidy(small.lake, {}, DAY_AGO)
    assert small.lake.snapshot().number == number


def test_what_killed_runs_left_is_removed_when_it_is_older_than_a_day(small):
    staging = small.lake.staging
    for name in (
        "chunks-0a.parquet",
        "candidates-0b/names.parquet",
        "chunks-new.parquet",
        "candidates-new/names.parquet",
    ):
        (staging / name).parent.mkdir(exist_ok=True)
        (staging / name).write_text("left")
    old = DAY_AGO.timestamp() - 60
    for path in [staging / "chunks-0a.parquet", *(staging / "candidates-0b").iterdir(), staging / "candidates-0b"]:
        os.utime(path, (old, old))
    os.utime(staging / "candidates-new", (old, old))  # but a file in it was written just now
    done = tidy(small.lake, {}, DAY_AGO, unused_since=DAY_AGO, leftovers=list(staging.iterdir()))
    assert done.leftovers == 2
    assert sorted(path.name for path in staging.iterdir()) == ["candidates-new", "chunks-new.parquet"]


@pytest.mark.parametrize("remove", [True, False])
def test_files_that_no_snapshot_knows_go_only_where_no_other_lake_can_own_them(small, remove):
    put(small.lake, "a", *range(20))
    known = next(Path(small.lake.tables).rglob("*.parquet"))
    orphan = known.with_name("of-a-killed-writer.parquet")
    shutil.copy(known, orphan)
    young = tidy(small.lake, {}, DAY_AGO, unused_since=DAY_AGO)
    assert (young.orphans, orphan.is_file()) == (0, True)
    done = tidy(small.lake, {}, DAY_AGO, remove_orphans=remove)
    assert (done.orphans, orphan.is_file(), known.is_file()) == (1, not remove, True)


def _write(root: Path, corpus: str, started, stop) -> None:
    lake, number = Lake.under(root), 0
    while not stop.is_set() or number < 3:
        put(lake, corpus, *range(number % 5 + 12))
        started.set()
        number += 1
    lake.close()


def _read(root: Path, started, stop, problems) -> None:
    lake = Lake.under(root)
    while not stop.is_set():
        snapshot = lake.snapshot()
        for corpus in ("w", "kept"):
            found = snapshot.read(CLEANING_COUNTS, where={"corpus": corpus}).height
            if corpus == "kept" and found != 15:
                problems.put(f"{found} rows of {corpus}")
        if len(snapshot.commits("chunks")) < 2:
            problems.put("a commit is gone")
        started.set()
    lake.close()


def test_a_writer_and_a_reader_at_work_are_not_broken(small, tmp_path):
    put(small.lake, "kept", *range(15))
    context = multiprocessing.get_context("spawn")
    stop, problems = context.Event(), context.Queue()
    started = [context.Event(), context.Event()]
    writer = context.Process(target=_write, args=(tmp_path, "w", started[0], stop))
    reader = context.Process(target=_read, args=(tmp_path, started[1], stop, problems))
    for process in (writer, reader):
        process.start()
    assert all(event.wait(60) for event in started)
    recent = small.lake.query("SELECT max(snapshot_time) FROM ducklake_snapshots('lake')").item()
    for _ in range(3):
        tidy(small.lake, {}, recent, unused_since=DAY_AGO)
    stop.set()
    for process in (writer, reader):
        process.join()
    assert (writer.exitcode, reader.exitcode, problems.empty()) == (0, 0, True)
    assert small.lake.snapshot().read(CLEANING_COUNTS, where={"corpus": "kept"}).height == 15
