"""Which device the model runs on, and whether its memory ran out."""

import torch

from ppl_assets.errors import UserError


class DeviceError(UserError, ValueError):
    """There is no such device."""


def resolve_device(wanted: str) -> str:
    """``auto`` becomes cuda where there is one, else cpu.

    Raises:
        DeviceError: cuda is asked for and there is none.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "study.device = 'cuda', but torch sees no CUDA device; use 'auto' or 'cpu', or a CUDA build of torch"
        )
    return wanted


_MEMORY_SIGNS = ("out of memory", "alloc_failed", "can't allocate memory")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, under whichever name: torch's own, cuBLAS', or wrapped by a compiler."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _MEMORY_SIGNS)
