# SPDX-License-Identifier: Apache-2.0
"""Lower bounds of durations: measured roofline of a device, FLOPs and bytes of the network, copies of arrays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mlesam_ros.bench.measurement import interleaved
from mlesam_ros.bench.model_benchmark import synchronize
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig

_SIDE = {"cpu": 2048, "cuda": 8192}
_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
_BEST_OF = 7
_CLOCKS = {"cpu": time.process_time}


@dataclass(frozen=True)
class Roofline:
    """Measured peak rates of one device in one precision with the current number of threads.

    Attributes:
        flops: floating point operations per second of a large square matrix product.
        bytes: bytes per second, read plus written, of a large copy.
    """

    flops: float
    bytes: float

    def least_seconds(self, flops: float, moved: float) -> float:
        """Lower bound in seconds for `flops` operations and `moved` bytes (roofline model)."""
        return max(flops / self.flops, moved / self.bytes)


@lru_cache(maxsize=8)
def ceilings(device: str, dtype: torch.dtype, threads: int) -> Roofline:
    """Measure the roofline of a device.

    The minimum of several repeats, and processor time on the CPU, exclude the load of other processes.

    Args:
        device: such as `cpu` or `cuda`.
        dtype: dtype of the matrix product.
        threads: number of threads set with torch; part of the cache key.
    """
    kind = torch.device(device).type
    side = _SIDE.get(kind, 2048)
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.ones(_BYTES.get(kind, 1 << 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: torch.mm(a, b), device, threads)
    copied = _best(lambda: target.copy_(source), device, threads)
    return Roofline(2 * side**3 / product, 2 * source.nbytes / copied)


def _best(work: Callable[[], object], device: str, threads: int) -> float:
    times, clock = [], _CLOCKS.get(torch.device(device).type, time.perf_counter)
    for _ in range(_BEST_OF):
        start = clock()
        work()
        synchronize(device)
        times.append(clock() - start)
    return min(times) / (threads if clock is time.process_time else 1)


def network_work(config: MLESAMConfig, sensors: int, itemsize: int) -> tuple[int, int]:
    """Return the FLOPs and the minimum bytes of one forward pass.

    The bytes are those of every weight read once, the input images and the output logits.

    Args:
        config: configuration of the network; images are square.
        sensors: number of present sensors.
        itemsize: bytes per number.
    """
    side = config.image_size
    with torch.device("meta"), torch.no_grad():
        model = MLESAM(config).eval().requires_grad_(False)  # FlopCounterMode checks requires_grad
        with FlopCounterMode(display=False) as counter:
            pyramid = model.encode(torch.empty(sensors, 3, side, side))
            fused, _ = model.fuse({level: maps.unflatten(0, (sensors, 1)) for level, maps in pyramid.items()})
            logits, _ = model.decode(fused)
    numbers = sum(p.numel() for p in model.parameters()) + sensors * 3 * side * side + logits.numel()
    return counter.get_total_flops(), numbers * itemsize


def least_seconds(*arrays: np.ndarray) -> float:
    """Lower bound in seconds for moving the arrays' bytes on one core: the duration of copying half of them."""
    return _copy_seconds(max(sum(array.nbytes for array in arrays) // 2, 1))


@lru_cache(maxsize=64)
def _copy_seconds(size: int) -> float:
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    (timing,) = interleaved([lambda: np.copyto(target, source)], repeats=15)
    return timing.median
