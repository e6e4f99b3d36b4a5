"""What every benchmark says: on which machine, with which packages, notes on the way, and its figures."""

import contextlib
import io
import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "accelerate", "lm-eval", "evaluate", "vllm", "numpy")


def note(text: str) -> None:
    """One line for whoever watches; the figures alone go to stdout."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and event logs."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def device_name(device: str) -> str:
    """The GPU, or the processor and how many threads are used."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = (
        [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
        if Path("/proc/cpuinfo").is_file()
        else []
    )
    return f"{found[0].split(':')[1].strip() if found else platform.processor()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str | None]:
    """Python and what is measured; None where it is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def print_figures(figures: dict[str, Any], as_json: bool) -> None:
    """Print figures as JSON, or a line each."""
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for key, value in figures.items():
        print(f"{key:30} {value}")
