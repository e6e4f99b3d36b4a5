"""Long-running work says where it is, in the run's log and on the terminal."""

import pytest

from ppl_assets import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def work(clock, logged):
    state = progress.start("tokens", logged.append)
    state.started = clock[0]
    for step in range(1, 26):
        clock[0] += 1.0
        state.update(step * 10.0, 500.0)


def test_the_runs_log_gets_a_line_every_ten_seconds(clock):
    logged = []
    work(clock, logged)
    assert logged == ["100 of 500 tokens, 10 tokens/s, 40 s left", "200 of 500 tokens, 10 tokens/s, 30 s left"]


def test_a_listener_hears_every_step_and_the_log_keeps_its_lines(clock):
    logged, heard = [], []
    with progress.listening(lambda state: heard.append(state.done)):
        work(clock, logged)
    assert len(logged) == 2
    assert heard == [step * 10.0 for step in range(1, 26)]
    work(clock, logged)
    assert (len(logged), len(heard)) == (4, 25)
