# SPDX-License-Identifier: Apache-2.0
"""Cameras: made from CameraInfo and files, cut and scaled, checked against pictures, used in both directions."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry.camera import CameraModel

K = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
D = np.array([-0.2, 0.05, 0.001, -0.0005, 0.003])


def info(**changes):
    fields = {
        "width": 640,
        "height": 480,
        "k": K.ravel().tolist(),
        "d": D.tolist(),
        "r": np.eye(3).ravel().tolist(),
        "p": [480.0, 0, 320, 0, 0, 490, 240, 0, 0, 0, 1, 0],
        "distortion_model": "plumb_bob",
        "binning_x": 0,
        "binning_y": 0,
        "roi": roi(0, 0, 0, 0),
    }
    return SimpleNamespace(**{**fields, **changes})


def roi(x_offset, y_offset, width, height):
    return SimpleNamespace(x_offset=x_offset, y_offset=y_offset, width=width, height=height, do_rectify=False)


def cloud(count=500, seed=0):
    return np.random.default_rng(seed).uniform([-4, -3, 0.5], [4, 3, 20], (count, 3))


def test_from_info_describes_raw_image():
    camera = CameraModel.from_info(info())
    uv, valid = camera.project(cloud())
    assert valid.sum() > 100
    expected = cv2.projectPoints(cloud(), np.zeros(3), np.zeros(3), K, D)[0][:, 0]
    np.testing.assert_allclose(uv[valid], expected[valid], atol=1e-6)


def test_from_info_of_the_offline_reader_is_the_same():
    rosbags = pytest.importorskip("rosbags.typesys")
    types = rosbags.get_typestore(rosbags.Stores.ROS2_HUMBLE).types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, 2), "camera")
    region = types["sensor_msgs/msg/RegionOfInterest"](10, 20, 400, 300, False)
    message = types["sensor_msgs/msg/CameraInfo"](
        header, 480, 640, "plumb_bob", D, K.ravel(), np.eye(3).ravel(), np.zeros(12), 2, 2, region
    )
    camera = CameraModel.from_info(message)
    ours = CameraModel.from_info(info(binning_x=2, binning_y=2, roi=roi(10, 20, 300, 400)))
    assert (camera.width, camera.height) == (ours.width, ours.height) == (150, 200)
    np.testing.assert_array_equal(camera.K, ours.K)


def test_roi_and_binning():
    full, part = (
        CameraModel.from_info(info()),
        CameraModel.from_info(info(roi=roi(100, 60, 400, 300), binning_x=2, binning_y=3)),
    )
    assert (part.width, part.height) == (200, 100)
    (uv, _), (cut, _) = full.project(cloud(), bounded=False), part.project(cloud(), bounded=False)
    np.testing.assert_allclose(cut, (uv - [100, 60]) / [2, 3], atol=1e-9)


def test_rectified_image_rotates_and_shifts_rays():
    turn = cv2.Rodrigues(np.array([0.02, -0.05, 0.01]))[0]
    p = np.array([[480.0, 0, 320, -48], [0, 490, 240, 0], [0, 0, 1, 0]])
    camera = CameraModel.from_info(info(r=turn.ravel(), p=p.ravel()), rectified=True)
    homogeneous = np.c_[cloud() @ turn.T, np.ones(500)] @ p.T
    uv, valid = camera.project(cloud(), bounded=False)
    assert valid.all()
    np.testing.assert_allclose(uv, homogeneous[:, :2] / homogeneous[:, 2:], atol=1e-9)


def test_rectified_depth_is_unprojected_to_optical_frame():
    turn = cv2.Rodrigues(np.array([0.02, -0.05, 0.01]))[0]
    camera = CameraModel.from_info(info(r=turn.ravel(), p=[480.0, 0, 320, -48, 0, 490, 240, 0, 0, 0, 1, 0]), True)
    points = camera.unproject(np.full((480, 640), 3.0)).reshape(-1, 3)
    uv, valid = camera.project(points)
    assert valid.all()
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    np.testing.assert_allclose(uv, np.stack([u.ravel(), v.ravel()], axis=1), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": [0.0] * 9}, "all-zero K"),
        ({"width": 0}, "size 0x480"),
        ({"k": [500, 0, 320, 0, float("nan"), 240, 0, 0, 1]}, "finite"),
        ({"k": [-500, 0, 320, 0, 500, 240, 0, 0, 1]}, "must be positive"),
        (
            {"k": [0.005, 0, 0.003, 0, 0.005, 0.002, 0, 0, 1]},
            "focal length of 0.005 px is implausible for a width of 640 px",
        ),
        ({"k": [500, 0, 960, 0, 500, 240, 0, 0, 1]}, "principal point 960 px is outside the width of 640"),
        ({"k": [500, 3, 320, 0, 500, 240, 0, 0, 1]}, r"K must be \[\[fx, 0, cx\]"),
        ({"d": [0.1, 0.2]}, "4 or 5 coefficients, not 2"),
        ({"distortion_model": "kinect"}, "'kinect' is not known"),
        ({"roi": roi(600, 0, 100, 100)}, "region 100x100 at column 600, row 0 is not inside the 640x480"),
    ],
)
def test_invalid_camera_info_is_rejected(changes, says):
    with pytest.raises(CalibrationError, match=says):
        CameraModel.from_info(info(**changes))


def test_camera_info_without_p_is_rejected_as_rectified():
    with pytest.raises(CalibrationError, match="all-zero P"):
        CameraModel.from_info(info(p=[0.0] * 12), rectified=True)


def test_image_of_other_size_is_rejected():
    with pytest.raises(CalibrationError, match=r"image is 640x481 but its calibration is for 640x480"):
        CameraModel.from_info(info()).check(481, 640)


def test_scaled_camera_follows_resized_image():
    camera = CameraModel.from_info(info())
    small = camera.scaled(120, 320)
    (uv, valid), (half, lands) = camera.project(cloud()), small.project(cloud())
    np.testing.assert_array_equal(valid, lands)
    np.testing.assert_allclose((half[valid] + 0.5) * [2, 4] - 0.5, uv[valid], atol=1e-9)
    assert camera.scaled(120, 320) is small
    assert camera.scaled(480, 640) is camera


def test_unproject_is_the_inverse_of_project_and_keeps_holes():
    camera = CameraModel.from_info(info())
    depth = np.random.default_rng(1).uniform(0.5, 30, (480, 640)).astype(np.float32)
    depth[100:110, 200:220] = np.nan
    points = camera.unproject(depth)
    assert points.dtype == np.float32
    assert np.isnan(points[100:110, 200:220]).all()
    uv, valid = camera.project(points.reshape(-1, 3))
    assert valid.sum() == depth.size - 200
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    error = np.abs(uv - np.stack([u.ravel(), v.ravel()], axis=1))[valid]
    assert error.max() < 1e-3


def test_unproject_agrees_with_opencv():
    camera = CameraModel.from_info(info())
    u, v = np.meshgrid(np.arange(0, 640, 7.0), np.arange(0, 480, 7.0))
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)[:, None]
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-14)
    expected = (
        cv2.undistortPointsIter(pixels, K, D, None, None, criteria)
        if hasattr(cv2, "undistortPointsIter")
        else (cv2.undistortPoints(pixels, K, D, criteria=criteria))
    )
    rays = camera.rays[::7, ::7].reshape(-1, 2)
    np.testing.assert_allclose(rays, expected[:, 0], atol=1e-6)


def test_extreme_points_are_not_projected():
    camera = CameraModel.from_info(info())
    bad = np.array(
        [[np.nan, 0, 1], [0, np.inf, 1], [0, 0, np.inf], [0, 0, np.nan], [0, 0, -1], [0, 0, 0], [1e30, 0, 1]]
    )
    for points in (bad, bad.astype(np.float32)):
        for bounded in (True, False):
            uv, valid = camera.project(points[:6], bounded=bounded)
            assert not valid.any()
            assert np.isnan(uv).all()
        assert not camera.project(points)[1].any()
    assert camera.project(np.empty((0, 3)))[0].shape == (0, 2)


def test_float32_projection_error():
    camera = CameraModel.from_info(info())
    (exact, _), (single, valid) = camera.project(cloud()), camera.project(cloud().astype(np.float32))
    np.testing.assert_allclose(single[valid], exact[valid], atol=1e-3)


def test_near_is_measured_along_axis():
    _, valid = CameraModel.from_info(info()).project(np.array([[0, 0, 0.99], [0, 0, 1.01]]), near=1.0)
    assert valid.tolist() == [False, True]


@pytest.mark.parametrize("form", [K.tolist(), K.ravel().tolist(), [500.0, 510.0, 319.5, 239.5]])
def test_every_spelling_of_k_in_a_file(form):
    camera = CameraModel.from_dict({"width": 640, "height": 480, "K": form, "D": D.tolist(), "model": "plumb_bob"})
    np.testing.assert_array_equal(camera.K, K)
    again = CameraModel.from_dict(camera.to_dict())
    assert again.to_dict() == camera.to_dict()


@pytest.mark.parametrize("gone", ["width", "height", "K"])
def test_a_missing_field_is_named(gone):
    fields = CameraModel.from_info(info()).to_dict()
    del fields[gone]
    with pytest.raises(CalibrationError, match=f"no usable '{gone}'"):
        CameraModel.from_dict(fields)


def test_fit_adapts_to_image_size():
    camera = CameraModel.from_info(info())
    uv = camera.project(cloud(), bounded=False)[0]
    shift = {"crop_top": [10, 0], "crop_center": [10, 40], "crop_bottom": [10, 80]}
    for fit, lost in shift.items():
        part = camera.adapt_to_size(400, 620, fit)
        assert (part.width, part.height) == (620, 400)
        np.testing.assert_allclose(part.project(cloud(), bounded=False)[0], uv - lost, atol=1e-9)
        np.testing.assert_allclose(
            part.adapt_to_size(480, 640, fit).K, camera.K
        )  # and the other way: the picture is larger
    assert camera.adapt_to_size(240, 320, "rescale") is camera.scaled(240, 320)
    with pytest.raises(CalibrationError, match="fit is 'stretch'; accepted are rescale, crop_top"):
        camera.adapt_to_size(240, 320, "stretch")
    with pytest.raises(CalibrationError, match="320x0 pixels are empty"):
        camera.adapt_to_size(0, 320, "rescale")


def test_fit_in_calibration_file():
    fields = CameraModel.from_info(info()).to_dict()
    camera = CameraModel.from_dict({**fields, "picture": [640, 400], "fit": "crop_bottom"})
    assert (camera.height, camera.K[1, 2]) == (400, 159.5)
    camera.check(400, 640)
    assert CameraModel.from_dict(camera.to_dict()).to_dict() == camera.to_dict()
    for wrong in ({"fit": "crop_top"}, {"picture": [640, 400]}):
        with pytest.raises(CalibrationError, match="picture and fit must be given together"):
            CameraModel.from_dict({**fields, **wrong})
    with pytest.raises(CalibrationError, match="picture is 640; it must be"):
        CameraModel.from_dict({**fields, "picture": 640, "fit": "rescale"})
