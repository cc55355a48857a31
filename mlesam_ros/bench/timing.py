"""Interleaved timing: functions run in turn and medians are compared, which reduces the effect of machine load."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

_WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Timing:
    """Statistics of a duration in seconds.

    Attributes:
        median, p99: percentiles of the repeats.
        spread: half of the inter-quartile range, as a fraction of the median.
        repeats: number of timed calls.
        cpu: median processor time of this process, summed over its threads; None if not measured.
    """

    median: float
    p99: float
    spread: float
    repeats: int
    cpu: float | None = None


def interleaved(contenders: Sequence[Callable[[], object]], repeats: int, warm_up: int = _WARM_UP) -> list[Timing]:
    """Time functions in turn, so that the load of other processes affects all of them alike.

    The garbage collector is disabled, since its pauses cannot be attributed to one function.

    Args:
        contenders: functions that do the same work.
        repeats: number of timed calls of each function.
        warm_up: untimed calls of each function before.
    """
    seconds, cpu = np.empty((2, repeats, len(contenders)))
    for _ in range(warm_up):
        for contender in contenders:
            contender()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(repeats):
            for place in range(len(contenders)):
                which = (turn + place) % len(contenders)
                start, worked = time.perf_counter(), time.process_time()
                contenders[which]()
                seconds[turn, which] = time.perf_counter() - start
                cpu[turn, which] = time.process_time() - worked
    finally:
        if collecting:
            gc.enable()
    return [replace(summary(took), cpu=float(np.median(worked))) for took, worked in zip(seconds.T, cpu.T, strict=True)]


def summary(seconds: Sequence[float] | np.ndarray) -> Timing:
    """Compute median, p99 and spread of durations in seconds."""
    low, median, high, p99 = np.percentile(seconds, (25, 50, 75, 99))
    return Timing(float(median), float(p99), float((high - low) / 2 / median), len(seconds))
