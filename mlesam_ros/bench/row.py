"""Rows of a benchmark's result, and functions that measure them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlesam_ros.bench.memory import asked_bytes
from mlesam_ros.bench.timing import Timing, interleaved

_DIGITS = 4
_MB = 1e6
_SCALES = {"ms": 1e3, "us": 1e6}


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One row of a benchmark: a measurement and its comparison.

    Attributes:
        name: the measured operation and its input size.
        unit: unit of the values; `ms` and `us` are better when smaller, rates such as `Mevents/s` when larger.
        median, p99: of this package; the p99 of a rate is its slow end.
        spread: half of the inter-quartile range, as a fraction of the median.
        repeats: number of timed calls.
        alternative: the compared implementation; None without one.
        alternative_median: median of the alternative, in the same unit.
        ratio: speedup over the alternative by wall-clock time.
        bound: limit set by copying the same bytes, or by the arithmetic of the network, in the same unit; None if
            neither dominates.
        cpu, alternative_cpu: median processor time summed over the threads, in the same unit; independent of the
            load of other processes.
        memory, alternative_memory: peak MB (10⁶ bytes) requested by a call.
    """

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
        return {key: _short(value) if isinstance(value, float) else value for key, value in asdict(self).items()}


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def compare(
    name: str,
    ours: Callable[[], object],
    repeats: int,
    alternative: tuple[str, Callable[[], object]] | None = None,
    bound: float | None = None,
    unit: str = "ms",
) -> BenchmarkResult:
    """Time a function and its alternative in turn.

    Args:
        name: name of the row.
        ours: the measured function.
        repeats: number of timed calls of each.
        alternative: name and function of an implementation that does the same work.
        bound: lower bound of the duration on this machine, in seconds.
        unit: `ms` or `us`.
    """
    works = [ours, alternative[1]] if alternative else [ours]
    timings = interleaved(works, repeats)
    other = (alternative[0], timings[1]) if alternative else None
    return row(name, unit, _SCALES[unit], timings[0], other, bound, [asked_bytes(work) for work in works])


def row(
    name: str,
    unit: str,
    scale: float,
    ours: Timing,
    other: tuple[str, Timing] | None = None,
    bound: float | None = None,
    memory: Sequence[int] = (),
) -> BenchmarkResult:
    """Build a row from timings; `scale` converts seconds to the unit, `memory` is in bytes, ours first."""
    return BenchmarkResult(
        name, unit, ours.median * scale, ours.p99 * scale, ours.spread, ours.repeats,
        alternative=other[0] if other else None,
        alternative_median=other[1].median * scale if other else None,
        ratio=other[1].median / ours.median if other else None,
        bound=bound * scale if bound is not None else None,
        cpu=ours.cpu * scale if ours.cpu is not None else None,
        alternative_cpu=other[1].cpu * scale if other and other[1].cpu is not None else None,
        memory=memory[0] / _MB if memory else None,
        alternative_memory=memory[1] / _MB if len(memory) > 1 else None,
    )  # fmt: skip


def rate(name: str, ours: Callable[[], object], count: int, what: str, repeats: int, least: float) -> BenchmarkResult:
    """Measure a throughput in millions of items per second.

    Args:
        name: name of the row.
        ours: the measured function.
        count: items per call.
        what: name of the items.
        repeats: number of timed calls.
        least: lower bound of the duration of a call on this machine, in seconds.
    """
    (timing,) = interleaved([ours], repeats)
    per_second = count / 1e6
    return BenchmarkResult(
        name, f"M{what}/s", per_second / timing.median, per_second / timing.p99, timing.spread, timing.repeats,
        bound=per_second / least, memory=asked_bytes(ours) / _MB,
    )  # fmt: skip
