"""Inference options of the network: merged weights, fused attention, CUDA graphs, and out-of-memory errors."""

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
"""Requested size in the out-of-memory messages of torch's CPU and CUDA allocators."""


@contextmanager
def explain_oom(model: torch.nn.Module, device: str) -> Iterator[None]:
    """Context manager that turns a failed allocation into an error with the network's memory requirement.

    Args:
        model: still on the CPU; its weights are counted before they move.
        device: target device.

    Raises:
        ConfigError: too little memory; the message has the minimum that the network needs and the free amount.
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
    """Bytes held by this process's tensors on a device (0 on the CPU, where torch counts none), and free bytes."""
    if device.startswith("cuda"):
        held, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
        torch.cuda.empty_cache()
        return int(held), int(free)
    return 0, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


COMPILERS = ("", "inductor", "aot_eager")
"""Accepted backends of `torch.compile`: none, code generation, and tracing alone, for tests."""

_SHAPES = 64  # compiled variants of a block: widths times numbers of modalities


@dataclass(frozen=True)
class InferenceOptions:
    """Inference switches. The masks are equal for all of them, up to rounding.

    Attributes:
        merged: one Q/K/V matrix per modality instead of low-rank products.
        cache_pos_embed: cache Hiera's interpolated positional embedding between images of one size.
        folded: fold SAM 1's relative positions into a fused attention, see `vit.py`. Hiera is unaffected: its attention
            is already fused.
        channels_last: memory format of the feature maps.
        graphs: on a GPU, one CUDA graph per subset of the modalities, see `CudaGraphCache`; ignored elsewhere.
        compiler: backend of `torch.compile`, one of `COMPILERS`. Every subset of the modalities has its own shape,
            which is compiled at first use: 12 s on one core for the smallest backbone.
    """

    merged: bool = True
    cache_pos_embed: bool = True
    folded: bool = True
    channels_last: bool = True
    graphs: bool = True
    compiler: str = ""

    def __post_init__(self) -> None:
        """Validate the compiler.

        Raises:
            ConfigError: names the value and the accepted ones.
        """
        if self.compiler not in COMPILERS:
            known = ", ".join(filter(None, COMPILERS))
            raise ConfigError(f"compiler {self.compiler!r} is unknown; accepted are {known}, or nothing for none.")


ALL = InferenceOptions()
"""Every option that needs no compiler."""
REFERENCE = InferenceOptions(merged=False, cache_pos_embed=False, folded=False, channels_last=False, graphs=False)
"""No option at all."""


def prepare(model: MLESAM, device: str, dtype: torch.dtype, paths: InferenceOptions) -> MLESAM:
    """Prepare a model for inference, in place.

    Args:
        model: with float32 weights.
        device: target device.
        dtype: target dtype.
        paths: options to apply.
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
    """Compile block by block: blocks of equal shapes share the compiled code, and other layers gain too little."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for block in model.backbone.blocks:
        block.compile(backend=backend, dynamic=False)


DEVICES = ("cuda",)
"""Device types that can capture CUDA graphs."""

_FIRST_CALLS = 3  # warm-up calls before a capture, as torch requires: libraries select kernels and allocate workspaces
_MOST = 16  # every subset of four sensors

Images = Mapping[Modality, Tensor]
Work = Callable[[Images], Tensor]


class CudaGraphCache:
    """Captures a CUDA graph of the work per set of modalities at its first call, and replays it afterwards."""

    def __init__(self, work: Work) -> None:
        """Start without graphs.

        Args:
            work: modality → image on the device, to a tensor there. It must not synchronize with the device, and its
                control flow may depend only on the modalities and the image shape.
        """
        self._work = work
        self._recordings: dict[tuple[Any, ...], CapturedGraph] = {}
        self._size: torch.Size | None = None
        self._pool: Any = None
        self._plain = False

    def __call__(self, images: Images) -> Tensor:
        """Return the result of the work; the next call overwrites it.

        Work that cannot be captured runs eagerly from then on, after a warning with the reason.

        Args:
            images: modality → image on the device, all of one shape.
        """
        if self._plain:
            return self._work(images)
        size = next(iter(images.values())).shape[-2:]
        if size != self._size:  # tensors cached for the old size, such as positional embeddings, may be freed
            self.forget()
            self._size = size
        key = tuple(sorted((m, *image.shape) for m, image in images.items()))
        if key not in self._recordings:
            return self._record(key, images)
        return self._recordings[key](images)

    def forget(self) -> None:
        """Drop every captured graph, after a change of the weights or of the image size."""
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
    """CUDA graph of the work for one set of modalities and one image size."""

    def __init__(self, work: Work, images: Images, pool: Any) -> None:
        """Capture the graph.

        Args:
            work: see `CudaGraphCache`.
            images: example inputs, which are copied.
            pool: memory pool shared by all graphs, since only one is replayed at a time.
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
        """Replay the graph with new images."""
        for modality, image in images.items():
            self._images[modality].copy_(image, non_blocking=True)
        self._graph.replay()
        return self._result
