"""Where the street's sensors sit on the car."""

from __future__ import annotations

import numpy as np

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transform import Transform

BASE_FRAME = "base_link"
ODOM_FRAME = "odom"
CAMERA_FRAME = "camera_optical_frame"
EVENT_FRAME = "event_camera_optical_frame"
LIDAR_FRAME = "lidar"

# x forward, y left, z up → optical x right, y down, z forward (REP 103).
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def street_rig(size: tuple[int, int], event_size: tuple[int, int] | None = None) -> Rig:
    """The street's rig for pictures of (height, width) pixels, 90 degrees wide; the event camera may have others.

    The camera and the registered depth share `camera_optical_frame`; the event camera looks through the same lens
    by a beam splitter, so its frame coincides; the LiDAR spins on the roof behind them.
    """
    height, width = size
    focal = width / 2
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    rig = Rig(CAMERA_FRAME)
    camera = CameraModel(width, height, intrinsics, np.zeros(5), "plumb_bob")
    rig.models[CAMERA_FRAME] = camera
    rig.models[EVENT_FRAME] = camera.scaled(*event_size) if event_size else camera
    rig.tree.set(BASE_FRAME, CAMERA_FRAME, Transform(_OPTICAL, np.array([0.6, 0.0, 1.62])))
    rig.tree.set(CAMERA_FRAME, EVENT_FRAME, Transform.identity())
    rig.tree.set(BASE_FRAME, LIDAR_FRAME, Transform(np.eye(3), np.array([0.1, 0.0, 1.92])))
    return rig
