"""The scopes that the landscape is drawn of: candidates, test set, general text, and each corpus.

Belongs here: which scored chunks each scope has, and that no corpus is left out. What is drawn of them is in
``landscape_rows``.
"""

import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.candidates import scored_chunks
from ppl_assets.perplexity.landscape_rows import LandscapeError
from ppl_assets.tables import CHUNKS, PERPLEXITY_SCORES

SPLITS = {"candidates": "candidate", "test": "test", "general": "general"}
"""The split of each scope that is not a corpus."""


def landscape_scopes(snapshot: Snapshot, corpora: list[str], scorer_id: str) -> dict[str, pl.DataFrame]:
    """Scope to its chunks (columns of ``candidates.scored_chunks``); a corpus' scope is ``corpus:NAME``.

    Args:
        snapshot: the lake.
        corpora: corpus partitions of the study.
        scorer_id: the scorer in force.

    Raises:
        LandscapeError: a corpus has no chunks, or chunks without a score under this scorer.
    """
    _require_scores(snapshot, corpora, scorer_id)
    scopes = {scope: scored_chunks(snapshot, corpora, scorer_id, split) for scope, split in SPLITS.items()}
    for (corpus,), rows in scopes["candidates"].group_by("corpus", maintain_order=True):
        scopes[f"corpus:{corpus}"] = rows
    return scopes


def _require_scores(snapshot: Snapshot, corpora: list[str], scorer_id: str) -> None:
    """Refuse a landscape without some corpus."""
    sql = """SELECT corpus, count(*) AS chunks FROM {chunks} AS c WHERE list_contains($corpora, corpus) AND NOT EXISTS
             (SELECT 1 FROM {perplexity_scores} AS s
              WHERE s.chunk_id = c.chunk_id AND s.corpus = c.corpus AND s.scorer_id = $scorer) GROUP BY corpus"""
    unscored = snapshot.query(sql, (CHUNKS, PERPLEXITY_SCORES), {"corpora": corpora, "scorer": scorer_id})["corpus"]
    unchunked = sorted(set(corpora) - set(snapshot.commits("chunks")))
    if unchunked or not unscored.is_empty():
        raise LandscapeError(
            f"the landscape needs every corpus: {', '.join(unchunked) or 'none'} without chunks, "
            f"{', '.join(sorted(unscored)) or 'none'} without scores under the present scorer; materialize these first"
        )
