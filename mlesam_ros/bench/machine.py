"""Description of the machine that results were measured on, and its memory copy speed."""

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
    """Processor name, number of cores available to this process, and the first GPU if there is one."""
    cores = f"{_processor()}, {len(os.sched_getaffinity(0))} cores"
    return f"{cores}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cores


def load() -> float:
    """System load average over the last minute."""
    return round(os.getloadavg()[0], 1)


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that dominate the run time."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def least_seconds(*arrays: np.ndarray) -> float:
    """Lower bound in seconds for moving the arrays' bytes on one core: the duration of copying half of them."""
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
