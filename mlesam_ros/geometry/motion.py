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
_KNOT = NANOSECONDS // 100
"""Nanoseconds between knots at most: as fine as odometry usually comes."""
_TURN = 0.009
"""Radians between knots: a point 100 m away is cut off the arc by 1 mm."""


class PointTransform(Protocol):
    """Puts a sensor's points into the label camera's frame: a `Transform`, or a `PiecewiseMotion`."""

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """(N, 3) meters in the sensor's frame to (N, 3) meters of the same floating type in the camera's."""
        ...


class PiecewiseMotion:
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
        segment = np.clip(position, 0, len(knots) - 2).astype(np.uint8)
        fraction = (position - segment).astype(np.float32)
        # Sweeps mostly come in order of time. The others are brought into it, and back.
        self._order = None
        if (segment[1:] < segment[:-1]).any():
            self._order = np.argsort(segment, kind="stable")
            segment, fraction = segment[self._order], fraction[self._order]
        self._bounds = np.searchsorted(segment, np.arange(len(knots)))
        self._fraction = fraction
        table = np.stack([np.column_stack([knot.rotation, knot.translation]) for knot in knots])  # (K, 3, 4)
        self._table = np.concatenate([table[:-1], table[1:] - table[:-1]], axis=2)  # (K - 1, 3, 8)

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """See `PointTransform`.

        Args:
            points: (N, 3) meters, row for row with the times.
        """
        # (x, y, z, 1) and the fraction's multiple of it: one matrix per segment does both ends and the line between.
        terms = np.empty((8, len(points)), points.dtype)  # each row in one piece, which is several times faster
        terms[:3], terms[3] = points.T if self._order is None else points.T[:, self._order], 1
        np.multiply(terms[:4], self._fraction, out=terms[4:])
        moved = np.empty((3, len(points)), points.dtype)
        for table, start, stop in zip(self._table.astype(points.dtype), self._bounds, self._bounds[1:], strict=False):
            np.matmul(table, terms[:, start:stop], out=moved[:, start:stop])
        if self._order is not None:
            moved[:, self._order] = moved.copy()
        return moved.T


def sensor_motion(rig: Rig, frame_id: str, times: Stamps, reference: int) -> PointTransform:
    """How points measured at different times look from the label camera at one moment.

    Args:
        rig: knows the sensors and the robot's motion.
        frame_id: the sensor's frame.
        times: (N,) nanoseconds, one per point; one of them stands for all if they are equal.
        reference: nanoseconds of the moment to see them at.

    Raises:
        CalibrationError: no fixed frame is known, or the tree does not cover the moments.
    """
    fixed = rig.fixed_frame_or_default
    if fixed is None:
        name = f"{rig.fixed_frame!r} is not" if rig.fixed_frame else "neither odom nor map is"
        raise CalibrationError(
            f"{name} known as a frame that {rig.camera_frame!r} moves against.",
            "Publish odometry on /tf, or name the fixed_frame in the calibration file.",
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
    return PiecewiseMotion(times, start, end, [first, *between, last])


def _angle(a: Transform, b: Transform) -> float:
    """Radians between two rotations."""
    cosine = (np.einsum("ij,ij", a.rotation, b.rotation) - 1) / 2
    return float(np.arccos(np.clip(cosine, -1, 1)))
