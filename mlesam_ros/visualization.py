# SPDX-License-Identifier: Apache-2.0
"""Visualization of masks: colors, overlays, projected point clouds."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, ImageError
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.projection import VisiblePoints
from mlesam_ros.labels import LabelSpace

RGBImage = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


def colorize(labels: Labels, label_space: LabelSpace) -> RGBImage:
    """Class ids (H, W) uint8 to their colors (H, W, 3) uint8 RGB; unlabeled pixels are black."""
    # A lookup table per channel is several times faster than fancy indexing with rows of three.
    channels = [cv2.LUT(labels, channel) for channel in label_space.palette.T.copy()]
    return cv2.merge(channels).astype(np.uint8, copy=False)


def overlay(rgb: RGBImage | None, labels: Labels, label_space: LabelSpace, alpha: float = 0.5) -> RGBImage:
    """Blend a mask with its camera image.

    Args:
        rgb: (H, W, 3) uint8; None without a camera image, for the colors on black.
        labels: (h, w) uint8 of the same view; resized to the image where the sizes differ.
        label_space: the colors.
        alpha: weight of the colors, 0 to 1. Unlabeled pixels show only the image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: rgb is not (H, W, 3) uint8.
        ConfigError: alpha is outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"overlay alpha is {alpha}; it must be from 0 to 1.")
    if rgb is None:
        return colorize(labels, label_space)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ImageError(f"the overlay's camera image is {rgb.dtype} of shape {rgb.shape}; it must be uint8 (H, W, 3).")
    if labels.shape != rgb.shape[:2]:
        labels = resize_nearest(labels, rgb.shape[:2])
    mixed = cv2.addWeighted(rgb, 1 - alpha, colorize(labels, label_space), alpha, 0).astype(np.uint8)
    unlabeled = labels >= len(label_space)
    if unlabeled.any():
        cv2.copyTo(rgb, unlabeled.view(np.uint8), mixed)
    return mixed


def resize_area(rgb: RGBImage, size: tuple[int, int]) -> RGBImage:
    """Resize (H, W, 3) uint8 to (height, width) by averages of areas; the image itself if it has that size."""
    if rgb.shape[:2] == size:
        return rgb
    return np.asarray(cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


_JPEG_QUALITY = 90  # percent


def encode_jpeg(rgb: RGBImage) -> tuple[str, npt.NDArray[np.uint8]]:
    """Encode (H, W, 3) uint8 RGB as a JPEG file.

    Returns:
        format of a CompressedImage as image_transport reads it, and the file, (n,) uint8.
    """
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "rgb8; jpeg compressed bgr8", data.reshape(-1).astype(np.uint8, copy=False)


_MIN_RANGE_M, _MAX_RANGE_M = 2.0, 60.0  # limits of the color scale


@cache
def _turbo() -> RGBImage:
    """(256, 1, 3) uint8 RGB of OpenCV's color map Turbo."""
    levels = np.arange(256, dtype=np.uint8)[:, None]
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB), np.uint8)


def projected_cloud(rgb: RGBImage | None, points: VisiblePoints, size: tuple[int, int]) -> RGBImage:
    """Draw a point cloud on the label camera's image, red near and blue far, to check a calibration by eye.

    Args:
        rgb: (H, W, 3) uint8; None without a camera image, for points on black.
        points: those inside the image.
        size: (H, W) of the result.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = np.zeros((*size, 3), np.uint8) if rgb is None else rgb.copy()
    # Logarithmic color scale: equal ratios of range get equal color steps.
    ranges = np.clip(points.range, _MIN_RANGE_M, _MAX_RANGE_M)
    nearness = 1 - np.log(ranges / _MIN_RANGE_M) / np.log(_MAX_RANGE_M / _MIN_RANGE_M)
    shades = np.zeros(size, np.uint8)
    np.maximum.at(shades, points.pixels(size), (40 + 200 * nearness).astype(np.uint8))
    width = 2 * (max(size) // 640) + 1
    cv2.dilate(shades, np.ones((width, width), np.uint8), shades)  # the maximum is the nearest
    cv2.copyTo(cv2.applyColorMap(shades, _turbo()), shades, image)
    return image


_GROUND_COLOR, _OBSTACLE_COLOR, _RING_COLOR = (72, 160, 90), (240, 70, 60), (60, 60, 66)
_RINGS_M = 5.0


def bird_view(
    ground: npt.NDArray[np.floating], obstacles: npt.NDArray[np.floating], side: int, meters: float = 20.0
) -> RGBImage:
    """Draw points from above: the robot in the middle of the lower edge, x upwards, ground green, obstacles red.

    Args:
        ground: (n, 3) meters in a frame with x ahead and y left (REP 103).
        obstacles: (m, 3) meters in the same frame.
        side: height and width of the image in pixels.
        meters: length of its sides.

    Returns:
        (side, side, 3) uint8 RGB, with a ring every 5 m.
    """
    image = np.zeros((side, side, 3), np.uint8)
    scale = side / meters
    for ring in range(1, int(meters / _RINGS_M) + 1):
        cv2.circle(image, (side // 2, side - 1), round(ring * _RINGS_M * scale), _RING_COLOR, 1, cv2.LINE_AA)
    half = max(side // 256, 1)
    for points, color in ((ground, _GROUND_COLOR), (obstacles, _OBSTACLE_COLOR)):
        rows = np.floor(side - points[:, 0] * scale).astype(np.intp)
        cols = np.floor(side / 2 - points[:, 1] * scale).astype(np.intp)
        for down in range(-half, half + 1):
            for right in range(-half, half + 1):
                row, col = rows + down, cols + right
                inside = (row >= 0) & (row < side) & (col >= 0) & (col < side)
                image[row[inside], col[inside]] = color
    return image
