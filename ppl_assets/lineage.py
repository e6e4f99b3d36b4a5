"""From a selected chunk back to run, code, law, model and corpus version, as they were when it was selected.

Two steps: ``lineage.sql`` names the commits and the snapshot at which each table was read; then the rows are read at
those snapshots, since DuckLake takes a version only as a constant. A row's own ``snapshot_id`` names the commit that
wrote it, which can be older than the newest one of its partition; for a score it counts only where that commit's scorer
is the row's, since a partition is written whole and carries the rows of other scorers along.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_assets.lake import Lake
from ppl_assets.tables import BASE_MODEL, CHUNKS, FITTED_LAW, PERPLEXITY_SCORES, SCORERS, LakeTable

LINEAGE_QUERY = Path(__file__).with_name("lineage.sql")
"""The documented query of the first step."""

FACTS = (
    "chunk_id", "corpus", "file", "perplexity",
    "selection_id", "selected_by_run", "selected_in_snapshot", "selection_code",
    "package_version", "git_commit",
    "law_form", "law_link", "law_sigma", "optimum_kind", "fitted_by_run", "fitted_in_snapshot", "law_code",
    "scorer_id", "scored_by_run", "scored_in_snapshot", "scorer_code",
    "scorer_dtype", "scorer_first_token", "scorer_window",
    "base_model", "model_revision", "weights_fingerprint", "model_by_run", "model_in_snapshot",
    "chunked_by_run", "chunked_in_snapshot", "corpus_version",
)  # fmt: skip
"""What is said of a chunk, in order."""

_LAW = """SELECT form AS law_form, link AS law_link, sigma_kind AS law_sigma, optimum_kind,
                 snapshot_id AS fitted_in_snapshot
          FROM {fitted_law} WHERE is_chosen"""
_SCORE = """SELECT snapshot_id AS scored_in_snapshot FROM {perplexity_scores}
            WHERE chunk_id = $chunk_id AND corpus = $corpus AND scorer_id = $scorer_id"""
_SCORER = """SELECT dtype AS scorer_dtype, first_token AS scorer_first_token, window_tokens AS scorer_window
             FROM {scorers} WHERE scorer_id = $scorer_id"""
_MODEL = """SELECT source AS base_model, revision AS model_revision, weights_fingerprint,
                   snapshot_id AS model_in_snapshot
            FROM {base_model}"""
_CHUNK = """SELECT snapshot_id AS chunked_in_snapshot FROM {chunks}
            WHERE chunk_id = $chunk_id AND corpus = $corpus"""


def lineage_of(lake: Lake, chunk_id: str | None = None) -> dict[str, Any]:
    """The lineage of a selected chunk, keys as in ``FACTS``; None where the lake does not know.

    Args:
        lake: the lake.
        chunk_id: a chunk of ``final_subset``; its first one where absent.

    Raises:
        LookupError: no such chunk is selected.
    """
    found = _commits(lake, chunk_id)
    found |= _row(lake, _LAW, FITTED_LAW, found["law_read_at"])
    score = _row(lake, _SCORE, PERPLEXITY_SCORES, found["scores_read_at"], found)
    if _commit(lake, score.get("scored_in_snapshot")).get("scorer_id") == found["scorer_id"]:
        found |= score
    found |= _row(lake, _SCORER, SCORERS, found["scores_read_at"], found)
    found |= _row(lake, _CHUNK, CHUNKS, found["chunks_read_at"], found)
    fit = _commit(lake, found["fitted_in_snapshot"])
    scores, chunked = _commit(lake, found["scored_in_snapshot"]), _commit(lake, found["chunked_in_snapshot"])
    found |= _row(lake, _MODEL, BASE_MODEL, scores.get("model_read_at"))
    model = _commit(lake, found["model_in_snapshot"])
    found |= {
        "fitted_by_run": fit.get("run_id"),
        "law_code": fit.get("code_version"),
        "scored_by_run": scores.get("run_id"),
        "scorer_code": scores.get("code_version"),
        "model_by_run": model.get("run_id"),
        "chunked_by_run": chunked.get("run_id"),
        "corpus_version": chunked.get("corpus_version"),
    }
    return {name: found.get(name) for name in FACTS}


def _commits(lake: Lake, chunk_id: str | None) -> dict[str, Any]:
    """The one row of ``lineage.sql``."""
    with lake.cursor() as cursor:
        cursor.execute("SET VARIABLE chunk_id = $chunk_id", {"chunk_id": chunk_id})
        found = cursor.execute(LINEAGE_QUERY.read_text("utf-8")).pl()
    if not found.is_empty():
        return found.row(0, named=True)
    if chunk_id is None:
        raise LookupError("nothing is selected yet: final_subset is empty; materialize it first")
    raise LookupError(f"chunk {chunk_id!r} is not in final_subset; take a chunk_id from it (make sql), or leave it out")


def _row(
    lake: Lake, sql: str, table: LakeTable, read_at: int | None, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The row of a table as it was when it was read; empty where that is not known or there was none."""
    if read_at is None:
        return {}
    names = [name for name in ("chunk_id", "corpus", "scorer_id") if f"${name}" in sql]
    rows = lake.snapshot(read_at).query(sql, (table,), {name: (known or {})[name] for name in names})
    return {} if rows.is_empty() else rows.row(0, named=True)


def _commit(lake: Lake, snapshot_id: int | None) -> dict[str, Any]:
    """Who wrote a snapshot, and what it says of itself; empty where it was no commit of ours."""
    sql = """SELECT run_id, code_version, facts ->> '$.corpus_version' AS corpus_version,
                    facts ->> '$.scorer_id' AS scorer_id,
                    (reads ->> '$.base_model')::BIGINT AS model_read_at
             FROM lake.lineage WHERE snapshot_id = $snapshot_id"""
    with lake.cursor() as cursor:
        rows = cursor.execute(sql, {"snapshot_id": snapshot_id}).pl()
    return {} if rows.is_empty() else rows.row(0, named=True)
