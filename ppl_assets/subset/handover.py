"""Hand a stored selection over as files: what is said of it, its rows with their texts, and whether that is done.

What is said of it is recorded with the selection, so that the files can be written again from its lake snapshot, byte
by byte, whatever the study says by then.
"""

import filecmp
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ppl_assets.lake import Commit, Lake, Snapshot
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.study import Study
from ppl_assets.subset.card import Description, Moments, Source
from ppl_assets.subset.export import GROUP_ROWS, MANIFEST, has_these_licences, is_export, write_export
from ppl_assets.subset.history import Selected, find_selection, require_readable, selections
from ppl_assets.subset.shards import ExportError
from ppl_assets.tables import BASE_MODEL, CHUNKS, FINAL_SUBSET, SCORERS, SELECTIONS

_MEMBERS = """
SELECT f.rank, f.chunk_id, f.doc_id, f.corpus, f.source, c.text, f.n_tokens, f.ppl
FROM {members} AS f JOIN {texts} AS c ON c.chunk_id = f.chunk_id AND c.corpus = f.corpus
ORDER BY f.rank
"""


def export_selection(study: Study, lake: Lake, selection_id: str, folder: Path) -> Path:
    """Write a stored selection with its texts under ``folder``; the folder written.

    One that was selected several times is written as it was the first time, so an id names one set of files. The
    manifest travels with the files, so it names the study but not its storage, which may hold a password. It is the
    recorded one, as long as the study asks for the same licences and file size.
    """
    one = exported_as(lake, selections(lake), selection_id)
    rows = lake.snapshot(one.snapshot)
    selection = rows.only_row(SELECTIONS)
    said = recorded(selection)
    if said is None or not _is_asked_for(study, said):
        said = _said(study, rows, selection)
    texts = rows.at(selection["exported_snapshot"])
    return _write(rows, texts, selection_id, _description(said, one.commit), folder)


def exported_as(lake: Lake, made: list[Selected], selection_id: str) -> Selected:
    """The selection whose files an id names: the first time that it was selected and can be read.

    An id of an earlier version says nothing of corpora and files, so there it is the last time.

    Raises:
        UnknownSelectionError: there is none.
    """
    one = find_selection(made, selection_id)
    row = lake.snapshot(one.snapshot).read(SELECTIONS, ["content_id"]) if one.is_readable else None
    if row is not None and row["content_id"].has_nulls():
        return next(latest for latest in reversed(made) if latest.selection_id == selection_id)
    return one


def export_again(study: Study, lake: Lake, one: Selected, folder: Path) -> Path:
    """Write a past selection under ``folder`` as it was exported first, from the lake snapshots of that time.

    Args:
        study: asked only where the selection was made before its settings were recorded, and no manifest tells them.
        lake: the lake.
        one: the selection.
        folder: where the folder of its name is made.

    Raises:
        UnknownSelectionError: its rows were given up.
        ExportError: the folder is there already.
    """
    require_readable(one)
    if (folder / one.selection_id).exists():
        raise ExportError(f"{folder / one.selection_id} is there already; name another folder with --to, or remove it")
    rows = lake.snapshot(one.snapshot)
    selection = rows.only_row(SELECTIONS)
    said = recorded(selection) or _said_by_manifest(Path(selection["export_path"])) or _said(study, rows, selection)
    return _write(rows, lake.snapshot(one.read_at), one.selection_id, _description(said, one.commit), folder)


def differing_files(first: Path, second: Path) -> list[str]:
    """Files that are not the same bytes in both exports, or in one of them only; relative, in order."""
    names = {
        str(file.relative_to(folder)) for folder in (first, second) for file in folder.rglob("*") if file.is_file()
    }
    _, unequal, missing = filecmp.cmpfiles(first, second, names, shallow=False)
    return sorted([*unequal, *missing])


def is_exported(study: Study, snapshot: Snapshot) -> bool:
    """Whether the stored selection lies on disk as the study asks for it."""
    folder = Path(snapshot.only_row(SELECTIONS)["export_path"])
    return is_export(folder, _sources(study), study.export.shard_tokens)


def described(study: Study, snapshot: Snapshot, selection: Mapping[str, Any]) -> str:
    """What card and manifest will say of a selection beside its commit, as it is recorded with it: a JSON object."""
    return json.dumps(_said(study, snapshot, selection), ensure_ascii=False)


def recorded(selection: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was recorded with a selection, the fields of a Description that do not come from its commit.

    None where it was made before anything was.
    """
    return json.loads(selection["described"]) if selection.get("described") else None


def _write(rows: Snapshot, texts: Snapshot, selection_id: str, description: Description, folder: Path) -> Path:
    """Write the files: members as they were committed, texts as they were when the members were drawn."""
    sql = _MEMBERS.format(members=rows.rows_of(FINAL_SUBSET), texts=texts.rows_of(CHUNKS))
    batches = rows.stream(sql, (), batch_rows=GROUP_ROWS)
    return write_export(folder, selection_id, batches, description, description.study["export"]["shard_tokens"])


def _said(study: Study, snapshot: Snapshot, selection: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Description that do not come from the commit, JSON-like."""
    scorer_id = current_scorer(snapshot)
    base, scorer = snapshot.only_row(BASE_MODEL), snapshot.only_row(SCORERS, {"scorer_id": scorer_id})
    return {
        "study": study.model_dump(mode="json", exclude={"storage"}),
        "scorer_id": scorer_id,
        "scorer": {name: scorer[name] for name in ("first_token", "window_tokens", "dtype", "attention")},
        "base_model": {name: base[name] for name in ("source", "revision", "model_id", "weights_fingerprint")},
        "target": asdict(Moments(selection["mu_target"], selection["sigma_target"])),
        "reached": asdict(Moments(selection["mu"], selection["sigma"])),
        "token_budget": selection["tokens_target"],
        "seed": study.study.seed,
        "message": selection["message"],
        "sources": [asdict(source) for source in _sources(study)],
    }


def _said_by_manifest(folder: Path) -> dict[str, Any] | None:
    """The same as the manifest of an export tells it; None where there is none."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    names = set(Description.__dataclass_fields__) - {"lake_snapshot", "run_id", "inputs"}
    return {name: manifest[name] for name in names} if names <= manifest.keys() else None


def _description(said: Mapping[str, Any], commit: Commit) -> Description:
    typed = {
        "target": Moments(**said["target"]),
        "reached": Moments(**said["reached"]),
        "sources": [Source(**source) for source in said["sources"]],
    }
    of_commit = {"lake_snapshot": commit.snapshot, "run_id": commit.run_id, "inputs": commit.inputs}
    return Description(**{**said, **typed, **of_commit})


def _is_asked_for(study: Study, said: Mapping[str, Any]) -> bool:
    """Whether the study still names the same licences and file size."""
    is_of_this_size = said["study"]["export"]["shard_tokens"] == study.export.shard_tokens
    return is_of_this_size and has_these_licences(said["sources"], _sources(study))


def _sources(study: Study) -> list[Source]:
    """The candidate corpora, with their licences and partitions."""
    partitions: dict[str, list[str]] = {}
    for partition in study.corpus_partitions():
        partitions.setdefault(study.corpus_of(partition)[0], []).append(partition)
    return [Source(name, corpus.licence, partitions[name]) for name, corpus in study.with_role("candidate").items()]
