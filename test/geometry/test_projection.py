# SPDX-License-Identifier: Apache-2.0
"""The z-buffer against a plain loop, dilation, and the speed claim's other half: the same points as OpenCV."""

import cv2
import numpy as np
import pytest

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import project_points
from mlesam_ros.geometry.transforms import Transform

CAMERA = CameraModel(
    640, 480, [[400, 0, 320], [0, 400, 240], [0, 0, 1]], [-0.12, 0.05, 0.0007, 0.0014, -0.01], "plumb_bob"
)
# LiDAR axes (x forward, y left, z up) to optical ones, mounted 30 cm above and 10 cm behind the camera.
MOUNT = Transform(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), [0.0, -0.3, -0.1])


def sweep(count=20_000, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    azimuth, elevation = rng.uniform(-np.pi, np.pi, count), np.deg2rad(rng.uniform(-25, 15, count))
    ray = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1)
    return (ray * rng.uniform(2, 80, (count, 1))).astype(dtype)


def plain(points, size, dilation=0):
    """Nearest point per pixel, one point after another, through OpenCV."""
    height, width = size
    camera = CAMERA.scaled(height, width)
    optical = points.astype(np.float64) @ MOUNT.rotation.T + MOUNT.translation
    uv = cv2.projectPoints(optical, np.zeros(3), np.zeros(3), camera.K, camera.D)[0][:, 0]
    nearest = {}
    for i, ((u, v), p) in enumerate(zip(uv, optical, strict=True)):
        row, col = int(np.floor(v + 0.5)), int(np.floor(u + 0.5))
        if p[2] <= 0 or np.hypot(p[0], p[1]) / p[2] > camera.distortion.max_radius:
            continue
        if not (0 <= row < height and 0 <= col < width):
            continue
        distance = np.linalg.norm(p)
        for r in range(max(row - dilation, 0), min(row + dilation + 1, height)):
            for c in range(max(col - dilation, 0), min(col + dilation + 1, width)):
                if (r, c) not in nearest or distance < nearest[r, c][0]:
                    nearest[r, c] = distance, i
    return {pixel: i for pixel, (_, i) in nearest.items()}


@pytest.mark.parametrize(
    ("size", "dilation"), [((480, 640), 0), ((96, 128), 0), ((48, 64), 0), ((96, 128), 1), ((96, 128), 2)]
)
def test_z_buffer_equals_reference_loop(size, dilation):
    points = sweep(dtype=np.float64)
    shown = project_points(MOUNT.apply(points), CAMERA, size, dilation=dilation)
    pixels = list(zip(shown.rows.tolist(), shown.cols.tolist(), strict=True))
    assert len(set(pixels)) == len(pixels) > 500
    assert dict(zip(pixels, shown.index.tolist(), strict=True)) == plain(points, size, dilation)


def test_range_and_depth_are_those_of_the_point():
    points = sweep()
    shown = project_points(MOUNT.apply(points), CAMERA, (480, 640))
    optical = MOUNT.apply(points.astype(np.float64))[shown.index]
    np.testing.assert_allclose(shown.range, np.linalg.norm(optical, axis=1), rtol=1e-5)
    np.testing.assert_allclose(shown.depth, optical[:, 2], rtol=1e-4)
    assert shown.range.dtype == shown.depth.dtype == np.float32


def test_first_of_equal_points_wins():
    points = np.tile(np.array([[5.0, 0.1, 0.2]]), (4, 1))
    assert project_points(MOUNT.apply(points), CAMERA, (480, 640)).index.tolist() == [0]


def test_points_nearer_than_near_are_dropped():
    points = np.array([[1.05, 0, -0.3], [3.0, 0, 0]])  # 0.95 m and 2.9 m before the camera
    assert project_points(MOUNT.apply(points), CAMERA, (480, 640), near=1.0).index.tolist() == [1]


@pytest.mark.parametrize(
    "points", [np.empty((0, 3), np.float32), np.full((5, 3), np.nan, np.float32), -sweep(10)[:1] * 0]
)
def test_nothing_to_see(points):
    shown = project_points(MOUNT.apply(points), CAMERA, (480, 640), dilation=1)
    assert shown.rows.size == shown.cols.size == shown.index.size == shown.range.size == 0
