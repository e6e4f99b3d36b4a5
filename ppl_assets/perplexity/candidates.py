"""Which scored chunks may be selected: read from the lake, once a chunk, without noise.

Belongs here: the queries that join scores with chunks. Every later stage asks here, so that landscape, trials and
selection speak of the same chunks.
"""

from collections.abc import Sequence

import polars as pl

from ppl_assets.lake import Snapshot
from ppl_assets.tables import CHUNKS, PERPLEXITY_LANDSCAPE, PERPLEXITY_SCORES

_SCORED = """
SELECT s.chunk_id, min(s.corpus) AS corpus, any_value(s.n_tokens) AS n_tokens, any_value(s.ppl) AS ppl,
       any_value(s.log_ppl) AS log_ppl, any_value(s.status) AS status, count(*) AS copies
FROM {perplexity_scores} AS s
JOIN {chunks} AS c ON c.chunk_id = s.chunk_id AND c.corpus = s.corpus
WHERE s.scorer_id = $scorer AND c.split = $split AND list_contains($corpora, s.corpus)
  AND ($split <> 'candidate' OR s.chunk_id NOT IN (SELECT chunk_id FROM {chunks} WHERE split <> 'candidate'))
GROUP BY s.chunk_id
ORDER BY s.chunk_id
"""
"""A chunk that several corpora hold counts once, under the first of their names; one that the test set holds, never."""


def scored_chunks(snapshot: Snapshot, corpora: Sequence[str], scorer_id: str, split: str) -> pl.DataFrame:
    """Every chunk of one split that this scorer has seen, each once.

    Args:
        snapshot: the lake.
        corpora: corpus partitions of the study.
        scorer_id: the scorer in force.
        split: candidate, test or general.

    Returns:
        chunk_id, corpus, n_tokens, ppl, log_ppl (null where not scored), status, copies; sorted by chunk_id.
    """
    parameters = {"scorer": scorer_id, "split": split, "corpora": list(corpora)}
    return snapshot.query(_SCORED, (PERPLEXITY_SCORES, CHUNKS), parameters)


def current_scorer(snapshot: Snapshot) -> str:
    """The scorer of the landscape: the one under which everything later is computed."""
    return str(snapshot.only_row(PERPLEXITY_LANDSCAPE, {"scope": "candidates"})["scorer_id"])


def selectable_chunks(snapshot: Snapshot, corpora: Sequence[str]) -> pl.DataFrame:
    """Candidate chunks inside the landscape's fence; columns of :func:`scored_chunks`."""
    fence = snapshot.only_row(PERPLEXITY_LANDSCAPE, {"scope": "candidates"})
    chunks = scored_chunks(snapshot, corpora, fence["scorer_id"], "candidate")
    return chunks.filter((pl.col("status") == "ok") & pl.col("ppl").is_between(fence["fence_low"], fence["fence_high"]))
