"""Which scored chunks may be selected: read from the lake, once a chunk, without noise.

Belongs here: the queries that join scores with chunks. Every later stage asks here, so that landscape, trials and
selection speak of the same chunks.
"""

from collections.abc import Iterator, Sequence

import polars as pl
import pyarrow as pa

from ppl_assets.lake import Snapshot
from ppl_assets.tables import CHUNKS, PERPLEXITY_LANDSCAPE, PERPLEXITY_SCORES, TEST_DOCUMENTS

_SCORED = """
SELECT s.chunk_id, min(s.corpus) AS corpus, any_value(s.n_tokens) AS n_tokens, any_value(s.ppl) AS ppl,
       any_value(s.log_ppl) AS log_ppl, any_value(s.status) AS status, count(*) AS copies
FROM {perplexity_scores} AS s
JOIN {chunks} AS c ON c.chunk_id = s.chunk_id AND c.corpus = s.corpus
WHERE s.scorer_id = $scorer AND c.split = $split AND (list_contains($corpora, s.corpus) OR (
    $split <> 'candidate' AND s.corpus IN (SELECT corpus FROM {test_documents} WHERE split = $split)))
  AND ($split <> 'candidate' OR s.chunk_id NOT IN (SELECT chunk_id FROM {chunks} WHERE split <> 'candidate'))
GROUP BY s.chunk_id
"""
"""A chunk that several corpora hold counts once, under the first of their names; one that the test set holds, never.
Held-out documents stay what they are when their corpus leaves the study, until test documents are drawn again."""

_TABLES = (PERPLEXITY_SCORES, CHUNKS, TEST_DOCUMENTS)

_SELECTABLE = f"""
SELECT chunk_id, corpus, n_tokens, ppl, ('0x' || left(chunk_id, 16))::UBIGINT AS key FROM ({_SCORED})
WHERE status = 'ok' AND ppl BETWEEN $fence_low AND $fence_high
"""  # noqa: S608 - the query above
"""With the key that every random choice is a hash of: the first 64 bits of the chunk's id."""


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
    return snapshot.query(f"{_SCORED} ORDER BY chunk_id", _TABLES, parameters)


def current_scorer(snapshot: Snapshot) -> str:
    """The scorer of the landscape: the one under which everything later is computed."""
    return str(snapshot.only_row(PERPLEXITY_LANDSCAPE, {"scope": "candidates"})["scorer_id"])


def selectable_chunks(snapshot: Snapshot, corpora: Sequence[str]) -> pl.DataFrame:
    """Candidate chunks inside the landscape's fence: chunk_id, corpus, n_tokens, ppl, key; sorted by chunk_id."""
    sql = f"{_SELECTABLE} ORDER BY chunk_id"
    return snapshot.query(sql, _TABLES, _selectable_parameters(snapshot, corpora))


def selectable_batches(snapshot: Snapshot, corpora: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of :func:`selectable_chunks` in batches and in no order: they need not fit into memory."""
    parameters = _selectable_parameters(snapshot, corpora)
    return snapshot.stream(_SELECTABLE, _TABLES, parameters, batch_rows)


def _selectable_parameters(snapshot: Snapshot, corpora: Sequence[str]) -> dict[str, object]:
    landscape = snapshot.only_row(PERPLEXITY_LANDSCAPE, {"scope": "candidates"})
    fence = {name: landscape[name] for name in ("fence_low", "fence_high")}
    return {"scorer": landscape["scorer_id"], "split": "candidate", "corpora": list(corpora), **fence}
