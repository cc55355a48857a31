"""The machine that figures were taken on: what it is, and how fast it moves bytes."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from mlesam_ros.bench.timing import interleaved

_PACKAGES = ("mlesam_ros", "numpy", "opencv-python-headless", "torch")


def device() -> str:
    """Processor, the number of cores that this process may use, and the first GPU if there is one."""
    cores = f"{_processor()}, {len(os.sched_getaffinity(0))} cores"
    return f"{cores}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cores


def load() -> float:
    """How many processes have wanted a core in the last minute, ours and whoever else's (Linux's load average)."""
    return round(os.getloadavg()[0], 1)


def versions() -> dict[str, str]:
    """Python and the libraries that do the work."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def least_seconds(*arrays: np.ndarray) -> float:
    """Seconds in which one core moves some arrays' bytes, were nothing computed: it copies half of them to the rest."""
    return _copy_seconds(max(sum(array.nbytes for array in arrays) // 2, 1))


@lru_cache(maxsize=64)
def _copy_seconds(size: int) -> float:
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    (timing,) = interleaved([lambda: np.copyto(target, source)], repeats=15)
    return timing.median


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
