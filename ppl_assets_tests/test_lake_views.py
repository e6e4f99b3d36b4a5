"""The views in which a person asks where rows come from."""

from ppl_assets.automation.jobs import STAGE_JOBS
from ppl_assets.lake_views import COMPANIONS
from ppl_assets.tables import TABLES


def test_the_asset_that_writes_each_table_is_known():
    assets = {COMPANIONS.get(table, table) for table in TABLES}
    assert assets == {*STAGE_JOBS, "lake_maintenance"}


def test_what_made_a_row_and_what_that_read_is_one_query(small):
    sql = """SELECT r.read_table, r.made_by, r.made_partition, r.made_by_run, r.made_in <= r.read_snapshot AS before
             FROM lake.final_subset AS f JOIN lake.lineage_reads AS r USING (snapshot_id)
             WHERE f.chunk_id = 'c1' ORDER BY ALL"""
    assert small.lake.query(sql).rows() == [
        ("base_model", "base_model", "", "run-1", True),
        ("chunks", "chunks", "a", "run-2", True),
        ("chunks", "chunks", "b", "run-4", True),
        ("fitted_law", "fitted_law", "", "run-7", True),
        ("perplexity_landscape", "perplexity_landscape", "", "run-6", True),
        ("perplexity_scores", "perplexity_scores", "a", "run-3", True),
        ("perplexity_scores", "perplexity_scores", "b", "run-5", True),
    ]


def test_a_later_commit_of_what_was_read_leaves_the_answer_as_it_was(small):
    sql = "SELECT * FROM lake.lineage_reads WHERE asset = 'final_subset' ORDER BY ALL"
    before = small.lake.query(sql)
    small.corpus("a", d1="c1")
    small.law("paper")
    assert small.lake.query(sql).equals(before)


def test_scores_of_a_corpus_come_from_that_corpus_alone(small):
    sql = """SELECT made_by, made_partition FROM lake.lineage_reads
             WHERE asset = 'perplexity_scores' AND partition = 'b' AND read_table = 'chunks'"""
    assert small.lake.query(sql).rows() == [("chunks", "b")]


def test_a_table_that_was_empty_when_it_was_read_has_a_row_without_a_maker(small):
    sql = "SELECT read_table, made_in FROM lake.lineage_reads WHERE asset = 'fitted_law'"
    assert small.lake.query(sql).rows() == [("trial_losses", None)]


def test_a_lake_of_an_earlier_version_gets_the_views(small):
    with small.lake.cursor() as cursor:
        cursor.execute("DROP VIEW lake.lineage_reads")
        cursor.execute("CREATE OR REPLACE VIEW lake.lineage AS SELECT 1 AS one")
        cursor.execute("DROP TABLE lake.past_commits")
    small.lake.close()
    assert small.lake.query("SELECT count(*) FROM lake.lineage_reads WHERE asset = 'final_subset'").item() == 7
