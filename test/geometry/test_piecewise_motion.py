# SPDX-License-Identifier: Apache-2.0
"""A sweep taken on the move is the sweep that would have been taken standing still."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry.rig import PiecewiseMotion, Rig, sensor_motion
from mlesam_ros.geometry.transforms import Transform

STAMP = 1_700_000_000_000_000_000
MS = 1_000_000
CAMERA_FROM_BASE = Transform(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.array([0.1, 1.5, -0.4]))
BASE_FROM_LIDAR = Transform.from_quaternion((0.2, 0.1, 1.9), (0.0, 0.0, np.sin(0.2), np.cos(0.2)))
AXIS = st.floats(-1, 1)


def turned(vector):
    """A rotation about a vector by its length in radians."""
    angle = np.linalg.norm(vector)
    axis = np.asarray(vector) / angle if angle else np.zeros(3)
    return Transform.from_quaternion(np.zeros(3), [*(axis * np.sin(angle / 2)), np.cos(angle / 2)]).rotation


def robot(pose, fixed="odom", period=10 * MS, before=300, after=300):
    """A rig whose base_link goes along `pose`, seconds after STAMP → odom_from_base, told every `period`."""
    rig = Rig("camera")
    rig.tree.set("base_link", "camera", CAMERA_FROM_BASE.inverse())
    rig.tree.set("base_link", "lidar", BASE_FROM_LIDAR)
    for stamp in range(STAMP - before * MS, STAMP + after * MS + 1, period):
        rig.tree.set(fixed, "base_link", pose((stamp - STAMP) / 1e9), stamp)
    return rig


def sweep(world, pose, times):
    """What the LiDAR measures of points that stand still, each at its own time."""
    seen = [
        (pose((t - STAMP) / 1e9) @ BASE_FROM_LIDAR).inverse().apply(p[None])[0]
        for p, t in zip(world, times.tolist(), strict=True)
    ]
    return np.array(seen)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(-30, 30)] * 3),
    st.tuples(*[st.floats(-2, 2)] * 3),
    st.integers(-120, 20),
    st.integers(1, 150),
    st.integers(0, 2**32 - 1),
)
def test_moving_sweep_equals_static_sweep(velocity, spin, first, length, seed):
    def pose(t):
        return Transform(turned(np.array(spin) * t), np.array(velocity) * t)

    rng = np.random.default_rng(seed)
    world = rng.uniform(-40, 40, (60, 3))
    times = STAMP + first * MS + rng.integers(0, length * MS, 60)
    motion = sensor_motion(robot(pose), "lidar", times, STAMP)
    still = CAMERA_FROM_BASE.apply(world)  # the base stands at the origin at STAMP
    np.testing.assert_allclose(motion.apply(sweep(world, pose, times)), still, atol=3e-3)


def test_a_bumpy_drive_of_real_odometry_rates():
    """A car that brakes, turns and pitches; 50 Hz odometry. Standing still would be up to a meter and a half off."""

    def pose(t):
        where = np.array([12 * t - 3 * t * t, 0.4 * np.sin(2 * t), 0.01 * np.sin(20 * t)])
        return Transform(turned((0.01 * np.sin(15 * t), 0.02 * np.sin(10 * t), 0.5 * t)), where)

    rng = np.random.default_rng(3)
    world, times = rng.uniform(-40, 40, (500, 3)), STAMP - rng.integers(0, 100 * MS, 500)
    rig, seen = robot(pose, period=20 * MS), sweep(world, pose, times)
    still = (pose(0.0) @ CAMERA_FROM_BASE.inverse()).inverse().apply(world)
    rigid = rig.extrinsic("lidar", STAMP).apply(seen)
    assert np.linalg.norm(rigid - still, axis=1).max() > 1.5
    moved = sensor_motion(rig, "lidar", times, STAMP).apply(seen)
    assert np.linalg.norm(moved - still, axis=1).max() < 8e-3  # the coarseness of such odometry


def test_points_of_equal_time_use_one_transform():
    rig = robot(lambda t: Transform(np.eye(3), np.array([10 * t, 0, 0])))
    placement = sensor_motion(rig, "lidar", np.full(3, STAMP - 50 * MS), STAMP)
    assert isinstance(placement, Transform)
    # Half a meter of road has gone by: what was ahead then is nearer along the camera's axis now.
    then, now = (p.apply(np.array([[20.0, 0, 0]]))[0] for p in (rig.extrinsic("lidar"), placement))
    np.testing.assert_allclose(now - then, [0, 0, -0.5], atol=1e-9)


def test_dtype_of_points_is_kept():
    rig = robot(lambda t: Transform(np.eye(3), np.array([10 * t, 0, 0])))
    motion = sensor_motion(rig, "lidar", STAMP - np.array([0, 50 * MS]), STAMP)
    assert isinstance(motion, PiecewiseMotion)
    for kind in (np.float32, np.float64):
        assert motion.apply(np.zeros((2, 3), kind)).dtype == kind


def test_nonfinite_points_stay_nonfinite():
    rig = robot(lambda t: Transform(np.eye(3), np.array([10 * t, 0, 0])))
    motion = sensor_motion(rig, "lidar", STAMP - np.array([0, 50 * MS, 50 * MS]), STAMP)
    moved = motion.apply(np.array([[1, 2, 3], [np.nan] * 3, [1, 2, 3]], np.float32))
    assert np.isnan(moved[1]).all() and np.isfinite(moved[[0, 2]]).all()


def still_pose(_):
    return Transform.identity()


def test_the_fixed_frame_is_found_by_name():
    assert robot(still_pose).fixed_frame_or_default == "odom"
    assert robot(still_pose, "map").fixed_frame_or_default == "map"
    both = robot(still_pose)
    both.tree.set("map", "odom", Transform.identity(), STAMP)
    assert both.fixed_frame_or_default == "odom"
    other = robot(still_pose, "earth")
    assert other.fixed_frame_or_default is None
    other.fixed_frame = "earth"
    assert other.fixed_frame_or_default == "earth"


def test_static_frame_is_not_a_fixed_frame():
    bolted = Rig("camera")
    bolted.tree.set("odom", "camera", Transform.identity())
    assert bolted.fixed_frame_or_default is None
    bolted.tree.set("map", "odom", Transform.identity(), STAMP)  # a jumping map alone does not tell how the robot moves
    assert bolted.fixed_frame_or_default == "map"


def test_times_outside_tree_are_rejected():
    rig = robot(still_pose)
    with pytest.raises(CalibrationError, match=r"requested 0\.600 s before the oldest"):
        sensor_motion(rig, "lidar", np.array([STAMP - 900 * MS]), STAMP)
    with pytest.raises(CalibrationError, match=r"requested 0\.700 s after the newest"):
        sensor_motion(rig, "lidar", np.array([STAMP]), STAMP + 1000 * MS)
    with pytest.raises(CalibrationError, match="neither odom nor map is known as a frame that 'camera' moves against"):
        sensor_motion(robot(still_pose, "earth"), "lidar", np.array([STAMP]), STAMP)
    rig.fixed_frame = "sky"
    with pytest.raises(CalibrationError, match="'sky' is not known"):
        sensor_motion(rig, "lidar", np.array([STAMP]), STAMP)
