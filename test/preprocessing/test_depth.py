# SPDX-License-Identifier: Apache-2.0
"""Disparity, height, angle: of a room whose numbers are known, of the street, of a recorded desk."""

import cv2
import numpy as np
import pytest

from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import surface_normals
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.depth import HHA, gravity_from_normals, gravity_from_tf
from mlesam_ros.preprocessing.registration import depth_from_image
from mlesam_ros.simulation.world import World
from mlesam_ros.types import DEPTH, RawImage, SensorFrame

STAMP = 1_700_000_000_000_000_000
SIZE = HEIGHT, WIDTH = 96, 128
CAMERA_HEIGHT, WALL = 1.5, 6.0
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def pitched(degrees, roll=0.0):
    """base_from_camera of a camera that looks down by so many degrees."""
    pitch, lean = cv2.Rodrigues(np.radians([0.0, degrees, 0.0]))[0], cv2.Rodrigues(np.radians([roll, 0.0, 0.0]))[0]
    return Transform(pitch @ lean @ OPTICAL, np.array([0, 0, CAMERA_HEIGHT]))


def model():
    k = np.array([[80.0, 0, 63.5], [0, 80.0, 47.5], [0, 0, 1]])
    return CameraModel(WIDTH, HEIGHT, k, np.zeros(0), "pinhole")


def room(pose):
    """Depth of a floor, and a wall six meters ahead, from a camera at `pose`: meters, and what is floor."""
    camera = model()
    rays = np.concatenate([camera.rays, np.ones((*SIZE, 1), np.float32)], 2) @ pose.rotation.T
    with np.errstate(divide="ignore"):
        floor = np.where(rays[..., 2] < 0, -CAMERA_HEIGHT / rays[..., 2], np.inf)
        wall = np.where(rays[..., 0] > 0, WALL / rays[..., 0], np.inf)
    return np.minimum(floor, wall).astype(np.float32), floor < wall


def frame(meters, frame_id="front"):
    data = np.ascontiguousarray(meters, np.float32).view(np.uint8).ravel()
    return SensorFrame(DEPTH, STAMP, frame_id, RawImage(*meters.shape, "32FC1", 4 * meters.shape[1], data))


def lone():
    return Rig("front", {"front": model()})


def mounted(pose, base="base_link", stamp=None):
    rig = lone()
    rig.tree.set(base, "front", pose, stamp)
    return rig


def counts(image):
    return image.astype(float) * 255


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (12, 0), (25, -8)])
def test_hha_of_room_with_known_geometry(pitch, roll):
    pose = pitched(pitch, roll)
    meters, floor = room(pose)
    image = HHA()(frame(meters), mounted(pose), SIZE)
    assert (image.shape, image.dtype) == ((3, *SIZE), np.float32)
    red, green, blue = counts(image)
    np.testing.assert_allclose(red, np.minimum(np.rint(310 / meters), 255), atol=1)
    points = pose.apply(model().unproject(meters).reshape(-1, 3).astype(float)).reshape(*SIZE, 3)
    np.testing.assert_allclose(green, np.clip(100 * points[..., 2], 0, 255), atol=2)
    for surface, count in ((floor, 38), (~floor, 128)):  # level and seen from above; upright
        np.testing.assert_allclose(blue[cv2.erode(surface.astype(np.uint8), np.ones((9, 9))) > 0], count, atol=1)
    np.testing.assert_allclose(counts(image), np.rint(counts(image)), atol=1e-4)


def test_ceiling_has_opposite_angle_of_floor():
    pose = pitched(-20)
    rays = np.concatenate([model().rays, np.ones((*SIZE, 1), np.float32)], 2) @ pose.rotation.T
    meters = np.where(rays[..., 2] > 0.1, 1.0 / rays[..., 2], np.nan)
    blue = counts(HHA()(frame(meters), mounted(pose), SIZE))[2]
    assert np.median(blue[blue > 0]) == pytest.approx(218, abs=0.1)


def test_holes_are_zero_in_every_channel():
    meters, _ = room(pitched(10))
    meters[20:30, 40:60] = np.nan
    image = HHA()(frame(meters), lone(), SIZE)
    assert not image[:, 20:30, 40:60].any()
    assert image[2, 19].all() and not HHA()(frame(np.full(SIZE, np.nan)), lone(), SIZE).any()


def test_usual_height_is_assumed_without_ground_in_view():
    pose = pitched(0)
    meters = np.full(SIZE, 1.0)  # a wall right ahead: 60 cm of it below the camera
    green = counts(HHA()(frame(meters), mounted(pose), SIZE))[1]
    assert green[47:49].mean() == pytest.approx(130, abs=1)


def test_outlier_below_ground_does_not_move_ground():
    pose = pitched(10)
    meters, _ = room(pose)
    rig, clean = mounted(pose), counts(HHA()(frame(meters), mounted(pose), SIZE))[1]
    meters[-1, :40] *= 3
    disturbed = counts(HHA()(frame(meters), rig, SIZE))[1]
    np.testing.assert_allclose(disturbed[:-2], clean[:-2], atol=3)


def test_gravity_from_tf_precedes_parameter_and_estimate():
    pose = pitched(15)
    meters, floor = room(pose)
    level = frame(meters)
    truth = counts(HHA()(level, mounted(pose), SIZE))
    wrong, right = (0.0, 1.0, 1.0), tuple(2 * pose.rotation.T @ (0, 0, -1))
    np.testing.assert_array_equal(counts(HHA(down=wrong)(level, mounted(pose), SIZE)), truth)
    np.testing.assert_allclose(counts(HHA(down=right)(level, lone(), SIZE)), truth, atol=1)
    assert np.abs(counts(HHA(down=wrong)(level, lone(), SIZE)) - truth)[2][floor].mean() > 10
    estimated = counts(HHA()(level, lone(), SIZE))
    assert np.median(np.abs(estimated - truth)[2]) <= 1


def test_fixed_frame_precedes_base_frame():
    """A base that pitches on its springs against an odom frame that does not."""
    rig = mounted(pitched(0))
    lean = Transform(cv2.Rodrigues(np.radians([0.0, 7.0, 0.0]))[0], np.zeros(3))
    np.testing.assert_allclose(gravity_from_tf(rig, STAMP), [0, 1, 0], atol=1e-9)
    rig.tree.set("odom", "base_link", lean, STAMP)
    np.testing.assert_allclose(
        gravity_from_tf(rig, STAMP), [0, np.cos(np.radians(7)), np.sin(np.radians(7))], atol=1e-9
    )
    # Odometry that ended leaves the base.
    np.testing.assert_allclose(gravity_from_tf(rig, STAMP + 10**10), [0, 1, 0], atol=1e-9)
    assert gravity_from_tf(lone(), STAMP) is None


def test_depth_of_other_camera_is_reprojected():
    pose = pitched(10)
    rig = mounted(pose)
    rig.models["depth"] = model()
    rig.tree.set("front", "depth", Transform(np.eye(3), np.array([0.0, 0.0, 0.0])))
    meters, _ = room(pose)
    apart, same = (counts(HHA()(frame(meters, name), rig, SIZE)) for name in ("depth", "front"))
    np.testing.assert_allclose(apart, same, atol=1)


@pytest.mark.parametrize("down", [(0, 0, 0), (0, 1), (np.nan, 0, 1), (np.inf, 0, 1)])
def test_invalid_direction_is_rejected(down):
    with pytest.raises(ConfigError, match="it must be a direction"):
        HHA(down=down)


def test_gravity_keeps_start_without_level_or_upright_surfaces():
    np.testing.assert_array_equal(gravity_from_normals(np.full((3, 4, 4), np.nan, np.float32)), [0, 1, 0])
    slanted = np.tile(np.array([0, np.sqrt(0.5), np.sqrt(0.5)], np.float32)[:, None], 9)
    assert np.isfinite(gravity_from_normals(slanted)).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_gravity_in_simulated_street(seed):
    """Against the car's true attitude, which sways by half a degree; and the road is at the camera's true height."""
    world = World(seed, "day", (128, 160))
    for index in (5, 120):
        moment = world.sample(index)
        reading = moment.frames[DEPTH]
        rig = Rig(world.rig.camera_frame, world.rig.models)
        normals = surface_normals(depth_from_image(reading, rig, (128, 160)), rig.camera.scaled(128, 160), 3)
        estimated = gravity_from_normals(normals)
        for parent, child, pose in world.rig.tree.static_transforms():
            rig.tree.set(parent, child, pose)
        rig.tree.set("odom", "base_link", moment.pose, moment.stamp)
        true = gravity_from_tf(rig, moment.stamp)
        assert np.degrees(np.arccos(estimated @ true)) < 1
        image = counts(HHA()(reading, rig, (128, 160)))
        road = (image[2] > 0) & (image[2] < 50)
        assert road.sum() > 2000
        assert np.median(image[1][road]) == pytest.approx(0, abs=5)


@pytest.mark.parametrize("number", [1, 2])
def test_gravity_in_recorded_desk_scene(shared_data, number):
    """A camera that looks 29 degrees down on a desk and the floor behind it; Open3D finds the two planes."""
    o3d = pytest.importorskip("open3d")
    samples = cv2.imread(str(shared_data / "rgbd_tum" / f"{number}_depth.png"), cv2.IMREAD_UNCHANGED)
    # The calibration that TUM publishes for the second Kinect, https://cvg.cit.tum.de/data/datasets/rgbd-dataset
    camera = CameraModel(640, 480, np.array([[520.9, 0, 325.1], [0, 521.0, 249.7], [0, 0, 1]]), np.zeros(0), "pinhole")
    reading = SensorFrame(
        DEPTH, STAMP, "c", RawImage(480, 640, "16UC1", 1280, samples.view(np.uint8).ravel(), unit=1 / 5000)
    )
    meters = depth_from_image(reading, Rig("c", {"c": camera}), (480, 640))
    down = gravity_from_normals(surface_normals(meters, camera, 3))
    points = camera.unproject(meters).reshape(-1, 3)
    left = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points[np.isfinite(points[:, 0])]))
    o3d.utility.random.seed(7)
    for _ in ("desk", "floor"):
        plane, inside = left.segment_plane(0.02, 3, 500)
        left = left.select_by_index(inside, invert=True)
        assert np.degrees(np.arccos(abs(down @ plane[:3]))) < 2.5
