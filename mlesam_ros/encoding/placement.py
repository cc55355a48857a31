"""Where a frame's points lie for the label camera at the set's moment, as well as the transform tree can tell."""

from __future__ import annotations

import numpy as np

from mlesam_ros.encoding.cloud_times import Times, cloud_times, piece_times
from mlesam_ros.encoding.reference import Reference
from mlesam_ros.errors import CalibrationError, CloudError, Problem
from mlesam_ros.frame import PointCloud, SensorFrame
from mlesam_ros.geometry.motion import PointTransform, sensor_motion
from mlesam_ros.geometry.rig import Rig

_MOMENT = 1_000_000
"""Nanoseconds that count as one moment: 3 cm at 30 m/s."""


def sensor_to_camera(frame: SensorFrame, rig: Rig, reference: Reference | None = None) -> PointTransform:
    """How to bring a frame's points, all measured at its time, before the label camera.

    Where the robot's motion is not known the mounting alone counts, and the reference notes why.

    Args:
        frame: where the points come from and when.
        rig: knows the sensors and, by odometry, the robot's motion.
        reference: the set's moment, which remembers the result; None for a frame on its own, which is its own moment.

    Raises:
        CalibrationError: the rig does not tell where the sensor sits.
    """
    if reference is None:
        return _placed(frame, rig, None, None)
    return reference.placement(frame, lambda: _placed(frame, rig, reference, None))


def cloud_to_camera(frame: SensorFrame, rig: Rig, reference: Reference | None = None) -> PointTransform:
    """How to bring a sweep before the label camera, each point from where the LiDAR was when it measured it.

    Times that cannot be are left aside, and the reference notes why.

    Args:
        frame: holds a `PointCloud`.
        rig: as for `sensor_to_camera`.
        reference: as for `sensor_to_camera`.

    Raises:
        CalibrationError: the rig does not tell where the LiDAR sits.
    """
    if reference is None:
        return _placed(frame, rig, None, _times(frame, None))
    return reference.placement(frame, lambda: _placed(frame, rig, reference, _times(frame, reference)))


def _times(frame: SensorFrame, reference: Reference | None) -> Times | None:
    """(N,) nanoseconds of each point; None if all were measured at the frame's time."""
    assert isinstance(frame.payload, PointCloud)
    times = None
    try:
        times = cloud_times(frame.payload, frame.stamp, frame.offset)
    except CloudError as error:
        if reference is not None:
            reason = f"times of points are left aside: {error.message}"
            reference.note(frame.modality, Problem(reason, error.remedy))
        times = piece_times(frame.payload, frame.stamp - frame.offset)
    return times


def _placed(frame: SensorFrame, rig: Rig, reference: Reference | None, times: Times | None) -> PointTransform:
    moment = frame.time if reference is None else reference.time
    if times is None or not len(times):
        times = np.array([frame.time])
    lag = max(int(times.max()) - moment, moment - int(times.min()))
    if lag > _MOMENT:
        try:
            return sensor_motion(rig, frame.frame_id, times, moment)
        except CalibrationError as error:
            mounting = rig.extrinsic(frame.frame_id, frame.time)  # if not even that is known, that is the error
            if reference is not None:
                reason = f"motion over {lag / 1e6:.0f} ms is not compensated: {error.message}"
                reference.note(frame.modality, Problem(reason, error.remedy))
            return mounting
    return rig.extrinsic(frame.frame_id, frame.time)
