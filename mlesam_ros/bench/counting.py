"""What a function asks of a device, counted rather than timed: the same on every machine, busy or not."""

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
"""Operations whose result, or its shape, the host must know: a GPU's queue runs empty at each."""


_WHOLE = {"scaled_dot_product_attention"}
"""One fused kernel on a GPU and on the CPU; only the meta device takes it apart."""


class OpCounter(TorchDispatchMode):
    """Counts what runs within it.

    On the meta device, whose tensors have shapes but no numbers, it shows what a GPU would be asked for, without one:
    whatever needs a number fails there, but for transfers to the host, which give zeros.

    Attributes:
        operations: those that compute or move something; each is a kernel launch on a GPU, or a few.
        views: those that only look at memory in another way.
        waits: name → how often the host asked for something that only the device knows, other than by a transfer.
        uploads, reads: transfers from the host to a device, and back; bytes in `uploaded` and `read`.
        allocations: new blocks of memory for results, and their bytes in `allocated`.
        peak: most bytes of them that were alive at once.
    """

    def __init__(self) -> None:
        """All zero."""
        super().__init__()
        self.operations = self.views = self.uploads = self.uploaded = self.reads = self.read = 0
        self.allocations = self.allocated = self.alive = self.peak = 0
        self.waits: Counter[str] = Counter()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let it run, and count."""
        name = func.overloadpacket.__name__
        if name not in _WHOLE:
            with self:  # in inference mode an operation that is made of others comes whole
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        by_mask = name.startswith("index") and any(t.dtype == torch.bool for t in given[1:])  # how many are true?
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
        """Run, and see whether anything changes places."""
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
        """Whether its memory is new to us."""
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
    """What one call asks for."""
    with OpCounter() as counting:
        work()
    return counting
