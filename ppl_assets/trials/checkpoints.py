"""Checkpoints of runs: written whole or not at all, read only where they are sound and of the very run.

One file a run, safetensors and never pickle: weights in training, AdamW's two moments and the random numbers, with
position and measurements in its header. It replaces the one before it, so a full run in float32 takes 12 bytes a
parameter on disk, and twice that while one is written. A run that is over keeps its measurements alone.
"""

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ppl_assets.durable import flush
from ppl_assets.trials.points import RunState, TrialPoint
from ppl_assets.trials.trainer import State, Trainer

FORMAT = "2"
"""Raise it when a checkpoint is written otherwise: earlier ones are then ignored."""

MINUTES = 10.0
"""A run is saved after every measurement, and whenever so much training is not saved yet."""

KEPT_DAYS = 30.0
"""A checkpoint that nobody has continued for so long belongs to a trial that is no longer wanted."""

UNSOUND = (OSError, SafetensorError, KeyError, TypeError, ValueError)
"""What reading a file raises that is torn, changed, or of something else."""


class Checkpoint:
    """The checkpoint of one run."""

    def __init__(self, file: Path, fingerprint: str, say: Callable[[str], None] = lambda _: None) -> None:
        """Name the file and the run; ``say`` is told, in one sentence, what a person should know."""
        self.file, self.fingerprint, self._say = file, fingerprint, say
        self._saved = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether so much training would be lost that it should be saved without a measurement."""
        return time.monotonic() - self._saved > 60.0 * MINUTES

    def finished(self) -> RunState | None:
        """The run, if it is over and its file can be trusted: its measurements need no training, on whatever device."""
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as held:
                is_over = json.loads(held.metadata()["run"])["state"]["is_over"]
            state = self._read()[0] if is_over else None
        except UNSOUND:
            return None  # resume says why
        if state:
            self._say(f"the run was over: its {len(state.points)} measurements are those of its checkpoint")
        return state

    def resume(self, trainer: Trainer) -> RunState | None:
        """Put the trainer where the run was.

        Returns:
            Where that is; None, and the trainer as it was, where there is no checkpoint, or none that can be trusted.
        """
        if not self.file.is_file():
            return None
        try:
            state, tensors = self._read(trainer.device_type)
            trainer.check(tensors)
        except UNSOUND as error:
            self._say(f"checkpoint {self.file.name} is ignored and the run begins anew: {error}")
            return None
        trainer.restore(tensors)
        self._say(f"the run goes on from its checkpoint at {state.tokens:,} tokens, {len(state.points)} measurements")
        return state

    def _read(self, device_type: str | None = None) -> tuple[RunState, State]:
        """Position and tensors, of a run on this type of device where one is given."""
        with safe_open(self.file, "pt") as held:
            metadata = held.metadata()
            header = json.loads(metadata["run"])
            tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - not a mapping
        if header["format"] != FORMAT:
            raise ValueError("another version wrote it")
        if header["fingerprint"] != self.fingerprint:
            raise ValueError("it is of another run")
        if metadata["digest"] != _digest(metadata["run"], tensors):
            raise ValueError("its content has changed since it was written")
        if device_type and header["device"] != device_type:
            raise ValueError(f"its run was on {header['device']}, and this one is on {device_type}")
        points = [TrialPoint(**point) for point in header["state"].pop("points")]
        return RunState(**header["state"], points=points), tensors

    def save(self, state: RunState, trainer: Trainer) -> None:
        """Replace the checkpoint. Where that fails the run goes on without, and says so."""
        began = time.monotonic()
        tensors = {"none": torch.zeros(1)} if state.is_over else trainer.state()
        given = {"format": FORMAT, "fingerprint": self.fingerprint, "device": trainer.device_type}
        header = json.dumps({**given, "state": asdict(state)})
        partial = self.file.with_suffix(".part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, partial, {"run": header, "digest": _digest(header, tensors)})
            flush(partial)
            size = partial.stat().st_size
            partial.replace(self.file)
            flush(self.file.parent)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            self._say(f"the run is not saved and cannot be resumed from here ({error}); make room in {partial.parent}")
        else:
            self._saved = time.monotonic()
            if state.steps and len(state.points) == 2:
                took = self._saved - began
                self._say(f"a checkpoint takes {size / 1e6:,.1f} MB in {self.file.parent} and {took:.2f} s")

    def remove(self) -> None:
        """The run's measurements are kept elsewhere now."""
        self.file.unlink(missing_ok=True)
        self.file.with_suffix(".part").unlink(missing_ok=True)


class CheckpointFolder:
    """The checkpoints of a study's runs, by fingerprint."""

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
        """Name the folder, and drop what nobody continued in :data:`KEPT_DAYS`."""
        self.folder, self._say = folder, say
        for file in [*folder.glob("*.safetensors"), *folder.glob("*.part")]:
            if time.time() - file.stat().st_mtime > KEPT_DAYS * 86_400.0:
                file.unlink(missing_ok=True)

    def of(self, fingerprint: str) -> Checkpoint:
        """The checkpoint of one run, which need not exist."""
        return Checkpoint(self.folder / f"{fingerprint}.safetensors", fingerprint, self._say)


def _digest(header: str, tensors: State) -> str:
    """Digest of everything in the file: position and measurements, and every tensor with its name, shape and type.

    Tensors are read side by side: one core does 0.7 GB a second, and a model of 7 B has 84 GB.
    """
    with ThreadPoolExecutor() as pool:
        parts = pool.map(_tensor_digest, tensors.items())
        return hashlib.blake2b("\n".join([header, *sorted(parts)]).encode(), digest_size=16).hexdigest()


def _tensor_digest(item: tuple[str, Tensor]) -> str:
    name, value = item
    content = value.reshape(-1).view(torch.uint8).numpy().data
    return f"{name} {tuple(value.shape)} {value.dtype} {hashlib.blake2b(content, digest_size=16).hexdigest()}"
