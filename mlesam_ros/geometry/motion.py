"""Where a sensor was while it measured: the robot's motion during a sweep and between two sensors' moments.

Points measured at different times are carried to one moment through a frame that the world stands still in (REP 105:
odom, map). Motion of other things is not known and stays in.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError
from mlesam_ros.frame import NANOSECONDS
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transform import Transform

Stamps = npt.NDArray[np.int64]

_MOST_KNOTS = 33
_KNOT = NANOSECONDS // 40
"""Nanoseconds between knots: 5 m/s² of unsteadiness bend the path by 0.4 mm in 25 ms."""
_TURN = 0.009
"""Radians between knots: a point 100 m away is cut off the arc by 1 mm."""


class Placement(Protocol):
    """Puts a sensor's points into the label camera's frame: a `Transform`, or a `Motion`."""

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """(N, 3) metres in the sensor's frame to (N, 3) metres of the same floating type in the camera's."""
        ...


class Motion:
    """A placement that differs from point to point, by the time at which each was measured.

    Between two knots a point moves on the straight line between where the two would put it.
    """

    def __init__(self, times: Stamps, start: int, end: int, knots: list[Transform]) -> None:
        """Remember the knots.

        Args:
            times: (N,) nanoseconds, one per point, within start and end.
            start: nanoseconds of the first knot.
            end: nanoseconds of the last.
            knots: target_from_source at equal distances of time; at least two.
        """
        position = (times - start) * ((len(knots) - 1) / (end - start))
        self._segment = np.clip(position, 0, len(knots) - 2).astype(np.uint8)
        self._fraction = (position - self._segment).astype(np.float32)
        self._knots = knots

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """See `Placement`.

        Args:
            points: (N, 3) metres, row for row with the times.
        """
        moved = np.empty_like(points)
        for number, (before, after) in enumerate(zip(self._knots, self._knots[1:], strict=False)):
            rows = np.flatnonzero(self._segment == number)
            here = points[rows]
            there = before.apply(here)
            there += self._fraction[rows, None] * (after.apply(here) - there)
            moved[rows] = there
        return moved


def sensor_motion(rig: Rig, frame_id: str, times: Stamps, reference: int) -> Placement:
    """How points measured at different times look from the label camera at one moment.

    Args:
        rig: knows the sensors and the robot's motion.
        frame_id: the sensor's frame.
        times: (N,) nanoseconds, one per point; one of them stands for all if they are equal.
        reference: nanoseconds of the moment to see them at.

    Raises:
        CalibrationError: no fixed frame is known, or the tree does not cover the moments.
    """
    fixed = rig.fixed
    if fixed is None:
        names = f"the fixed frame {rig.fixed_frame!r} does not move" if rig.fixed_frame else "neither odom nor map moves"
        raise CalibrationError(
            f"{names} against {rig.camera_frame!r} in the transform tree; publish odometry on /tf, or name the "
            "fixed_frame in the calibration file."
        )
    camera_from_fixed = rig.tree.lookup(rig.camera_frame, fixed, reference)

    def at(stamp: int) -> Transform:
        return camera_from_fixed @ rig.tree.lookup(fixed, frame_id, stamp)

    start, end = int(times.min()), int(times.max())
    first, last = at(start), at(end)
    if start == end:
        return first
    turned = _angle(first, last) / _TURN
    pieces = min(max(math.ceil((end - start) / _KNOT), math.ceil(turned)), _MOST_KNOTS - 1)
    between = [at(start + (end - start) * piece // pieces) for piece in range(1, pieces)]
    return Motion(times, start, end, [first, *between, last])


def _angle(a: Transform, b: Transform) -> float:
    """Radians between two rotations."""
    cosine = (np.einsum("ij,ij", a.rotation, b.rotation) - 1) / 2
    return float(np.arccos(np.clip(cosine, -1, 1)))
