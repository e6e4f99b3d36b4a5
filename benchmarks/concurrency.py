"""Writers and readers at once on one embedded lake: is a row lost, is one seen half, and how long does anyone wait?

Each writer replaces the rows of its own partition again and again, as fast as it can, which no study does: its steps
compute for seconds or hours between two commits. Each row says which commit it is of, so a reader that sees two commits
in one partition has seen a half one.

    python -m benchmarks.concurrency --json > benchmarks/results/concurrency.json
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.environment import device_name, note, print_figures, versions
from ppl_assets.lake import Lake, LakeError, Provenance
from ppl_assets.tables import CLEANING_COUNTS

ROWS = 200
"""Rows of a partition."""


@dataclass
class Work:
    """What one process did.

    Attributes:
        name: partition of a writer; empty for a reader.
        waits: seconds of each commit, or of each read.
        torn: partitions that a reader saw half.
        errors: what was raised.
    """

    name: str
    waits: list[float] = field(default_factory=list)
    torn: int = 0
    errors: list[str] = field(default_factory=list)


def concurrency(writers: int, readers: int, seconds: float) -> dict[str, Any]:
    """Let so many work for so long, and compare what lies in the lake with what was written.

    Returns:
        Counts of commits and reads, of rows lost and torn, errors, and the longest and median waits in seconds.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        Lake.under(Path(folder)).snapshot()
        barrier, done = context.Barrier(writers + readers), context.Queue()
        names = [f"corpus-{number}" for number in range(writers)] + [""] * readers
        processes = [
            context.Process(target=_work, args=(folder, name, seconds, barrier, done), daemon=True) for name in names
        ]
        for process in processes:
            process.start()
        works: list[Work] = [done.get(timeout=seconds + 600) for _ in processes]
        for process in processes:
            process.join()
        return _figures(Path(folder), works, seconds)


def _work(folder: str, name: str, seconds: float, barrier: Barrier, done: "Queue[Work]") -> None:
    """Write one partition, or read all of them, until the time is over."""
    lake, work = Lake.under(Path(folder)), Work(name)
    lake.snapshot()
    barrier.wait()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        began = time.monotonic()
        try:
            if name:
                _write(lake, name, len(work.waits) + 1)
            else:
                work.torn += _read(lake)
        except LakeError as error:
            work.errors.append(str(error))
        else:
            work.waits.append(time.monotonic() - began)
    lake.close()
    done.put(work)


def _rows(name: str, number: int) -> pl.DataFrame:
    """The rows of one commit: all say its number."""
    columns = {"corpus": name, "outcome": [f"outcome-{n}" for n in range(ROWS)], "documents": number, "characters": 0}
    return pl.DataFrame(columns, schema=pl.Schema(CLEANING_COUNTS.schema))


def _write(lake: Lake, name: str, number: int) -> None:
    provenance = Provenance("chunks", name, f"run-{os.getpid()}", "1", str(number), str(number))
    lake.commit([lake.stage(CLEANING_COUNTS, _rows(name, number), name)], provenance)


def _read(lake: Lake) -> int:
    """Partitions in which rows are missing, doubled, or of two commits."""
    sql = """SELECT count(*) AS torn FROM (
                 SELECT corpus FROM {cleaning_counts} GROUP BY corpus
                 HAVING count(*) <> $rows OR count(DISTINCT outcome) <> $rows OR min(documents) <> max(documents))"""
    return int(lake.snapshot().query(sql, (CLEANING_COUNTS,), {"rows": ROWS})["torn"][0])


def _figures(folder: Path, works: list[Work], seconds: float) -> dict[str, Any]:
    lake = Lake.under(folder)
    writers, readers = [work for work in works if work.name], [work for work in works if not work.name]
    held = lake.snapshot().read(CLEANING_COUNTS)
    with lake.cursor() as cursor:
        counted = cursor.execute("SELECT partition, count(*) FROM lake.lineage GROUP BY partition").fetchall()
    lake.close()
    lineage = dict(counted)
    lost = sum(
        not held.filter(pl.col("corpus") == work.name)
        .select("corpus", "outcome", "documents", "characters")
        .sort("outcome")
        .equals(_rows(work.name, len(work.waits)).sort("outcome"))
        for work in writers
        if work.waits
    )
    commits, reads = [w for work in writers for w in work.waits], [w for work in readers for w in work.waits]
    return {
        "writers": len(writers),
        "readers": len(readers),
        "seconds": seconds,
        "commits": len(commits),
        "reads": len(reads),
        "errors": sorted({error for work in works for error in work.errors}),
        "failed": sum(len(work.errors) for work in works),
        "partitions_lost": lost,
        "commits_lost": sum(abs(lineage.get(work.name, 0) - len(work.waits)) for work in writers),
        "torn_reads": sum(work.torn for work in readers),
        "commit_seconds": _waits(commits),
        "read_seconds": _waits(reads),
    }


def _waits(waits: list[float]) -> dict[str, float | None]:
    """Median, 99 of 100, and longest."""
    if len(waits) < 2:
        return {"median": None, "p99": None, "longest": max(waits, default=None)}
    return {
        "median": round(statistics.median(waits), 4),
        "p99": round(statistics.quantiles(waits, n=100)[98], 4),
        "longest": round(max(waits), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    note(f"{options.writers} writers and {options.readers} readers for {options.seconds:g} s")
    figures = concurrency(options.writers, options.readers, options.seconds)
    print_figures({"machine": device_name("cpu"), "load_before": load, **versions(), **figures}, options.json)


if __name__ == "__main__":
    main()
