"""Hand a stored selection over as files: what is said of it, its rows with their texts, and whether that is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_assets.lake import Commit, Snapshot
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.study import Study
from ppl_assets.subset.card import Description, Moments, Source
from ppl_assets.subset.export import is_export, write_export
from ppl_assets.tables import BASE_MODEL, CHUNKS, FINAL_SUBSET, SCORERS, SELECTIONS

EXPORT_BATCH = 2048
"""Rows written at a time."""


def export_selection(study: Study, snapshot: Snapshot, commit: Commit, folder: Path) -> Path:
    """Write the stored selection with its texts under ``folder``; the folder written.

    The manifest travels with the files, so it names the study but not its storage, which may hold a password.
    """
    selection = snapshot.only_row(SELECTIONS)
    sql = """SELECT f.rank, f.chunk_id, f.doc_id, f.corpus, f.source, c.text, f.n_tokens, f.ppl
             FROM {final_subset} AS f JOIN {chunks} AS c ON c.chunk_id = f.chunk_id AND c.corpus = f.corpus
             ORDER BY f.rank"""
    batches = snapshot.stream(sql, (FINAL_SUBSET, CHUNKS), batch_rows=EXPORT_BATCH)
    description = _description(study, snapshot, selection, commit)
    return write_export(folder, selection["selection_id"], batches, description, study.export.shard_tokens)


def is_exported(study: Study, snapshot: Snapshot) -> bool:
    """Whether the stored selection lies on disk as the study asks for it."""
    folder = Path(snapshot.only_row(SELECTIONS)["export_path"])
    return is_export(folder, _sources(study), study.export.shard_tokens)


def _description(study: Study, snapshot: Snapshot, selection: Mapping[str, Any], commit: Commit) -> Description:
    scorer_id = current_scorer(snapshot)
    base, scorer = snapshot.only_row(BASE_MODEL), snapshot.only_row(SCORERS, {"scorer_id": scorer_id})
    return Description(
        study=study.model_dump(mode="json", exclude={"storage"}),
        lake_snapshot=commit.snapshot,
        run_id=commit.run_id,
        inputs=commit.inputs,
        scorer_id=scorer_id,
        scorer={name: scorer[name] for name in ("first_token", "window_tokens", "dtype", "attention")},
        base_model={name: base[name] for name in ("source", "revision", "model_id", "weights_fingerprint")},
        target=Moments(selection["mu_target"], selection["sigma_target"]),
        reached=Moments(selection["mu"], selection["sigma"]),
        token_budget=selection["tokens_target"],
        seed=study.study.seed,
        message=selection["message"],
        sources=_sources(study),
    )


def _sources(study: Study) -> list[Source]:
    """The candidate corpora, with their licences and partitions."""
    partitions: dict[str, list[str]] = {}
    for partition in study.corpus_partitions():
        partitions.setdefault(study.corpus_of(partition)[0], []).append(partition)
    return [Source(name, corpus.licence, partitions[name]) for name, corpus in study.with_role("candidate").items()]
