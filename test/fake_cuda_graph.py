# SPDX-License-Identifier: Apache-2.0
"""A CUDA graph's stand-in for a machine without a GPU: it records what torch is asked for, and asks for it again.

As a graph does, it keeps addresses and shapes and knows nothing of the Python in between; so a number that left its
tensor on the way, or a decision by a value, is repeated from the recording, and shows as a wrong result.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Stands in for `torch.cuda.CUDAGraph`.

    Attributes:
        plays: how often it was played.
    """

    def __init__(self):
        super().__init__()
        self._calls, self.plays = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:  # in inference mode an operation that is made of others comes whole
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        self.plays += 1
        for func, args, kwargs, result in self._calls:
            for old, new in zip(tensors(result), tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither a view nor written in place
                    old.copy_(new)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class _Stream:
    def wait_stream(self, other):
        pass


@contextmanager
def _recording(tape, pool, capture_error_mode):
    assert pool == POOL
    with tape:
        yield


POOL = (0, 1)


@contextmanager
def tapes(monkeypatch):
    """Within it the CPU records on tapes what a GPU would in graphs; gives the list of those that were made."""
    made = []

    def graph():
        made.append(Tape())
        return made[-1]

    stand_ins = {
        "CUDAGraph": graph,
        "graph": _recording,
        "graph_pool_handle": lambda: POOL,
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
    }
    with monkeypatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)
        yield made
