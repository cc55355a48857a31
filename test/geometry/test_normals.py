# SPDX-License-Identifier: Apache-2.0
"""Normals of planes are the planes' own, through any lens; with holes, and where nothing tells, they say so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import surface_normals

K = np.array([[70.0, 0, 41.0], [0, 75.0, 28.0], [0, 0, 1]])
LENSES = {
    "pinhole": CameraModel(80, 60, K, np.zeros(0), "pinhole"),
    "plumb_bob": CameraModel(80, 60, K, np.array([-0.25, 0.06, 0.002, -0.003]), "plumb_bob"),
    "equidistant": CameraModel(80, 60, K, np.array([0.02, -0.01, 0.003, 0.0]), "equidistant"),
}


def plane(camera, normal, distance):
    """Depth of the plane of points p with normal · p = distance; NaN where it is behind."""
    x, y = camera.rays[..., 0].astype(float), camera.rays[..., 1].astype(float)
    with np.errstate(divide="ignore"):
        meters = distance / (normal[0] * x + normal[1] * y + normal[2])
    return np.where(meters > 0, meters, np.nan).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LENSES)), st.tuples(*[st.floats(-1, 1)] * 3), st.floats(0.5, 30), st.integers(1, 5))
def test_a_planes_normal_through_any_lens(lens, direction, distance, radius):
    if np.linalg.norm(direction) < 0.1:
        return
    normal = np.array(direction) / np.linalg.norm(direction)
    meters = plane(LENSES[lens], normal, distance)
    meters[meters > 40 * distance] = np.nan  # next to the horizon
    found = surface_normals(meters, LENSES[lens], radius)
    inside = np.isfinite(meters) & np.isfinite(found[0])
    inside[:6], inside[-6:], inside[:, :6], inside[:, -6:] = False, False, False, False
    if inside.any():
        angles = np.degrees(np.arccos(np.clip(normal @ found[:, inside].astype(float), -1, 1)))
        assert np.median(angles) < (0.2 if lens == "pinhole" else 1)
        assert angles.max() < (1 if lens == "pinhole" else 8)  # a lens bends a window's lines


def test_against_a_least_squares_fit_per_window():
    rng = np.random.default_rng(3)
    camera, meters = LENSES["pinhole"], rng.uniform(2, 5, (60, 80)).astype(np.float32)
    meters[rng.random((60, 80)) < 0.3] = np.nan
    found = surface_normals(meters, camera, 2)
    for row, col in rng.integers((2, 2), (58, 78), (40, 2)):
        window = slice(row - 2, row + 3), slice(col - 2, col + 3)
        known = np.isfinite(meters[window])
        rays = camera.rays[window][known].astype(float)
        fit, *_ = np.linalg.lstsq(np.c_[rays, np.ones(len(rays))], 1 / meters[window][known].astype(float), rcond=None)
        np.testing.assert_allclose(found[:, row, col], fit / np.linalg.norm(fit), atol=2e-3)


def test_normals_point_away_from_the_camera():
    rng = np.random.default_rng(4)
    camera, meters = LENSES["pinhole"], rng.uniform(3, 3.2, (60, 80)).astype(np.float32)
    points = camera.unproject(meters)
    assert (np.einsum("chw,hwc->hw", surface_normals(meters, camera, 3), points) > 0).mean() > 0.99


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_no_normal_with_too_few_pixels(left):
    meters = np.full((60, 80), np.nan, np.float32)
    meters[20, 20 : 20 + left] = 3  # in one line
    assert not np.isfinite(surface_normals(meters, LENSES["pinhole"], 2)).any()
    meters[21, 20] = 3
    assert np.isfinite(surface_normals(meters, LENSES["pinhole"], 2)).any() == (left > 1)


def test_zero_and_infinite_depth_are_holes():
    meters = plane(LENSES["pinhole"], (0, 0, 1), 4.0)
    meters[::3], meters[1::3] = 0, np.inf
    found = surface_normals(meters, LENSES["pinhole"], 3)
    np.testing.assert_allclose(found[:, 5:-5, 5:-5], np.broadcast_to([[[0]], [[0]], [[1]]], (3, 50, 70)), atol=1e-3)
