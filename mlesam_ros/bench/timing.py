"""Timing that a busy machine disturbs as little as can be: contenders take turns, and medians are compared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

_WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Timing:
    """How long something took, seconds.

    Attributes:
        median, p99: of the repeats.
        spread: half of the distance between the quartiles, as a part of the median.
        repeats: how many.
        cpu: median of the seconds that this process's threads were at work, as nearly as the system counts them; less
            than `median` where others had the cores. None where it was not looked at.
    """

    median: float
    p99: float
    spread: float
    repeats: int
    cpu: float | None = None


def interleaved(contenders: Sequence[Callable[[], object]], repeats: int, warm_up: int = _WARM_UP) -> list[Timing]:
    """Time some functions in turn: a, b, a, b, so that whatever else the machine does falls on all of them.

    The garbage collector waits, since its pauses belong to whoever made the garbage.

    Args:
        contenders: each does the same work its own way.
        repeats: how often each is timed.
        warm_up: calls before, which are not timed.
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
    """Median, p99 and spread of some durations."""
    low, median, high, p99 = np.percentile(seconds, (25, 50, 75, 99))
    return Timing(float(median), float(p99), float((high - low) / 2 / median), len(seconds))
