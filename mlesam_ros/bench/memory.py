"""Peak memory of a function: allocations that it requests, or growth of the process or of the GPU."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch

from mlesam_ros.bench.counting import count

_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


def asked_bytes(work: Callable[[], object], device: str = "cpu") -> int:
    """Peak of the bytes that `work` requests; deterministic, also on a loaded machine.

    Counts arrays, other Python objects and the results of torch operations on the device. Internal buffers of libraries
    are not counted on the CPU; on a GPU the caching allocator includes them.

    Args:
        work: called once.
        device: device that torch uses, such as `cpu` or `cuda`.
    """
    count(lambda: torch.zeros(1).neg())  # imports of the counter itself would dominate most results
    tracemalloc.start()
    try:
        there = _gpu_bytes(work, device) if device.startswith("cuda") else count(work).peak
        return tracemalloc.get_traced_memory()[1] + there
    finally:
        tracemalloc.stop()


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak memory of `work` in bytes above the level before: of the GPU if there is one, otherwise of this process.

    Memory that the process has freed but not returned to the system hides growth: measure in a new process.
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
    """Return an entry of /proc/self/status in bytes; 0 if it is missing."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
