-- From a selected chunk back to the commits that made it: selection, law, scores, base model, corpus.
-- In `make sql`: SET VARIABLE chunk_id = '...'; then .read ppl_assets/lineage.sql (first chunk where it is not set).
--
-- Every row carries the snapshot that wrote it (DuckLake's virtual column snapshot_id), and every commit of ours has one
-- row in lake.lineage: asset, partition, run, code version, facts, and in `reads` the snapshot at which it read each
-- table. Upstream is the newest commit of an asset partition up to that snapshot, not today's: a later refit, re-chunk or
-- change of model leaves the answer as it was. The rows themselves, as they were read, are one step more, since a version
-- must be a constant: FROM lake.fitted_law AT (VERSION => law_read_at) WHERE is_chosen. `ppl-assets lineage` takes both.
WITH subset AS (
    SELECT chunk_id, corpus, source, ppl, selection_id, scorer_id, snapshot_id
    FROM lake.final_subset
    WHERE chunk_id = coalesce(getvariable('chunk_id')::VARCHAR, (SELECT arg_min(chunk_id, rank) FROM lake.final_subset))
),
selected AS (
    SELECT l.*, reads ->> '$.fitted_law' AS law_read_at, reads ->> '$.perplexity_scores' AS scores_read_at,
           reads ->> '$.chunks' AS chunks_read_at
    FROM lake.lineage AS l SEMI JOIN subset USING (snapshot_id)
),
law AS (
    SELECT l.* FROM lake.lineage AS l, selected AS s
    WHERE l.asset = 'fitted_law' AND l.snapshot_id <= s.law_read_at::BIGINT
    ORDER BY l.snapshot_id DESC LIMIT 1
),
scores AS (
    SELECT l.*, l.reads ->> '$.base_model' AS model_read_at FROM lake.lineage AS l, selected AS s, subset AS c
    WHERE l.asset = 'perplexity_scores' AND l.partition = c.corpus AND l.snapshot_id <= s.scores_read_at::BIGINT
      AND (l.facts ->> '$.scorer_id') = c.scorer_id  -- a later commit may have carried this scorer's rows along
    ORDER BY l.snapshot_id DESC LIMIT 1
),
model AS (
    SELECT l.* FROM lake.lineage AS l, scores AS s
    WHERE l.asset = 'base_model' AND l.snapshot_id <= s.model_read_at::BIGINT
    ORDER BY l.snapshot_id DESC LIMIT 1
),
chunked AS (
    SELECT l.* FROM lake.lineage AS l, selected AS s, subset AS c
    WHERE l.asset = 'chunks' AND l.partition = c.corpus AND l.snapshot_id <= s.chunks_read_at::BIGINT
    ORDER BY l.snapshot_id DESC LIMIT 1
)
SELECT
    c.chunk_id, c.corpus, c.source AS file, c.ppl AS perplexity, c.selection_id,
    s.run_id AS selected_by_run, c.snapshot_id AS selected_in_snapshot, s.code_version AS selection_code,
    s.facts ->> '$.package_version' AS package_version, s.facts ->> '$.git_commit' AS git_commit,
    f.run_id AS fitted_by_run, f.snapshot_id AS fitted_in_snapshot, f.code_version AS law_code,
    c.scorer_id, p.run_id AS scored_by_run, p.snapshot_id AS scored_in_snapshot, p.code_version AS scorer_code,
    m.run_id AS model_by_run, m.snapshot_id AS model_in_snapshot,
    m.facts ->> '$.weights_fingerprint' AS weights_fingerprint,
    k.run_id AS chunked_by_run, k.snapshot_id AS chunked_in_snapshot, k.facts ->> '$.corpus_version' AS corpus_version,
    s.law_read_at::BIGINT AS law_read_at, s.scores_read_at::BIGINT AS scores_read_at,
    s.chunks_read_at::BIGINT AS chunks_read_at, p.model_read_at::BIGINT AS model_read_at
FROM subset AS c
LEFT JOIN selected AS s ON true
LEFT JOIN law AS f ON true
LEFT JOIN scores AS p ON true
LEFT JOIN model AS m ON true
LEFT JOIN chunked AS k ON true;
