"""How much memory something takes at its worst moment."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


def peak_bytes(work: Callable[[], object]) -> int:
    """Bytes that the work takes beyond what was held before: of the GPU where there is one, else of this process.

    A process that has held more before and kept it for later seems to take less; ask a fresh one.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Bytes of an entry in /proc/self/status."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
