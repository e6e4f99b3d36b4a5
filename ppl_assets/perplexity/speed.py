"""How fast scoring is, and how fast the machine could be: floating-point work, matrix-product ceiling, clock.

Belongs here: what is measured and what it is compared with. A model's work is the usual count for one forward pass:
two operations for every weight of a matrix and token, and the attention of each token to those before it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import transformers

CEILING_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows, columns and depth of the product that measures a device's ceiling."""

CEILING_PRODUCTS = 5
"""Products in a row: on a shared machine a single one says little."""


class DeviceClock:
    """Moments on a device: on CUDA work is queued, so a moment is an event in the queue, not the host's time."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def now(self) -> float | torch.cuda.Event:
        """This moment in the device's order of work."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def wait(moment: float | torch.cuda.Event) -> None:
        """Wait until the device has come to this moment."""
        if not isinstance(moment, float):
            moment.synchronize()

    @staticmethod
    def between(first: float | torch.cuda.Event, last: float | torch.cuda.Event) -> float:
        """Seconds from ``first`` to ``last``; the work up to ``last`` must be finished."""
        if isinstance(first, float) or isinstance(last, float):
            return float(last) - float(first)  # type: ignore[arg-type]
        return first.elapsed_time(last) / 1000.0


def forward_flops(model: transformers.PreTrainedModel, lengths: Sequence[int] | np.ndarray) -> float | None:
    """Floating-point operations of one forward pass over documents of these many tokens, attended causally.

    None for mixtures of experts, where which weights work depends on the tokens.
    """
    config = model.config.get_text_config()
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    weights = sum(
        m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear | transformers.pytorch_utils.Conv1D)
    )
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * size
    counts = np.asarray(lengths, dtype=np.float64)
    pairs = float((counts * (counts + 1) / 2).sum())
    return 2.0 * weights * float(counts.sum()) + 4.0 * config.num_hidden_layers * width * pairs


def matmul_rate(device: str, dtype: str, products: int = CEILING_PRODUCTS) -> float:
    """Floating-point operations a second of large square matrix products, one after another, after one to warm up."""
    where = torch.device(device)
    size, clock, kind = CEILING_SIZE[where.type], DeviceClock(where), getattr(torch, dtype)
    left, right = (torch.rand(size, size, device=where).to(kind) for _ in range(2))
    torch.mm(left, right)
    began = clock.now()
    for _ in range(products):
        torch.mm(left, right)
    ended = clock.now()
    if where.type == "cuda":
        torch.cuda.synchronize()
    return 2.0 * size**3 * products / clock.between(began, ended)


@lru_cache(maxsize=4)
def matmul_ceiling(device: str, dtype: str) -> float:
    """:func:`matmul_rate` of this machine, measured once a process."""
    return matmul_rate(device, dtype)
