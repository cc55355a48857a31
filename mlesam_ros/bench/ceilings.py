"""How fast a device can multiply and move at all, measured: what every figure of the network is held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlesam_ros.model.backbones import on_meta_device
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig

_SIDE = {"cpu": 2048, "cuda": 8192}
_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
_BEST_OF = 7
_CLOCKS = {"cpu": time.process_time}


@dataclass(frozen=True)
class Roofline:
    """Of one device in one precision, with as many threads as are in use.

    Attributes:
        flops: per second, of a large square matrix product.
        bytes: per second, read and written by a large copy.
    """

    flops: float
    bytes: float

    def least_seconds(self, flops: float, moved: float) -> float:
        """What so much arithmetic and so many bytes take at least."""
        return max(flops / self.flops, moved / self.bytes)


@lru_cache(maxsize=8)
def ceilings(device: str, dtype: torch.dtype, threads: int) -> Roofline:
    """Measure; the best of a few, since whatever else the machine does only makes it slower.

    On the CPU it is processor time that counts, for the same reason.

    Args:
        device: such as `cpu` or `cuda`.
        dtype: of the product.
        threads: as set with torch, so that another number is measured anew.
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
        wait(device)
        times.append(clock() - start)
    return min(times) / (threads if clock is time.process_time else 1)


def wait(device: str) -> None:
    """Until the device has done what was asked of it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def network_work(config: MLESAMConfig, sensors: int, itemsize: int) -> tuple[int, int]:
    """Floating point operations of a moment, and the fewest bytes: every weight once, pictures in, logits out.

    Args:
        config: of the network; pictures are square.
        sensors: that are present.
        itemsize: bytes per number.
    """
    side = config.image_size
    with on_meta_device(), torch.no_grad():
        model = MLESAM(config).eval().requires_grad_(False)  # the counter looks for gradients
        with FlopCounterMode(display=False) as counter:
            pyramid = model.encode(torch.empty(sensors, 3, side, side))
            fused, _ = model.fuse({level: maps.unflatten(0, (sensors, 1)) for level, maps in pyramid.items()})
            logits, _ = model.decode(fused)
    numbers = sum(p.numel() for p in model.parameters()) + sensors * 3 * side * side + logits.numel()
    return counter.get_total_flops(), numbers * itemsize
