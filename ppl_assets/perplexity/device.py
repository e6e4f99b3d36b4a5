"""Which device the model runs on."""

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
