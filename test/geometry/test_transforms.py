# SPDX-License-Identifier: Apache-2.0
"""Transforms and the frame tree: group laws, interpolation, history, and messages that say what is known."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry.transforms import Transform, TransformTree, to_matrix

SECOND = 10**9
ANGLES = st.lists(st.floats(-np.pi, np.pi), min_size=3, max_size=3)
METERS = st.lists(st.floats(-100, 100), min_size=3, max_size=3)


@st.composite
def transforms(draw):
    return Transform(cv2.Rodrigues(np.array(draw(ANGLES)))[0], draw(METERS))


def yaw(degrees, x=0.0):
    return Transform(cv2.Rodrigues(np.array([0, 0, np.deg2rad(degrees)]))[0], [x, 0, 0])


def angle(rotation):
    axis = [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    return np.arctan2(np.linalg.norm(axis), np.trace(rotation) - 1)


def assert_same(a, b, atol=1e-9):
    np.testing.assert_allclose(a.rotation, b.rotation, atol=atol)
    np.testing.assert_allclose(a.translation, b.translation, atol=atol)


@given(transforms(), transforms())
@settings(deadline=None)
def test_composition_and_inverse(a, b):
    points = np.array([[1.0, 2, 3], [-4, 5, 6]])
    np.testing.assert_allclose((a @ b).apply(points), a.apply(b.apply(points)), atol=1e-9)
    assert_same(a @ a.inverse(), Transform.identity())
    assert_same((a @ b).inverse(), b.inverse() @ a.inverse())


@given(transforms())
@settings(deadline=None)
def test_quaternion_round_trip(a):
    assert_same(Transform.from_quaternion(a.translation, a.to_quaternion()), a)
    assert np.linalg.norm(a.to_quaternion()) == pytest.approx(1.0)


def test_quaternion_order_is_that_of_the_message():
    # Half a turn about z maps x to -x: in (x, y, z, w) that is (0, 0, 1, 0).
    np.testing.assert_allclose(to_matrix(np.array([0, 0, 1.0, 0])), np.diag([-1, -1, 1]), atol=1e-12)


@given(transforms(), transforms(), st.floats(0, 1))
@settings(deadline=None)
def test_slerp_turns_at_constant_speed(a, b, t):
    between = a.interpolate(b, t)
    whole = angle(a.rotation.T @ b.rotation)
    assume(whole < 3.1)  # at half a turn both ways round are the shorter one
    assert angle(a.rotation.T @ between.rotation) == pytest.approx(t * whole, abs=1e-6)
    np.testing.assert_allclose(between.translation, (1 - t) * a.translation + t * b.translation, atol=1e-9)


@given(transforms(), st.sampled_from([np.float32, np.float64]), st.sampled_from([(3,), (0, 3), (1000, 3), (4, 5, 3)]))
@settings(deadline=None, max_examples=40)
def test_apply_equals_formula_bit_by_bit(a, kind, shape):
    points = np.random.default_rng(0).normal(size=(*shape[:-1], 6)).astype(kind)
    for some in (points[..., :3], np.asfortranarray(points[..., :3]), points[..., ::2]):
        expected = some @ a.rotation.T.astype(kind) + a.translation.astype(kind)
        np.testing.assert_array_equal(a.apply(some), expected)


def test_apply_keeps_dtype():
    points = np.random.default_rng(0).normal(0, 30, (100, 3))
    single = yaw(30, 2).apply(points.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, yaw(30, 2).apply(points), atol=1e-4)


@pytest.mark.parametrize(
    ("rotation", "translation", "says"),
    [
        (np.eye(3) * 1.1, [0, 0, 0], "perpendicular unit vectors"),
        (np.diag([1, 1, -1]), [0, 0, 0], "right-handed"),
        (np.eye(2), [0, 0, 0], "3x3 finite"),
        (np.full((3, 3), np.nan), [0, 0, 0], "3x3 finite"),
        (np.eye(3), [0, 0], "3 finite numbers in meters"),
        (np.eye(3), [0, 0, np.inf], "3 finite numbers in meters"),
        (np.eye(3), [0, 8e307, 0], "none beyond 1e\\+09, not"),
        (np.diag([1, 1, 8e307]), [0, 0, 0], "is not a rotation"),
    ],
)
def test_non_rigid_transform_is_rejected(rotation, translation, says):
    with pytest.raises(CalibrationError, match=says):
        Transform(rotation, translation)


@pytest.mark.parametrize("q", [[0, 0, 0, 0], [0, 0, 0, 1.1], [0, 0, 1], [0, 0, np.nan, 1]])
def test_non_unit_quaternion_is_rejected(q):
    with pytest.raises(CalibrationError, match="is not a rotation"):
        Transform.from_quaternion([0, 0, 0], q)


def robot():
    tree = TransformTree()
    tree.set("base", "mast", yaw(90, 1.0))
    tree.set("mast", "camera", yaw(-30, 0.5))
    tree.set("base", "lidar", yaw(10, 2.0))
    return tree


def test_static_frames_ignore_the_stamp():
    tree = robot()
    expected = (yaw(90, 1.0) @ yaw(-30, 0.5)).inverse() @ yaw(10, 2.0)
    for stamp in (None, 0, 5, 10**18):
        assert_same(tree.lookup("camera", "lidar", stamp), expected)
    assert_same(tree.lookup("lidar", "camera", 1), expected.inverse())
    assert_same(tree.lookup("camera", "base"), (yaw(90, 1.0) @ yaw(-30, 0.5)).inverse())
    assert_same(tree.lookup("base", "camera"), yaw(90, 1.0) @ yaw(-30, 0.5))
    assert_same(tree.lookup("/base", "base"), Transform.identity())


def test_unknown_frame_error_lists_known_frames():
    with pytest.raises(CalibrationError, match=r"'radar' to 'camera'; known frames are base, camera, lidar, mast"):
        robot().lookup("camera", "radar")
    with pytest.raises(CalibrationError, match="no frame is known yet"):
        TransformTree().lookup("camera", "lidar")


def test_cycle_is_rejected_and_new_parent_accepted():
    tree = robot()
    with pytest.raises(CalibrationError, match="cycle"):
        tree.set("camera", "base", yaw(0))
    with pytest.raises(CalibrationError, match="cycle"):
        tree.set("base", "base", yaw(0))
    with pytest.raises(CalibrationError, match="empty frame name"):
        tree.set("", "base", yaw(0))
    tree.set("mast", "lidar", yaw(0, 3.0))
    assert_same(tree.lookup("mast", "lidar"), yaw(0, 3.0))


def turning(**options):
    tree = TransformTree(**options)
    tree.set("base", "camera", Transform.identity())
    for i in range(5):
        tree.set("base", "turret", yaw(10 * i, float(i)), stamp=(100 + i) * SECOND)
    return tree


def test_moving_frames_are_interpolated():
    tree = turning()
    assert_same(tree.lookup("camera", "turret", 102 * SECOND), yaw(20, 2.0))
    assert_same(tree.lookup("camera", "turret", 102 * SECOND + SECOND // 4), yaw(22.5, 2.25))
    assert_same(tree.lookup("camera", "turret"), yaw(40, 4.0))


def test_transforms_are_not_extrapolated():
    tree = turning(tolerance=0.1)
    assert_same(tree.lookup("camera", "turret", 104 * SECOND + SECOND // 20), yaw(40, 4.0))
    assert_same(tree.lookup("camera", "turret", 100 * SECOND - SECOND // 20), yaw(0, 0.0))
    with pytest.raises(CalibrationError, match=r"'turret' to 'base' is requested 0.500 s after the newest .* 0.1 s"):
        tree.lookup("camera", "turret", 104 * SECOND + SECOND // 2)
    with pytest.raises(CalibrationError, match=r"2.000 s before the oldest"):
        tree.lookup("camera", "turret", 98 * SECOND)


def test_arrival_order_is_irrelevant_within_half_a_second():
    """What comes later than half a second out of order is a clock that jumped back: see the tests of resets below."""
    tree, expected = TransformTree(), TransformTree()
    for order, made in (((3, 0, 4, 1, 2, 2), tree), (range(5), expected)):
        for i in order:
            made.set("base", "turret", yaw(10 * i, float(i)), stamp=100 * SECOND + i * SECOND // 10)
    for i in np.linspace(0, 0.4, 33):
        stamp = int((100 + i) * SECOND)
        assert_same(tree.lookup("base", "turret", stamp), expected.lookup("base", "turret", stamp))


@given(st.lists(st.integers(1, 60 * SECOND), min_size=1, max_size=200))
@settings(deadline=None, max_examples=50)
def test_history_is_bounded_in_time_and_number(stamps):
    tree = TransformTree(history=10.0, capacity=20)
    for stamp in stamps:
        tree.set("base", "turret", yaw(0), stamp)
    edge = tree._edges["turret"][0]
    assert edge.stamps == sorted(set(edge.stamps))
    assert len(edge.stamps) == len(edge.moving) <= 20
    assert edge.stamps[-1] - edge.stamps[0] <= 10 * SECOND
    assert stamps[-1] in edge.stamps or len(edge.stamps) == 20


def test_backward_clock_jump_removes_moving_transforms():
    tree = turning()
    tree.set("base", "turret", yaw(-50), stamp=50 * SECOND)
    assert_same(tree.lookup("camera", "turret", 50 * SECOND), yaw(-50))
    with pytest.raises(CalibrationError, match="after the newest"):
        tree.lookup("camera", "turret", 102 * SECOND)


def test_static_transforms_survive_a_clock_jump():
    tree = turning()
    tree.clock_jumped_to(0)
    assert tree.frames == ("base", "camera")
    with pytest.raises(CalibrationError, match="known frames are base, camera"):
        tree.lookup("camera", "turret")


# Resets: what moves is forgotten, what does not is kept (tf2 clears its buffer on a backward jump)


@pytest.mark.parametrize("seconds", [0.8, 2.0, 6.0, 9.5, 60.0])
@pytest.mark.parametrize("speed", [10.0, -3.0])
def test_odometry_before_reset_is_not_used(seconds, speed):
    """The kind: a second criterion for what a clock does. The robot stands still at 0 after the reset."""
    tree, step = TransformTree(), SECOND // 50
    tree.set("base", "camera", Transform.identity())
    for k in range(round(seconds * 50)):
        tree.set("odom", "base", yaw(0, speed * k / 50), stamp=SECOND + k * step)
        tree.set("map", "odom", yaw(0, 5.0), stamp=SECOND + k * step)
    for k in range(100):
        stamp = SECOND + k * step + 7_000_000
        tree.set("odom", "base", yaw(0), stamp)
        for later in (0, 5_000_000, 15_000_000):
            assert_same(tree.lookup("odom", "camera", stamp + later), yaw(0))
        with pytest.raises(CalibrationError):  # map has not been published since
            tree.lookup("map", "camera", stamp)


def test_reset_keeps_rigid_transforms():
    tree = turning()
    tree.set("camera", "lidar", yaw(90, 0.5), stamp=100 * SECOND)
    tree.set("base", "mast", yaw(0, 7.0))
    tree.clock_jumped_to(103 * SECOND + 3 * SECOND // 4)  # out of order at most
    assert_same(tree.lookup("camera", "turret", 104 * SECOND), yaw(40, 4.0))
    tree.clock_jumped_to(SECOND)
    assert_same(tree.lookup("camera", "lidar", 2 * SECOND), yaw(90, 0.5))
    assert_same(tree.lookup("base", "mast", 2 * SECOND), yaw(0, 7.0))
    with pytest.raises(CalibrationError, match="no transform connects"):
        tree.lookup("camera", "turret", 2 * SECOND)


# Rigid mountings on /tf


@pytest.mark.parametrize("stamps", [[100], [0], [0, 0, 0], [100, 101, 102], range(100, 130)])
def test_rigid_transform_holds_at_any_stamp(stamps):
    """The kind: a rigid mounting on /tf, once, at 1 Hz, or with a zero stamp."""
    tree = TransformTree()
    for stamp in stamps:
        tree.set("camera", "lidar", yaw(90, 0.5), stamp=stamp * SECOND)
    for stamp in (1, 50 * SECOND, 100 * SECOND + SECOND // 3, 1000 * SECOND):
        assert_same(tree.lookup("camera", "lidar", stamp), yaw(90, 0.5))
    assert not tree.is_dynamic("camera", "lidar")


def test_moved_edge_is_never_rigid_again():
    tree = TransformTree()
    for stamp, degrees in ((100, 0), (101, 0), (102, 5), (103, 5)):
        tree.set("base", "turret", yaw(degrees), stamp=stamp * SECOND)
    tree.set("base", "turret", yaw(5), stamp=200 * SECOND)
    with pytest.raises(CalibrationError, match="after the newest"):
        tree.lookup("base", "turret", 201 * SECOND)
    tree.clock_jumped_to(0)
    tree.set("base", "turret", yaw(5), stamp=10 * SECOND)
    with pytest.raises(CalibrationError, match="after the newest"):
        tree.lookup("base", "turret", 11 * SECOND)


@pytest.mark.parametrize("names", [("odom", "base"), ("map", "odom"), ("r1/odom", "r1/base"), ("base", "odom")])
def test_standing_robot_is_not_rigidly_mounted(names):
    """Odometry that stops is not known any more, although it never changed."""
    tree = TransformTree()
    for k in range(20):
        tree.set(*names, yaw(0), stamp=100 * SECOND + k * SECOND // 20)
    assert tree.is_dynamic(*names)
    with pytest.raises(CalibrationError, match="after the newest"):
        tree.lookup(*names, 103 * SECOND)


# Contradictions


def test_static_and_moving_parent_conflict():
    """The kind: one frame with two parents. The static mounting stays in use."""
    tree = TransformTree()
    tree.set("camera", "lidar", yaw(90, 0.5), source="/tf_static")
    for k in range(5):
        tree.set("base", "lidar", yaw(0, 1.0), stamp=100 * SECOND + k * SECOND // 10, source="/tf")
        assert_same(tree.lookup("camera", "lidar", 100 * SECOND), yaw(90, 0.5))
    assert_same(tree.lookup("base", "lidar", 100 * SECOND), yaw(0, 1.0))
    [(topic, words)] = tree.conflicts(["lidar"]).items()
    assert topic == "/tf" and all(name in words for name in ("lidar", "'camera' on /tf_static", "'base' on /tf"))
    assert tree.conflicts(["camera", "base"]) == {}


def test_alternating_publishers_conflict():
    tree = TransformTree()
    for k in range(3):
        tree.set("camera", "lidar", yaw(90, 0.5), stamp=100 * SECOND + k, source="/tf")
    for k in range(3):
        tree.set("gripper", "lidar", yaw(0, 2.0), stamp=101 * SECOND + k, source="/tf")
    assert tree.conflicts(["lidar"]) == {}
    with pytest.raises(CalibrationError, match="no transform connects"):
        tree.lookup("camera", "lidar", 101 * SECOND)
    tree.set("camera", "lidar", yaw(90, 0.5), stamp=101 * SECOND + 10, source="/tf")
    assert "two parents" in tree.conflicts(["lidar"])["/tf"]
    for parent, pose in (("camera", yaw(90, 0.5)), ("gripper", yaw(0, 2.0))):
        assert_same(tree.lookup(parent, "lidar", 101 * SECOND), pose)


def test_two_values_of_static_transform_conflict():
    tree = TransformTree()
    tree.set("camera", "lidar", yaw(10, 9.0))  # of a file
    tree.set("camera", "lidar", yaw(90, 0.5), source="/tf_static")
    assert tree.conflicts(["lidar"]) == {}
    assert_same(tree.lookup("camera", "lidar"), yaw(90, 0.5))
    tree.set("camera", "lidar", yaw(90.00001, 0.5), source="/tf_static")
    assert tree.conflicts(["lidar"]) == {}
    tree.set("camera", "lidar", yaw(100, 0.25), source="/tf_static")
    assert "0.25 m and 10 degrees apart" in tree.conflicts(["lidar"])["/tf_static"]
    assert_same(tree.lookup("camera", "lidar"), yaw(100, 0.25))


def test_topic_overriding_calibration_file_is_not_motion():
    """Kind: a source of lower rank taken for an earlier value. A rigid mounting at 1 Hz, 5 mm from the file's."""
    tree = TransformTree()
    tree.set("camera", "lidar", yaw(90, 0.5))
    tree.set("camera", "lidar", yaw(90, 0.505), stamp=100 * SECOND, source="/tf")
    for stamp in (1, 100 * SECOND, 100 * SECOND + SECOND // 2, 1000 * SECOND):
        assert_same(tree.lookup("camera", "lidar", stamp), yaw(90, 0.505))
    assert not tree.is_dynamic("camera", "lidar") and tree.conflicts(["lidar"]) == {}


@pytest.mark.parametrize("parent", ["camera", "base"])
@pytest.mark.parametrize("stamp", [None, 100 * SECOND])
def test_removing_topic_restores_calibration_file(parent, stamp):
    """Kind: a source of lower rank lost with the higher one."""
    tree = TransformTree()
    tree.set("camera", "lidar", yaw(90, 0.5))
    tree.set(parent, "lidar", yaw(0, 2.0), stamp=stamp, source="/tf")
    tree.remove_source("/tf")
    assert_same(tree.lookup("camera", "lidar", 200 * SECOND), yaw(90, 0.5))
    tree.set("camera", "lidar", yaw(90, 0.6), source="/tf_static")
    tree.remove_source("/tf")
    assert_same(tree.lookup("camera", "lidar", 200 * SECOND), yaw(90, 0.6))
    assert tree.conflicts(["lidar"]) == {}
