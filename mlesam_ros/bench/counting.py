"""Count the operations, transfers, synchronizations and allocations of a function, independent of machine load."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_unique2"}
"""Operations whose value or output shape is needed on the host: each one synchronizes with the GPU."""


_WHOLE = {"scaled_dot_product_attention"}
"""Operations with one fused kernel on GPU and CPU; only the meta device decomposes them."""


class OpCounter(TorchDispatchMode):
    """Dispatch mode that counts the operations executed within it.

    On the meta device, whose tensors have shapes but no values, it shows the work of a GPU without having one. There,
    operations that need a value fail, except for transfers to the host, which return zeros.

    Attributes:
        operations: operations that compute or move data; each one is at least one kernel launch on a GPU.
        views: operations that return only views.
        waits: operation name → number of host synchronizations, transfers excluded.
        uploads, reads: number of transfers from host to device and back; their bytes in `uploaded` and `read`.
        allocations: number of new storages for results; their bytes in `allocated`.
        peak: maximum bytes of these storages that were alive at once.
    """

    def __init__(self) -> None:
        """Set all counters to zero."""
        super().__init__()
        self.operations = self.views = self.uploads = self.uploaded = self.reads = self.read = 0
        self.allocations = self.allocated = self.alive = self.peak = 0
        self.waits: Counter[str] = Counter()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute an operation and count it."""
        name = func.overloadpacket.__name__
        if name not in _WHOLE:
            with self:  # in inference mode composite operations arrive undecomposed
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        by_mask = name.startswith("index") and any(t.dtype == torch.bool for t in given[1:])  # the mask sets the shape
        self.waits.update([name] if name in _WAITS or by_mask else [])
        for tensor in given:
            self._know(tensor)
        result = self._moved(func, given, args, kwargs or {})
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        fresh = [tensor for tensor in made if self._know(tensor)]
        for tensor in fresh:
            self._allocate(tensor)
        if fresh or func._schema.is_mutable or not made:
            self.operations += 1
        else:
            self.views += 1
        return result

    def _moved(self, func: Any, given: list[Tensor], args: Any, kwargs: Any) -> Any:
        """Execute an operation and count a transfer if a tensor changes its device."""
        name, target = func.overloadpacket.__name__, kwargs.get("device")
        if name == "_to_copy" and target is not None and torch.device(target).type != given[0].device.type:
            self._transfer(given[0])
            if given[0].is_meta:
                return torch.zeros(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype, device=target)
        elif len({tensor.device.type for tensor in given if tensor.dim()}) > 1:
            self._transfer(next(tensor for tensor in reversed(given) if tensor.dim()))
        return func(*args, **kwargs)

    def _transfer(self, tensor: Tensor) -> None:
        if tensor.device.type == "cpu":
            self.uploads += 1
            self.uploaded += tensor.nbytes
        else:
            self.reads += 1
            self.read += tensor.nbytes

    def _know(self, tensor: Tensor) -> bool:
        """Register the storage of a tensor and return whether it was new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return False
        self._known.add(key)
        weakref.finalize(storage, self._known.discard, key)
        return True

    def _allocate(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.allocations += 1
        self.allocated += size
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.alive -= size


def count(work: Callable[[], object]) -> OpCounter:
    """Count one call of `work`."""
    with OpCounter() as counting:
        work()
    return counting
