"""A backfill of many small corpora: from the command line's one process, and through the daemon as the UI starts it.

Runs of the daemon are executed in this process, without the ten seconds that a process of its own takes to start.

    python -m benchmarks.backfill --json > benchmarks/results/backfill.json
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.environment import device_name, note, print_figures, quiet, versions
from ppl_assets.automation.backfill import backfill
from ppl_assets.automation.instance import study_instance
from ppl_assets_tests.automation.daemon import daemon_works_off, launch_backfill, run_in_process
from ppl_assets_tests.automation.test_backfills import add_corpora
from ppl_assets_tests.conftest import STUDY, TinyStudy, write_corpora


def measured(corpora: int) -> dict[str, Any]:
    """Seconds of both ways, for so many corpora of one text each."""
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        folder = Path(made)
        write_corpora(folder)
        (folder / "study.toml").write_text(STUDY)
        study = TinyStudy(folder)
        patch.setenv("PPL_ASSETS_STUDY", str(study.file))
        names = add_corpora(study, corpora)
        with quiet():
            for job in ("set_test_documents_aside", "resolve_base_model"):
                assert study.materialize(job).success
        with study_instance(study.platform.study) as instance:
            began = time.perf_counter()
            console = Console(quiet=True)
            done = backfill(study.definitions, study.platform, instance, console, "chunks", names)
            here = time.perf_counter() - began
            note(f"{len(done.computed)} of {corpora} corpora from the command line in {here:.1f} s")
            assert len(done.computed) == corpora
            began = time.perf_counter()
            forced = backfill(study.definitions, study.platform, instance, console, "chunks", names[:20])
            unchanged = (time.perf_counter() - began) / len(forced.unchanged)
        run_in_process(patch, folder)
        patch.setenv("PPL__CHUNKS__MIN_TOKENS", "16")  # other inputs: everything is computed anew
        with study_instance(study.platform.study) as instance, quiet():
            began = time.perf_counter()
            status = daemon_works_off(instance, launch_backfill(instance, study.definitions, "chunks", names))
            daemon = time.perf_counter() - began
        note(f"{corpora} corpora through the daemon in {daemon:.1f} s: {status.value}")
        return {
            "corpora": corpora,
            "command_line_seconds": round(here, 1),
            "command_line_seconds_each": round(here / corpora, 3),
            "unchanged_seconds_each": round(unchanged, 3),
            "daemon_seconds": round(daemon, 1),
            "daemon_seconds_each": round(daemon / corpora, 3),
            "daemon_status": status.value,
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    print_figures({"machine": device_name("cpu"), **versions(), **measured(options.corpora)}, options.json)


if __name__ == "__main__":
    main()
