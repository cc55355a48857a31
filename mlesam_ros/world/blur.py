"""Motion blur along the motion that the picture really has: the ego car's, and that of whatever moves by itself."""

from __future__ import annotations

import cv2
import numpy as np

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transform import Transform
from mlesam_ros.world.scene import Hits
from mlesam_ros.world.vector import Floats, as_float32

_TAPS = 5
"""Samples of each of two passes, the second within the steps of the first: 25 in all."""
_LONGEST = 0.2
"""Of the picture's width: what moves further is a smear anyhow."""
_FAR = 1e4
_NEAREST = 0.3


def flow(
    hits: Hits, directions: Floats, model: CameraModel, odom_from_camera: tuple[Transform, Transform], shutter: float
) -> Floats:
    """How far each pixel's content moves while the shutter is open.

    Args:
        hits: what the pixels' rays met at mid-exposure.
        directions: (h * w, 3) of all rays, from about the camera's place.
        model: the camera; undistorted.
        odom_from_camera: when the shutter opens, and when it closes.
        shutter: seconds in between.

    Returns:
        (h, w, 2) pixels, x and y.
    """
    middle = (odom_from_camera[0].translation + odom_from_camera[1].translation) / 2
    points = as_float32(middle + _FAR * directions)
    points[hits.ray] = hits.point
    step = np.zeros((len(points), 2), np.float32)
    step[hits.ray] = hits.rows[:, 3:5] * (hits.rows[:, 13:14] * np.float32(shutter / 2))
    ends = []
    for camera, sign in zip(odom_from_camera, (-1, 1), strict=True):
        moved = points.astype(np.float64)
        moved[:, :2] += sign * step
        ends.append(_pixels(camera.inverse().apply(moved), model))
    way = as_float32(ends[1] - ends[0])
    longest = np.float32(_LONGEST * model.width)
    way *= np.minimum(1, longest / np.maximum(np.hypot(way[:, 0], way[:, 1]), 1e-6))[:, None]
    return way.reshape(model.height, model.width, 2)


def _pixels(points: np.ndarray, model: CameraModel) -> np.ndarray:
    """(n, 2) pixels of (n, 3) points in the camera's frame; what is beside or behind it is held in front of it."""
    return points[:, :2] / np.maximum(points[:, 2:], _NEAREST) * [model.K[0, 0], model.K[1, 1]]


def motion_blur(light: Floats, way: Floats) -> Floats:
    """(H, W, 3) radiance averaged along each pixel's (H, W, 2) way."""
    way = as_float32(cv2.blur(way, (5, 5)))
    for scale in (1.0, 1.0 / _TAPS):
        light = _along(light, way * np.float32(scale))
    return light


def _along(light: Floats, way: Floats) -> Floats:
    height, width = light.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    total = np.zeros_like(light)
    for share in (np.arange(_TAPS, dtype=np.float32) + np.float32(0.5)) / np.float32(_TAPS) - np.float32(0.5):
        there = (x + way[..., 0] * share, y + way[..., 1] * share)
        total += cv2.remap(light, *there, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return total / np.float32(_TAPS)
