# SPDX-License-Identifier: Apache-2.0
"""Points with classes, by geometry that is known in closed form."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from costmap_layers import FREE, LETHAL, ObstacleLayer, read_xyz, semantic_layer_refusal
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bags.writer import build
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.labels import IGNORE, LabelSpace, default_classes, load_label_space
from mlesam_ros.mask_messages import MASK_TOPICS, mask_messages
from mlesam_ros.messages import stamp_ns
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.parameter_groups import NavigationParameters
from mlesam_ros.preprocessing.registration import FrameContext, cloud_to_camera
from mlesam_ros.resources import resource_path
from mlesam_ros.semantic_points import (
    GROUND,
    NAVIGATION_POINT,
    NEITHER,
    OBSTACLE,
    POINT,
    MaskPoints,
    farthest_visible,
    role_table,
)
from mlesam_ros.types import DEPTH, LIDAR, FrameSet, PointCloud, RawImage, Segmentation, SensorFrame
from mlesam_ros.visualization import projected_cloud

SPACE = load_label_space("deliver")
ROAD, POLE, SKY = (SPACE.names.index(name) for name in ("Road", "Pole", "Sky"))


def frames(*given):
    """The set of these frames, at the time of the first."""
    return FrameSet(MASK, given[0].modality, {f.modality: f for f in given}, {f.modality: 0 for f in given})


def placed_mask(frame, rig, labels):
    """A mask of a sweep that a preprocessor has placed."""
    context = FrameContext(MASK)
    cloud_to_camera(frame, rig, context)
    return Segmentation(MASK, rig.camera_frame, labels, labels, {}, (LIDAR,), placements=context.placements)


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
        return MaskPoints(mask, frames(SensorFrame("lidar", 5, "lidar", cloud)), rig).labeled(SPACE)[0]

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
    made = placed_mask(frame, turning_rig, mask)
    points, _ = MaskPoints(made, frames(frame), turning_rig).labeled(SPACE)
    assert len(points) > 3000
    assert ((points["label"] == 4) != (points["intensity"] > 0.5)).mean() < 0.05
    if lag or spread:
        still = replace(made, placements={"lidar": turning_rig.extrinsic("lidar", frame.stamp)})
        wrong, _ = MaskPoints(still, frames(frame), turning_rig).labeled(SPACE)
        assert ((wrong["label"] == 4) != (wrong["intensity"] > 0.5)).mean() > 0.2


def test_projected_cloud_uses_the_masks_placement(turning_rig):
    frame, pole = poles_seen(0.05)
    frame = replace(frame, payload=PointCloud(frame.payload.points[pole]))
    mask = pole_mask(turning_rig.camera)
    made = placed_mask(frame, turning_rig, mask)
    expected = cv2.dilate(mask, np.ones((1, 5))) == 4  # points are drawn 3 pixels wide
    mounting = {"lidar": turning_rig.extrinsic("lidar", frame.time)}
    for placements, share in ((made.placements, 0.97), (mounting, 0.0)):
        points = MaskPoints(replace(made, placements=placements), frames(frame), turning_rig)
        drawn = projected_cloud(None, points.lidar.visible, (360, 640)).any(-1)
        assert expected[drawn].mean() > share
    assert expected[drawn].mean() < 0.8, "the mounting alone is not enough"


def test_navigation_points_of_a_moving_robot_are_where_the_lidar_is_at_the_masks_time(turning_rig):
    frame, _ = poles_seen(0.1, 0.1)
    made = placed_mask(frame, turning_rig, pole_mask(turning_rig.camera))
    found = MaskPoints(made, frames(frame), turning_rig).navigation(SPACE, NavigationParameters())
    assert found.frame_id == "lidar" and len(found.points) > 3000
    np.testing.assert_allclose(found.points["x"], 10, atol=0.02)  # the wall, from the robot at the mask's time
    at_pole = np.abs((found.points["y"] + 0.5) % 1 - 0.5) < 0.15
    assert ((found.points["label"] == 4) == at_pole).mean() > 0.9


@pytest.mark.parametrize("offset", [0.0, 0.2, -3600.0])
def test_messages_for_costmaps_have_the_stamp_at_which_tf_knows_their_place(turning_rig, offset):
    """nav2 looks up the transform at the stamp; the wall stays in its place although the driver's stamps are late."""
    frame, _ = poles_seen(0.1, 0.1)
    late = replace(frame, stamp=frame.stamp + round(offset * SECOND), offset=round(offset * SECOND))
    stamp = MASK + round(offset * SECOND)
    made = replace(placed_mask(late, turning_rig, pole_mask(turning_rig.camera)), stamp=stamp)
    frame_set = FrameSet(stamp, LIDAR, {LIDAR: late}, {LIDAR: 0}, round(offset * SECOND))
    makers = mask_messages(made, frame_set, turning_rig, SPACE, NodeParameters())
    for_costmaps = {"obstacle_points", "ground_points", *(name for name in makers if name.startswith("aligned/"))}
    messages = {name: build(typestore(), MASK_TOPICS[name].type_name, make()) for name, make in makers.items()}
    stamps = {name: stamp_ns(message.header) for name, message in messages.items()}
    assert len(for_costmaps) == 5 and {stamps[name] for name in for_costmaps} == {MASK}
    assert {stamps[name] for name in stamps.keys() - for_costmaps - {"semantic_points"}} == {stamp}
    assert stamps["semantic_points"] == late.stamp
    for name in ("obstacle_points", "aligned/points"):
        there = turning_rig.tree.lookup("odom", messages[name].header.frame_id, stamps[name])
        points = read_xyz(messages[name])
        points = there.apply(points[np.isfinite(points[:, 0])])
        np.testing.assert_allclose(points[:, 0], 10, atol=0.02)


class Road:
    """A camera that looks along x, 1.5 m above a road, and a LiDAR half a meter above it."""

    HEIGHT = 1.5

    @pytest.fixture
    def rig(self):
        camera = CameraModel(320, 240, np.array([[160.0, 0, 159.5], [0, 160, 119.5], [0, 0, 1]]), np.zeros(5))
        rig = Rig("camera", {"camera": camera})
        rig.tree.set("camera", "lidar", Transform(OPTICAL.T, np.array([0.0, -0.5, 0])))
        return rig

    def make(self, rig, points, labels, depth=None, confidence=None):
        return MaskPoints(*self.mask(rig, points, labels, depth, confidence), rig)

    def mask(self, rig, points, labels, depth=None, confidence=None):
        """Mask and set with LiDAR points, (n, 3) in the camera's body frame: x ahead, y left, z above the road."""
        array = np.zeros(len(points), [("x", "f4"), ("y", "f4"), ("z", "f4")])
        given = np.array(points, np.float32).reshape(-1, 3)
        array["x"], array["y"], array["z"] = given[:, 0], given[:, 1], given[:, 2] - self.HEIGHT - 0.5
        used = {LIDAR: SensorFrame(LIDAR, MASK, "lidar", PointCloud(array))} if len(points) else {}
        if depth is not None:
            pixels = np.nan_to_num(depth).astype("<f4")
            image = RawImage(*pixels.shape, "32FC1", 4 * pixels.shape[1], pixels.reshape(-1).view(np.uint8))
            used[DEPTH] = SensorFrame(DEPTH, MASK, "camera", image)
        sure = np.full_like(labels, 255) if confidence is None else confidence
        placements = {LIDAR: rig.extrinsic("lidar")}
        mask = Segmentation(MASK, "camera", labels, sure, {}, tuple(used), placements=placements)
        return mask, frames(*used.values())


class TestNavigation(Road):
    def scene(self):
        """Labels: road below the horizon, sky above, a pole from 5 m on the road up, 1 m wide and 3 m high."""
        labels = np.full((240, 320), SKY, np.uint8)
        labels[120:] = ROAD
        labels[72:168, 144:176] = POLE
        return labels

    def test_point_has_the_role_of_its_pixel_in_the_lidars_frame(self, rig):
        made = self.make(rig, [(5, 0.2, 1), (8, 4, 0), (8, 4, 3), (-5, 0, 1)], self.scene())
        found = made.navigation(SPACE, NavigationParameters())
        assert found.roles.tolist() == [OBSTACLE, GROUND]
        assert (found.points["label"].tolist(), found.points["confidence"].tolist()) == ([POLE, ROAD], [255, 255])
        np.testing.assert_allclose(found.points["z"], [-1, -2], atol=1e-6)
        np.testing.assert_allclose(found.points["y"], [0.2, 4], atol=1e-6)

    @pytest.mark.parametrize("seen_by", ["lidar", "depth"])
    def test_point_that_a_nearer_surface_hides_is_left_out(self, rig, seen_by):
        """The LiDAR sees the road over a wall of one meter; the camera shows the wall there."""
        wall, road = (5, 0, 0.9), (12, 0, 0.03)  # one pixel
        depth = np.full((240, 320), 5, np.float32) if seen_by == "depth" else None
        made = self.make(rig, [wall, road] if depth is None else [road], np.full((240, 320), POLE, np.uint8), depth)
        found = made.navigation(SPACE, NavigationParameters(sensors=(LIDAR,)))
        assert (found.points["x"] > 11).sum() == 0 and len(found.points) == (depth is None)

    def test_ground_that_touches_another_class_is_left_out(self, rig):
        beside, away = (5, 0.52, 0), (5, 0.8, 0)  # columns 143 and 134; the pole begins at 144
        found = self.make(rig, [beside, away], self.scene()).navigation(SPACE, NavigationParameters())
        np.testing.assert_allclose(found.points["y"], [0.8], atol=1e-6)

    def test_confidence_and_range_are_limits(self, rig):
        labels = np.full((240, 320), ROAD, np.uint8)
        confidence = np.where(np.arange(320) < 160, 200, 100).astype(np.uint8) * np.ones((240, 1), np.uint8)
        points = [(5, 2, 0), (5, -2, 0), (15, 2, 0)]
        made = self.make(rig, points, labels, confidence=confidence)
        found = made.navigation(SPACE, NavigationParameters(min_confidence=0.5, max_range=10.0))
        np.testing.assert_allclose(found.points["y"], [2], atol=1e-6)
        assert len(made.navigation(SPACE, NavigationParameters()).points) == 3

    @pytest.mark.parametrize("size", [0.0, 0.5])
    def test_padding_of_the_points_is_zero(self, rig, size):
        points = np.column_stack([np.linspace(3, 18, 40), np.linspace(-3, 3, 40), np.zeros(40)])
        found = self.make(rig, points, self.scene()).navigation(SPACE, NavigationParameters(voxel_size=size))
        for _ in range(20):
            np.full(16 * len(found.points), 255, np.uint8)  # freed memory that is not zero
            for role in (OBSTACLE, GROUND):
                assert not found.of_role(role).view(np.uint8).reshape(-1, 16)[:, 14:].any()

    def test_each_voxel_has_one_point_of_each_role(self, rig):
        rng = np.random.default_rng(0)
        points = np.column_stack([rng.uniform(3, 18, 2000), rng.uniform(-3, 3, 2000), np.zeros(2000)])
        made = self.make(rig, points, self.scene())
        every, few = (
            made.navigation(SPACE, NavigationParameters(voxel_size=size, sensors=(LIDAR,))) for size in (0.0, 0.5)
        )

        def cells(found):
            grid = np.floor(np.column_stack([found.points[a] for a in "xyz"]) / 0.5).astype(int)
            return [(*cell, role) for cell, role in zip(grid.tolist(), found.roles.tolist(), strict=True)]

        listed = [tuple(c) for c in cells(few)]
        assert len(listed) == len(set(listed)) < len(every.points) and set(listed) == {tuple(c) for c in cells(every)}

    def test_depth_gives_points_where_there_is_no_lidar(self, rig):
        depth = np.full((240, 320), np.nan, np.float32)
        depth[200, 40] = 3.0
        found = self.make(rig, [], np.full((240, 320), ROAD, np.uint8), depth).navigation(SPACE, NavigationParameters())
        assert found.frame_id == "camera"
        expected = [3 * (40 - 159.5) / 160, 3 * (200 - 119.5) / 160, 3]
        np.testing.assert_allclose([found.points[a][0] for a in "xyz"], expected, rtol=1e-6)

    def test_grid_has_the_point_of_each_pixel(self, rig):
        """Depth where it is known, LiDAR elsewhere, NaN where neither is."""
        depth = np.full((240, 320), np.nan, np.float32)
        depth[:, :160] = 4.0
        grid = self.make(rig, [(6, -2, 0), (6, 2, 0)], self.scene(), depth).grid(160)
        assert grid.labels.shape == grid.confidence.shape == (120, 160) and grid.points.shape == (120, 160, 3)
        assert np.array_equal(grid.labels == POLE, self.scene()[::2, ::2] == POLE)
        np.testing.assert_allclose(grid.points[:, :80, 2], 4)
        u = (np.arange(80) + 0.5) * 2 - 0.5
        np.testing.assert_allclose(grid.points[5, :80, 0], 4 * (u - 159.5) / 160, rtol=1e-5)
        rows, cols = np.nonzero(np.isfinite(grid.points[:, 80:, 2]))
        assert len(rows) == 1
        np.testing.assert_allclose(grid.points[rows[0], 80 + cols[0]], [2, 1.5, 6], rtol=1e-6)

    def test_refused_depth_gives_no_points(self, rig):
        """The mask knows the depth, but the set has no frame of it."""
        depth = np.full((240, 320), 4.0, np.float32)
        mask, frame_set = self.mask(rig, [(6, 2, 0)], self.scene())
        grid = MaskPoints(replace(mask, depth=depth), frame_set, rig).grid(160)
        assert grid.depth is None and np.isfinite(grid.points[..., 2]).sum() == 1

    def test_grid_has_no_point_that_a_nearer_surface_hides(self, rig):
        """The LiDAR sees the road over a wall whose class the pixels have."""
        grid = self.make(rig, [(5, 0, 0.9), (5, 0.06, 0.9), (12, -0.03, 0.03)], self.scene()).grid(320)
        np.testing.assert_allclose(grid.points[..., 2][np.isfinite(grid.points[..., 2])], 5, rtol=1e-6)

    @pytest.mark.parametrize("aligned", [16, 320])
    def test_points_for_costmaps_lie_on_the_networks_grid(self, rig, aligned):
        """Whether its depth was kept or not, and whatever the width of the aligned set."""
        depth = np.full((240, 320), 4.0, np.float32)
        mask, frame_set = self.mask(rig, [], np.full((240, 320), POLE, np.uint8), depth)
        parameters = replace(NodeParameters(), aligned=replace(NodeParameters().aligned, width=aligned))
        made = []
        for kept in (None, np.full((48, 64), 4.0, np.float32)):
            one = replace(mask, network_size=(48, 64), depth=kept)
            fields = mask_messages(one, frame_set, rig, SPACE, parameters)["obstacle_points"]()
            made.append(fields["data"].view(NAVIGATION_POINT))
        assert len(made[0]) == 48 * 64 and (made[0] == made[1]).all()

    def test_grid_is_at_most_as_wide_as_the_camera(self, rig):
        assert self.make(rig, [], self.scene(), np.ones((240, 320))).grid(4096).labels.shape == (240, 320)


class TestVisibility:
    """Planes, in a camera of 192x256 pixels and 87 degrees whose sensor measures to 18 m."""

    SIZE, CENTER, FOCAL, RANGE = (192, 256), (95.5, 127.5), 128 / np.tan(np.radians(43.5)), 18.0

    def plane(self, normal, distance, rows, cols):
        """Depth where the rays of pixels hit it; infinite beyond the range."""
        (y, x), f = self.CENTER, self.FOCAL
        inverse = (normal[0] * (cols - x) / f + normal[1] * (rows - y) / f + normal[2]) / distance
        with np.errstate(divide="ignore"):
            return np.where(inverse > 1 / self.RANGE, 1 / inverse, np.inf).astype(np.float32)

    @given(
        st.floats(0.15, 2.0),
        st.floats(-0.3, 0.3),
        st.sampled_from([(0, 1), (1, 0), (-1, 0), (0.6, 0.8)]),
        st.integers(0, 2**32 - 1),
    )
    @example(0.2, 0.0, (0, 1), 0)
    @example(1.0, 0.0, (1, 0), 0)
    @settings(deadline=None)
    def test_plane_does_not_hide_itself(self, distance, tilt, across, seed):
        """Neither points at the pixels' centers, such as those of the depth sensor, nor others in the pixels.

        Three pixels in a row and in a column show a slope; the corners of the seen part, which lack them, are left out.
        """
        normal = (across[0] * np.cos(tilt), across[1] * np.cos(tilt), np.sin(tilt))
        nearest = self.plane(normal, distance, *np.indices(self.SIZE))
        seen = np.isfinite(nearest)
        runs = [np.ones((3, 1)), np.ones((1, 3))]
        known = [cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_OPEN, run, borderValue=0) for run in runs]
        corners = (seen & ~(known[0] & known[1]).astype(bool)).astype(np.uint8)
        seen &= cv2.dilate(corners, np.ones((3, 3))) == 0
        assume(seen.any())
        farthest = farthest_visible(nearest)
        assert (nearest <= farthest)[seen].all()
        inside = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, *self.SIZE)) + np.indices(self.SIZE)
        between = self.plane(normal, distance, *inside)
        assert (between <= farthest)[seen & np.isfinite(between)].all()

    @pytest.mark.parametrize("height", [0.15, 0.3, 2.0])
    @pytest.mark.parametrize("width", [1, 2, 9])
    def test_pole_hides_what_is_behind_it(self, height, width):
        """A pole at 4 m before a wall at 12 m, on ground; the rows are those above the ground."""
        rows, cols = np.indices(self.SIZE)
        wall = self.plane((0, 0, 1), 12, rows, cols)
        pole = np.abs(cols - 100) < width / 2
        nearest = np.minimum(np.where(pole, 4, wall), self.plane((0, 1, 0), height, rows, cols)).astype(np.float32)
        farthest = farthest_visible(nearest)[:90]
        beside = cv2.dilate(pole.astype(np.uint8), np.ones((3, 3)))[:90] > 0
        assert (farthest[beside] < 5).all() and (farthest[~beside] > 12).all()

    def test_nothing_is_hidden_where_no_surface_is_known(self):
        assert np.isinf(farthest_visible(np.full(self.SIZE, np.inf, np.float32))).all()


class TestCostmaps(Road):
    """nav2's layers, by their rules and with the shipped files, on the messages of a mask."""

    BOX = 8.0  # m ahead; 2 m wide, 1.5 m high

    def messages(self, rig, box, **options):
        """Messages of a mask of a road on which the LiDAR sees points every 20 cm, with a box on it or without."""
        x, y = np.meshgrid(np.arange(3, 18, 0.2), np.arange(-5, 5, 0.2))
        points = np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])
        rays = rig.camera.rays.astype(float)
        labels = np.where(rays[..., 1] > 0, ROAD, SKY).astype(np.uint8)
        if box:
            across, up = -rays[..., 0] * self.BOX, self.HEIGHT - rays[..., 1] * self.BOX
            labels[(np.abs(across) < 1) & (up > 0) & (up < 1.5)] = POLE
            shadow = (points[:, 0] > self.BOX) & (np.abs(points[:, 1]) < 1.3 * points[:, 0] / self.BOX)
            y, z = np.meshgrid(np.arange(-0.9, 0.91, 0.1), np.arange(0.1, 1.45, 0.1))
            points = np.concatenate(
                [points[~shadow], np.column_stack([np.full(y.size, self.BOX), y.ravel(), z.ravel()])]
            )
        mask, frame_set = self.mask(rig, points, labels, **options)
        made = mask_messages(mask, frame_set, rig, SPACE, NodeParameters())
        return {name: build(typestore(), MASK_TOPICS[name].type_name, make()) for name, make in made.items()}

    def costs(self, messages):
        """Costmap in the robot's frame, below the camera, and its layer."""
        costmap = ros_parameters("obstacle_layer")
        layer = ObstacleLayer(costmap, costmap["semantic_obstacles"])
        sensor = np.array([0.0, 0, self.HEIGHT + 0.5])
        topics = {"obstacles": "obstacle_points", "ground": "ground_points"}
        layer.update({source: (sensor, read_xyz(messages[topic]) + sensor) for source, topic in topics.items()})
        return layer, layer.costs

    def test_obstacle_layer_marks_the_box_and_clears_the_road(self, rig):
        layer, costs = self.costs(self.messages(rig, box=True))
        marked = layer.origin + (np.argwhere(costs == LETHAL) + 0.5) * layer.resolution
        np.testing.assert_allclose(marked[:, 0], 8.1, atol=1e-6)
        assert np.ptp(marked[:, 1]) == pytest.approx(1.8, abs=0.21) and len(marked) >= 9
        free = layer.origin + (np.argwhere(costs == FREE) + 0.5) * layer.resolution
        assert ((free[:, 0] < 8) | (np.abs(free[:, 1]) > 1)).all(), "not behind the box"
        for place in ([5, 0, 0], [15, 4, 0]):
            (cell,), _ = layer.cells(np.array([place], float))
            assert costs[tuple(cell)] == FREE

    def test_box_that_left_is_cleared_by_an_empty_cloud_and_ground(self, rig):
        messages = self.messages(rig, box=False)
        assert messages["obstacle_points"].width == 0 and messages["obstacle_points"].is_dense
        _, costs = self.costs(messages)
        assert not (costs == LETHAL).any() and (costs == FREE).sum() > 1000

    @pytest.mark.parametrize("options", [{}, {"depth": np.full((240, 320), 6.0)}], ids=["lidar", "depth"])
    def test_semantic_layer_uses_the_aligned_set(self, rig, options):
        made = self.messages(rig, box=True, **options)
        three = [made[f"aligned/{name}"] for name in ("labels", "confidence", "points")]
        classes = dict(enumerate(SPACE.names))
        assert semantic_layer_refusal(*three, classes) == ""
        assert {m.header.frame_id for m in three} == {made["labels"].header.frame_id}
        known = np.isfinite(read_xyz(three[2])[:, 2])
        assert known.any() and known.all() == bool(options) == three[2].is_dense
        labels = three[0].data[known]
        assert {POLE, ROAD} <= set(labels.tolist())
        three[0].header.stamp.nanosec += 1
        assert "stamps" in semantic_layer_refusal(*three, classes)

    def test_other_sizes_are_refused_by_the_semantic_layer(self, rig):
        made = self.messages(rig, box=True)
        three = [made["labels"], made["confidence"], made["aligned/points"]]
        three[2].width -= 1
        assert "sizes" in semantic_layer_refusal(*three, dict(enumerate(SPACE.names)))


def ros_parameters(name):
    text = resource_path(f"config/nav2/{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["local_costmap"]["local_costmap"]["ros__parameters"]


def test_nav2_files_name_the_nodes_topics_and_every_class_once():
    layer = ros_parameters("obstacle_layer")["semantic_obstacles"]
    topics = [layer[source]["topic"] for source in layer["observation_sources"].split()]
    source = ros_parameters("semantic_layer")["semantic_layer"]["mlesam"]
    topics += [value for name, value in source.items() if name.endswith("_topic") and name != "labels_topic"]
    assert len(topics) == 5 and {topic.removeprefix("/mlesam/") for topic in topics} <= MASK_TOPICS.keys()
    listed = {kind: source[kind]["classes"] for kind in source["class_types"]}
    assert sorted(name for names in listed.values() for name in names) == sorted(SPACE.names)
    defaults = default_classes(SPACE)
    assert (tuple(listed["drivable"]), tuple(listed["obstacle"])) == (defaults.ground, defaults.obstacles)


@pytest.mark.parametrize("name", ["deliver", "muses", "mcubes", "cityscapes"])
def test_shipped_label_spaces_have_default_classes(name):
    space = load_label_space(name)
    roles = role_table(space, NavigationParameters())
    assert {GROUND, OBSTACLE} <= set(roles[: len(space)].tolist()) and (roles[len(space) :] == NEITHER).all()
    assert [space.names[i] for i in np.flatnonzero(roles == GROUND)] == sorted(
        default_classes(space).ground, key=space.names.index
    )


def test_own_label_space_has_the_roles_of_its_file(tmp_path):
    path = tmp_path / "yard.yaml"
    path.write_text(
        "name: yard\nclasses: [path: [1, 2, 3], wall: [4, 5, 6], sky: [7, 8, 9]]\nground: [path]\nobstacles: [wall]"
    )
    stored = MLESAMConfig.from_dict(MLESAMConfig(label_space=load_label_space(path)).to_dict()).label_space
    assert role_table(stored, NavigationParameters())[:3].tolist() == [GROUND, OBSTACLE, NEITHER]
    other = NavigationParameters(obstacle_classes=("sky",))
    assert role_table(stored, other)[:3].tolist() == [GROUND, NEITHER, OBSTACLE]


def test_other_label_space_has_no_default_classes():
    for space in (LabelSpace("ours", ("road",), ((1, 2, 3),)), LabelSpace("deliver", ("Road",), ((1, 2, 3),))):
        assert not role_table(space, NavigationParameters()).any()
    assert role_table(space, NavigationParameters(ground_classes=("Road",)))[0] == GROUND


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"obstacle_classes": ("Cars", "Bus", "Trucks")},
            r"classes is \['Cars', 'Bus', 'Trucks'\]; accepted are .*Truck\. Did you mean Truck\?",
        ),
        ({"ground_classes": ("auto", "Road")}, r"navigation.ground_classes is \['auto', 'Road'\]"),
        ({"obstacle_classes": ("Road",)}, "both have Road; a class is in one of them"),
    ],
)
def test_classes_that_cannot_be_used_are_refused(parameters, words):
    with pytest.raises(ConfigError, match=words):
        role_table(SPACE, NavigationParameters(**parameters))
