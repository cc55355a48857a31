"""How much memory something takes at its worst moment."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch

from mlesam_ros.bench.counting import count

_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


def asked_bytes(work: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes that were alive at once of what the work asked for: the same each time, on a busy machine as well.

    Arrays and other Python objects, and what torch's operations on the device give. What a library needs for itself is
    not seen on the CPU; on a GPU, where its allocator counts, it is.

    Args:
        work: to be done once.
        device: that torch is asked to use, such as `cpu` or `cuda`.
    """
    count(lambda: torch.zeros(1).neg())  # loads what counting itself needs, which is more than most works ask for
    tracemalloc.start()
    try:
        there = _gpu_bytes(work, device) if device.startswith("cuda") else count(work).peak
        return tracemalloc.get_traced_memory()[1] + there
    finally:
        tracemalloc.stop()


def peak_bytes(work: Callable[[], object]) -> int:
    """Bytes that the work takes beyond what was held before: of the GPU where there is one, else of this process.

    A process that has held more before and kept it for later seems to take less; ask a fresh one.
    """
    if torch.cuda.is_available():
        return _gpu_bytes(work, "cuda")
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _gpu_bytes(work: Callable[[], object], device: str) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _status(name: str) -> int:
    """Bytes of an entry in /proc/self/status."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
