"""Peak memory that a function takes for its tensors, counted operation by operation."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Storages(TorchDispatchMode):
    """Bytes of the storages that were made since, and are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self._known = 0, 0, set()

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        before = {x.untyped_storage().data_ptr() for x in tree_leaves((args, given)) if isinstance(x, torch.Tensor)}
        result = function(*args, **given)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), before)
        return result

    def _count(self, storage: Any, before: set[int]) -> None:
        key = storage.data_ptr()
        if key in before or key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def peak_megabytes(function: Callable[[], Any]) -> float:
    """Most memory that tensors made by ``function`` take at a time, in units of 2^20 bytes."""
    with _Storages() as storages:
        kept = function()
    del kept
    return storages.peak / 2**20
