"""When each point of a sweep was measured, from what drivers write.

    t            uint32   nanoseconds after the stamp             Ouster
    time         float32  seconds before or after the stamp       Velodyne
    timestamp    float64  seconds on the host's clock             Hesai, RoboSense
    timestamp    float64  nanoseconds on the host's clock         Livox
    offset_time  uint32   nanoseconds after the stamp             Livox, converted from its own message
    time_stamp   uint32   nanoseconds after the stamp             nebula

The stamp may be that of the first point, of the last one, or anything between. Whole numbers are nanoseconds; floats
are seconds unless they are far too large for that. Both may count from the stamp or from the clock's epoch: what is
within a second of either tells which.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CloudError
from mlesam_ros.frame import NANOSECONDS, Cloud

Times = npt.NDArray[np.int64]

FIELDS = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset")
"""The names under which times are looked for, in this order."""
LONGEST = NANOSECONDS
"""Nanoseconds. A sweep takes 50 to 200 ms; what claims more than a second is no sweep, or no time."""
_LARGEST_SECONDS = 1e11
"""A float beyond it is nanoseconds: as seconds it is 3,000 years, as nanoseconds not two minutes."""


def cloud_times(cloud: Cloud, stamp: int, offset: int = 0) -> Times | None:
    """When the points were measured, row for row with `cloud_xyz`.

    Args:
        cloud: the sweep.
        stamp: nanoseconds, of its frame.
        offset: nanoseconds by which the stamp, and with it the points' times, are late.

    Returns:
        (N,) int64 nanoseconds on the host's clock, the frame's time for points without a return; None if no field
        tells.

    Raises:
        CloudError: there is such a field, but its values cannot be the times of one sweep around the stamp.
    """
    points = cloud.points
    name = next((n for n in FIELDS if n in (points.dtype.names or ())), None)
    if name is None:
        return None
    if points[name].ndim != points.ndim:
        raise CloudError(f"field {name!r} has several numbers per point; times are one per point.")
    # Drivers leave the times of points without a return at anything.
    measured = _measured(cloud)
    times = np.full(points.size, stamp - offset, np.int64)
    times[measured] += _after_stamp(points[name].ravel()[measured], stamp, name)
    return times


def _measured(cloud: Cloud) -> npt.NDArray[np.bool_]:
    """(N,) which points have a return."""
    x, y, z = (cloud.points[axis] for axis in "xyz")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(x + y + z).ravel()


def _after_stamp(values: npt.NDArray[Any], stamp: int, name: str) -> Times:
    """(n,) int64 nanoseconds after the stamp."""
    if not len(values):
        return np.zeros(0, np.int64)
    least, most = values.min().item(), values.max().item()
    if not math.isfinite(most - least):
        raise CloudError(f"field {name!r} holds times that are not finite; every point with a return needs one.")
    in_seconds = values.dtype.kind == "f" and max(-least, most) < _LARGEST_SECONDS
    per_unit = NANOSECONDS if in_seconds else 1
    if (most - least) * per_unit > LONGEST:
        raise CloudError(
            f"field {name!r} spans {(most - least) * per_unit / NANOSECONDS:.3g} s; a sweep takes a second at most."
        )
    # Subtracting before converting keeps the digits that an epoch in float64 still has.
    zero = 0 if max(-least, most) * per_unit <= LONGEST else stamp / per_unit if in_seconds else stamp
    if abs(least - zero) * per_unit > LONGEST:
        raise CloudError(
            f"field {name!r} is {abs(least - zero) * per_unit / NANOSECONDS:.3g} s away from the stamp; "
            "synchronise the sensor's clock with the host's, by PTP or GPS."
        )
    since = values.astype(np.float64 if in_seconds else np.int64) - zero
    return (since * per_unit).astype(np.int64)
