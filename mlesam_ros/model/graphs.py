"""CUDA graphs: what a frame asks of the GPU is recorded once for each set of sensors, and then played back.

A frame is several hundred kernels, and the host needs some microseconds to launch each; a recording is one launch. It
has fixed shapes and reads and writes fixed addresses, so pictures are copied to where those lay that it was made with,
and its result must be read before the next call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mlesam_ros.frame import Modality

DEVICES = ("cuda",)
"""Kinds of devices that can record."""

_FIRST_CALLS = 3  # before a recording, as torch asks for: libraries choose their kernels and allocate what they need
_MOST = 16  # every subset of four sensors

Images = Mapping[Modality, Tensor]
Work = Callable[[Images], Tensor]


class CudaGraphCache:
    """Work that is recorded when a set of sensors is first seen, and played back from then on."""

    def __init__(self, work: Work) -> None:
        """Record nothing yet.

        Args:
            work: modality → picture on the device, to a tensor there. It must ask the device for nothing, and decide by
                nothing but which modalities there are and the pictures' shape.
        """
        self._work = work
        self._recordings: dict[tuple[Any, ...], CapturedGraph] = {}
        self._size: torch.Size | None = None
        self._pool: Any = None
        self._plain = False

    def __call__(self, images: Images) -> Tensor:
        """What the work gives; the next call writes over it.

        Work that cannot be recorded is done plainly from then on, with a warning that says why.

        Args:
            images: modality → picture on the device, all of one shape.
        """
        if self._plain:
            return self._work(images)
        size = next(iter(images.values())).shape[-2:]
        if size != self._size:  # what was kept for the old size, such as positional codes, may be gone
            self.forget()
            self._size = size
        key = tuple(sorted((m, *image.shape) for m, image in images.items()))
        if key not in self._recordings:
            return self._record(key, images)
        return self._recordings[key](images)

    def forget(self) -> None:
        """Drop every recording: weights have moved, or the pictures' size has changed."""
        self._recordings, self._size, self._pool, self._plain = {}, None, None, False

    def _record(self, key: tuple[Any, ...], images: Images) -> Tensor:
        if len(self._recordings) == _MOST:
            self._recordings.pop(next(iter(self._recordings)))
        try:
            with torch.cuda.device(next(iter(images.values())).device):
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                recording = self._recordings[key] = CapturedGraph(self._work, images, self._pool)
        except RuntimeError as error:
            self.forget()
            self._plain = True
            reason = str(error).partition("\n")[0]
            warnings.warn(f"frames are not recorded as CUDA graphs, and take longer: {reason}", RuntimeWarning, 2)
            return self._work(images)
        return recording(images)


class CapturedGraph:
    """The work for one set of sensors and one size of their pictures."""

    def __init__(self, work: Work, images: Images, pool: Any) -> None:
        """Record.

        Args:
            work: see `CudaGraphCache`.
            images: to record with.
            pool: memory that recordings share, since only one is played at a time.
        """
        self._images = {m: image.clone() for m, image in images.items()}
        self._graph = torch.cuda.CUDAGraph()
        queue, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(queue)
        with torch.cuda.stream(aside):
            for _ in range(_FIRST_CALLS):
                work(self._images)
        queue.wait_stream(aside)
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._result = work(self._images)

    def __call__(self, images: Images) -> Tensor:
        """Play it with other pictures."""
        for modality, image in images.items():
            self._images[modality].copy_(image, non_blocking=True)
        self._graph.replay()
        return self._result
