# SPDX-License-Identifier: Apache-2.0
"""The lenses against OpenCV over random cameras, their inverse, and the rule that nothing folds over."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.distortion import make_distortion

COUNTS = {"pinhole": (0,), "plumb_bob": (4, 5), "rational_polynomial": (5, 8, 12), "equidistant": (4,)}
SPREAD = np.array([0.3, 0.2, 0.003, 0.003, 0.1, 0.3, 0.2, 0.1, 0.003, 0.003, 0.003, 0.003])


def random_camera(rng, model):
    width, height = (int(n) for n in rng.integers(64, 4000, 2))
    fx, fy = rng.uniform(0.3, 3.0, 2) * width
    k = np.array([[fx, 0, rng.uniform(0.3, 0.7) * width], [0, fy, rng.uniform(0.3, 0.7) * height], [0, 0, 1]])
    count = rng.choice(COUNTS[model])
    d = rng.normal(0, 0.1, 4) if model == "equidistant" else rng.normal(0, 1, count) * SPREAD[:count]
    return CameraModel(width, height, k, d, model)


def opencv(camera, points):
    zero = np.zeros(3)
    if camera.model == "equidistant":
        return cv2.fisheye.projectPoints(points[:, None], zero, zero, camera.K, camera.D)[0][:, 0]
    d = camera.D if camera.D.size else np.zeros(5)
    return cv2.projectPoints(points, zero, zero, camera.K, d)[0][:, 0]


@pytest.mark.parametrize("model", COUNTS)
def test_a_thousand_random_cameras_agree_with_opencv(model):
    rng = np.random.default_rng(list(COUNTS).index(model))
    compared = 0
    for _ in range(1000):
        camera = random_camera(rng, model)
        points = rng.normal(0, 1, (100, 3)) * [3, 3, 1] + [0, 0, 2]
        uv, valid = camera.project(points, bounded=False)
        assert not valid[points[:, 2] <= 0].any()
        near = valid & (np.abs(uv) < 20_000).all(axis=1)  # beyond, a thousandth of a pixel is less than its rounding
        compared += near.sum()
        np.testing.assert_allclose(uv[near], opencv(camera, points)[near], rtol=0, atol=1e-3)
    assert compared > 20_000


@pytest.mark.parametrize("model", COUNTS)
def test_cull_keeps_all_projected_points(model):
    rng = np.random.default_rng(7)
    for _ in range(200):
        camera = random_camera(rng, model)
        points = rng.normal(0, 1, (300, 3)) * [3, 3, 1] + [0, 0, 2]
        uv, valid = camera.project(points, bounded=False)
        inside = valid & (uv >= -0.5).all(axis=1) & (uv < [camera.width - 0.5, camera.height - 0.5]).all(axis=1)
        bounded, lands = camera.project(points)
        np.testing.assert_array_equal(lands, inside)
        np.testing.assert_array_equal(bounded[lands], uv[lands])


@pytest.mark.parametrize("model", COUNTS)
def test_ray_of_pixel_is_projected_to_that_pixel(model):
    rng = np.random.default_rng(11)
    found = 0
    for _ in range(100):
        camera = random_camera(rng, model)
        u, v = rng.uniform(0, camera.width - 1, 200), rng.uniform(0, camera.height - 1, 200)
        k = camera.K
        x, y = camera.distortion.invert((u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1])
        known = np.isfinite(x)
        uv, valid = camera.project(np.stack([x, y, np.ones(200)], axis=1)[known], bounded=False)
        assert valid.all()
        np.testing.assert_allclose(uv, np.stack([u, v], axis=1)[known], rtol=0, atol=1e-3)
        found += known.sum()
    assert found > 15_000  # some of these lenses bend so much that their corners have no ray


@given(
    st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]),
    st.lists(st.floats(-1, 1), min_size=8, max_size=8),
    st.floats(0, 2 * np.pi),
)
@settings(max_examples=200, deadline=None)
def test_radial_map_is_monotone(model, numbers, angle):
    """Walking outwards inside the valid radius, the picture of the ray never turns back."""
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[model]
    d = np.array(numbers[:count])
    if model != "equidistant":
        d[2:4] *= 0.01
    lens = make_distortion(model, d)
    r = np.tan(np.linspace(0, np.arctan(min(lens.max_radius, 100.0)), 500))
    radial = lens.radial(r)
    assert (np.diff(radial) >= -1e-9 * np.abs(radial[1:])).all()
    xd, yd = lens.apply(r * np.cos(angle), r * np.sin(angle))
    steps = np.diff(xd) * np.cos(angle) + np.diff(yd) * np.sin(angle)
    assert (steps >= -1e-9 * np.abs(radial[1:])).all()


def test_points_beyond_valid_radius_are_dropped():
    # r (1 - 0.3 r²) turns at r² = 1 / 0.9.
    camera = CameraModel(400, 400, [[200, 0, 200], [0, 200, 200], [0, 0, 1]], [-0.3, 0, 0, 0], "plumb_bob")
    turn = np.sqrt(1 / 0.9)
    assert camera.distortion.max_radius == pytest.approx(turn, rel=1e-12)
    points = np.array([[0.999 * turn, 0, 1], [1.001 * turn, 0, 1], [1.6, 0, 1], [0, 0, -1], [0, 0, 0]])
    _, valid = camera.project(points)
    assert valid.tolist() == [True, False, False, False, False]
    # OpenCV puts the third one at a place where nothing is.
    assert 200 < opencv(camera, points)[2, 0] < 400


def test_tangential_terms_reduce_valid_radius():
    # With this prism the plane folds although the radial curve rises for ever.
    lens = make_distortion("rational_polynomial", [0.1, 0, 0, 0, 0, 0, 0, 0, 0, -0.05, 0, 0])
    assert 1.0 < lens.max_radius < 10.0
    x = np.linspace(0, lens.max_radius, 100)
    assert (np.diff(lens.apply(x, np.zeros(100))[0]) > 0).all()


@pytest.mark.parametrize("d", [[], [0.0] * 3, [0.0] * 4, [0.0] * 5, [0.0] * 8])
@pytest.mark.parametrize("model", ["", "plumb_bob", "rational_polynomial", "equidistant", "fisheye"])
def test_no_coefficients_and_zeros_are_no_distortion(model, d):
    """The kind: absence. Simulators and rectified pictures send an empty D, under any model's name."""
    camera = CameraModel(640, 480, [[400, 0, 320], [0, 400, 240], [0, 0, 1]], d, model)
    points = np.array([[0.5, -0.3, 1.0], [1.0, 0.7, 2.0], [0.0, 0.0, 3.0]])
    if model in ("equidistant", "fisheye"):
        expected = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), camera.K, np.zeros(4))[0]
    else:
        expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.K, None)[0]
    np.testing.assert_allclose(camera.project(points)[0], expected.reshape(-1, 2), atol=1e-9)


@pytest.mark.parametrize(
    ("model", "d", "says"),
    [
        ("plumb_bob", [1, 2, 3], "takes 4 or 5 coefficients, not 3"),
        ("plumb_bob", [0.1, 0, 0, 0, 0, 0.2], "takes 4 or 5 coefficients, not 6"),
        ("rational_polynomial", [0.1] * 7, "takes 5 or 8 or 12 or 14 coefficients, not 7"),
        ("rational_polynomial", [0.1] * 14, "tilted sensor"),
        ("equidistant", [0.1] * 5, "takes 4 coefficients, not 5"),
        ("pinhole", [0.1], "takes 0 coefficients, not 1"),
        ("plum_bob", [0.0] * 5, "'plum_bob' is not known; accepted are pinhole, plumb_bob"),
        ("", [0.1, 0, 0, 0], "4 coefficients but no name"),
        ("plumb_bob", [0.1, 0, 0, float("nan")], "not all finite"),
    ],
)
def test_invalid_coefficients_are_rejected(model, d, says):
    with pytest.raises(CalibrationError, match=says):
        make_distortion(model, d)


@pytest.mark.parametrize(
    ("model", "d", "same_as"),
    [
        ("fisheye", [0.1, 0.01, 0, 0], ("equidistant", [0.1, 0.01, 0, 0])),
        ("plumb_bob", [-0.1, 0.02, 0, 0, 0, 0, 0, 0], ("plumb_bob", [-0.1, 0.02, 0, 0])),
        ("rational_polynomial", [-0.1, 0.02, 0, 0, 0.01], ("plumb_bob", [-0.1, 0.02, 0, 0, 0.01])),
        (
            "rational_polynomial",
            [-0.1, 0.02, 0, 0, 0.01, 0.2] + [0.0] * 8,
            ("rational_polynomial", [-0.1, 0.02, 0, 0, 0.01, 0.2, 0, 0]),
        ),
        ("", [], ("pinhole", [])),
        ("", [0.0] * 5, ("pinhole", [])),
    ],
)
def test_model_aliases(model, d, same_as):
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 9), np.linspace(-0.4, 0.4, 9))
    np.testing.assert_array_equal(make_distortion(model, d).apply(x, y), make_distortion(*same_as).apply(x, y))
