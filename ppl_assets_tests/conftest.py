"""A tiny study that runs the whole pipeline in about a minute: real files, a real model, real training."""

import gzip
import json
import os
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import pytest
from filelock import FileLock
from rich.console import Console

from ppl_assets.automation.instance import study_instance
from ppl_assets.automation.run import StageOutcome, run_study
from ppl_assets.definitions import build_defs
from ppl_assets.lake import Lake
from ppl_assets.resources import Platform
from ppl_assets_tests.small_lake import SmallLake, small_lake

STUDY = """
[study]
name = "tiny"
seed = 7

[corpora.easy]
path = "corpora/easy"

[corpora.hard]
path = "corpora/hard"
id_field = "id"

[corpora.general]
role = "general"
path = "corpora/general"

[held_out]
test_share = 0.12
general_share = 0.2
test_tokens = 2048
general_tokens = 512

[base_model]
source = "recipe"

[base_model.recipe]
vocabulary = 512
hidden = 32
layers = 1
heads = 2
context = 64
tokens = 30_000
batch_tokens = 512

[chunks]
tokens = 32

[trials]
tokens = 4096
points = 5
batch_tokens = 128
warmup_steps = 2
learning_rate = 3e-3

[regimes]
repeats = 1

[law]
bootstrap = 20

[selection]
tokens = 4096

[strategies]
rivals = ["random", "lowest"]
seeds = 2
points = 3
"""


def prose(seed: int, words: int, vocabulary: int, repetition: float) -> str:
    """Pseudo-prose: a random walk over a made-up vocabulary; the more repetition, the easier to predict."""
    draw = random.Random(seed)
    made = [
        "".join(draw.choice("bcdfglmnprstv") + draw.choice("aeiou") for _ in range(draw.randint(1, 4)))
        for _ in range(vocabulary)
    ]
    state, text = 0, []
    for _ in range(words):
        state = (state * 7 + 1) % vocabulary if draw.random() < repetition else draw.randrange(vocabulary)
        text.append(made[state] + draw.choice(["", "", "", ",", ".\n"]))
    return " ".join(text)


def write_corpora(folder: Path) -> None:
    """Two candidate corpora (a text tree and gzipped JSON lines with ugly rows) and general text."""
    easy, hard, general = (folder / "corpora" / name for name in ("easy", "hard", "general"))
    for path in (easy, hard, general):
        path.mkdir(parents=True)
    for number in range(60):
        (easy / f"doc-{number:03d}.txt").write_text(prose(number % 50, 260, 120, 0.9))
        (general / f"doc-{number:03d}.txt").write_text(prose(1000 + number, 200, 200, 0.7))
    rows = [json.dumps({"id": f"h{n}", "text": prose(2000 + n, 260, 300 + 5 * n, 0.5 - n / 200)}) for n in range(60)]
    rows[3] = '{"id": "h3", "text": null}'
    rows[5] = '{"id": "h5"}'
    with gzip.open(hard / "part-0.jsonl.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")


LONGEST = {"test_daemon.py", "test_ui.py", "test_sequential_mode.py", "test_pipeline.py", "test_killed.py"}
"""Files that take minutes, most of it waiting for processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In which order pytest-xdist hands out the files (``--dist loadfile --no-loadscope-reorder``).

    One of the finished study first: its worker makes it. Then what keeps the others busy until it is there, then what
    needs it, the longest files before all others, so that no long one is begun at the end.
    """
    shared = {item.path for item in items if "finished_study" in getattr(item, "fixturenames", ())}
    first = max((path for path in shared if path.name not in LONGEST), default=None)

    def turn(item: pytest.Item) -> int:
        if item.path == first:
            return 0
        if item.path.parent.name == "law":
            return 1
        return 2 if item.path.name in LONGEST else 3 if item.path in shared else 4

    items.sort(key=turn)


class TinyStudy:
    """A study in a folder, and the means to run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "study.toml"
        self.platform = Platform(study_path=str(self.file))
        self.definitions = build_defs({"platform": self.platform})

    def run(self) -> dict[str, StageOutcome]:
        """Bring everything up to date."""
        with study_instance(self.platform.study) as instance:
            outcomes = run_study(self.definitions, self.platform, instance, Console(quiet=True))
        return {outcome.asset: outcome for outcome in outcomes}

    def materialize(
        self, job: str, partition: str | None = None, tags: dict[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run one job, as the UI would."""
        with study_instance(self.platform.study) as instance:
            return self.definitions.resolve_job_def(job).execute_in_process(
                instance=instance, partition_key=partition, tags=tags, raise_on_error=False
            )


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory) -> TinyStudy:
    """The tiny study after one whole run, by the first worker that asks. Tests that change it work on a copy."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "tiny"
    done = folder / "outcomes.json"
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            for left in (folder, pristine(folder)):
                shutil.rmtree(left, ignore_errors=True)
            folder.mkdir()
            write_corpora(folder)
            (folder / "study.toml").write_text(STUDY)
            outcomes = [asdict(outcome) for outcome in TinyStudy(folder).run().values()]
            shutil.copytree(folder, pristine(folder), ignore=shutil.ignore_patterns("tables"))
            done.write_text(json.dumps(outcomes))
    study = TinyStudy(folder)
    study.outcomes = {row["asset"]: StageOutcome(**row) for row in json.loads(done.read_text())}
    return study


def pristine(folder: Path) -> Path:
    """The finished study without its table files, and opened by nobody: beside readers SQLite's files come and go."""
    return folder.with_name("tiny-pristine")


@pytest.fixture
def copies(finished_study, tmp_path, monkeypatch):
    """Makes copies of the finished study that a test may change. The catalog names its table files absolutely."""
    monkeypatch.setenv("PPL__STORAGE__TABLES", str(finished_study.folder / "data" / "lake" / "tables"))

    def copy(name: str) -> TinyStudy:
        shutil.copytree(pristine(finished_study.folder), tmp_path / name)
        return TinyStudy(tmp_path / name)

    return copy


@pytest.fixture
def study(copies) -> TinyStudy:
    return copies("study")


@pytest.fixture(scope="session")
def _small_template(tmp_path_factory) -> Path:
    """The folder of a small lake; opening a copy takes a third of making another."""
    folder = tmp_path_factory.mktemp("small")
    lake = Lake.under(folder)
    small_lake(lake)
    lake.close()
    return folder


@pytest.fixture
def small(_small_template, tmp_path):
    """A small lake of the test's own."""
    shutil.copytree(_small_template, tmp_path, dirs_exist_ok=True)
    lake = Lake.under(tmp_path)
    yield SmallLake.reopened(lake)
    lake.close()
