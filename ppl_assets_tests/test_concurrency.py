from benchmarks.concurrency import concurrency


def test_writers_and_readers_at_once_lose_and_tear_nothing():
    found = concurrency(writers=3, readers=1, seconds=5.0)
    assert found["errors"] == []
    assert found["commits"] >= 1
    assert found["reads"] > 0
    assert (found["partitions_lost"], found["commits_lost"], found["torn_reads"]) == (0, 0, 0)
