"""Which device the model runs on."""

import importlib.metadata

from ppl_assets.errors import UserError


class DeviceError(UserError, ValueError):
    """There is no such device."""


def resolve_device(wanted: str) -> str:
    """``auto`` becomes cuda where there is one, else cpu.

    Raises:
        DeviceError: cuda is asked for and there is none.
    """
    if wanted == "auto":
        return "cuda" if _has_cuda() else "cpu"
    if wanted == "cuda" and not _has_cuda():
        raise DeviceError(
            "study.device = 'cuda', but torch sees no CUDA device; use 'auto' or 'cpu', or a CUDA build of torch"
        )
    return wanted


def _has_cuda() -> bool:
    """Whether torch sees a CUDA device. A build for CPUs says so by its version, without being imported."""
    if importlib.metadata.version("torch").endswith("+cpu"):
        return False
    import torch  # noqa: PLC0415 - takes seconds, and every step asks for the device

    return torch.cuda.is_available()
