# SPDX-License-Identifier: Apache-2.0
"""The rig of a bag, as recordings of other people's robots describe it: oddly, once, late, or twice."""

from types import SimpleNamespace

import numpy as np
import pytest
from drive import CAMERA, CLOUD, IMAGE, INFO, PERIOD, POSE, START, Recorder, camera_image, points

from mlesam_ros.bags import serialization as fields
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.doctor.diagnosis import diagnose_bag
from mlesam_ros.errors import CalibrationError
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, NoMasksError, evaluate
from mlesam_ros.evaluation.bag_sensors import BagRig, find_topics
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.labels import load_label_space
from mlesam_ros.preprocessing.registration import FrameContext, cloud_to_camera
from mlesam_ros.types import LIDAR, FrameSet, RawImage

TF = "tf2_msgs/msg/TFMessage"
MOUNTING = Transform(POSE.rotation, np.array([0.1, -0.2, 0.3]))


def write(path, each=lambda add, index, stamp: None, steps=30, space="", info=True, first=START):
    """A camera and a LiDAR at 10 Hz; `each` adds further messages at each step."""
    with BagWriter(path) as writer:
        for index in range(steps):
            stamp = first(index) if callable(first) else first + index * PERIOD
            recorded = START + index * PERIOD

            def add(topic, kind, made, recorded=recorded):
                writer.add(topic, kind, recorded, made, latched=topic.endswith("tf_static"))

            each(add, index, stamp)
            if info:
                add(f"{space}/camera/camera_info", INFO, fields.camera_info(stamp, "camera", CAMERA))
            add(f"{space}/camera/image_raw", IMAGE, fields.image(stamp, "camera", camera_image(index)))
            add(f"{space}/lidar/points", CLOUD, fields.point_cloud(stamp, "lidar", points()))
    return path


def mounted(stamp, pose=MOUNTING, parent="camera"):
    return fields.transforms([(parent, "lidar", pose)], stamp)


def replayed(path):
    """(set, placement of its LiDAR or the reason why there is none) of each set, and the problems in the end."""
    with BagReader(path) as reader:
        topics = find_topics(reader.topics)
        known = BagRig(reader, topics)
        placed = []
        for step in Replay(reader, topics, known, load_label_space("deliver")).steps():
            assert isinstance(step, FrameSet)
            rig = known.rig.of_set(step)
            try:
                placed.append((step, rig, cloud_to_camera(step.frames[LIDAR], rig, FrameContext(step.time))))
            except CalibrationError as error:
                placed.append((step, rig, str(error)))
        return placed, known.problems


def translations(placed):
    return [None if isinstance(p, str) else p.translation.round(6).tolist() for _, _, p in placed]


def found_by_doctor(path):
    return [f for f in diagnose_bag(path).findings if f.severity in ("error", "warning")]


@pytest.mark.parametrize("every", [10, 1000])
@pytest.mark.parametrize("zero", [False, True])
def test_constant_transform_on_tf_is_used_at_any_rate(tmp_path, every, zero):
    """At 1 Hz, once, or with a zero stamp; the evaluation uses every sweep, and the doctor has no finding."""

    def each(add, index, stamp):
        if index % every == 0:
            add("/tf", TF, mounted(0 if zero else stamp))

    path = write(tmp_path / "bag", each)
    placed, problems = replayed(path)
    assert translations(placed) == [[0.1, -0.2, 0.3]] * 30 and not problems
    text = " ".join(found.message for found in found_by_doctor(path))
    assert "connects" not in text and "cannot be placed" not in text


def turret(index):
    turn = np.deg2rad(3 * index)
    c, s = np.cos(turn), np.sin(turn)
    return Transform(POSE.rotation @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.zeros(3))


@pytest.mark.parametrize(("every", "named"), [(10, True), (1, False)])
def test_doctor_looks_up_moving_transforms_at_frame_times_and_its_remedy_helps(tmp_path, every, named):
    """A turret at 1 Hz, then at the recommended rate."""

    def each(add, index, stamp):
        if index % every == 0:
            add("/tf", TF, mounted(stamp, turret(index)))

    path = write(tmp_path / "bag", each)
    lost = translations(replayed(path)[0]).count(None)
    late = [f for f in found_by_doctor(path) if "no transform is available at the time of" in f.message]
    assert (lost > 10, len(late)) == (named, named)
    if named:
        assert late[0].subject == LIDAR and "'lidar' to 'camera'" in late[0].message


@pytest.mark.parametrize("where", [0, 15, 29])
@pytest.mark.parametrize("static", ["/tf_static", "/robot/tf_static"])
def test_calibration_published_once_applies_to_the_whole_bag(tmp_path, where, static):
    """At the beginning, in the middle or at the end of the bag."""
    space = static.removesuffix("/tf_static")

    def each(add, index, stamp):
        if index == where:
            add(f"{space}/camera/camera_info", INFO, fields.camera_info(stamp, "camera", CAMERA))
            add(static, TF, mounted(stamp))

    placed, problems = replayed(write(tmp_path / "bag", each, info=False, space=space))
    assert translations(placed) == [[0.1, -0.2, 0.3]] * 30 and not problems
    assert all(rig.camera.width == CAMERA.width for _, rig, _ in placed)


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", ""])
def test_empty_d_is_no_distortion(tmp_path, model):
    """For every distortion model."""

    def each(add, index, stamp):
        about = fields.camera_info(stamp, "camera", CAMERA) | {"d": np.zeros(0), "distortion_model": model}
        add("/camera/camera_info", INFO, about)
        add("/tf_static", TF, mounted(stamp))

    placed, problems = replayed(write(tmp_path / "bag", each, 5, info=False))
    point = np.array([[0.5, -0.25, 2.0]])
    expected = CAMERA.K[:2, :2] @ point[0, :2] / 2 + CAMERA.K[:2, 2]
    assert not problems and len(placed) == 5
    np.testing.assert_allclose(placed[0][1].camera.project(point)[0][0], expected)


def test_uncalibrated_camera_is_a_problem(tmp_path):
    def each(add, index, stamp):
        add("/camera/camera_info", INFO, fields.camera_info(stamp, "camera", CAMERA) | {"k": np.zeros(9)})

    _, problems = replayed(write(tmp_path / "bag", each, 3, info=False))
    assert "not calibrated" in problems["/camera/camera_info"]


def test_second_pass_of_a_looped_bag_ignores_odometry_of_the_first(tmp_path):
    """A backward clock jump. 10 m/s in the first pass; in the second the robot stands still at 0."""
    lag = PERIOD // 4

    def stamp_of(index):
        return START + (index % 30) * PERIOD

    def each(add, index, stamp):
        add("/tf_static", TF, mounted(stamp, parent="base"))
        add("/tf_static", TF, fields.transforms([("base", "camera", Transform.identity())], stamp))
        if index < 60:
            moved = 10.0 * index / 10 if index < 30 else 0.0
            add("/tf", TF, fields.transforms([("odom", "base", Transform(np.eye(3), [moved, 0, 0]))], stamp - lag))

    placed, _ = replayed(write(tmp_path / "bag", each, 60, first=stamp_of))
    assert len(placed) > 50
    for _, rig, _ in placed:
        assert rig.tree is placed[0][1].tree  # one tree, whose state in the end is that of the second pass
    tree = placed[0][1].tree
    for index in range(30):
        for offset in (0, PERIOD // 3, PERIOD // 2):
            try:
                assert tree.lookup("odom", "base", START + index * PERIOD + offset).translation[0] == 0
            except CalibrationError:
                continue


def test_frame_with_two_parents_is_a_problem_and_the_static_parent_is_used(tmp_path):
    """The evaluation and the doctor give the same message."""

    def each(add, index, stamp):
        if index == 0:
            add("/tf_static", TF, mounted(stamp))
        add("/tf", TF, mounted(stamp, Transform(np.eye(3), [0, 0, 1.0]), "base_link"))

    path = write(tmp_path / "bag", each)
    placed, problems = replayed(path)
    assert translations(placed) == [[0.1, -0.2, 0.3]] * 30
    messages = [str(problem) for problem in problems.values()] + [f.message for f in found_by_doctor(path)]
    both = [
        text for text in messages if "'lidar'" in text and "'camera' on /tf_static" in text and "'base_link'" in text
    ]
    assert len(both) == 2


@pytest.mark.parametrize(("spaces", "expected"), [(("/r1", "/r2"), 1.0), (("/r2", "/r1"), 1.0), (("", "/r2"), 9.0)])
def test_transforms_of_the_sensors_namespace_are_used(tmp_path, spaces, expected):
    """Two robots in one bag, the same frames, 4 m apart."""
    sent = {"/r1": 1.0, "/r2": 5.0, "": 9.0}

    def each(add, index, stamp):
        for space in spaces:
            add(f"{space}/tf_static", TF, mounted(stamp, Transform(POSE.rotation, [0, 0, sent[space]])))

    placed, problems = replayed(write(tmp_path / "bag", each, 5, space="" if "" in spaces else "/r1"))
    assert translations(placed) == [[0.0, 0.0, expected]] * 5 and not problems


def test_transforms_of_another_namespace_only_are_a_problem_and_unused(tmp_path):
    path = write(tmp_path / "bag", lambda add, i, stamp: add("/r2/tf_static", TF, mounted(stamp)), 5, space="/r1")
    placed, problems = replayed(path)
    assert translations(placed) == [None] * 5
    assert "/r2/tf_static only, outside the namespace" in problems["/r2/tf_static"]


@pytest.mark.parametrize(("k", "view"), [(CAMERA.K.ravel(), "camera"), (np.zeros(9), None), (None, "depth")])
def test_camera_with_rejected_info_remains_the_reference_camera(tmp_path, pipeline, k, view):
    """As in the node, no mask is made until the camera's intrinsics are known."""

    def each(add, index, stamp):
        if k is not None:
            add("/camera/camera_info", INFO, fields.camera_info(stamp, "camera", CAMERA) | {"k": k})
        millimeters = np.full(CAMERA.height * CAMERA.width, 2000, "<u2").view(np.uint8)
        depth = RawImage(CAMERA.height, CAMERA.width, "16UC1", 2 * CAMERA.width, millimeters)
        add("/depth/camera_info", INFO, fields.camera_info(stamp, "depth", CAMERA))
        add("/depth/image_raw", IMAGE, fields.image(stamp, "depth", depth))
        add("/tf_static", TF, fields.transforms([("camera", "depth", Transform.identity())], stamp))
        add("/tf_static", TF, mounted(stamp))

    path, recorder = write(tmp_path / "bag", each, 3, info=False), Recorder()
    if view is None:
        with pytest.raises(NoMasksError, match=r"/camera/camera_info: .*not calibrated"):
            evaluate(path, pipeline, EvaluationOptions(), [recorder])
    else:
        evaluate(path, pipeline, EvaluationOptions(), [recorder])
    assert {record.rig.view for record in recorder.records} == ({view} if view else set())


@pytest.mark.parametrize("change", [{"row_step": 0}, {"row_step": 77_777}, {"is_dense": True}, {"is_dense": False}])
def test_sweep_with_a_wrong_redundant_field_is_used(tmp_path, change):
    """PointCloud2 fields that follow from others."""

    def each(add, index, stamp):
        add("/tf_static", TF, mounted(stamp))
        add("/lidar/points", CLOUD, fields.point_cloud(stamp - PERIOD // 2, "lidar", points()) | change)

    with BagReader(write(tmp_path / "bag", each, 5)) as reader:
        topics = find_topics(reader.topics)
        replay = Replay(reader, topics, BagRig(reader, topics), load_label_space("deliver"))
        assert list(replay.steps()) and not replay.problems and not replay.unreadable


def test_two_cameras_on_one_topic_keep_their_intrinsics(tmp_path):
    """Every mask uses the intrinsics of the image in its set."""
    other = SimpleNamespace(frame="camera2", model=CAMERA.scaled(CAMERA.height * 2, CAMERA.width * 2))

    def each(add, index, stamp):
        later = stamp + PERIOD // 2
        big = np.zeros((other.model.height, other.model.width, 3), np.uint8)
        add("/camera/camera_info", INFO, fields.camera_info(later, other.frame, other.model))
        add("/camera/image_raw", IMAGE, fields.pixels(later, other.frame, big, "rgb8"))
        for frame in ("camera", other.frame):
            add("/tf_static", TF, fields.transforms([("base", frame, Transform.identity())], stamp))
        add("/tf_static", TF, mounted(stamp, parent="base"))

    with BagReader(write(tmp_path / "bag", each, 10)) as reader:
        topics = find_topics(reader.topics)
        known = BagRig(reader, topics)
        sets = list(Replay(reader, topics, known, load_label_space("deliver")).steps())
        rigs = [known.rig.of_set(one) for one in sets]
    images = [one.frames["camera"].payload for one in sets]
    seen = {(rig.camera_frame, rig.camera.width, image.width) for rig, image in zip(rigs, images, strict=True)}
    assert seen == {("camera", CAMERA.width, CAMERA.width), ("camera2", 2 * CAMERA.width, 2 * CAMERA.width)}


@pytest.mark.parametrize("second", ["events", "depth"])
def test_camera_info_shared_by_two_streams_applies_to_both(tmp_path, pipeline, second):
    """A DAVIS, and a depth image beside the camera's; masks are in the camera's view.

    The second stream is called by another frame, half a meter beside the camera.
    """

    def each(add, index, stamp):
        add("/tf_static", TF, mounted(stamp))
        add("/tf_static", TF, fields.transforms([("camera", "second", Transform(np.eye(3), [0.5, 0, 0]))], stamp))
        add("/rig/camera_info", INFO, fields.camera_info(stamp, "camera", CAMERA))
        add("/rig/image_raw", IMAGE, fields.image(stamp, "camera", camera_image(index)))
        if second == "depth":
            pixels = np.full((CAMERA.height, CAMERA.width), 5000, np.uint16).view(np.uint8)
            depth = RawImage(CAMERA.height, CAMERA.width, "16UC1", 2 * CAMERA.width, pixels.reshape(-1))
            add("/rig/depth/image_raw", IMAGE, fields.image(stamp, "second", depth))
        else:
            pixels = np.full((CAMERA.height, CAMERA.width, 3), 128, np.uint8)
            add("/rig/dvs/image_raw", IMAGE, fields.pixels(stamp, "second", pixels, "rgb8"))
        add("/lidar/points", CLOUD, fields.point_cloud(stamp, "lidar", points()))

    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        for index in range(5):
            stamp = START + index * PERIOD
            each(lambda topic, kind, made, at=stamp: writer.add(topic, kind, at, made), index, stamp)
    recorder = Recorder()
    found = evaluate(path, pipeline, listeners=[recorder])
    point = np.array([[0.5, -0.25, 2.0]])
    expected = CAMERA.K[:2, :2] @ point[0, :2] / 2 + CAMERA.K[:2, 2]
    assert len(recorder.records) == 5 and not [warning for warning in found.warnings if "view of" in warning]
    for record in recorder.records:
        assert (record.rig.view, record.rig.camera_frame) == ("camera", "camera")
        np.testing.assert_allclose(record.mask.placements[LIDAR].translation, MOUNTING.translation, atol=1e-6)
        np.testing.assert_allclose(record.rig.camera.project(point)[0][0], expected)
        assert {"depth": "depth", "events": "event"}[second] in record.mask.used


def remounted(path):
    """A LiDAR that sits 0.3 m from the camera in the first half of a bag, and 0.9 m in the second."""

    def each(add, index, stamp):
        if index in (0, 15):
            add("/tf_static", TF, mounted(stamp, Transform(POSE.rotation, [0, 0, 0.3 if index < 15 else 0.9])))

    return write(path, each)


def test_republished_transform_applies_from_its_time(tmp_path):
    """The doctor reports two values and no motion."""
    path = remounted(tmp_path / "bag")
    placed, problems = replayed(path)
    assert translations(placed) == [[0, 0, 0.3]] * 15 + [[0, 0, 0.9]] * 15
    assert "two values" in problems["/tf_static"]
    assert any("two values" in found.message for found in found_by_doctor(path))


@pytest.mark.parametrize(("start", "expected"), [(0.5, 0.3), (2.0, 0.9)])
def test_evaluation_from_the_middle_uses_earlier_calibration(tmp_path, pipeline, start, expected):
    """A part of a bag is evaluated with the calibration of its time."""
    path = remounted(tmp_path / "bag")
    recorder = Recorder()
    evaluate(path, pipeline, EvaluationOptions(start=start, duration=0.5), listeners=[recorder])
    assert len(recorder.records) == 5
    for record in recorder.records:
        np.testing.assert_allclose(record.mask.placements[LIDAR].translation, [0, 0, expected], atol=1e-6)
