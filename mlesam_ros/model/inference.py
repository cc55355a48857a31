"""Inference options: fused operations, CUDA graphs, and errors of missing memory."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.backbones import HieraBackbone
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.vit import FusedRelPosAttention
from mlesam_ros.types import Modality

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")
"""How torch's allocators name what they were asked for, the CPU's and CUDA's."""


@contextmanager
def explain_oom(model: torch.nn.Module, device: str) -> Iterator[None]:
    """Within it, an allocation that fails says how much the network needs.

    Args:
        model: on the CPU still; its weights are counted before they move.
        device: where it is to run.

    Raises:
        ConfigError: there is too little memory; with what the network needs at least and what is free.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        asked = _ASKED.search(str(error))
        if asked is None and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        more = float(asked[1]) * _UNITS[asked[2]] if asked else 0.0
        raise ConfigError(_words(device, weights, more)) from error


def _words(device: str, weights: int, more: float) -> str:
    held, free = _held_and_free(device)
    needed = max(held, weights) + more
    return (
        f"the network does not fit into the memory of {device}: it needs at least {needed / 1e6:.0f} MB there, "
        f"{weights / 1e6:.0f} MB of them weights in fp32, and {free / 1e6:.0f} MB are free; end what else uses it, or "
        "set device to another, precision to bf16, or checkpoint to one on a smaller backbone."
    )


def _held_and_free(device: str) -> tuple[int, int]:
    """Bytes that this process's tensors hold on a device, as far as is known, and what is free there."""
    if device.startswith("cuda"):
        held, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
        torch.cuda.empty_cache()
        return int(held), int(free)
    return 0, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


COMPILERS = ("", "inductor", "aot_eager")
"""Backends of `torch.compile` that are accepted; none, code generation, and tracing alone, which tests need."""

_SHAPES = 64  # compiled variants of a block: its widths times how many modalities there are


@dataclass(frozen=True)
class InferenceOptions:
    """Switches. Whatever they say, the masks are the same up to rounding.

    Attributes:
        merged: one Q/K/V matrix per modality rather than low-rank products.
        keeps_position: Hiera's interpolated positional code is kept between pictures of one size.
        folded: SAM 1's relative positions are part of a fused attention, see `attention.py`; nothing changes in Hiera,
            whose attention is fused in Meta's code.
        channels_last: the order of a feature map's numbers in memory.
        graphs: on a GPU, a frame is one CUDA graph per subset of the modalities, see `graphs.py`; elsewhere no change.
        compiler: backend of `torch.compile`, one of `COMPILERS`. Every subset of the modalities is a shape of its own,
            which is traced when it is first met: 12 s of one core for the smallest backbone.
    """

    merged: bool = True
    cache_pos_embed: bool = True
    folded: bool = True
    channels_last: bool = True
    graphs: bool = True
    compiler: str = ""

    def __post_init__(self) -> None:
        """Refuse a compiler that there is not.

        Raises:
            ConfigError: names the value and what is accepted.
        """
        if self.compiler not in COMPILERS:
            known = ", ".join(filter(None, COMPILERS))
            raise ConfigError(f"compiler {self.compiler!r} is unknown; accepted are {known}, or nothing for none.")


ALL = InferenceOptions()
"""Those that need no compiler."""
REFERENCE = InferenceOptions(merged=False, cache_pos_embed=False, folded=False, channels_last=False, graphs=False)
"""None of them."""


def prepare(model: MLESAM, device: str, dtype: torch.dtype, paths: InferenceOptions) -> MLESAM:
    """Make a model ready for inference, in place.

    Args:
        model: with float32 weights.
        device: to move it to.
        dtype: to round it to.
        paths: what to use.
    """
    if paths.merged:
        model.experts.merge()  # in float32, before rounding
    model.eval().to(device, dtype)
    if paths.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack it
    if isinstance(model.backbone, HieraBackbone):
        model.backbone.trunk.cache_pos_embed = paths.cache_pos_embed
    for block in model.backbone.blocks:
        if isinstance(block.attn, FusedRelPosAttention):
            block.attn.fused = paths.folded
    if paths.compiler:
        _compile(model, paths.compiler)
    return model


def _compile(model: MLESAM, backend: str) -> None:
    """Block by block: blocks of equal shapes share what is made, and the rest is too little to be worth the wait."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for block in model.backbone.blocks:
        block.compile(backend=backend, dynamic=False)


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
