# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlesam_ros.errors import ConfigError, ImageError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.labels import IGNORE, load_label_space
from mlesam_ros.preprocessing.registration import FrameContext, cloud_to_camera
from mlesam_ros.types import PointCloud, Segmentation, SensorFrame
from mlesam_ros.visualization import POINT, colorize, labeled_cloud, overlay, projected_cloud

SPACE = load_label_space("deliver")
masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


@given(masks)
def test_colorize_looks_up_the_palette(labels):
    assert np.array_equal(colorize(labels, SPACE), SPACE.palette[labels])


@given(masks, st.floats(0, 1), st.integers(0, 255))
def test_overlay_blends(labels, alpha, gray):
    rgb = np.full((*labels.shape, 3), gray, np.uint8)
    expected = np.where((labels < 25)[..., None], (1 - alpha) * gray + alpha * SPACE.palette[labels], gray)
    assert np.abs(overlay(rgb, labels, SPACE, alpha) - expected).max() <= 0.51


def test_overlay_without_camera_image_is_colors_on_black():
    labels = np.array([[0, 6, IGNORE]], np.uint8)
    assert overlay(None, labels, SPACE).tolist() == [[[70, 70, 70], list(SPACE.colors[6]), [0, 0, 0]]]


def test_overlay_resizes_the_mask():
    labels = np.array([[1, 2], [3, 4]], np.uint8)
    grown = np.kron(labels, np.ones((3, 2), np.uint8))
    assert np.array_equal(overlay(np.zeros((6, 4, 3), np.uint8), labels, SPACE, 1), SPACE.palette[grown])


def test_overlay_does_not_modify_its_inputs():
    rgb, labels = np.zeros((4, 4, 3), np.uint8), np.full((4, 4), IGNORE, np.uint8)
    rgb.flags.writeable = labels.flags.writeable = False
    assert overlay(rgb, labels, SPACE) is not rgb


@pytest.mark.parametrize("rgb", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_overlay_rejects_other_arrays(rgb):
    with pytest.raises(ImageError, match="must be uint8"):
        overlay(rgb, np.zeros((4, 4), np.uint8), SPACE)


def test_overlay_rejects_other_weights():
    with pytest.raises(ConfigError, match=r"alpha is 1\.5"):
        overlay(None, np.zeros((4, 4), np.uint8), SPACE, 1.5)


class TestLabeledCloud:
    """A camera that looks along the sensor's x axis; one meter ahead, a tenth of a meter is ten pixels."""

    @pytest.fixture
    def rig(self):
        camera = CameraModel(64, 48, np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), np.zeros(5))
        rig = Rig("camera", {"camera": camera})
        # camera x = -lidar y, camera y = -lidar z, camera z = lidar x
        rig.tree.set("camera", "lidar", Transform(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.zeros(3)))
        return rig

    @staticmethod
    def label(points, rig, labels, **columns):
        fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), *((name, "f4") for name in columns)]
        array = np.zeros(len(points), fields)
        array["x"], array["y"], array["z"] = np.array(points, np.float32).reshape(-1, 3).T
        for name, column in columns.items():
            array[name] = column
        cloud = PointCloud(array)
        placements = {"lidar": rig.extrinsic("lidar")}
        mask = Segmentation(5, "camera", labels, labels, {}, ("lidar",), placements=placements)
        return labeled_cloud(cloud, mask, rig, SPACE, SensorFrame("lidar", 5, "lidar", cloud))

    def test_point_has_the_class_of_its_pixel(self, rig):
        labels = np.zeros((48, 64), np.uint8)
        labels[14, 42] = 6
        points = self.label([(1, 0, 0), (1, -0.1, 0.1)], rig, labels, intensity=[3, 9])
        assert points["label"].tolist() == [0, 6]
        assert points["intensity"].tolist() == [3, 9]
        np.testing.assert_allclose(points["y"], [0, -0.1])

    def test_points_outside_the_view_are_dropped(self, rig):
        behind, aside, nowhere = (-1, 0, 0), (1, 5, 0), (np.nan, 0, 0)
        points = self.label([behind, (1, 0, 0), aside, nowhere], rig, np.zeros((48, 64), np.uint8))
        assert points["x"].tolist() == [1]

    def test_occluded_points_get_no_class(self, rig):
        points = self.label([(9, 0, 0), (2, 0, 0), (5, 0, 0)], rig, np.full((48, 64), 4, np.uint8))
        assert points["x"].tolist() == [2]

    def test_color_is_packed_as_rviz_reads_it(self, rig):
        points = self.label([(1, 0, 0)], rig, np.full((48, 64), 6, np.uint8))
        blue, green, red, zero = points["rgb"].tobytes()
        assert ((red, green, blue), zero) == (SPACE.colors[6], 0)

    def test_unlabeled_points_are_kept(self, rig):
        points = self.label([(1, 0, 0)], rig, np.full((48, 64), IGNORE, np.uint8))
        assert points["label"].tolist() == [IGNORE]

    @pytest.mark.parametrize("points", [[], [(-1.0, 0, 0)]])
    def test_cloud_outside_the_view_is_empty(self, rig, points):
        cloud = self.label(points, rig, np.zeros((48, 64), np.uint8))
        assert cloud.shape == (0,)
        assert cloud.dtype == POINT


def test_projected_points_are_red_near_and_blue_far():
    focal = np.array([[10.0, 0, 9.5], [0, 10.0, 4.5], [0, 0, 1]])
    points = np.zeros(2, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    points["x"], points["z"] = (-1.0, 20.0), (2.5, 50.0)
    frame = SensorFrame("lidar", 0, "camera", PointCloud(points))
    camera = CameraModel(20, 10, focal, np.zeros(5))
    picture = np.full((10, 20, 3), 90, np.uint8)
    shown = projected_cloud(picture, frame, Rig("camera", {"camera": camera}), (10, 20), Transform.identity())
    changed = np.argwhere((shown != 90).any(-1))
    assert len(changed) == 2 and (picture == 90).all()
    near, far = (shown[tuple(place)].astype(int) for place in changed[np.argsort(changed[:, 1])])
    assert near[0] > near[2] + 100 and far[2] > far[0] + 50
    assert (projected_cloud(None, frame, Rig("camera", {"camera": camera}), (10, 20), Transform.identity()) > 0).any(
        -1
    ).sum() == 2
    points["z"] = -1
    assert (
        projected_cloud(picture, frame, Rig("camera", {"camera": camera}), (10, 20), Transform.identity()) == 90
    ).all(), "none in view"


# One placement: what is drawn and published is where the mask's encoder saw it

SECOND = 1_000_000_000
MASK = 1_700_000_000 * SECOND
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def turning_robot(seconds):
    """base in odom of a robot that drives at 8 m/s and turns at 1 rad/s."""
    c, s = np.cos(seconds), np.sin(seconds)
    return Transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([8 * seconds, 0, 0]))


@pytest.fixture
def turning_rig():
    camera = CameraModel(640, 360, np.array([[320.0, 0, 319.5], [0, 320, 179.5], [0, 0, 1]]), np.zeros(0), "pinhole")
    rig = Rig("eye", {"eye": camera})
    rig.tree.set("base", "eye", Transform(OPTICAL, np.zeros(3)))
    rig.tree.set("base", "lidar", Transform.identity())
    for k in range(-50, 51):
        rig.tree.set("odom", "base", turning_robot(k / 100), MASK + k * SECOND // 100)
    return rig


def poles_seen(lag, spread=0.0):
    """A LiDAR's sweep of a wall at 10 m with poles every meter, each point from where the robot was then.

    Returns:
        the frame, and (N,) whether each point is on a pole; intensity carries the same.
    """
    y, z = np.meshgrid(np.linspace(-6, 6, 1200), np.linspace(-1.5, 1.5, 12))
    world = np.stack([np.full(y.size, 10.0), y.ravel(), z.ravel()], 1)
    pole = np.abs((world[:, 1] + 0.5) % 1 - 0.5) < 0.15
    times = -lag + np.linspace(-spread, 0, len(world))
    points = np.zeros(len(world), [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"), ("time", "f4")])
    for at, seconds in enumerate(times):
        pose = turning_robot(seconds)
        local = pose.rotation.T @ (world[at] - pose.translation)
        points["x"][at], points["y"][at], points["z"][at] = local
    points["intensity"], points["time"] = pole, times + lag
    frame = SensorFrame("lidar", MASK - round(lag * SECOND), "lidar", PointCloud(points))
    return frame, pole


def pole_mask(camera):
    """Class 4 where a ray of the camera at the time of the mask meets a pole, by the wall's plane x = 10 m in odom."""
    across = -10 * (np.arange(camera.width) - camera.K[0, 2]) / camera.K[0, 0]
    return np.tile(np.where(np.abs((across + 0.5) % 1 - 0.5) < 0.15, 4, 0).astype(np.uint8), (camera.height, 1))


@pytest.mark.parametrize(("lag", "spread"), [(0.0, 0.0), (0.05, 0.0), (-0.05, 0.0), (0.1, 0.1), (0.0, 0.1)])
def test_points_of_a_moving_robot_are_placed_at_the_masks_time(turning_rig, lag, spread):
    """50 ms at 1 rad/s and 8 m/s mislabel more than half of the points."""
    frame, _ = poles_seen(lag, spread)
    mask = pole_mask(turning_rig.camera)
    context = FrameContext(MASK)
    cloud_to_camera(frame, turning_rig, context)
    made = Segmentation(MASK, "eye", mask, mask, {}, ("lidar",), placements=context.placements)
    points = labeled_cloud(frame.payload, made, turning_rig, SPACE, frame)
    assert len(points) > 3000
    assert ((points["label"] == 4) != (points["intensity"] > 0.5)).mean() < 0.05
    if lag or spread:
        still = replace(made, placements={"lidar": turning_rig.extrinsic("lidar", frame.stamp)})
        wrong = labeled_cloud(frame.payload, still, turning_rig, SPACE, frame)
        assert ((wrong["label"] == 4) != (wrong["intensity"] > 0.5)).mean() > 0.2


def test_projected_cloud_uses_the_masks_placement(turning_rig):
    frame, pole = poles_seen(0.05)
    points = frame.payload.points[pole]
    frame = replace(frame, payload=PointCloud(points))
    context = FrameContext(MASK)
    cloud_to_camera(frame, turning_rig, context)
    expected = cv2.dilate(pole_mask(turning_rig.camera), np.ones((1, 5))) == 4  # points are drawn 3 pixels wide
    mounting = turning_rig.extrinsic("lidar", frame.time)
    for placement, share in ((context.placements["lidar"], 0.97), (mounting, 0.0)):
        drawn = projected_cloud(None, frame, turning_rig, (360, 640), placement).any(-1)
        assert expected[drawn].mean() > share
    assert expected[drawn].mean() < 0.8, "the mounting alone is not enough"
