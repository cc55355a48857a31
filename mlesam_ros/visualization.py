"""Masks for eyes: colors, overlays and colored clouds."""

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

Rgb = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]

POINT = np.dtype(
    {
        "names": ["x", "y", "z", "intensity", "label", "rgb"],
        "formats": ["f4", "f4", "f4", "f4", "u1", "f4"],
        "offsets": [0, 4, 8, 12, 16, 20],
        "itemsize": 24,
    }
)
"""A labeled point: meters in the sensor's frame, the driver's intensity, a class id, and its color as PCL and RViz
read it, the bits of the number 0x00RRGGBB in a float32."""


def colorize(labels: Labels, label_space: LabelSpace) -> Rgb:
    """Class ids (H, W) uint8 to their colors (H, W, 3) uint8 RGB; unlabeled pixels are black."""
    # A table look-up per channel is several times faster than fancy indexing with rows of three.
    channels = [cv2.LUT(labels, channel) for channel in label_space.palette.T.copy()]
    return cv2.merge(channels).astype(np.uint8, copy=False)


def overlay(rgb: Rgb | None, labels: Labels, label_space: LabelSpace, alpha: float = 0.5) -> Rgb:
    """A mask on its picture.

    Args:
        rgb: (H, W, 3) uint8; None where the camera is lost, for the colors on black.
        labels: (h, w) uint8 of the same view; enlarged to the picture where it differs in size.
        label_space: the colors.
        alpha: weight of the colors, 0 to 1. Unlabeled pixels show the picture alone.

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
        raise ImageError(f"the overlay's picture is {rgb.dtype} of shape {rgb.shape}; it must be uint8 (H, W, 3).")
    if labels.shape != rgb.shape[:2]:
        labels = resize_nearest(labels, rgb.shape[:2])
    mixed = cv2.addWeighted(rgb, 1 - alpha, colorize(labels, label_space), alpha, 0).astype(np.uint8)
    unlabeled = labels >= len(label_space)
    if unlabeled.any():
        mixed[unlabeled] = rgb[unlabeled]
    return mixed


def labeled_cloud(
    cloud: PointCloud, segmentation: Segmentation, rig: Rig, label_space: LabelSpace, frame: SensorFrame
) -> npt.NDArray[np.void]:
    """The points that the label camera sees, each with the class of its pixel.

    Where several points meet on a pixel only the nearest is seen, so that the class of a pole does not fall on the wall
    behind it.

    Args:
        cloud: N points in the sensor's frame.
        segmentation: the mask.
        rig: the lens of the label camera.
        label_space: the colors.
        frame: whose payload the cloud is, one that the mask was made from. Its points are placed as they were for it.

    Returns:
        (M,) of `POINT` with M <= N, in the cloud's order and in the sensor's frame.

    Raises:
        CalibrationError: the rig does not know the camera.
    """
    return placed_cloud(cloud, segmentation, rig, label_space, frame)[0]


def placed_cloud(
    cloud: PointCloud, segmentation: Segmentation, rig: Rig, label_space: LabelSpace, frame: SensorFrame
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.floating[Any]]]:
    """`labeled_cloud`, and (M, 3) meters of its points in the label camera's frame at the time of the mask."""
    xyz = cloud_xyz(cloud)
    placed = segmentation.placements[frame.modality].apply(xyz)
    seen = project_points(placed, rig.camera, segmentation.labels.shape)
    order = np.argsort(seen.index)
    index = seen.index[order]
    labels = segmentation.labels[seen.rows[order], seen.cols[order]]
    points = np.zeros(len(index), POINT)
    for axis, column in zip("xyz", xyz[index].T, strict=True):
        points[axis] = column
    points["intensity"] = cloud_intensity(cloud)[index]
    points["label"] = labels
    points["rgb"] = _packed(label_space)[labels]
    return points, placed[index]


_FAR = 60.0  # m, where the colors of a range end
_NEAR = 2.0


def projected_cloud(
    rgb: Rgb | None, frame: SensorFrame, rig: Rig, size: tuple[int, int], placement: PointTransform
) -> Rgb:
    """The points of a cloud on the label camera's picture, red near and blue far, for eyes that judge a calibration.

    Args:
        rgb: (H, W, 3) uint8; None where the camera is lost, for points on black.
        frame: whose payload is a `PointCloud`.
        rig: the lens of the label camera.
        size: (H, W) of the result.
        placement: where the mask's encoder placed the points.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        CalibrationError: the rig does not know the camera.
    """
    assert isinstance(frame.payload, PointCloud)
    picture = np.zeros((*size, 3), np.uint8) if rgb is None else rgb.copy()
    seen = project(cloud_xyz(frame.payload), placement, rig.camera, picture.shape[:2], dilation=max(size) // 640)
    if not len(seen.range):
        return picture  # OpenCV colors no empty array
    # Equal steps of color for equal ratios of range, as the eye judges depth.
    nearness = 1 - np.log(np.clip(seen.range, _NEAR, _FAR) / _NEAR) / np.log(_FAR / _NEAR)
    bgr = cv2.applyColorMap((40 + 200 * nearness).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)
    picture[seen.rows, seen.cols] = bgr.reshape(-1, 3)[:, ::-1]
    return picture


def _packed(label_space: LabelSpace) -> npt.NDArray[np.float32]:
    """(256,) float32: the color of each id, packed as `POINT` says."""
    red, green, blue = label_space.palette.astype(np.uint32).T
    return (red << 16 | green << 8 | blue).view(np.float32)
