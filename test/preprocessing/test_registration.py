# SPDX-License-Identifier: Apache-2.0
"""The robot's motion in the preprocessors: what was measured elsewhere and earlier is shown where it is now."""

from dataclasses import replace

import numpy as np
import pytest

from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import PiecewiseMotion, Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.point_cloud import cloud_xyz
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.preprocessing.registration import FrameContext, SweepMotions, cloud_to_camera, sensor_to_camera
from mlesam_ros.types import CAMERA, DEPTH, LIDAR, FrameSet, PointCloud, RawImage, SensorFrame

STAMP = 1_700_000_000_000_000_000
MS = 1_000_000
SIZE = HEIGHT, WIDTH = 60, 80
SPEED = 10.0
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("time", "<f4")])
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def car(odometry=True):
    """A car that drives ahead at 10 m/s with a camera, a depth camera and a LiDAR in one place."""
    k = np.array([[70.0, 0, 39.5], [0, 70.0, 29.5], [0, 0, 1]])
    model = CameraModel(WIDTH, HEIGHT, k, np.zeros(0), "pinhole")
    rig = Rig("front", {"front": model, "depth": model})
    rig.tree.set("base_link", "front", Transform(OPTICAL, np.zeros(3)))
    rig.tree.set("base_link", "depth", Transform(OPTICAL, np.zeros(3)))
    rig.tree.set("base_link", "lidar", Transform.identity())
    if odometry:
        for tick in range(-200, 201, 10):
            where = np.array([SPEED * tick / 1000, 0, 0])
            rig.tree.set("odom", "base_link", Transform(np.eye(3), where), STAMP + tick * MS)
    return rig


def sweep(stamp, times=(0.0, 0.0, 0.0)):
    """A wall 25 m ahead of where the car is at STAMP, in three points, by a LiDAR that has moved on or not."""
    ahead = [25 - SPEED * ((stamp - STAMP) / 1e9 + t) for t in times]
    points = [(x, y, 0, 50, t) for x, y, t in zip(ahead, (-4, 0, 4), times, strict=True)]
    return SensorFrame(LIDAR, stamp, "lidar", PointCloud(np.array(points, POINT)))


def depth(stamp):
    meters = np.full(SIZE, 25 - SPEED * (stamp - STAMP) / 1e9, "<f4")
    return SensorFrame(DEPTH, stamp, "depth", RawImage(*SIZE, "32FC1", 4 * WIDTH, meters.view(np.uint8).ravel()))


def encoded(rig, *frames):
    frame_set = FrameSet(STAMP, CAMERA, {f.modality: f for f in frames}, {f.modality: 0 for f in frames})
    preprocessors, context = make_preprocessors(DEFAULT_PREPROCESSORS), FrameContext(frame_set.time, frame_set.frames)
    return (
        {f.modality: preprocessors[f.modality](f, rig, SIZE, context) for f in frames},
        context,
        encode(frame_set, rig, SIZE, preprocessors),
    )


def shown(image, modality):
    encoder = make_preprocessors(DEFAULT_PREPROCESSORS)[modality]
    (mean, *_), (std, *_) = encoder.normalization
    values = image[0][image[0] != 0] * std + mean
    return np.exp(values) if modality == DEPTH else values


@pytest.mark.parametrize("late", [-80, -50, 0, 60])
def test_late_sweep_is_motion_compensated(late):
    images, context, all_of_them = encoded(car(), sweep(STAMP + late * MS))
    assert images[LIDAR].any()
    np.testing.assert_allclose(shown(images[LIDAR], LIDAR), np.full(27, 25.0), atol=0.35)  # 25.3 m to the sides
    np.testing.assert_allclose(shown(images[LIDAR], LIDAR).min(), 25, atol=1e-3)
    assert not context.notes
    np.testing.assert_array_equal(all_of_them[LIDAR], images[LIDAR])


@pytest.mark.parametrize("offset", [50, -120, 37_000])
@pytest.mark.parametrize("modality", [LIDAR, DEPTH])
def test_offset_is_compensated(modality, offset):
    """Kind: a correction that one consumer of time applies and another does not; here placement and point times."""
    measured = sweep(STAMP, (-0.08, -0.04, 0.02)) if modality == LIDAR else depth(STAMP)
    late = replace(measured, stamp=STAMP + offset * MS, offset=offset * MS)
    images, context, _ = encoded(car(), late)
    expected, _, _ = encoded(car(), measured)
    np.testing.assert_array_equal(images[modality], expected[modality])
    np.testing.assert_allclose(shown(images[modality], modality).min(), 25, atol=1e-2)
    assert not context.notes


@pytest.mark.parametrize("offset", [50, -120])
def test_camera_offset_sets_time_of_set(offset):
    """Kind: as above; here the context, which is the primary's time and not its stamp."""
    late = offset * MS
    frame_set = FrameSet(STAMP + late, CAMERA, {LIDAR: sweep(STAMP)}, {LIDAR: 0}, late)
    image = encode(frame_set, car(), SIZE, make_preprocessors(DEFAULT_PREPROCESSORS))[LIDAR]
    np.testing.assert_allclose(shown(image, LIDAR).min(), 25, atol=1e-3)


def test_points_are_motion_compensated_individually():
    images, context, _ = encoded(car(), sweep(STAMP, (-0.08, -0.04, 0.02)))
    still, _, _ = encoded(car(), sweep(STAMP))
    np.testing.assert_allclose(images[LIDAR], still[LIDAR], atol=1e-4)
    assert not context.notes
    skewed, _, _ = encoded(car(odometry=False), sweep(STAMP, (-0.08, -0.04, 0.02)))
    assert np.abs(shown(skewed[LIDAR], LIDAR) - shown(still[LIDAR], LIDAR)).max() > 0.7


@pytest.mark.parametrize("late", [-70, 40])
def test_late_depth_image_is_motion_compensated(late):
    images, context, _ = encoded(car(), depth(STAMP + late * MS))
    np.testing.assert_allclose(shown(images[DEPTH], DEPTH), 25, atol=1e-3)
    assert not context.notes
    np.testing.assert_allclose(context.depth(car(), SIZE)[30, 40], 25, atol=1e-3)


def test_extrinsic_and_note_without_odometry():
    images, context, _ = encoded(car(odometry=False), sweep(STAMP - 50 * MS), depth(STAMP - 20 * MS))
    np.testing.assert_allclose(shown(images[LIDAR], LIDAR).min(), 25.5, atol=1e-3)
    np.testing.assert_allclose(shown(images[DEPTH], DEPTH), 25.2, atol=1e-3)
    assert "motion over 50 ms is not compensated: neither odom nor map" in context.notes[LIDAR]
    assert "motion over 20 ms" in context.notes[DEPTH]


@pytest.mark.parametrize("jump", [1.0, 8.0])
def test_odometry_that_jumps_is_noted_and_not_used(jump):
    """By 8 m in 50 ms, such as at a reset; 1 m is as fast as some robots are."""
    rig, stamp = car(), STAMP - 50 * MS
    for step in range(11):
        there = jump if step else 0.0
        pose = Transform(np.eye(3), np.array([there, 0.0, 0.0]))
        rig.tree.set("odom", "base_link", pose, STAMP + (step * 5 + 950) * MS)
    context = FrameContext(STAMP + 1000 * MS)
    placed = sensor_to_camera(sweep(stamp + 1000 * MS), rig, context)
    moved = np.abs(placed.apply(np.zeros((1, 3))) - rig.extrinsic("lidar").apply(np.zeros((1, 3)))).max()
    assert (moved > 0.5) == (jump < 2)
    assert ("'odom' jumps by 8.0 m in 50 ms" in context.notes.get(LIDAR, "")) == (jump > 2)


def test_odometry_that_ended_is_noted():
    rig, old = car(), STAMP + 10_000 * MS
    context = FrameContext(old)
    assert isinstance(sensor_to_camera(sweep(old - 50 * MS), rig, context), Transform)
    assert "after the newest known one" in context.notes[LIDAR]


def test_invalid_times_are_noted_and_ignored():
    context = FrameContext(STAMP)
    assert isinstance(cloud_to_camera(sweep(STAMP, (0, 0.5, 3.0)), car(), context), Transform)
    assert context.notes[LIDAR].startswith("times of points are ignored: field 'time' spans 3 s")


def test_single_frame_is_its_own_reference():
    frame = sweep(STAMP - 50 * MS, (0.0, 0.0, 0.04))
    placement = cloud_to_camera(frame, car())
    assert isinstance(placement, PiecewiseMotion)
    xyz = np.array([[p["x"], p["y"], p["z"]] for p in frame.payload.points])
    np.testing.assert_allclose(placement.apply(xyz)[:, 2], 25.5, atol=1e-4)
    assert isinstance(cloud_to_camera(sweep(STAMP), car()), Transform)


def test_sensor_without_transform_raises():
    context = FrameContext(STAMP)
    lost = SensorFrame(LIDAR, STAMP - 50 * MS, "nowhere", sweep(STAMP).payload)
    with pytest.raises(CalibrationError, match="'nowhere'"):
        cloud_to_camera(lost, car(), context)
    assert not context.notes


def test_placement_is_computed_once_per_frame():
    """The kind: the same geometry computed twice."""
    frames = {LIDAR: sweep(STAMP - 50 * MS), DEPTH: depth(STAMP - 20 * MS)}
    _, context, _ = encoded(car(), *frames.values())
    placements = context.placements
    assert set(placements) == {LIDAR, DEPTH}
    nowhere = Rig("eye")  # what is asked for again needs no rig
    for modality, place in ((LIDAR, cloud_to_camera), (DEPTH, sensor_to_camera)):
        assert place(frames[modality], nowhere, context) is placements[modality]


def test_sweeps_of_a_few_lidars_are_kept():
    rig, shared = car(), SweepMotions()
    frames = [replace(sweep(STAMP, (-0.08, -0.04, 0.02)), frame_id=f"lidar_{number}") for number in range(6)]
    for frame in frames:
        rig.tree.set("base_link", frame.frame_id, Transform.identity())
        cloud_to_camera(frame, rig, FrameContext(STAMP, sweeps=shared))
    found = [shared.placement(frame, rig, STAMP) is not None for frame in frames]
    assert found == [False, False, True, True, True, True]


def test_a_sweep_is_compensated_once_for_the_cameras_that_share_it(monkeypatch):
    """Cameras with other frames and times follow the first one; a new sweep is compensated again."""
    rig, shared, compensated = car(), SweepMotions(), []
    rig.tree.set("base_link", "left", Transform(OPTICAL, np.array([0.2, 1.0, 0.1])))
    left = replace(rig, camera_frame="left")
    apply = PiecewiseMotion._apply
    monkeypatch.setattr(PiecewiseMotion, "_apply", lambda *given: compensated.append(1) or apply(*given))
    for frame in (sweep(STAMP, (-0.08, -0.04, 0.02)), sweep(STAMP + 20 * MS, (-0.08, -0.04, 0.02))):
        compensated.clear()
        for view, time in ((rig, STAMP), (left, STAMP), (left, STAMP + 30 * MS)):
            moved = cloud_to_camera(frame, view, FrameContext(time, sweeps=shared)).apply(cloud_xyz(frame.payload))
            assert len(compensated) == 1  # for the first one
            alone = cloud_to_camera(frame, view, FrameContext(time)).apply(cloud_xyz(frame.payload).copy())
            compensated.pop()
            np.testing.assert_allclose(moved, alone, atol=1e-5)
