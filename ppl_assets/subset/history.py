"""The selections that were ever made: named by id or lake snapshot, listed, and which of them are kept.

Belongs here: finding a selection. What changed between two is in ``changes.py``, writing one again in ``handover.py``.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ppl_assets.errors import UserError
from ppl_assets.lake import Commit, Lake
from ppl_assets.subset.export import MANIFEST
from ppl_assets.tables import SELECTION_REPORT, SELECTIONS

LEAST_PREFIX = 4
"""Characters of an id that name it, where no other begins with them."""

LISTED = 12
"""Selections that an error names; all are listed by ``ppl-assets selections``."""


class UnknownSelectionError(UserError, LookupError):
    """There is no such selection, or its rows were given up; the message names those that exist."""


@dataclass(frozen=True)
class Selected:
    """A selection that was made: one commit of ``final_subset``.

    Attributes:
        selection_id: its id; selecting the same chunks, of the same corpora and files, again gives the same id.
        time: when it was committed.
        commit: the commit, of which ``commit.snapshot`` holds its rows.
        read_at: lake snapshot that it was computed from.
        is_readable: whether its rows can be read; not where ``lake_maintenance`` expired a snapshot that holds them.
    """

    selection_id: str
    time: datetime
    commit: Commit
    read_at: int
    is_readable: bool

    @property
    def snapshot(self) -> int:
        """Lake snapshot of its commit."""
        return self.commit.snapshot


def selections(lake: Lake) -> list[Selected]:
    """Every selection that was ever made, oldest first."""
    sql = """WITH live AS (SELECT snapshot_id FROM ducklake_snapshots('lake'))
             SELECT data_version, snapshot_time, snapshot_id, inputs, run_id, facts::VARCHAR AS facts,
                    coalesce((reads ->> '$.chunks')::BIGINT, snapshot_id) AS read_at,
                    snapshot_id IN (FROM live) AND read_at IN (FROM live) AS is_readable
             FROM lake.lineage WHERE asset = 'final_subset' ORDER BY snapshot_id"""
    return [_selected(row) for row in lake.query(sql).iter_rows(named=True)]


def _selected(row: Mapping[str, Any]) -> Selected:
    name, facts = str(row["data_version"]), json.loads(row["facts"] or "{}")
    commit = Commit(row["snapshot_id"], row["inputs"], name, row["run_id"], facts)
    return Selected(name, row["snapshot_time"], commit, row["read_at"], row["is_readable"])


def find_selection(made: list[Selected], given: str) -> Selected:
    """The selection with this id (or the beginning of one), or the one in force at this lake snapshot.

    An id that was selected several times means the first time: that is what was exported.

    Raises:
        UnknownSelectionError: there is none.
    """
    prefix = given if len(given) >= LEAST_PREFIX else "\0"
    ids = {one.selection_id for one in made if one.selection_id == given}
    ids = ids or {one.selection_id for one in made if one.selection_id.startswith(prefix)}
    if len(ids) == 1:
        return next((one for one in made if one.selection_id in ids and one.is_readable), _of(made, ids))
    earlier = [one for one in made if given.isdecimal() and not ids and one.snapshot <= int(given)]
    if earlier:
        return earlier[-1]
    if not made:
        raise UnknownSelectionError(_known(made))
    what = f"{given!r} begins several ids" if ids else f"there is no selection {given!r}"
    raise UnknownSelectionError(f"{what}; {_known(made)}")


def _of(made: list[Selected], ids: Iterable[str]) -> Selected:
    return next(one for one in made if one.selection_id in set(ids))


def _known(made: list[Selected]) -> str:
    """The selections there are, newest first, for a message."""
    if not made:
        return "nothing was selected yet: materialize final_subset first"
    names = ", ".join(f"{one.selection_id} (snapshot {one.snapshot})" for one in reversed(made[-LISTED:]))
    more = ", and earlier ones that ppl-assets selections lists" if len(made) > LISTED else ""
    return f"name an id, or a lake snapshot since the first one: {names}{more}"


def last_two(made: list[Selected]) -> tuple[Selected, Selected]:
    """The newest selection, after the newest one before it that differs.

    Raises:
        UnknownSelectionError: there are not two.
    """
    for earlier in reversed(made):
        if earlier.selection_id != made[-1].selection_id:
            return earlier, made[-1]
    raise UnknownSelectionError(f"there are no two different selections to compare; {_known(made)}")


def require_readable(one: Selected) -> None:
    """Refuse a selection whose rows are gone.

    Raises:
        UnknownSelectionError: a snapshot that holds them was expired.
    """
    if not one.is_readable:
        raise UnknownSelectionError(
            f"the rows of selection {one.selection_id} (snapshot {one.snapshot}) are gone: lake_maintenance expired "
            "them, since storage.keep_selections = 'exported' and no export of it lay on disk; its lineage is kept"
        )


def selections_table(lake: Lake) -> pl.DataFrame:
    """Every selection, newest first: id, time, lake snapshot, method, tokens, chunks, and whether it can be read."""
    rows = []
    for one in reversed(selections(lake)):
        shown = {"selection": one.selection_id, "time": f"{one.time:%Y-%m-%d %H:%M:%S}", "snapshot": str(one.snapshot)}
        held = lake.snapshot(one.snapshot).only_row(SELECTIONS) if one.is_readable else {}
        figures = {name: held.get(name) for name in ("method", "tokens", "chunks", "mu", "sigma")}
        rows.append(shown | figures | {"rows": "in the lake" if one.is_readable else "given up"})
    kinds = {"method": pl.String, "tokens": pl.Int64, "chunks": pl.Int64, "mu": pl.Float64, "sigma": pl.Float64}
    schema = {"selection": pl.String, "time": pl.String, "snapshot": pl.String, **kinds, "rows": pl.String}
    return pl.DataFrame(rows, schema=schema)


def kept_selections(lake: Lake, exports: Path, keep: Literal["all", "exported"]) -> dict[int, str]:
    """Lake snapshots of the selections that must stay readable, each with the reason.

    Args:
        lake: the lake.
        exports: folder of the exports.
        keep: all selections; or those whose export lies on disk and those that the tables speak of now.
    """
    named = {_named_snapshot(file) for file in exports.glob(f"*/{MANIFEST}")}
    kept = {number: "an export's manifest names it" for number in named if number is not None}
    now = lake.snapshot()
    spoken_of = {
        row for table in (SELECTIONS, SELECTION_REPORT) for row in now.read(table, ["selection_id"]).to_series()
    }
    for one in selections(lake):
        if (exports / one.selection_id / MANIFEST).is_file() or _lies_elsewhere(lake, one):
            kept.setdefault(one.snapshot, "an export of it lies on disk")
        elif one.selection_id in spoken_of:
            kept.setdefault(one.snapshot, "the tables speak of this selection")
        elif keep == "all":
            kept.setdefault(one.snapshot, "a selection (storage.keep_selections = 'all')")
    return kept


def _named_snapshot(manifest: Path) -> int | None:
    """The lake snapshot that a manifest names; None where it cannot be read."""
    try:
        return int(json.loads(manifest.read_text("utf-8"))["lake_snapshot"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lies_elsewhere(lake: Lake, one: Selected) -> bool:
    """Whether the folder that a selection was exported to, when the study lay elsewhere, still holds it."""
    if not one.is_readable:
        return False
    rows = lake.snapshot(one.snapshot).read(SELECTIONS, ["export_path"])
    return any((Path(path) / MANIFEST).is_file() for path in rows["export_path"])
