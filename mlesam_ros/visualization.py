# SPDX-License-Identifier: Apache-2.0
"""Visualization of masks: colors, overlays, labeled and projected point clouds."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, ImageError
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.projection import project, project_points
from mlesam_ros.geometry.rig import PointTransform, Rig
from mlesam_ros.labels import LabelSpace
from mlesam_ros.preprocessing.point_cloud import cloud_intensity, cloud_xyz
from mlesam_ros.types import PointCloud, Segmentation, SensorFrame

RGBImage = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]

POINT = np.dtype(
    {
        "names": ["x", "y", "z", "intensity", "label", "rgb"],
        "formats": ["f4", "f4", "f4", "f4", "u1", "f4"],
        "offsets": [0, 4, 8, 12, 16, 20],
        "itemsize": 24,
    }
)
"""A labeled point: meters in the sensor's frame, the driver's intensity, a class id, and its color as PCL and RViz read
it, the bits of the number 0x00RRGGBB in a float32."""


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
        mixed[unlabeled] = rgb[unlabeled]
    return mixed


_JPEG_QUALITY = 90  # percent


def encode_jpeg(rgb: RGBImage) -> tuple[str, npt.NDArray[np.uint8]]:
    """Encode (H, W, 3) uint8 RGB as a JPEG file.

    Returns:
        format of a CompressedImage as image_transport reads it, and the file, (n,) uint8.
    """
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "rgb8; jpeg compressed bgr8", data.reshape(-1).astype(np.uint8, copy=False)


def labeled_cloud(
    cloud: PointCloud, segmentation: Segmentation, rig: Rig, label_space: LabelSpace, frame: SensorFrame
) -> npt.NDArray[np.void]:
    """Points in the label camera's view, each with the class of its pixel.

    Of several points on one pixel only the nearest is kept, so that a wall behind a pole does not get the pole's class.

    Args:
        cloud: N points in the sensor's frame.
        segmentation: the mask.
        rig: with the label camera's model.
        label_space: the colors.
        frame: the frame of the point cloud, one that the mask was made from. Its points have the same placement as in
            the mask.

    Returns:
        (M,) of `POINT` with M <= N, in the point cloud's order and in the sensor's frame.

    Raises:
        CalibrationError: the label camera is unknown.
    """
    return labeled_cloud_in_camera(cloud, segmentation, rig, label_space, frame)[0]


def labeled_cloud_in_camera(
    cloud: PointCloud, segmentation: Segmentation, rig: Rig, label_space: LabelSpace, frame: SensorFrame
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.floating[Any]]]:
    """`labeled_cloud`, and (M, 3) meters of its points in the label camera's frame at the time of the mask."""
    xyz = cloud_xyz(cloud)
    placed = segmentation.placements[frame.modality].apply(xyz)
    projected = project_points(placed, rig.camera, segmentation.labels.shape)
    order = np.argsort(projected.index)
    index = projected.index[order]
    labels = segmentation.labels[projected.rows[order], projected.cols[order]]
    points = np.zeros(len(index), POINT)
    for axis, column in zip("xyz", xyz[index].T, strict=True):
        points[axis] = column
    points["intensity"] = cloud_intensity(cloud)[index]
    points["label"] = labels
    points["rgb"] = _pack_colors(label_space)[labels]
    return points, placed[index]


_MIN_RANGE_M, _MAX_RANGE_M = 2.0, 60.0  # limits of the color scale


def projected_cloud(
    rgb: RGBImage | None, frame: SensorFrame, rig: Rig, size: tuple[int, int], placement: PointTransform
) -> RGBImage:
    """Draw a point cloud on the label camera's image, red near and blue far, to check a calibration by eye.

    Args:
        rgb: (H, W, 3) uint8; None without a camera image, for points on black.
        frame: its payload is a `PointCloud`.
        rig: with the label camera's model.
        size: (H, W) of the result.
        placement: of the points in the mask's preprocessor.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        CalibrationError: the label camera is unknown.
    """
    assert isinstance(frame.payload, PointCloud)
    image = np.zeros((*size, 3), np.uint8) if rgb is None else rgb.copy()
    projected = project(cloud_xyz(frame.payload), placement, rig.camera, image.shape[:2], dilation=max(size) // 640)
    if not len(projected.range):
        return image  # OpenCV colors no empty array
    # Logarithmic color scale: equal ratios of range get equal color steps.
    ranges = np.clip(projected.range, _MIN_RANGE_M, _MAX_RANGE_M)
    nearness = 1 - np.log(ranges / _MIN_RANGE_M) / np.log(_MAX_RANGE_M / _MIN_RANGE_M)
    bgr = cv2.applyColorMap((40 + 200 * nearness).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)
    image[projected.rows, projected.cols] = bgr.reshape(-1, 3)[:, ::-1]
    return image


def _pack_colors(label_space: LabelSpace) -> npt.NDArray[np.float32]:
    """(256,) float32: the color of each id, packed as in `POINT`."""
    red, green, blue = label_space.palette.astype(np.uint32).T
    return (red << 16 | green << 8 | blue).view(np.float32)
