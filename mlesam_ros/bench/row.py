"""One line of a benchmark's table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mlesam_ros.bench.timing import Timing, interleaved

_DIGITS = 4
_SCALES = {"ms": 1e3, "us": 1e6}


@dataclass(frozen=True, slots=True)
class Row:
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
        bound: what copying as many bytes would allow, in the same unit; None where bytes are not what costs.
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
) -> Row:
    """Time ours and the alternative in turn.

    Args:
        name: of the row.
        ours: the work.
        repeats: how often.
        alternative: what others do, in words and as a function that does the same work.
        bound: seconds that the machine needs at least.
        unit: `ms` or `us`.
    """
    scale = _SCALES[unit]
    timings = interleaved([ours, alternative[1]] if alternative else [ours], repeats)
    return row(name, unit, scale, timings[0], (alternative[0], timings[1]) if alternative else None, bound)


def row(
    name: str,
    unit: str,
    scale: float,
    ours: Timing,
    other: tuple[str, Timing] | None = None,
    bound: float | None = None,
) -> Row:
    """A row of timings that were taken already; `scale` turns seconds into the unit."""
    return Row(
        name, unit, ours.median * scale, ours.p99 * scale, ours.spread, ours.repeats,
        alternative=other[0] if other else None,
        alternative_median=other[1].median * scale if other else None,
        ratio=other[1].median / ours.median if other else None,
        bound=bound * scale if bound is not None else None,
    )  # fmt: skip


def rate(name: str, ours: Callable[[], object], count: int, what: str, repeats: int, least: float) -> Row:
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
    return Row(
        name, f"M{what}/s", per_second / timing.median, per_second / timing.p99, timing.spread, timing.repeats,
        bound=per_second / least,
    )  # fmt: skip
