# SPDX-License-Identifier: Apache-2.0
"""Inference with PyTorch: merged weights, fused attention, CUDA graphs, the packed result, and out-of-memory errors."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.backbones import LEVELS, HieraBackbone
from mlesam_ros.model.hiera import cached_values
from mlesam_ros.model.mlesam import MLESAM, Features, Output
from mlesam_ros.model.vit import FusedRelPosAttention
from mlesam_ros.types import Modality

TORCH = "torch"
"""Name of the runtime."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name → dtype of the network. `auto` is bf16 where the processor multiplies in it natively, else fp32."""

Image = npt.NDArray[np.float32]
Upload = Callable[[Image], Tensor]

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
        if not is_oom(error):
            raise
        asked = _ASKED.search(str(error))
        more = float(asked[1]) * _UNITS[asked[2]] if asked else 0.0
        raise _oom_error(device, weights, more) from error


def is_oom(error: Exception) -> bool:
    """Whether an error is a failed allocation, on a GPU or by torch's CPU allocator, whose type is RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(_ASKED.search(str(error)))


def _oom_error(device: str, weights: int, more: float) -> ConfigError:
    held, free = _held_and_free(device)
    needed = max(held, weights) + more
    return ConfigError(
        f"the network does not fit into the memory of {device}: it needs at least {needed / 1e6:.0f} MB there, "
        f"{weights / 1e6:.0f} MB of them weights in fp32, and {free / 1e6:.0f} MB are free.",
        "End other processes that use it, or set device to another, precision to bf16, or checkpoint to one on a "
        "smaller backbone.",
    )


def _held_and_free(device: str) -> tuple[int, int]:
    """Bytes held by this process's tensors on a device (0 on the CPU, where torch counts none), and free bytes."""
    if device.startswith("cuda"):
        held, free = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[0]
        torch.cuda.empty_cache()
        return int(held), int(free)
    return 0, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class InferenceOptions:
    """Inference switches. The masks are equal for all of them, up to rounding.

    Attributes:
        merged: one Q/K/V matrix per modality instead of low-rank products.
        cache_pos_embed: cache Hiera's interpolated positional embedding between images of one size.
        fused_rel_pos: fold SAM 1's relative positions into a fused attention, see `vit.py`. Hiera is unaffected: its
            attention is already fused.
        channels_last: memory format of the feature maps.
        graphs: on a GPU, one CUDA graph per subset of the modalities and shape of the images, see `CudaGraphCache`;
            ignored elsewhere.
    """

    merged: bool = True
    cache_pos_embed: bool = True
    fused_rel_pos: bool = True
    channels_last: bool = True
    graphs: bool = True


ALL = InferenceOptions()
"""Every option."""
REFERENCE = InferenceOptions(
    merged=False, cache_pos_embed=False, fused_rel_pos=False, channels_last=False, graphs=False
)
"""No option at all."""


def prepare(model: MLESAM, device: str, dtype: torch.dtype, options: InferenceOptions) -> MLESAM:
    """Prepare a model for inference, in place.

    Args:
        model: with float32 weights.
        device: target device.
        dtype: target dtype.
        options: which optimizations to apply.
    """
    if options.merged:
        model.experts.merge()  # in float32, before rounding
    model.eval().to(device, dtype)
    if options.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack it
    if isinstance(model.backbone, HieraBackbone):
        model.backbone.trunk.cache_pos_embed = options.cache_pos_embed
    for block in model.backbone.blocks:
        if isinstance(block.attn, FusedRelPosAttention):
            block.attn.fused = options.fused_rel_pos
    return model


DEVICES = ("cuda",)
"""Device types that can capture CUDA graphs."""

_WARM_UP_CALLS = 3  # before a capture, as torch requires: libraries select kernels and allocate workspaces
_MAX_GRAPHS = 64  # every subset of four sensors, of one to four frame sets

Images = Mapping[Modality, Tensor]
Work = Callable[[Images], Tensor]


class CudaGraphCache:
    """Captures a CUDA graph of the work per modalities and shape of the images at their first call, and replays it.

    With the first frame of some modalities the graphs of all but one of them are captured, too, so that the loss of a
    sensor causes no delay.
    """

    def __init__(self, work: Work, held: Callable[[], object] = lambda: None) -> None:
        """Start without graphs.

        Args:
            work: modality → image on the device, to a tensor there. It must not synchronize with the device, and its
                control flow may depend only on the modalities and the image shape.
            held: returns tensors that the work caches and has used last, which a graph that reads them keeps.
        """
        self._work, self._held = work, held
        self._graphs: dict[Key, CapturedGraph] = {}
        self._eager: set[Key] = set()
        self._pool: Any = None
        self._stream: Any = None  # of all captures: each stream has a workspace of its own in cuBLAS

    def __call__(self, images: Images) -> Tensor:
        """Return the result of the work; the next call overwrites it.

        Work that cannot be captured for some modalities and a shape runs eagerly for them from then on, after a warning
        with the reason.

        Args:
            images: modality → image on the device, all of one shape.
        """
        key = _key(images)
        if not self._knows(key):
            of_a_loss = any(set(key) < set(known) for known in (*self._graphs, *self._eager))
            self._capture(key, images)
            for lost in () if of_a_loss or len(images) == 1 else images:
                others = {m: image for m, image in images.items() if m != lost}
                if not self._knows(_key(others)):
                    self._capture(_key(others), others)
        return self._work(images) if key in self._eager else self._graphs[key](images)

    def reset(self) -> None:
        """Drop every captured graph, after a change of the weights."""
        self._graphs, self._eager, self._pool = {}, set(), None

    def _knows(self, key: Key) -> bool:
        return key in self._graphs or key in self._eager

    def _capture(self, key: Key, images: Images) -> None:
        device, reason = next(iter(images.values())).device, ""
        with torch.cuda.device(device):
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._stream = self._stream or torch.cuda.Stream(device)
            try:
                graph = CapturedGraph(self._work, images, self._pool, self._stream)
            except RuntimeError as error:
                reason = _cause(error)
        if reason:  # after the error, whose traceback holds tensors of the capture
            self._eager.add(key)
            self._pool = self._pool if self._graphs else None
            warnings.warn(
                f"CUDA graphs cannot be captured, so frames run eagerly and take longer: {reason}", RuntimeWarning, 3
            )
            return
        if len(self._graphs) == _MAX_GRAPHS:
            self._graphs.pop(next(iter(self._graphs)))
        graph.held = self._held()
        self._graphs[key] = graph


Key = tuple[tuple[Any, ...], ...]


def _key(images: Images) -> Key:
    """Modalities and shapes of images."""
    return tuple(sorted((m, *image.shape) for m, image in images.items()))


def _cause(error: BaseException) -> str:
    """First line of the error that was raised first: the end of a failed capture raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


class CapturedGraph:
    """CUDA graph of the work for one set of modalities and one shape of the images.

    Attributes:
        held: tensors that it reads, see `CudaGraphCache`.
    """

    held: object = None

    def __init__(self, work: Work, images: Images, pool: Any, stream: Any) -> None:
        """Capture the graph.

        Args:
            work: see `CudaGraphCache`.
            images: example inputs, which are copied.
            pool: memory pool shared by all graphs, since only one is replayed at a time.
            stream: for the calls before the capture, and the capture.
        """
        self._images = {m: image.clone() for m, image in images.items()}
        self._graph = torch.cuda.CUDAGraph()
        queue = torch.cuda.current_stream()
        stream.wait_stream(queue)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_CALLS):
                work(self._images)
        queue.wait_stream(stream)
        try:
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._result = work(self._images)
        finally:
            torch.cuda.set_stream(queue)  # torch leaves the capture's stream current when the capture fails

    def __call__(self, images: Images) -> Tensor:
        """Replay the graph with new images."""
        for modality, image in images.items():
            self._images[modality].copy_(image, non_blocking=True)
        self._graph.replay()
        return self._result


class TorchRuntime:
    """Runs the network with PyTorch, with one synchronization per frame set; on a GPU by CUDA graphs.

    Attributes:
        model: the network; assign it, or call `reset`, when its weights change.
        reports_nonfinite: whether NaN and infinite values of the images are detected on the device, in the result.
    """

    name = TORCH

    def __init__(self, model: MLESAM, device: str, precision: str, upload: Upload, graphs: bool = True) -> None:
        """Take a prepared model.

        Args:
            model: result of `prepare`.
            device: of the model.
            precision: of the model, one of `PRECISIONS`.
            upload: copies an array to the device.
            graphs: whether CUDA graphs are captured on a GPU.
        """
        self._model, self.precision, self._upload = model, precision, upload
        self._dtype = PRECISIONS[precision]
        self._graphs = CudaGraphCache(self.infer_packed, self._held) if graphs and device.startswith(DEVICES) else None
        self.reports_nonfinite = not device.startswith("cpu")

    @property
    def model(self) -> MLESAM:
        """The network as it runs."""
        return self._model

    @model.setter
    def model(self, model: MLESAM) -> None:
        self._model = model
        self.reset()

    def reset(self) -> None:
        """Invalidate captured CUDA graphs."""
        if self._graphs is not None:
            self._graphs.reset()

    def _held(self) -> object:
        """Tensors that the model caches for the shape of the last images."""
        return cached_values(self._model)

    def __call__(self, images: Mapping[Modality, Image | Tensor]) -> Prediction:
        """Run the network on one frame set; see `Runtime`."""
        return self.batch([images])[0]

    def batch(self, sets: Sequence[Mapping[Modality, Image | Tensor]]) -> list[Prediction]:
        """Run the network on several frame sets at once; see `Runtime`."""
        with torch.inference_mode():
            there = self.to_device(sets)
            packed = self.infer_packed(there) if self._graphs is None else self._graphs(there)
            height, width = next(iter(there.values())).shape[-2:]
            modalities = tuple(m for m in self._model.experts.modalities if m in there)
            return unpack(packed, (height, width), modalities)

    def features(self, images: Mapping[Modality, Image]) -> Features:
        """Run only the encoder, on one frame set."""
        with torch.inference_mode():
            return self._model.features(self._rounded(self.to_device([images])))

    def to_device(self, sets: Sequence[Mapping[Modality, Image | Tensor]]) -> dict[Modality, Tensor]:
        """Modality → (B, 3, h, w) on the device, of B frame sets."""
        there = [{m: i if isinstance(i, Tensor) else self._upload(i) for m, i in images.items()} for images in sets]
        if len(there) == 1:
            return {m: image[None] for m, image in there[0].items()}  # without a copy
        return {m: torch.stack([images[m] for images in there]) for m in there[0]}

    def infer_packed(self, images: Images) -> Tensor:
        """Images on the device to the result of `pack` there, without synchronization.

        Args:
            images: modality → (B, 3, h, w).
        """
        tensors = self._rounded(images)
        height, width = next(iter(tensors.values())).shape[-2:]
        return pack(self._model(tensors), (height, width), tensors if self.reports_nonfinite else None)

    def _rounded(self, images: Images) -> dict[Modality, Tensor]:
        """Images in the network's precision."""
        return {m: image.to(self._dtype) for m, image in images.items()}


Labels = npt.NDArray[np.uint8]

_SUPPRESSION = 1e30


@dataclass(frozen=True)
class Prediction:
    """Output of the network for one frame set, on the host.

    Attributes:
        labels: (h, w) uint8, the class of highest probability.
        confidence: (h, w) uint8, 255 times its probability.
        weights: level → modality → router weight.
        modalities: those that took part.
        nonfinite_modalities: those whose image has NaN or infinite values, which make the whole prediction invalid.
    """

    labels: Labels
    confidence: Labels
    weights: dict[str, dict[Modality, float]]
    modalities: tuple[Modality, ...]
    nonfinite_modalities: tuple[Modality, ...]


def postprocess(output: Output, size: tuple[int, int], images: Mapping[Modality, Tensor] | None = None) -> Prediction:
    """Postprocess one frame set and copy it to the host in one transfer; see `pack` and `unpack`."""
    return unpack(pack(output, size, images), size, output.modalities, tuple(output.weights))[0]


def pack(output: Output, size: tuple[int, int], images: Mapping[Modality, Tensor] | None = None) -> Tensor:
    """Pack labels, confidence and router weights into one tensor on the device.

    Args:
        output: of B frame sets.
        size: (h, w) of the labels.
        images: modality → (B, …, h, w) input images to check for non-finite values; None where they are already
            checked.

    Returns:
        (B, n) uint8, all of a `Prediction` in each row: the bytes of the float32 router weights and image sums, labels,
        confidence.
    """
    logits, rows = output.fused, []
    for row in range(len(logits)):  # one by one: the logits at full size are the largest tensor
        weights = torch.stack([w[row] for w in output.weights.values()]).float()  # (levels, M)
        sums = [images[m][row].sum(dtype=torch.float32) for m in output.modalities] if images else []
        numbers = torch.cat([weights.flatten(), *(s[None] for s in sums)])  # NaN and infinite values pass into the sum
        pixels = argmax_with_confidence(logits[row : row + 1], size)
        rows.append(torch.cat([numbers.view(torch.uint8), pixels.flatten()]))
    return torch.stack(rows)


def unpack(
    packed: Tensor, size: tuple[int, int], modalities: tuple[Modality, ...], levels: Sequence[str] = LEVELS
) -> list[Prediction]:
    """Copy the result of `pack` to the host, which synchronizes, and split it.

    Args:
        packed: the result of `pack`.
        size: (h, w) of the labels.
        modalities: that took part, in the order of the output.
        levels: of the router weights, in their order.
    """
    return [_unpacked(row, size, modalities, levels) for row in _to_host(packed).numpy()]


def _to_host(there: Tensor) -> Tensor:
    """Copy a tensor to the host and wait for it; from a GPU into page-locked memory."""
    if not there.is_cuda:
        return there.cpu()
    here = torch.empty(there.shape, dtype=there.dtype, pin_memory=True).copy_(there, non_blocking=True)
    torch.cuda.current_stream(there.device).synchronize()
    return here


def _unpacked(
    row: Labels, size: tuple[int, int], modalities: tuple[Modality, ...], levels: Sequence[str]
) -> Prediction:
    pixels = 2 * size[0] * size[1]
    numbers = row[:-pixels].view(np.float32)
    labels, confidence = row[-pixels:].reshape(2, *size)
    weights, sums = np.split(numbers, [len(levels) * len(modalities)])
    rows = zip(levels, weights.reshape(len(levels), -1).tolist(), strict=True)
    finite = zip(modalities, np.isfinite(sums), strict=False)
    return Prediction(
        labels,
        confidence,
        {level: dict(zip(modalities, row, strict=True)) for level, row in rows},
        modalities,
        tuple(m for m, fine in finite if not fine),
    )


def argmax_with_confidence(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, h', w') logits to (2, h, w) uint8: the class of highest probability, and 255 times its probability."""
    logits = logits.float().contiguous()
    logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0]  # (C, h, w)
    logits -= logits.amax(0)
    # Index of the maximum, without an argmax over the first axis or a comparison, which are both slow on a CPU: every
    # logit below the maximum (0) is pushed far below any index.
    ids = torch.arange(len(logits), dtype=torch.float32, device=logits.device)[:, None, None]
    labels = torch.add(ids, logits, alpha=_SUPPRESSION).amax(0).byte()  # (h, w)
    confidence = (255 / logits.exp_().sum(0)).round().byte()  # softmax of the maximum alone
    return torch.stack([labels, confidence])
