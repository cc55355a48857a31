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
        open: whether it is being recorded.
    """

    def __init__(self):
        super().__init__()
        self._calls, self.plays, self.open = [], 0, False

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


class Streams:
    """Stands in for the streams of a device: which were made, and which is the current one."""

    def __init__(self):
        self.made, self.current = [], FakeStream()

    def make(self, device=None):
        self.made.append(FakeStream())
        return self.made[-1]

    def set_current(self, stream):
        self.current = stream

    @contextmanager
    def use(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def capture(self, tape, pool, stream, capture_error_mode):
        """As `torch.cuda.graph`: an error within ends in another error, and leaves the capture's stream current."""
        assert pool == POOL and stream in self.made
        before, self.current = self.current, stream
        tape.open = True
        try:
            with tape:
                yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904  (torch's own)
        finally:
            tape.open = False
        self.current = before


class FakeStream:
    def wait_stream(self, other):
        pass


POOL = (0, 1)


@contextmanager
def tapes(monkeypatch):
    """Within it the CPU records on tapes what a GPU would in graphs; gives the list of those that were made."""
    made, streams = Tapes(), Streams()
    made.streams = streams

    def graph():
        made.append(Tape())
        return made[-1]

    stand_ins = {
        "CUDAGraph": graph,
        "graph": streams.capture,
        "graph_pool_handle": lambda: POOL,
        "Stream": streams.make,
        "current_stream": lambda device=None: streams.current,
        "set_stream": streams.set_current,
        "stream": streams.use,
        "device": lambda device: nullcontext(),
    }
    with monkeypatch.context() as patch:
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)
        yield made


class Tapes(list):
    """The tapes that were made, and the `streams` that they were recorded on."""

    streams = None
