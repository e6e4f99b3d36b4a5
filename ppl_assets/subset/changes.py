"""What changed between two selections: which chunks came and went, and why each did.

A chunk's own reason comes first (its text, its split, its perplexity); a chunk that could be selected at the same
perplexity both times moved because the target, the budget or the sampler's settings changed, or else only because the
other candidates did.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from ppl_assets.lake import Lake
from ppl_assets.markdown import as_markdown_table
from ppl_assets.subset.changed_facts import Side, differing_facts, reason_of_all
from ppl_assets.subset.history import Selected, UnknownSelectionError, last_two, selections
from ppl_assets.tables import CHUNKS, FINAL_SUBSET, PERPLEXITY_SCORES

NEW_TEXT = "new text"
NO_LONGER_HELD_OUT = "no longer held out"
NOW_HELD_OUT = "now in the test set or in general text"
DOCUMENT_LEFT = "its document is no longer a candidate: it left the corpora, or cleaning drops it"
TEXT_CHANGED = "its document's text changed"
NOW_NOISE, NO_LONGER_NOISE = "beyond the noise fence now", "within the noise fence now"
OTHER_SCORE, OTHER_SCORER = "its perplexity changed", "its perplexity changed: another scorer"

_MOVED = """
WITH a AS (SELECT chunk_id, min(corpus) AS corpus, any_value(doc_id) AS doc_id, any_value(source) AS source,
                  any_value(n_tokens) AS n_tokens, any_value(ppl) AS ppl, count(*) AS copies
           FROM {members_a} GROUP BY chunk_id),
b AS (SELECT chunk_id, min(corpus) AS corpus, any_value(doc_id) AS doc_id, any_value(source) AS source,
             any_value(n_tokens) AS n_tokens, any_value(ppl) AS ppl, count(*) AS copies
      FROM {members_b} GROUP BY chunk_id),
moved AS (
    SELECT chunk_id, coalesce(b.corpus, a.corpus) AS corpus, coalesce(b.doc_id, a.doc_id) AS doc_id,
           coalesce(b.source, a.source) AS source, coalesce(b.n_tokens, a.n_tokens) AS n_tokens,
           coalesce(b.copies, 0) - coalesce(a.copies, 0) AS difference
    FROM a FULL JOIN b USING (chunk_id) WHERE a.copies IS DISTINCT FROM b.copies
),
chunk_a AS (SELECT chunk_id, bool_or(split <> 'candidate') AS held_out,
                   bool_or(split = 'candidate' AND ($corpora_a IS NULL OR list_contains($corpora_a, corpus))) AS open
            FROM {chunks_a} SEMI JOIN moved USING (chunk_id) GROUP BY chunk_id),
chunk_b AS (SELECT chunk_id, bool_or(split <> 'candidate') AS held_out,
                   bool_or(split = 'candidate' AND ($corpora_b IS NULL OR list_contains($corpora_b, corpus))) AS open
            FROM {chunks_b} SEMI JOIN moved USING (chunk_id) GROUP BY chunk_id),
document_b AS (SELECT DISTINCT doc_id FROM {chunks_b} SEMI JOIN moved USING (doc_id)),
score_a AS (SELECT chunk_id, any_value(ppl) AS ppl, any_value(status) AS status FROM {scores_a}
            SEMI JOIN moved USING (chunk_id) WHERE scorer_id = $scorer_a GROUP BY chunk_id),
score_b AS (SELECT chunk_id, any_value(ppl) AS ppl, any_value(status) AS status FROM {scores_b}
            SEMI JOIN moved USING (chunk_id) WHERE scorer_id = $scorer_b GROUP BY chunk_id)
SELECT if(difference > 0, 'added', 'removed') AS change,
       CASE WHEN difference > 0 AND coalesce(p.held_out, false) THEN $no_longer_held_out
            WHEN difference > 0 AND NOT coalesce(p.open, false) THEN $new_text
            WHEN difference < 0 AND coalesce(n.held_out, false) THEN $now_held_out
            WHEN difference < 0 AND n.chunk_id IS NULL AND d.doc_id IS NOT NULL THEN $text_changed
            WHEN difference < 0 AND NOT coalesce(n.open, false) THEN $document_left
            WHEN s.ppl IS DISTINCT FROM t.ppl OR s.status IS DISTINCT FROM t.status THEN $other_score
            WHEN difference > 0 AND s.ppl NOT BETWEEN $low_a AND $high_a THEN $no_longer_noise
            WHEN difference < 0 AND t.ppl NOT BETWEEN $low_b AND $high_b THEN $now_noise
            ELSE $of_all END AS reason,
       m.corpus, m.chunk_id, m.doc_id, m.source, m.n_tokens, abs(difference)::BIGINT AS copies,
       s.ppl AS ppl_before, t.ppl AS ppl_after
FROM moved AS m
LEFT JOIN chunk_a AS p USING (chunk_id)
LEFT JOIN chunk_b AS n USING (chunk_id)
LEFT JOIN document_b AS d USING (doc_id)
LEFT JOIN score_a AS s USING (chunk_id)
LEFT JOIN score_b AS t USING (chunk_id)
"""
_RENAMED = """
SELECT count(DISTINCT a.chunk_id) AS chunks FROM {members_a} AS a JOIN {members_b} AS b USING (chunk_id)
WHERE (a.corpus, a.doc_id, a.source) IS DISTINCT FROM (b.corpus, b.doc_id, b.source)
"""
_COUNTED = """
SELECT change, reason, corpus, sum(copies)::BIGINT AS chunks, sum(copies * n_tokens)::BIGINT AS tokens
FROM ({moved}) GROUP BY ALL ORDER BY change, tokens DESC, reason, corpus
"""


@dataclass(frozen=True)
class Changes:
    """What changed from one selection to another.

    Attributes:
        before: the earlier one.
        after: the later one.
        counts: change (added or removed), reason, corpus, chunks, tokens; a chunk counts as often as it was taken.
        facts: fact, before, after: what else differs, in words.
        renamed: chunks that both hold, of another corpus, document or file in the later one.
    """

    before: Selected
    after: Selected
    counts: pl.DataFrame
    facts: pl.DataFrame
    renamed: int = 0

    @property
    def sentence(self) -> str:
        """Both totals, and how many chunks stayed under another name."""
        sums = {name: self.counts.filter(pl.col("change") == name) for name in ("added", "removed")}
        told = ", ".join(
            f"{rows['chunks'].sum():,} chunks ({rows['tokens'].sum():,} tokens) {name}" for name, rows in sums.items()
        )
        renamed = f"; {self.renamed:,} that stay are of another corpus, file or document now" if self.renamed else ""
        return f"From selection {self.before.selection_id} to {self.after.selection_id}: {told}{renamed}."

    @property
    def by_reason(self) -> pl.DataFrame:
        """The counts over all corpora."""
        totals = self.counts.group_by("change", "reason").agg(pl.col("chunks", "tokens").sum())
        return totals.sort("change", "tokens", descending=[False, True])

    @property
    def command(self) -> str:
        """What shows it in a terminal; by snapshot, since an id can have been selected again."""
        return f"ppl-assets diff {self.before.snapshot} {self.after.snapshot}"


def changes(lake: Lake, before: Selected, after: Selected) -> Changes:
    """Compare two selections.

    Raises:
        UnknownSelectionError: the rows of one were given up.
    """
    a, b = Side.load(lake, before), Side.load(lake, after)
    sql, parameters = _moved(a, b)
    counts = lake.query(_COUNTED.format(moved=sql), parameters)
    renamed = lake.query(
        _RENAMED.format(members_a=a.rows.rows_of(FINAL_SUBSET), members_b=b.rows.rows_of(FINAL_SUBSET))
    )
    return Changes(before, after, counts, differing_facts(a, b), int(renamed["chunks"].item()))


def moved_chunks(lake: Lake, before: Selected, after: Selected) -> pl.DataFrame:
    """Every chunk that came or went: change, reason, corpus, chunk_id, doc_id, source, n_tokens, copies, perplexities.

    Raises:
        UnknownSelectionError: the rows of one were given up.
    """
    sql, parameters = _moved(Side.load(lake, before), Side.load(lake, after))
    return lake.query(f"{sql} ORDER BY change, reason, corpus, chunk_id", parameters)


def changes_since_last(lake: Lake) -> str:
    """What changed since the last selection that differs, as Markdown; one sentence where that cannot be told."""
    try:
        found = changes(lake, *last_two(selections(lake)))
    except UnknownSelectionError as error:
        return f"Nothing to compare: {error}."
    facts = f"\n\n{as_markdown_table(found.facts)}" if found.facts.height else ""
    counts = f"\n\n{as_markdown_table(found.by_reason)}" if found.counts.height else ""
    return f"{found.sentence}{counts}{facts}\n\nBy corpus, and chunk by chunk: `{found.command} --chunks FILE`"


def _moved(a: Side, b: Side) -> tuple[str, dict[str, Any]]:
    """The query of the chunks that came or went, and its parameters."""
    sql = _MOVED.format(
        members_a=a.rows.rows_of(FINAL_SUBSET),
        members_b=b.rows.rows_of(FINAL_SUBSET),
        chunks_a=a.read.rows_of(CHUNKS),
        chunks_b=b.read.rows_of(CHUNKS),
        scores_a=a.read.rows_of(PERPLEXITY_SCORES),
        scores_b=b.read.rows_of(PERPLEXITY_SCORES),
    )
    parameters: dict[str, Any] = {
        "no_longer_held_out": NO_LONGER_HELD_OUT,
        "new_text": NEW_TEXT,
        "now_held_out": NOW_HELD_OUT,
        "text_changed": TEXT_CHANGED,
        "document_left": DOCUMENT_LEFT,
        "no_longer_noise": NO_LONGER_NOISE,
        "now_noise": NOW_NOISE,
        "other_score": OTHER_SCORE if a.scorer == b.scorer else OTHER_SCORER,
        "of_all": reason_of_all(a, b),
    }
    for side, name in ((a, "a"), (b, "b")):
        low, high = side.fence
        parameters |= {f"corpora_{name}": side.corpora, f"scorer_{name}": side.scorer}
        parameters |= {f"low_{name}": low, f"high_{name}": high}
    return sql, parameters
