"""The UI as a user starts it, webserver and daemon: a corpus is dropped in, and nobody touches anything any more."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ppl_assets.lake import Snapshot
from ppl_assets.tables import (
    CHUNKS,
    PERPLEXITY_LANDSCAPE,
    PERPLEXITY_SCORES,
    SELECTION_REPORT,
    SELECTIONS,
)
from ppl_assets_tests.conftest import TinyStudy, prose

LONGEST = 600.0
"""Seconds that the pipeline may take on a crowded machine."""

MARK = "PPL_ASSETS_TEST_SERVER"
"""Environment variable by which a server's processes are known, those of its runs and steps too."""


class Server:
    """``ppl-assets ui`` on one study."""

    def __init__(self, study: TinyStudy, log: Path) -> None:
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "ppl_assets.cli", "--study", str(study.file), "ui", "--port", str(self.port)]
        self._mark = uuid.uuid4().hex
        environment = {**os.environ, "PPL_ASSETS_SENSOR_SECONDS": "1", "DAGSTER_HOME": "", MARK: self._mark}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=study.folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def is_up(self) -> bool:
        """Whether the webserver answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/server_info")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def wait(self, what: str, until) -> None:
        """Wait until something holds.

        Raises:
            AssertionError: the server ended, or it took too long; with the end of its log.
        """
        ends = time.monotonic() + LONGEST
        while not until():
            assert self.process.poll() is None, f"the server ended\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < ends, f"no {what}\n{self.log.read_text()[-8000:]}"
            time.sleep(0.5)

    def living(self) -> list[psutil.Process]:
        """Every process that was started below this one, whoever is its parent now: each inherits the mark."""
        return [process for process in psutil.process_iter() if _environment(process).get(MARK) == self._mark]

    def stop(self) -> None:
        """End the server as Ctrl-C does, and what is left of it after a while by force."""
        self.process.send_signal(signal.SIGINT)
        psutil.wait_procs(self.living(), timeout=20)
        while left := self.living():
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=5)
            self.process.poll()


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except psutil.Error:
        return {}


@contextmanager
def serving(study: TinyStudy, log: Path) -> Iterator[Server]:
    server = Server(study, log)
    try:
        server.wait("webserver", server.is_up)
        yield server
    finally:
        server.stop()


def commits(snapshot: Snapshot, asset: str) -> dict[str, int]:
    return {partition: commit.snapshot for partition, commit in snapshot.commits(asset).items()}


@pytest.mark.timeout(900)
def test_a_corpus_dropped_in_while_the_ui_runs_ends_in_a_new_subset_and_report_and_trains_nothing(study, tmp_path):
    inbox, lake = study.folder / "inbox", study.platform.lake
    inbox.mkdir()
    study.file.write_text(study.file.read_text() + '\n[discovery]\nfolder = "inbox"\nsettle_seconds = 2\n')
    before = lake.snapshot()
    selected = before.only_row(SELECTIONS)["selection_id"]

    def is_reported() -> bool:
        now = lake.snapshot().read(SELECTION_REPORT)["selection_id"].to_list()
        return now == lake.snapshot().read(SELECTIONS)["selection_id"].to_list() != [selected]

    with serving(study, tmp_path / "ui.log") as server:
        for number in range(40):
            (inbox / "late.part").mkdir(exist_ok=True)
            (inbox / "late.part" / f"doc-{number:02d}.txt").write_text(prose(5000 + number, 260, 150, 0.8))
        (inbox / "late.part").rename(inbox / "late")
        server.wait("report of another selection", is_reported)
    after = lake.snapshot()
    late = {"corpus": "late"}
    assert after.read(CHUNKS, ["chunk_id"], late).height == after.read(PERPLEXITY_SCORES, ["chunk_id"], late).height > 0
    assert "corpus:late" in after.read(PERPLEXITY_LANDSCAPE)["scope"].to_list()
    for asset in ("regime_partitions", "trial_losses", "fitted_law", "strategy_losses", "base_model", "test_documents"):
        assert commits(after, asset) == commits(before, asset), asset
    scored = commits(after, "perplexity_scores")
    assert {key: scored[key] for key in ("easy", "hard", "general")} == commits(before, "perplexity_scores")
    assert not server.living()
