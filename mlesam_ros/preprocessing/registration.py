"""Registration of depth images and LiDAR sweeps to the label camera's pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import Projection, project, project_points
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.images import DepthSamples, Meters, parse_depth
from mlesam_ros.preprocessing.point_cloud import cloud_to_camera, cloud_xyz, sensor_to_camera
from mlesam_ros.preprocessing.reference import Reference, other_camera, wrong_payload
from mlesam_ros.types import CompressedImage, PointCloud, RawImage, SensorFrame

Rasterizer = Callable[[npt.NDArray[np.floating[Any]], CameraModel, tuple[int, int], int], Meters]
"""(N, 3) points in the optical frame, camera, size, dilation → (h, w) meters along its axis, NaN where unknown."""


def depth_from_picture(
    frame: SensorFrame,
    rig: Rig,
    size: tuple[int, int],
    reference: Reference | None = None,
    painter: Rasterizer | None = None,
) -> Meters:
    """Register a depth image to the label camera.

    A depth image that is registered already is resized. Any other is re-projected from its own camera with a z-buffer.

    Args:
        frame: a frame with a depth `RawImage` or `CompressedImage`.
        rig: contains both cameras.
        size: (h, w) of the result.
        reference: reference timestamp for motion compensation; None for the frame's own time.
        painter: rasterizer of points on another device; None for NumPy.

    Returns:
        (h, w) float32 meters along the label camera's axis, NaN where unknown; the painter's own array type for a
        re-projected image.

    Raises:
        ImageError: the image cannot be read.
        CalibrationError: the image size contradicts its calibration, or the rig has no transform to its camera.
    """
    if not isinstance(frame.payload, RawImage | CompressedImage):
        raise wrong_payload(frame, "a RawImage or CompressedImage")
    samples = parse_depth(frame.payload)
    model = other_camera(frame, samples.size, rig)
    if model is None:
        return samples.meters(size)
    points, dilation = _source_points(samples, model, rig, size)
    points = sensor_to_camera(frame, rig, reference).apply(points)
    return (painter or _painted)(points, rig.camera, size, dilation)


def depth_from_cloud(
    frame: SensorFrame, rig: Rig, size: tuple[int, int], dilation: int = 1, reference: Reference | None = None
) -> Meters:
    """Project a LiDAR sweep to a depth image of the label camera.

    Args:
        frame: a frame with a `PointCloud`.
        rig: contains the label camera and the extrinsics of the LiDAR.
        size: (h, w) of the result.
        dilation: additional pixels to every side that a point covers.
        reference: reference timestamp for motion compensation; None for the frame's own time.

    Returns:
        (h, w) float32 meters along the label camera's axis; NaN where unknown.

    Raises:
        CalibrationError: the rig has no transform to the LiDAR.
    """
    if not isinstance(frame.payload, PointCloud):
        raise wrong_payload(frame, "a PointCloud")
    pose = cloud_to_camera(frame, rig, reference)
    return _depths(project(cloud_xyz(frame.payload), pose, rig.camera, size, dilation=dilation), size)


def _painted(
    points: npt.NDArray[np.floating[Any]], camera: CameraModel, size: tuple[int, int], dilation: int
) -> Meters:
    return _depths(project_points(points, camera, size, dilation=dilation), size)


def _depths(seen: Projection, size: tuple[int, int]) -> Meters:
    meters = np.full(size, np.nan, np.float32)
    meters[seen.rows, seen.cols] = seen.depth
    return meters


def _source_points(
    samples: DepthSamples, model: CameraModel, rig: Rig, size: tuple[int, int]
) -> tuple[npt.NDArray[np.floating[Any]], int]:
    """Points of an unregistered depth image, (N, 3) meters in its own frame, and the dilation that closes the gaps."""
    model = _thinned(model, size)
    points = model.unproject(samples.meters((model.height, model.width))).reshape(-1, 3)
    camera = rig.camera.scaled(*size)
    spread = max(camera.K[0, 0] / model.K[0, 0], camera.K[1, 1] / model.K[1, 1])
    return points, max(math.ceil((spread - 1) / 2), 0)


def _thinned(model: CameraModel, size: tuple[int, int]) -> CameraModel:
    """The depth camera, scaled down until a side has 1.5 times the network's pixels; more only occlude each other."""
    factor = max(min(model.height / (1.5 * size[0]), model.width / (1.5 * size[1])), 1)
    return model.scaled(round(model.height / factor), round(model.width / factor))
