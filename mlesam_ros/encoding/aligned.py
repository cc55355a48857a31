"""Pictures of another camera on the label camera's pixels: by depth where the set knows it, at infinity elsewhere.

Each of the label camera's pixels is a point as far away as its depth says; where the other camera sees that point is
where the pixel looks. The mounting counts, not the robot's motion: a window of events is 30 ms long itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.context import Context
from mlesam_ros.encoding.infinity import (
    INFINITE_DEPTH_M,
    SAME_LENS_TOLERANCE_PX,
    ImageWarp,
    antialias_size,
    warp_at_infinity,
)
from mlesam_ros.frame import SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transform import Transform

Floats = npt.NDArray[np.float32]
_NEAR = 0.5
"""Meters. What is nearer than this may be off by more than `SAME_LENS_TOLERANCE_PX` when two lenses count as one."""
_FINEST = 384
"""Pixels of the longer side at which parallax is worked out; a larger network gets the nearest of these."""
_NOWHERE = -1e4
"""A place that stays outside every picture, whatever parallax is added to it."""
_REACH = 6
"""Pixels over which a hole in the depth takes the nearest reading: the rows between a LiDAR's beams, and no more."""


def warp_by_depth(
    frame: SensorFrame, have: tuple[int, int], rig: Rig, size: tuple[int, int], context: Context | None
) -> ImageWarp:
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
    at_infinity = warp_at_infinity(frame, have, rig, size)
    if frame.frame_id == rig.camera_frame or context is None:
        return at_infinity
    pose, target = rig.extrinsic(frame.frame_id, frame.time), rig.camera.scaled(*size)
    if np.linalg.norm(pose.translation) * target.K[0, 0] / _NEAR < SAME_LENS_TOLERANCE_PX:
        return at_infinity
    depth = context.depth(rig, size)
    return at_infinity if depth is None else _view(rig.model_of(frame), rig.camera, pose, _fill_holes(depth))


def _view(model: CameraModel, camera: CameraModel, pose: Transform, depth: Floats) -> ImageWarp:
    """The view by a depth without holes, of the network's size."""
    size = depth.shape[0], depth.shape[1]
    coarse = antialias_size(model, camera.scaled(*size))
    other = model.scaled(*coarse)
    few = _limit_size(_FINEST, size)
    if few == size:
        return ImageWarp(coarse, size, _project_grid(other, camera, pose, depth))
    parallax = _project_grid(other, camera, pose, resize_nearest(depth, few))
    turn = pose.rotation.tobytes()
    maps = []
    for near, far, finer in zip(parallax, _far(other, camera, few, turn), _far(other, camera, size, turn), strict=True):
        maps.append(finer + resize_nearest(near - far, size))
    return ImageWarp(coarse, size, (maps[0], maps[1]))


def _limit_size(most: int, size: tuple[int, int]) -> tuple[int, int]:
    """The size, shrunk to a longer side of at most that many pixels."""
    factor = min(most / max(size), 1.0)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


@lru_cache(maxsize=8)
def _far(other: CameraModel, camera: CameraModel, size: tuple[int, int], turn: bytes) -> tuple[Floats, Floats]:
    """Where each pixel looks if everything is infinitely far away."""
    pose = Transform(np.frombuffer(turn).reshape(3, 3), np.zeros(3))
    return _project_grid(other, camera, pose, np.full(size, INFINITE_DEPTH_M, np.float32))


def _project_grid(other: CameraModel, camera: CameraModel, pose: Transform, depth: Floats) -> tuple[Floats, Floats]:
    """Where each of the label camera's pixels looks on the other's picture; far outside where that sees none of it."""
    points = camera.scaled(*depth.shape).unproject(depth).reshape(-1, 3)
    seen = pose.inverse().apply(points)
    index, u, v = other.project_visible(seen, bounded=False)
    parallax = np.linalg.norm(pose.translation) * other.K[0, 0] / seen[index, 2]
    visible = _visible(u, v, parallax, (other.height, other.width))
    maps = np.full((2, depth.size), _NOWHERE, np.float32)
    maps[:, index[visible]] = u[visible], v[visible]
    return maps[0].reshape(depth.shape), maps[1].reshape(depth.shape)


def _fill_holes(depth: Floats) -> Floats:
    """Depth with its small holes filled by the nearest reading, the rest infinitely far away."""
    hole = ~np.isfinite(depth)
    if not hole.any():
        return depth
    away, nearest = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    reading = np.zeros(int(nearest.max()) + 1, np.float32)
    reading[nearest[~hole]] = depth[~hole]
    return np.where(away <= _REACH, reading[nearest], np.float32(INFINITE_DEPTH_M))


def _visible(
    u: npt.NDArray[Any], v: npt.NDArray[Any], parallax: npt.NDArray[Any], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Whether nothing that the label camera sees stands before a point in the other camera's picture of that size.

    Two points on one pixel differ by more than a pixel of parallax only if one of them hides the other; neighbors on
    a slope share a pixel as well.
    """
    height, width = size
    inside = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
    pixel = np.full(len(u), height * width)  # one place more for all that is outside
    pixel[inside] = (v[inside] + 0.5).astype(np.intp) * width + (u[inside] + 0.5).astype(np.intp)
    largest = np.zeros(height * width + 1)
    np.maximum.at(largest, pixel, parallax)
    visible: npt.NDArray[np.bool_] = parallax >= largest[pixel] - 1
    return visible
