"""When each point of a sweep was measured, from what drivers write.

    t            uint32   nanoseconds after the stamp             Ouster
    time         float32  seconds before or after the stamp       Velodyne
    timestamp    float64  seconds on the host's clock             Hesai, RoboSense
    timestamp    float64  nanoseconds on the host's clock         Livox
    offset_time  uint32   nanoseconds after the stamp             Livox, converted from its own message
    time_stamp   uint32   nanoseconds after the stamp             nebula

The stamp may be that of the first point, of the last one, or anything between. Numbers count from the stamp or from the
epoch of the stamp's clock, in seconds, milliseconds, microseconds or nanoseconds. Where no unit is named, floats are
taken as seconds and whole numbers as nanoseconds if that makes a sweep of a millisecond to a second around the stamp;
otherwise the unit that does is taken.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CloudError
from mlesam_ros.frame import AUTO, NANOSECONDS, PointCloud

Times = npt.NDArray[np.int64]

FIELDS = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset")
"""The names under which times are looked for, in this order."""
UNITS = {"s": NANOSECONDS, "ms": 1_000_000, "us": 1000, "ns": 1}
"""Unit → nanoseconds."""
LONGEST = NANOSECONDS
"""Nanoseconds. A sweep takes 50 to 200 ms; what claims more than a second is no sweep, or no time."""
_BRIEF = 1_000_000
"""Nanoseconds. A sweep that is shorter by the usual unit may be told in another one."""
_DAY = 86_400 * NANOSECONDS
_SHORTEST = 10_000_000
"""Nanoseconds that a sweep takes at least by a unit other than the usual one."""


def cloud_times(cloud: PointCloud, stamp: int, offset: int = 0) -> Times | None:
    """When the points were measured, row for row with `cloud_xyz`.

    Args:
        cloud: the sweep.
        stamp: nanoseconds, of its frame.
        offset: nanoseconds by which the stamp, and with it the points' times, are late.

    Returns:
        (N,) int64 nanoseconds on the host's clock, the frame's time for points without a return; None if neither a
        field nor the stamps of pieces tell.

    Raises:
        CloudError: there is such a field, but its values cannot be the times of one sweep around the stamp.
    """
    if not cloud.earlier:
        return _times(cloud, stamp, offset, LONGEST)
    lags = [0, *(piece.lag for piece in cloud.earlier)]
    longest = min(max(4 * lags[-1] // len(lags), 1), LONGEST) if lags[-1] else LONGEST  # pieces may share a stamp
    found = [_times(piece, stamp - lag, offset, longest) for piece, lag in zip(cloud.pieces, lags, strict=True)]
    known = [times for times in found if times is not None]
    return np.concatenate(known) if len(known) == len(found) else piece_times(cloud, stamp - offset)


def _times(cloud: PointCloud, stamp: int, offset: int, longest: int) -> Times | None:
    """`cloud_times` of one message that takes so many nanoseconds at most."""
    points, name = cloud.points, _field(cloud)
    if name is None:
        return None
    # Drivers leave the times of points without a return at anything.
    measured = _measured(cloud)
    times = np.full(points.size, stamp - offset, np.int64)
    times[measured] += _after_stamp(points[name].ravel()[measured], stamp, name, cloud.time_unit, longest)
    return times


def _field(cloud: PointCloud) -> str | None:
    """The name of the field with the points' times; None without one."""
    points = cloud.points
    name = next((n for n in FIELDS if n in (points.dtype.names or ())), None)
    if name is not None and points[name].ndim != points.ndim:
        raise CloudError(f"field {name!r} has several numbers per point; times are one per point.")
    return name


def move_times(cloud: PointCloud, stamp: int, delta: int) -> bool:
    """Move points' times in place, where they count from the epoch of the stamp's clock.

    Args:
        cloud: one message whose bytes may be written.
        stamp: nanoseconds, as it was when the times were measured.
        delta: nanoseconds to add.

    Returns:
        Whether there are such times.
    """
    try:
        name = _field(cloud)
        if name is None:
            return False
        measured = _measured(cloud).reshape(cloud.points.shape)
        values = cloud.points[name][measured]
        scale, zero = _found(values, stamp, name, cloud.time_unit, LONGEST) if len(values) else (1, 0)
    except CloudError:
        return False
    if not zero:
        return False
    whole = values.dtype.kind != "f"
    cloud.points[name][measured] = values.astype(np.int64) + delta // scale if whole else values + delta / scale
    return True


def piece_times(cloud: PointCloud, time: int) -> Times | None:
    """When the points were measured, by the stamps of a sweep's pieces alone.

    Args:
        cloud: the sweep.
        time: nanoseconds, of its newest piece.

    Returns:
        (N,) int64 nanoseconds; None for a sweep in one piece.
    """
    if not cloud.earlier:
        return None
    sizes = [cloud.points.size, *(piece.points.size for piece in cloud.earlier)]
    return np.repeat(np.array([time, *(time - piece.lag for piece in cloud.earlier)], np.int64), sizes)


def _measured(cloud: PointCloud) -> npt.NDArray[np.bool_]:
    """(N,) which points have a return."""
    x, y, z = (cloud.points[axis] for axis in "xyz")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(x + y + z).ravel()


def _after_stamp(values: npt.NDArray[Any], stamp: int, name: str, unit: str, longest: int) -> Times:
    """(n,) int64 nanoseconds after the stamp."""
    if not len(values):
        return np.zeros(0, np.int64)
    scale, zero = _found(values, stamp, name, unit, longest)
    if scale == 1 or values.dtype.kind != "f":
        return np.asarray(values.astype(np.int64) * scale - zero, np.int64)
    # Subtracting before converting keeps the digits that an epoch in float64 still has.
    return np.asarray((values.astype(np.float64) - zero / scale) * scale, np.float64).astype(np.int64)


def _found(values: npt.NDArray[Any], stamp: int, name: str, unit: str, longest: int) -> tuple[int, int]:
    """Nanoseconds of the unit, and nanoseconds from which the numbers count.

    Raises:
        CloudError: the numbers cannot be the times of a message of at most `longest` nanoseconds.
    """
    least, most = values.min().item(), values.max().item()
    if not math.isfinite(most - least):
        raise CloudError(f"field {name!r} holds times that are not finite; every point with a return needs one.")
    usual = NANOSECONDS if values.dtype.kind == "f" else 1
    choices = list(UNITS.values()) if unit == AUTO else [UNITS[unit]]
    found = _reading(least, most, stamp, usual if unit == AUTO else UNITS[unit], choices, longest)
    if found is None:
        raise _refusal(least, most, stamp, name, usual, choices)
    return found


def _reading(
    least: float, most: float, stamp: int, usual: int, choices: list[int], longest: int
) -> tuple[int, int] | None:
    """As `_found`, with the usual unit and those that may be found; None where nothing fits."""

    def fits(scale: int, zero: int) -> bool:
        from_zero = abs(least * scale - zero) if zero else max(-least, most) * scale
        return (most - least) * scale <= longest and from_zero <= LONGEST

    brief = (most - least) * usual < min(_BRIEF, longest // 100)
    relative = fits(usual, 0)
    if relative and not brief:
        return usual, 0
    for scale in choices:
        if fits(scale, stamp):
            return scale, stamp
    for scale in choices:
        if fits(scale, 0) and (most - least) * scale >= min(_SHORTEST, longest // 100):
            return scale, 0
    return (usual, 0) if relative else None


def _refusal(least: float, most: float, stamp: int, name: str, usual: int, choices: list[int]) -> CloudError:
    """Why numbers are no times of a sweep around the stamp, by the unit that brings them nearest to it."""
    scale = min(choices, key=lambda scale: abs(least * scale - stamp))
    if len(choices) > 1 and abs(least * scale - stamp) > _DAY:
        scale = usual
    seconds = scale / NANOSECONDS
    if (most - least) * seconds > LONGEST / NANOSECONDS:
        return CloudError(
            f"field {name!r} spans {(most - least) * seconds:.3g} s; a sweep takes a second at most.",
            "Name the unit that the driver writes with lidar.time_unit."
            if len(choices) > 1
            else "Set lidar.time_unit to auto, or to the unit that the driver writes.",
        )
    away = abs(least * scale - stamp) / NANOSECONDS
    return CloudError(
        f"field {name!r} is {away:.3g} s away from the stamp; times count from it or from its clock's epoch.",
        "Synchronise the sensor's clock with the host's by PTP or GPS, or let the driver stamp by the sensor's.",
    )
