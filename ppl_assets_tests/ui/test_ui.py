"""The UI as a person sees it, in Debian's Chromium: a finished study, one backfill clicked through.

``PPL_ASSETS_PICTURES=FOLDER`` keeps the screenshots; ``PPL_ASSETS_UI_STUDY=FILE`` looks at that finished study in place
of the tiny one. ``make test-ui`` runs this file alone.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


import pytest
import requests

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[ui]'")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60_000
"""Milliseconds until an element that should be there is given up: a small machine loads the page's scripts slowly."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def study_file(request, tmp_path_factory) -> Path:
    """The study looked at: a copy of the tiny one, since a backfill is launched in it."""
    given = os.environ.get("PPL_ASSETS_UI_STUDY")
    if given:
        return Path(given)
    finished = request.getfixturevalue("finished_study")
    folder = tmp_path_factory.mktemp("ui") / "study"
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("tables"))
    return folder / "study.toml"


@pytest.fixture(scope="module")
def url(request, study_file) -> Iterator[str]:
    """The address of a running ``ppl-assets ui``; it and all that it started are ended afterwards."""
    port, environment = free_port(), dict(os.environ)
    if "PPL_ASSETS_UI_STUDY" not in os.environ:
        original = request.getfixturevalue("finished_study").folder
        environment["PPL__STORAGE__TABLES"] = str(original / "data" / "lake" / "tables")
    command = [sys.executable, "-m", "ppl_assets.cli", "--study", str(study_file), "ui", "--port", str(port)]
    log = study_file.with_name("ui.log")
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_served(address, process, log)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_until_served(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if requests.get(f"{address}/server_info", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    pytest.fail(f"the UI was not served within two minutes: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser) -> Iterator["sync_api.Page"]:
    opened = browser.new_page(viewport={"width": 1600, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


def keep(page: "sync_api.Page", name: str) -> None:
    """Keep a screenshot where the caller asked for pictures."""
    page.wait_for_timeout(1500)  # fonts and transitions come to rest
    if folder := os.environ.get("PPL_ASSETS_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def asked(url: str, query: str) -> dict:
    answer = requests.post(f"{url}/graphql", json={"query": query}, timeout=60).json()
    assert "errors" not in answer, answer
    return answer["data"]
