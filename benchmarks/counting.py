# SPDX-License-Identifier: Apache-2.0
"""Operations, transfers, synchronizations, allocations and peak memory of a function, independent of machine load."""

from __future__ import annotations

import re
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs
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


def asked_bytes(work: Callable[[], object], device: str = "cpu") -> int:
    """Peak of the bytes that `work` requests; deterministic, also on a loaded machine.

    Counts arrays, other Python objects and the results of torch operations on the device. Internal buffers of libraries
    are not counted on the CPU; on a GPU the caching allocator includes them.

    Args:
        work: called once.
        device: device that torch uses, such as `cpu` or `cuda`.
    """
    count(lambda: torch.zeros(1).neg())  # imports of the counter itself would dominate most results
    tracemalloc.start()
    try:
        there = _gpu_bytes(work, device) if device.startswith("cuda") else count(work).peak
        return tracemalloc.get_traced_memory()[1] + there
    finally:
        tracemalloc.stop()


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak memory of `work` in bytes above the level before: of the GPU if there is one, otherwise of this process.

    Memory that the process has freed but not returned to the system hides growth: measure in a new process.
    """
    if torch.cuda.is_available():
        return _gpu_bytes(work, "cuda")
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _gpu_bytes(work: Callable[[], object], device: str) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _status(name: str) -> int:
    """Return an entry of /proc/self/status in bytes; 0 if it is missing."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
