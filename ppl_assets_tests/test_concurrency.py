from benchmarks.concurrency import concurrency


def test_writers_and_readers_at_once_lose_and_tear_nothing():
    found = concurrency(writers=4, readers=2, seconds=5.0)
    assert found["errors"] == []
    assert found["commits"] > 8
    assert found["reads"] > 4
    assert (found["partitions_lost"], found["commits_lost"], found["torn_reads"]) == (0, 0, 0)
