"""Pictures of another camera on the label camera's pixels: by depth where the set knows it, at infinity elsewhere.

Each of the label camera's pixels is a point as far away as its depth says; where the other camera sees that point is
where the pixel looks. The mounting counts, not the robot's motion: a window of events is 30 ms long itself.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.infinity import FAR, SAME, View, coarse_size, view_from_camera
from mlesam_ros.frame import SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transform import Transform

Floats = npt.NDArray[np.float32]
_NEAR = 0.5
"""Metres. What is nearer than this may be off by more than `SAME` when two lenses count as one."""
_REACH = 6
"""Pixels over which a hole in the depth takes the nearest reading: the rows between a LiDAR's beams, and no more."""


def aligned_view(
    frame: SensorFrame, have: tuple[int, int], rig: Rig, size: tuple[int, int], context: Context | None
) -> View:
    """How the label camera sees a picture, as well as the set tells.

    Args:
        frame: where the picture comes from and when.
        have: (H, W) of the picture.
        rig: knows both cameras, unless the frame is the label camera's own.
        size: (h, w) of the network.
        context: knows the depth; None to take everything as infinitely far away.

    Raises:
        CalibrationError: the picture's size contradicts its calibration, or the rig does not know its camera.
    """
    at_infinity = view_from_camera(frame, have, rig, size)
    if frame.frame_id == rig.camera_frame or context is None:
        return at_infinity
    pose, target = rig.extrinsic(frame.frame_id, frame.stamp), rig.camera.scaled(*size)
    if np.linalg.norm(pose.translation) * target.K[0, 0] / _NEAR < SAME:
        return at_infinity
    depth = context.depth(rig, size)
    return at_infinity if depth is None else _view(rig.model(frame.frame_id), target, pose, size, depth)


def _view(model: CameraModel, target: CameraModel, pose: Transform, size: tuple[int, int], depth: Floats) -> View:
    coarse = coarse_size(model, target)
    points = target.unproject(_without_gaps(depth)).reshape(-1, 3)
    seen = pose.inverse().apply(points)
    scaled = model.scaled(*coarse)
    uv, valid = scaled.project(seen)
    parallax = np.linalg.norm(pose.translation) * scaled.K[0, 0] / seen[valid, 2]
    valid[valid] = _visible(uv[valid], parallax, coarse)
    u, v = (np.where(valid, axis, -2.0).astype(np.float32).reshape(size) for axis in uv.T)
    return View(coarse, size, (u, v))


def _without_gaps(depth: Floats) -> Floats:
    """Depth with its small holes filled by the nearest reading, the rest infinitely far away."""
    hole = ~np.isfinite(depth)
    if not hole.any():
        return depth
    away, nearest = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    reading = np.zeros(int(nearest.max()) + 1, np.float32)
    reading[nearest[~hole]] = depth[~hole]
    return np.where(away <= _REACH, reading[nearest], np.float32(FAR))


def _visible(
    uv: npt.NDArray[np.float64], parallax: npt.NDArray[np.floating[Any]], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Whether nothing that the label camera sees stands before a point in the other camera's picture of that size.

    Two points on one pixel differ by more than a pixel of parallax only if one of them hides the other; neighbours on
    a slope share a pixel as well.
    """
    cols, rows = np.rint(uv).astype(np.intp).T
    pixel = np.clip(rows, 0, size[0] - 1) * size[1] + np.clip(cols, 0, size[1] - 1)
    largest = np.zeros(size[0] * size[1])
    np.maximum.at(largest, pixel, parallax)
    visible: npt.NDArray[np.bool_] = parallax >= largest[pixel] - 1
    return visible
