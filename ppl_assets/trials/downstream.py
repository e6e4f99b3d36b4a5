"""Downstream measures of a trained model: a command of the team's own, or lm-eval tasks, run on its weights.

The trained model is written as an ordinary Hugging Face folder (safetensors and tokenizer), the command is run on it in
a process of its own without a shell, its JSON is read, and the folder is removed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_assets.errors import UserError

if TYPE_CHECKING:
    import transformers

MODEL, OUTPUT = "{model}", "{output}"
"""In a command: the folder of the trained model, and the JSON file (for lm-eval, the folder) to be written."""

SHOWN_LINES = 5
"""Last lines of a failed command's error output that are repeated."""

Measures = dict[str, float]


class DownstreamError(UserError, RuntimeError):
    """The command failed or wrote no measures; the message says what it was and how it ended."""


@dataclass(frozen=True)
class Downstream:
    """What is run on a trained model.

    Attributes:
        command: program and arguments, with ``{model}`` and ``{output}`` in place of the two paths.
        scratch: folder for the trained model while it is measured.
        save_tokenizer: writes the base model's tokenizer into a folder.
        run: runs a command; tests give their own.
    """

    command: tuple[str, ...]
    scratch: Path
    save_tokenizer: Callable[[Path], object]
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run

    def __call__(self, model: transformers.PreTrainedModel) -> Measures:
        """Measures of a trained model by name.

        Raises:
            DownstreamError: the command cannot be started, ends with an error, or writes no number.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch) as held:
            folder, output = Path(held) / "model", Path(held) / "output"
            model.save_pretrained(folder, safe_serialization=True)
            self.save_tokenizer(folder)
            self._execute(folder, output)
            return measures_of(self._document(output))

    def _execute(self, folder: Path, output: Path) -> None:
        given = [part.replace(MODEL, str(folder)).replace(OUTPUT, str(output)) for part in self.command]
        try:
            done = self.run(given, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise DownstreamError(
                f"the downstream command {self.command[0]!r} could not be started ({error}); give a program that is "
                "on the PATH, or its full path"
            ) from error
        if done.returncode:
            last = " | ".join((done.stderr or done.stdout or "no output").strip().splitlines()[-SHOWN_LINES:])
            raise DownstreamError(
                f"the downstream command {' '.join(self.command)!r} ended with code {done.returncode}: {last}; the "
                "trained run is kept and is measured again when the partition is materialized again"
            )

    def _document(self, output: Path) -> Any:
        """The JSON that the command wrote: at the path itself, or the newest in a folder there, as lm-eval does it."""
        files = [output] if output.is_file() else sorted(output.rglob("*.json"), key=lambda file: file.stat().st_mtime)
        if not files:
            return None
        try:
            return json.loads(files[-1].read_text(encoding="utf-8"))
        except ValueError as error:
            raise DownstreamError(
                f"the downstream command wrote no JSON ({error}); write one object of numbers to {OUTPUT}"
            ) from error


def lm_eval_command(tasks: Sequence[str], arguments: Sequence[str]) -> tuple[str, ...]:
    """The command that measures lm-eval tasks (EleutherAI's lm-evaluation-harness, which must be installed)."""
    model = ["--model", "hf", "--model_args", f"pretrained={MODEL},dtype=float32"]
    return (sys.executable, "-m", "lm_eval", *model, "--tasks", ",".join(tasks), "--output_path", OUTPUT, *arguments)


def measures_of(document: Any) -> Measures:
    """Every finite number of a JSON object by name; of lm-eval's own report, those of its results without errors.

    Names of nested objects are joined with ``/``.

    Raises:
        DownstreamError: there is none.
    """
    if isinstance(document, Mapping) and isinstance(document.get("results"), Mapping) and "config" in document:
        document = {
            task: {name.removesuffix(",none"): value for name, value in found.items() if "_stderr" not in name}
            for task, found in document["results"].items()
        }
    found = dict(_numbers(document, "")) if isinstance(document, Mapping) else {}
    if not found:
        raise DownstreamError(
            'the downstream command wrote no measure; write a JSON object of numbers, such as {"accuracy": 0.61}, '
            "to {output}"
        )
    return found


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        yield name, float(value)
