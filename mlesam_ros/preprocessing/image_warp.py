"""Warp images between cameras: by depth where it is known, at infinity elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.base import other_camera
from mlesam_ros.preprocessing.context import Context
from mlesam_ros.types import SensorFrame

Floats = npt.NDArray[np.float32]
INFINITE_DEPTH_M = 1e6
"""Meters that count as infinitely far."""
SAME_LENS_TOLERANCE_PX = 0.25
"""Pixels of the network by which two lenses may differ and still count as one."""


@dataclass(frozen=True, eq=False)
class ImageWarp:
    """How another camera's picture becomes the label camera's.

    Attributes:
        coarse: (h', w') that its picture is to be reduced to first, by averaging; never more than it has.
        size: (h, w) of the network.
        maps: where on the reduced picture each pixel of the network looks; None where a change of size is all.
    """

    coarse: tuple[int, int]
    size: tuple[int, int]
    maps: tuple[Floats, Floats] | None = None

    def warp(self, values: Floats) -> Floats:
        """Values on the label camera's pixels.

        Args:
            values: (h', w', C) float32.

        Returns:
            (h, w, C) float32; 0 where the other camera does not look.
        """
        if self.maps is not None:
            warped = cv2.remap(values, *self.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        elif self.coarse != self.size:
            warped = resize_nearest(values, self.size)
        else:
            return values
        return np.asarray(warped, np.float32).reshape(*self.size, values.shape[2])


def warp_at_infinity(frame: SensorFrame, have: tuple[int, int], rig: Rig, size: tuple[int, int]) -> ImageWarp:
    """How the label camera sees a picture.

    Args:
        frame: where the picture comes from and when.
        have: (H, W) of the picture.
        rig: knows both cameras, unless the frame is the label camera's own.
        size: (h, w) of the network.

    Raises:
        CalibrationError: the picture's size contradicts its calibration, or the rig does not know its camera.
    """
    model = other_camera(frame, have, rig)
    if model is None:
        return ImageWarp((min(size[0], have[0]), min(size[1], have[1])), size)
    return _turned_view(model, rig.camera, size, rig.extrinsic(frame.frame_id, frame.time).rotation.tobytes())


@lru_cache(maxsize=8)
def _turned_view(model: CameraModel, camera: CameraModel, size: tuple[int, int], rotation: bytes) -> ImageWarp:
    target = camera.scaled(*size)
    coarse = antialias_size(model, target)
    points = target.unproject(np.full(size, INFINITE_DEPTH_M)).reshape(-1, 3)
    turn = Transform(np.frombuffer(rotation).reshape(3, 3), np.zeros(3)).inverse()
    uv, valid = model.scaled(*coarse).project(turn.apply(points))
    if valid.all() and coarse == size and np.abs(uv - _grid(size)).max() < SAME_LENS_TOLERANCE_PX:
        return ImageWarp(size, size)
    u, v = (np.where(valid, axis, -2.0).astype(np.float32).reshape(size) for axis in uv.T)
    return ImageWarp(coarse, size, (u, v))


def antialias_size(model: CameraModel, target: CameraModel) -> tuple[int, int]:
    """(h', w') at which a camera's pixels are no finer than the target's, so that none of them is jumped over."""
    shrink = max(model.K[0, 0] / target.K[0, 0], model.K[1, 1] / target.K[1, 1], 1.0)
    return max(round(model.height / shrink), 1), max(round(model.width / shrink), 1)


def _grid(size: tuple[int, int]) -> npt.NDArray[np.float64]:
    rows, cols = np.indices(size)
    return np.stack([cols.ravel(), rows.ravel()], axis=1).astype(np.float64)


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
