"""One line of a benchmark's table."""

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
    """A figure, and what it is to be compared with.

    Attributes:
        name: what was done, on how much.
        unit: of the figures; `ms` and `us` are better when less, rates such as `Mevents/s` when more.
        median, p99: ours; the p99 of a rate is the slow end.
        spread: half of the distance between the quartiles, as a part of the median.
        repeats: how many calls were timed.
        alternative: how others do the same; None where there is nothing to compare with.
        alternative_median: its median, in the same unit.
        ratio: how many times ours is as fast.
        bound: what copying as many bytes would allow, or for the network the arithmetic, in the same unit; None where
            neither is what costs.
        cpu, alternative_cpu: median processor time, in the same unit: what would have been needed on a machine that is
            not shared, by one thread.
        memory, alternative_memory: MB (10⁶ bytes) that a call asks for at most.
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
        """For JSON, with as many digits as mean something."""
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
    """Time ours and the alternative in turn.

    Args:
        name: of the row.
        ours: the work.
        repeats: how often.
        alternative: what others do, in words and as a function that does the same work.
        bound: seconds that the machine needs at least.
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
    """A row of what was measured already; `scale` turns seconds into the unit, memory is bytes, ours first."""
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
    """How many millions of something are done per second.

    Args:
        name: of the row.
        ours: the work.
        count: how many a call does.
        what: they are.
        repeats: how often.
        least: seconds that the machine needs at least for a call.
    """
    (timing,) = interleaved([ours], repeats)
    per_second = count / 1e6
    return BenchmarkResult(
        name, f"M{what}/s", per_second / timing.median, per_second / timing.p99, timing.spread, timing.repeats,
        bound=per_second / least, memory=asked_bytes(ours) / _MB,
    )  # fmt: skip
