-- From a selected chunk back to the run, the code, the model, the corpus version and the fit.
-- Every row carries the snapshot that wrote it (DuckLake's virtual column snapshot_id); every snapshot carries, in
-- lake.lineage, its run, code version, inputs, and the snapshot of each table that it read.
SELECT
    s.chunk_id, s.corpus, s.source AS file, s.ppl AS perplexity,
    s.selection_id,        ls.run_id AS selected_by_run,  ls.snapshot_id AS selected_in_snapshot,  ls.code_version AS selection_code,
    f.form AS law_form, f.link AS law_link, f.optimum_kind, lf.run_id AS fitted_by_run, lf.snapshot_id AS fitted_in_snapshot,
    p.scorer_id,           lp.run_id AS scored_by_run,    lp.code_version AS scorer_code,
    r.dtype AS scorer_dtype, r.first_token AS scorer_first_token, r.window_tokens AS scorer_window,
    m.source AS base_model, m.revision AS model_revision, m.weights_fingerprint,
    lc.run_id AS chunked_by_run, json_extract_string(lc.facts, '$.corpus_version') AS corpus_version
FROM lake.final_subset AS s
JOIN lake.lineage AS ls           ON ls.snapshot_id = s.snapshot_id
JOIN lake.fitted_law AS f         ON f.is_chosen
JOIN lake.lineage AS lf           ON lf.snapshot_id = f.snapshot_id
JOIN lake.perplexity_scores AS p  ON p.chunk_id = s.chunk_id AND p.corpus = s.corpus AND p.scorer_id = s.scorer_id
JOIN lake.lineage AS lp           ON lp.snapshot_id = p.snapshot_id
JOIN lake.scorers AS r            ON r.scorer_id = p.scorer_id
JOIN lake.base_model AS m         ON m.model_id = r.model_id
JOIN lake.chunks AS c             ON c.chunk_id = s.chunk_id AND c.corpus = s.corpus
JOIN lake.lineage AS lc           ON lc.snapshot_id = c.snapshot_id
WHERE s.chunk_id = coalesce($chunk_id, (SELECT chunk_id FROM lake.final_subset ORDER BY rank LIMIT 1))
