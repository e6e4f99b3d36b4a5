"""Keep the lake small: merge small files, expire snapshots that nothing refers to, remove what nobody reads any more.

A snapshot stays where it is recent, the newest, that of a selection, or one at which something was read that a
selection comes from. Before a snapshot expires its commit is copied into ``past_commits``: whether an asset is up to
date, and the lineage of every row, are read from commits.

Nothing that may still be open is removed: files leave the catalog first, and the disk a day later.
"""

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import duckdb
import polars as pl

from ppl_assets.lake import Lake, Provenance

MOST_HOURS = 87_600
"""Longest that unused files may be kept: ten years."""

AT_ONCE = 500
"""Snapshots that one statement expires: each takes a commit's text with it."""

NEWEST, READ = "the newest snapshot", "something that a kept selection comes from was read at it"


@dataclass(frozen=True)
class Plan:
    """Which snapshots go, and which stay for what reason.

    Attributes:
        expire: numbers of those that go, ascending.
        keep: number to reason of those that stay.
    """

    expire: list[int]
    keep: dict[int, str]

    def reasons(self) -> pl.DataFrame:
        """How many snapshots stay for each reason, and the oldest of them."""
        rows = pl.DataFrame(
            list(self.keep.items()), schema={"snapshot": pl.Int64, "kept because": pl.String}, orient="row"
        )
        counts = rows.group_by("kept because").agg(
            pl.len().alias("snapshots"), pl.col("snapshot").min().alias("oldest")
        )
        return counts.sort("snapshots", "kept because", descending=[True, False])


@dataclass(frozen=True)
class Disk:
    """Table files and their bytes."""

    files: int
    bytes: int


@dataclass
class Maintained:
    """What was done.

    Attributes:
        plan: which snapshots went and stayed.
        before: table files when it began.
        after: table files at the end.
        merged: files that were merged into fewer.
        made: files that they were merged into.
        removed: files that no snapshot had any more and that are gone.
        waiting: files that no snapshot has any more and that a later run removes.
        orphans: files that a killed writer left in no snapshot.
        orphans_removed: whether they are gone; they stay where another lake may own them.
        leftovers: entries of the staging and export folders that killed runs left, removed.
    """

    plan: Plan
    before: Disk
    after: Disk = field(default_factory=lambda: Disk(0, 0))
    merged: int = 0
    made: int = 0
    removed: int = 0
    waiting: int = 0
    orphans: int = 0
    orphans_removed: bool = True
    leftovers: int = 0


def plan(lake: Lake, selections: Mapping[int, str], recent_since: datetime) -> Plan:
    """Decide which snapshots go.

    Args:
        lake: the lake.
        selections: snapshots of the selections to keep, each with the reason.
        recent_since: whatever was committed since then stays.
    """
    live = lake.query("SELECT snapshot_id, snapshot_time FROM ducklake_snapshots('lake') ORDER BY snapshot_id")
    times = dict(live.iter_rows())
    wanted = {max(times): NEWEST}
    for number, why in selections.items():
        wanted.setdefault(number, why)
    for number in _read_for(lake, selections):
        wanted.setdefault(number, READ)
    recent = f"committed since {recent_since:%Y-%m-%d %H:%M}"
    for number, time in times.items():
        if time >= recent_since:
            wanted.setdefault(number, recent)
    keep = {number: wanted[number] for number in times if number in wanted}
    return Plan([number for number in times if number not in keep], keep)


def _read_for(lake: Lake, selections: Iterable[int]) -> set[int]:
    """Snapshots at which everything was read that these selections come from, over all stages.

    What an asset reads of its own table are rows that it carries along: it does not come from them.
    """
    sql = """SELECT snapshot_id, read_snapshot, made_in FROM lake.lineage_reads
             WHERE made_by IS NULL OR made_by <> asset"""
    upstream: dict[int, list[tuple[int, int | None]]] = {}
    for commit, read_at, made_in in lake.query(sql).iter_rows():
        upstream.setdefault(commit, []).append((read_at, made_in))
    found, waiting, seen = set(), list(selections), set()
    while waiting:
        commit = waiting.pop()
        if commit in seen:
            continue
        seen.add(commit)
        for read_at, made_in in upstream.get(commit, []):
            found.add(read_at)
            if made_in is not None:
                waiting.append(made_in)
    return found


def maintain(
    lake: Lake,
    decided: Plan,
    provenance: Provenance,
    unused_since: datetime,
    leftovers: Iterable[Path],
    *,
    remove_orphans: bool,
) -> Maintained:
    """Do what was decided, in short transactions beside which others read and write.

    Args:
        lake: the lake.
        decided: which snapshots go.
        provenance: of the commits that this makes.
        unused_since: what left the catalog, or was written, before then has no reader and no writer any more.
        leftovers: what killed runs may have left; removed where it was last written before ``unused_since``.
        remove_orphans: whether table files that the catalog does not know are nobody else's.
    """
    done = Maintained(decided, disk(lake))
    several = "SELECT table_name FROM ducklake_table_info('lake') WHERE file_count > 1 ORDER BY table_name"
    for table in lake.query(several)["table_name"]:
        _merge(lake, table, provenance, done)
    _expire(lake, decided.expire, provenance)
    done.removed = len(_called(lake, "cleanup_old_files", "older_than => $since", since=unused_since))
    done.waiting = len(_called(lake, "cleanup_old_files", "cleanup_all => true, dry_run => true"))
    dry = "" if remove_orphans else ", dry_run => true"
    done.orphans = len(_called(lake, "delete_orphaned_files", f"older_than => $since{dry}", since=unused_since))
    done.orphans_removed = remove_orphans
    done.leftovers = sum(_remove_old(path, unused_since) for path in leftovers)
    done.after = disk(lake)
    return done


def disk(lake: Lake) -> Disk:
    """Files of all tables: on disk, or what the catalog says of those in an object store."""
    if "://" not in lake.tables:
        sizes = []
        for file in Path(lake.tables).rglob("*.parquet"):
            with suppress(FileNotFoundError):  # a writer took it back
                sizes.append(file.stat().st_size)
        return Disk(len(sizes), sum(sizes))
    sql = "SELECT count(*), coalesce(sum(file_size_bytes), 0)::BIGINT FROM __ducklake_metadata_lake.ducklake_data_file"
    return Disk(*lake.query(sql).row(0))


def _merge(lake: Lake, table: str, provenance: Provenance, done: Maintained) -> None:
    """Merge a table's small files; every past snapshot reads from the new file what it read from the old ones."""
    counts: list[tuple[int, int]] = []

    def work(cursor: duckdb.DuckDBPyConnection) -> None:
        sql = f"SELECT files_processed, files_created FROM ducklake_merge_adjacent_files('lake', '{table}')"  # noqa: S608 - declared name
        counts[:] = cursor.execute(sql).fetchall()

    lake.transact(work, provenance)
    done.merged += sum(count[0] for count in counts)
    done.made += sum(count[1] for count in counts)


def _expire(lake: Lake, numbers: list[int], provenance: Provenance) -> None:
    """Copy the commits of these snapshots, then expire them: killed in between, the view shows each commit once."""
    if not numbers:
        return
    copy = """INSERT INTO lake.past_commits
              SELECT snapshot_id, snapshot_time, author, commit_message, commit_extra_info
              FROM ducklake_snapshots('lake')
              WHERE list_contains($numbers, snapshot_id) AND commit_extra_info IS NOT NULL
                AND snapshot_id NOT IN (SELECT number FROM lake.past_commits)"""
    lake.transact(lambda cursor: cursor.execute(copy, {"numbers": numbers}), provenance)
    for start in range(0, len(numbers), AT_ONCE):
        versions = ", ".join(map(str, numbers[start : start + AT_ONCE]))
        expire = f"CALL ducklake_expire_snapshots('lake', versions => [{versions}])"
        lake.transact(partial(_run, sql=expire), provenance)


def _run(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    cursor.execute(sql)


def _called(lake: Lake, function: str, arguments: str, **values: datetime) -> list[str]:
    """The files that a function of DuckLake names; empty where another maintenance removes them at this moment."""
    sql = f"SELECT path FROM ducklake_{function}('lake', {arguments})"  # noqa: S608 - our own words
    return lake.query(sql, values)["path"].to_list()


def _remove_old(path: Path, before: datetime) -> bool:
    """Remove a file or folder in which nothing was written since; whether it was."""
    try:
        inside = [path, *path.rglob("*")] if path.is_dir() else [path]
        if max(entry.stat().st_mtime for entry in inside) >= before.timestamp():
            return False
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except FileNotFoundError:  # its owner removes it at this moment
        return False
    return True
