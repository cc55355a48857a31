# SPDX-License-Identifier: Apache-2.0
"""Warp images to the label camera: by depth where it is known, at infinity elsewhere."""

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
from mlesam_ros.preprocessing.registration import FrameContext, other_camera
from mlesam_ros.types import SensorFrame

Floats = npt.NDArray[np.float32]
INFINITE_DEPTH_M = 1e6
"""Meters at which a point counts as infinitely far."""
SAME_LENS_TOLERANCE_PX = 0.25
"""Largest difference in network pixels at which two lenses count as the same."""


@dataclass(frozen=True, eq=False)
class ImageWarp:
    """Resampling of another camera's image to the label camera's pixels.

    Attributes:
        coarse: (h', w') to which the caller first reduces the image by averaging; at most its own size.
        size: (h, w) of the network input.
        maps: `cv2.remap` maps from network pixels to the reduced image; None if only the size changes.
    """

    coarse: tuple[int, int]
    size: tuple[int, int]
    maps: tuple[Floats, Floats] | None = None

    def warp(self, values: Floats) -> Floats:
        """Resample values to the label camera's pixels.

        Args:
            values: (h', w', C) float32.

        Returns:
            (h, w, C) float32; 0 outside the other camera's field of view.
        """
        if self.maps is not None:
            warped = cv2.remap(values, *self.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        elif self.coarse != self.size:
            warped = resize_nearest(values, self.size)
        else:
            return values
        return np.asarray(warped, np.float32).reshape(*self.size, values.shape[2])


def warp_at_infinity(frame: SensorFrame, have: tuple[int, int], rig: Rig, size: tuple[int, int]) -> ImageWarp:
    """Warp of an image to the label camera for points at infinity.

    Args:
        frame: the frame that holds the image.
        have: (H, W) of the image.
        rig: contains both cameras, unless the frame is the label camera's own.
        size: (h, w) of the network input.

    Raises:
        CalibrationError: the image size contradicts its calibration, or the rig has no calibration of its camera.
    """
    model = other_camera(frame, have, rig)
    if model is None:
        return ImageWarp((min(size[0], have[0]), min(size[1], have[1])), size)
    return _rotation_warp(model, rig.camera, size, rig.extrinsic(frame.frame_id, frame.time).rotation.tobytes())


@lru_cache(maxsize=8)
def _rotation_warp(model: CameraModel, camera: CameraModel, size: tuple[int, int], rotation: bytes) -> ImageWarp:
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
    """(h', w') at which a camera's pixels are no finer than the target's, so that resampling skips none of them."""
    shrink = max(model.K[0, 0] / target.K[0, 0], model.K[1, 1] / target.K[1, 1], 1.0)
    return max(round(model.height / shrink), 1), max(round(model.width / shrink), 1)


def _grid(size: tuple[int, int]) -> npt.NDArray[np.float64]:
    rows, cols = np.indices(size)
    return np.stack([cols.ravel(), rows.ravel()], axis=1).astype(np.float64)


_PARALLAX_DISTANCE_M = 0.5
"""Meters. Parallax is ignored if it is below `SAME_LENS_TOLERANCE_PX` at this distance; nearer points may exceed it."""
_MAX_GRID_SIDE_PX = 384
"""Longest side in pixels of the grid on which parallax is computed; for a larger network it is resized by nearest."""
_OUTSIDE_PX = -1e4
"""Pixel coordinate outside every image, even with parallax added."""
_MAX_HOLE_PX = 6
"""Pixels over which a hole in the depth is filled with the nearest depth: the rows between the beams of a LiDAR."""


def warp_by_depth(
    frame: SensorFrame, have: tuple[int, int], rig: Rig, size: tuple[int, int], context: FrameContext | None
) -> ImageWarp:
    """Warp of an image to the label camera, by the depth of the frame set as far as it is known.

    Args:
        frame: the frame that holds the image.
        have: (H, W) of the image.
        rig: contains both cameras, unless the frame is the label camera's own.
        size: (h, w) of the network input.
        context: source of the depth; None to assume points at infinity.

    Raises:
        CalibrationError: the image size contradicts its calibration, or the rig has no calibration of its camera.
    """
    at_infinity = warp_at_infinity(frame, have, rig, size)
    if frame.frame_id == rig.camera_frame or context is None:
        return at_infinity
    pose, target = rig.extrinsic(frame.frame_id, frame.time), rig.camera.scaled(*size)
    if np.linalg.norm(pose.translation) * target.K[0, 0] / _PARALLAX_DISTANCE_M < SAME_LENS_TOLERANCE_PX:
        return at_infinity
    depth = context.depth(rig, size)
    return at_infinity if depth is None else _depth_warp(rig.model_of(frame), rig.camera, pose, _fill_holes(depth))


def _depth_warp(model: CameraModel, camera: CameraModel, pose: Transform, depth: Floats) -> ImageWarp:
    """The warp by a depth image without holes, of the network's size."""
    size = depth.shape[0], depth.shape[1]
    coarse = antialias_size(model, camera.scaled(*size))
    other = model.scaled(*coarse)
    reduced = _limit_size(_MAX_GRID_SIDE_PX, size)
    if reduced == size:
        return ImageWarp(coarse, size, _project_grid(other, camera, pose, depth))
    parallax = _project_grid(other, camera, pose, resize_nearest(depth, reduced))
    turn = pose.rotation.tobytes()
    maps = []
    for near, far, finer in zip(
        parallax, _infinity_maps(other, camera, reduced, turn), _infinity_maps(other, camera, size, turn), strict=True
    ):
        maps.append(finer + resize_nearest(near - far, size))
    return ImageWarp(coarse, size, (maps[0], maps[1]))


def _limit_size(most: int, size: tuple[int, int]) -> tuple[int, int]:
    """The size, reduced so that the longer side has at most `most` pixels."""
    factor = min(most / max(size), 1.0)
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


@lru_cache(maxsize=8)
def _infinity_maps(
    other: CameraModel, camera: CameraModel, size: tuple[int, int], turn: bytes
) -> tuple[Floats, Floats]:
    """The remap maps for points at infinity."""
    pose = Transform(np.frombuffer(turn).reshape(3, 3), np.zeros(3))
    return _project_grid(other, camera, pose, np.full(size, INFINITE_DEPTH_M, np.float32))


def _project_grid(other: CameraModel, camera: CameraModel, pose: Transform, depth: Floats) -> tuple[Floats, Floats]:
    """The remap maps from the label camera to the other camera; `_OUTSIDE_PX` for points that it does not observe."""
    points = camera.scaled(*depth.shape).unproject(depth).reshape(-1, 3)
    seen = pose.inverse().apply(points)
    index, u, v = other.project_visible(seen, bounded=False)
    parallax = np.linalg.norm(pose.translation) * other.K[0, 0] / seen[index, 2]
    visible = _unoccluded(u, v, parallax, (other.height, other.width))
    maps = np.full((2, depth.size), _OUTSIDE_PX, np.float32)
    maps[:, index[visible]] = u[visible], v[visible]
    return maps[0].reshape(depth.shape), maps[1].reshape(depth.shape)


def _fill_holes(depth: Floats) -> Floats:
    """Depth with small holes filled with the nearest depth, and all others at infinity."""
    hole = ~np.isfinite(depth)
    if not hole.any():
        return depth
    away, nearest = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    reading = np.zeros(int(nearest.max()) + 1, np.float32)
    reading[nearest[~hole]] = depth[~hole]
    return np.where(away <= _MAX_HOLE_PX, reading[nearest], np.float32(INFINITE_DEPTH_M))


def _unoccluded(
    u: npt.NDArray[Any], v: npt.NDArray[Any], parallax: npt.NDArray[Any], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Whether each point is unoccluded by the other points in the other camera's image of that size.

    Points on one pixel occlude each other only if their parallax differs by more than a pixel, since neighbors on a
    slope share a pixel as well.
    """
    height, width = size
    inside = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
    pixel = np.full(len(u), height * width)  # the extra element collects points outside
    pixel[inside] = (v[inside] + 0.5).astype(np.intp) * width + (u[inside] + 0.5).astype(np.intp)
    largest = np.zeros(height * width + 1)
    np.maximum.at(largest, pixel, parallax)
    visible: npt.NDArray[np.bool_] = parallax >= largest[pixel] - 1
    return visible
