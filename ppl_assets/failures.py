"""What a failure of the machine means, in one sentence: memory ran out, the GPU was lost, the disk is full.

Belongs here: telling these three from every other error, and what to do about each. Does not belong here: when a step
is tried again (``resources.py``), and passes that are halved where they do not fit (scorer and trainer do it
themselves).
"""

import errno
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from ppl_assets.errors import UserError


class MachineError(UserError):
    """The machine failed, not the study; what was finished is kept."""


class MemoryLackError(MachineError):
    """Memory ran out, of the host or of a device."""


class DeviceLostError(MachineError):
    """The GPU stopped answering; this process cannot use it any more, another one may."""


class DiskFullError(MachineError):
    """A disk is full."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_SIGNS = ("no space left on device", "disk is full", "disk full", "disk quota exceeded")

_LOST_SIGNS = (
    "cuda error",
    "cuda driver error",
    "no cuda-capable device",
    "no cuda gpus are available",
    "cublas_status_",
    "cudnn_status_",
    "nccl error",
)
"""What torch says of a device that failed. After most of these nothing on it works until the process has ended."""

_LESS_MEMORY = {
    "chunks": "divide the corpus with corpora.NAME.buckets",
    "perplexity_scores": "lower score.row_tokens, or divide the corpus with corpora.NAME.buckets",
    "trial_losses": "lower trials.micro_tokens, set trials.gradient_checkpointing = true, or set trials.lora_rank",
    "strategy_losses": "lower trials.micro_tokens, or set trials.gradient_checkpointing = true",
    "final_subset": "lower selection.memory_gib",
    "base_model": "lower base_model.recipe.batch_tokens, or name a smaller base_model.source",
}
"""Which settings lower what an asset holds in memory at a time."""

_FEWER_CHUNKS = "lower chunks.max_tokens, or corpora.NAME.sample"
"""For everything that holds one row a chunk."""


_MEMORY_SIGNS = ("out of memory", "alloc_failed", "can't allocate memory")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, under whichever name: torch's own, cuBLAS', or wrapped by a compiler."""
    torch, text = sys.modules.get("torch"), str(error).lower()  # what was never imported raised nothing
    is_torchs = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return is_torchs or any(sign in text for sign in _MEMORY_SIGNS)


def machine_failure(error: BaseException, asset: str, folder: Path) -> MachineError | None:
    """The failure of the machine that an error, or what caused it, comes from; None where it is something else.

    Args:
        error: what was raised.
        asset: what was being computed, e.g. ``trial_losses``.
        folder: where the study writes; its free space is named where the error does not say which file it was.
    """
    for cause in _chain(error):
        if isinstance(cause, MachineError):
            return cause
        if _is_full(cause):
            return DiskFullError(_full_sentence(cause, folder))
    for cause in _chain(error):
        if isinstance(cause, UserError):  # it says itself what to do
            return None
        if _is_lost(cause):
            return DeviceLostError(
                f"the GPU failed while {asset} was computed ({_first_line(cause)}); what was finished is kept: look at "
                "nvidia-smi and the system's log, then run it again in a new process"
            )
        if isinstance(cause, MemoryError) or (isinstance(cause, Exception) and is_out_of_memory(cause)):
            where = "of the GPU" if "cuda" in str(cause).lower() else "of this machine"
            return MemoryLackError(
                f"the memory {where} does not hold {asset} ({_first_line(cause)}); what was finished is kept: "
                f"{_LESS_MEMORY.get(asset, _FEWER_CHUNKS)}, or give it a machine with more"
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _is_full(error: BaseException) -> bool:
    """Whether this is the system, or a library, saying so; not a sentence of ours that quotes somebody's text."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return not isinstance(error, UserError) and any(sign in str(error).lower() for sign in _FULL_SIGNS)


def _is_lost(error: BaseException) -> bool:
    """Whether this is torch saying that a device failed."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return any(sign in str(error).lower() for sign in _LOST_SIGNS)


def _full_sentence(error: BaseException, folder: Path) -> str:
    named = getattr(error, "filename", None)
    place = Path(named) if isinstance(named, str) else folder
    while not place.is_dir() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free / 1e6
    return (
        f"the disk that holds {place} is full, {free:,.1f} MB are free ({_first_line(error)}); nothing half-written "
        "is kept: make room, or point storage.root at another disk, and run it again"
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
