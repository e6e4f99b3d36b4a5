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

from ppl_assets_tests.conftest import pristine

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")

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
    shutil.copytree(pristine(finished.folder), folder)
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


def test_the_graph_shows_every_asset_and_nothing_is_stale(page, url):
    nodes = asked(url, "{ assetNodes { assetKey { path } staleStatus isMaterializable isPartitioned } }")["assetNodes"]
    stale = {node["assetKey"]["path"][-1] for node in nodes if node["staleStatus"] not in ("FRESH", None)}
    assert stale <= {"lake_maintenance"}, "it stands beside the pipeline and runs once a week"
    page.goto(f"{url}/asset-groups")
    page.get_by_text("Materialize all").first.wait_for()
    page.wait_for_timeout(3000)
    page.keyboard.press("Alt+e")  # expand all groups
    for node in nodes:
        name = node["assetKey"]["path"][-1]
        if len(name) <= 18:  # longer ones are cut in the middle
            page.get_by_text(name, exact=True).first.wait_for()
    assert page.get_by_text("Failed", exact=True).count() == 0
    keep(page, "asset-graph")


def test_an_asset_page_shows_its_figures_and_its_plot(page, url):
    page.goto(f"{url}/assets/fitted_law?view=events")
    page.locator("tr", has_text="loo_run_pct").first.wait_for()
    page.locator("tr", has_text="surface").get_by_text("[Show Markdown]").click()
    picture = page.locator("img[src^='data:image/png']")
    picture.wait_for()
    assert picture.evaluate("element => element.naturalWidth") > 300
    keep(page, "asset-page")


def test_a_column_says_which_columns_it_comes_from(page, url):
    page.goto(f"{url}/assets/perplexity_landscape?view=overview")
    page.get_by_text("From chunks.split, perplexity_scores.ppl.").first.scroll_into_view_if_needed()
    keep(page, "column-sources")


def test_a_check_says_what_it_found(page, url):
    page.goto(f"{url}/assets/fitted_law?view=checks")
    page.get_by_text("law_can_be_trusted").first.wait_for()
    page.get_by_text("Latest execution").wait_for()
    keep(page, "check")


def test_a_backfill_is_launched_from_the_dialog_and_ends_well(page, url):
    page.goto(f"{url}/assets/perplexity_scores?view=partitions")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Launch runs to materialize").wait_for()
    launch = page.get_by_role("button", name="Launch backfill")
    until = time.monotonic() + PATIENCE / 1000
    while not launch.is_enabled():  # the dialog forgets a choice that is made before it has read the partitions
        assert time.monotonic() < until, "no choice of partitions was kept"
        page.get_by_role("button", name="All", exact=True).click()
        page.wait_for_timeout(1000)
    keep(page, "backfill-dialog")
    launch.click()
    backfill = _first_backfill(url)
    page.goto(f"{url}/runs/b/{backfill}")
    page.get_by_text(backfill).first.wait_for()
    assert _ended(url, backfill) == "COMPLETED_SUCCESS"
    page.reload()
    page.get_by_text("Completed", exact=False).first.wait_for()
    keep(page, "backfill")


def _first_backfill(url: str) -> str:
    """Id of the backfill that was launched, once the webserver knows it."""
    query = "{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { id } } } }"
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if found := asked(url, query)["partitionBackfillsOrError"]["results"]:
            return str(found[0]["id"])
        time.sleep(0.5)
    pytest.fail("no backfill was launched within a minute")


def _ended(url: str, backfill: str) -> str:
    """How a backfill ended."""
    query = f'{{ partitionBackfillOrError(backfillId: "{backfill}") {{ ... on PartitionBackfill {{ status }} }} }}'
    until = time.monotonic() + 480
    while time.monotonic() < until:
        status = str(asked(url, query)["partitionBackfillOrError"]["status"])
        if status.startswith("COMPLETED") or status in ("FAILED", "CANCELED"):
            return status
        time.sleep(2)
    pytest.fail("the backfill did not end within eight minutes")
