"""Views of the lake in which a person asks where its rows come from; made with the tables.

Belongs here: the views' SQL. What one selected chunk comes from is in ``lineage.py``, which reads them.
"""

COMPANIONS = {
    "rejected_rows": "chunks",
    "cleaning_counts": "chunks",
    "scorers": "perplexity_scores",
    "landscape_histogram": "perplexity_landscape",
    "reachable_region": "regime_partitions",
    "regimes": "regime_partitions",
    "proposed_regimes": "next_trials",
    "sequential_steps": "next_trials",
    "law_findings": "fitted_law",
    "selections": "final_subset",
    "past_commits": "lake_maintenance",
}
"""The asset that writes a table; every other table has the name of its asset."""

BY_CORPUS = ("chunks", "perplexity_scores")
"""Assets with a partition a corpus: each reads that corpus alone of the other one's table and of its own."""

_ONE_A_COMMIT = """
SELECT snapshot_id, snapshot_time, author, commit_message,
       json_extract_string(commit_extra_info, '$.asset') AS asset,
       json_extract_string(commit_extra_info, '$.partition') AS partition,
       json_extract_string(commit_extra_info, '$.run_id') AS run_id,
       json_extract_string(commit_extra_info, '$.code_version') AS code_version,
       json_extract_string(commit_extra_info, '$.data_version') AS data_version,
       json_extract_string(commit_extra_info, '$.inputs') AS inputs,
       json_extract(commit_extra_info, '$.facts') AS facts,
       json_extract(commit_extra_info, '$.reads') AS reads
FROM ({commits})
WHERE commit_extra_info IS NOT NULL
"""
_LIVE = "SELECT snapshot_id, snapshot_time, author, commit_message, commit_extra_info FROM ducklake_snapshots('lake')"
_PAST = "SELECT number, time, author, message, extra_info FROM lake.past_commits"

LIVE_LINEAGE = _ONE_A_COMMIT.format(commits=_LIVE)
"""``lineage`` without the commits whose snapshots expired: 5 ms instead of 45, and asked after every commit."""

# UNION, not UNION ALL: a commit is copied before its snapshot expires, so for a moment it is in both.
_LINEAGE = _ONE_A_COMMIT.format(commits=f"{_LIVE} UNION {_PAST}")

_LINEAGE_READS = f"""
WITH reads AS (
    SELECT asset, partition, snapshot_id, snapshot_time, run_id, unnest(json_keys(reads)) AS read_table, reads
    FROM lake.lineage
),
writers(read_table, asset) AS (VALUES {", ".join(f"('{table}', '{asset}')" for table, asset in COMPANIONS.items())})
SELECT r.asset, r.partition, r.snapshot_id, r.snapshot_time, r.run_id, r.read_table,
       (r.reads ->> r.read_table)::BIGINT AS read_snapshot,
       w.asset AS made_by, w.partition AS made_partition, w.snapshot_id AS made_in, w.snapshot_time AS made_at,
       w.run_id AS made_by_run
FROM reads AS r
LEFT JOIN writers AS t ON t.read_table = r.read_table
LEFT JOIN lake.lineage AS w
  ON w.asset = coalesce(t.asset, r.read_table) AND w.snapshot_id <= (r.reads ->> r.read_table)::BIGINT
 AND (w.partition = r.partition OR r.asset NOT IN {BY_CORPUS} OR w.asset NOT IN {BY_CORPUS})
QUALIFY row_number() OVER (PARTITION BY r.snapshot_id, r.read_table, w.partition ORDER BY w.snapshot_id DESC) = 1
"""  # noqa: S608 - the names above

VIEWS = {"lineage": _LINEAGE, "lineage_reads": _LINEAGE_READS}
"""Name to query, in the order in which they are made.

``lineage`` has a row a commit: who wrote it, from which run and code, and the snapshot of every table that it read. It
keeps the commits whose snapshots expired.

``lineage_reads`` has a row for each table that a commit read and each asset partition whose rows were in it then: the
commit that had written them. What made a row, and what that read::

    SELECT r.* FROM final_subset AS f JOIN lineage_reads AS r USING (snapshot_id) WHERE f.chunk_id = '...';
"""
