# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing of operations, the rows of a benchmark's result, and the machine that it was measured on."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch

Work = Callable[[], object]
PeakMemory = Callable[[Work], int]
"""Measures the peak bytes that an operation requests."""

_MB = 1e6
_SCALES = {"s": 1.0, "ms": 1e3, "us": 1e6}
_PACKAGES = ("mlesam_ros", "numpy", "opencv-python-headless", "torch")


@dataclass(frozen=True, slots=True)
class Timing:
    """Statistics of a duration in seconds.

    Attributes:
        spread: half of the inter-quartile range, as a fraction of the median.
        cpu: median processor time of this process, summed over its threads; None if not measured.
    """

    median: float
    p99: float
    spread: float
    repeats: int
    cpu: float | None = None


def summary(seconds: Sequence[float] | np.ndarray) -> Timing:
    """Compute median, p99 and spread of durations in seconds."""
    low, median, high, p99 = np.percentile(seconds, (25, 50, 75, 99))
    return Timing(float(median), float(p99), float((high - low) / 2 / median), len(seconds))


def interleaved(works: Sequence[Work], repeats: int) -> list[Timing]:
    """Time operations in turn, so that the load of other processes affects all of them alike.

    Garbage collection is off meanwhile. Up to two warm-up calls of each are not timed.
    """
    seconds, cpu = np.empty((2, repeats, len(works)))
    for _ in range(min(repeats // 3, 2)):
        for work in works:
            work()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(repeats):
            for place in range(len(works)):
                which = (turn + place) % len(works)
                start, worked = time.perf_counter(), time.process_time()
                works[which]()
                seconds[turn, which] = time.perf_counter() - start
                cpu[turn, which] = time.process_time() - worked
    finally:
        if collecting:
            gc.enable()
    return [replace(summary(took), cpu=float(np.median(worked))) for took, worked in zip(seconds.T, cpu.T, strict=True)]


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One row of a benchmark, with the keys that docs/results.md explains; None where there is no figure."""

    name: str
    unit: str
    median: float
    p99: float
    spread: float
    repeats: int
    alternative: str | None = None
    alternative_median: float | None = None
    ratio: float | None = None
    bound: float | None = None
    cpu: float | None = None
    alternative_cpu: float | None = None
    memory: float | None = None
    alternative_memory: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types; numbers are rounded to four significant digits."""
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(self).items()}


def row(
    name: str,
    unit: str,
    ours: Timing,
    other: tuple[str, Timing] | None = None,
    items: float = 0.0,
    bound: float | None = None,
    memory: Sequence[int] = (),
) -> BenchmarkResult:
    """Convert the timing of this package, and the name and timing of an alternative, to a row.

    Args:
        name, unit: the operation; `s`, `ms`, `us` or the unit of a rate such as `Mevents/s`.
        ours, other: the timings.
        items: items of a rate per call, in its unit; 0 for a duration.
        bound: lower bound of the duration in seconds.
        memory: peak bytes of both; empty if not measured.
    """

    def value(seconds: float) -> float:
        return items / seconds if items else seconds * _SCALES[unit]

    def cpu(timing: Timing) -> float | None:
        return None if items or timing.cpu is None else value(timing.cpu)

    result = BenchmarkResult(
        name, unit, value(ours.median), value(ours.p99), ours.spread, ours.repeats, cpu=cpu(ours),
        bound=None if bound is None else value(bound), memory=memory[0] / _MB if memory else None,
    )  # fmt: skip
    if other is None:
        return result
    words, timing = other
    return replace(
        result, alternative=words, alternative_median=value(timing.median), ratio=timing.median / ours.median,
        alternative_cpu=cpu(timing), alternative_memory=memory[1] / _MB if memory else None,
    )  # fmt: skip


def measure(
    name: str,
    work: Work,
    repeats: int,
    *alternatives: tuple[str, Work],
    unit: str = "ms",
    items: float = 0.0,
    bound: float | None = None,
    memory: PeakMemory | None = None,
) -> list[BenchmarkResult]:
    """Time an operation and its alternatives in turn; one row per alternative. See `row` for the arguments."""
    works = [work, *(other for _, other in alternatives)]
    peaks = [memory(work) for work in works] if memory else []
    ours, *timings = interleaved(works, repeats)
    others = [(words, timing) for (words, _), timing in zip(alternatives, timings, strict=True)]
    return [
        row(name, unit, ours, other, items, bound, peaks and [peaks[0], *peaks[place : place + 1]])
        for place, other in enumerate(others or [None], 1)
    ]


def device() -> str:
    """Processor, number of cores available to this process, and the first GPU if there is one."""
    cores = f"{_processor()}, {len(os.sched_getaffinity(0))} cores"
    return f"{cores}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cores


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that dominate the run time."""
    installed = {package.name: package.version for package in distributions()}
    return {"python": platform.python_version(), **{p: installed.get(p, "not installed") for p in _PACKAGES}}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="ascii", errors="ignore").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
