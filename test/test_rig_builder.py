# SPDX-License-Identifier: Apache-2.0
"""What a rig learns from messages, and what it says of those that it cannot learn from."""

from types import SimpleNamespace

import numpy as np
import pytest

from mlesam_ros.bags.serialization import camera_info, transforms, typestore
from mlesam_ros.bags.writer import build
from mlesam_ros.config import build_parameters
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.rig_builder import RigBuilder, is_static, transform_topics
from mlesam_ros.types import CAMERA, DEPTH, EVENT, FrameSet, RawImage, SensorFrame

LENS = CameraModel(64, 48, np.array([[40.0, 0, 31.5], [0, 40, 23.5], [0, 0, 1]]), np.zeros(5), "plumb_bob")


def info(frame="eye", **changes):
    about = {**camera_info(0, frame, LENS), **changes}
    return build(typestore(), "sensor_msgs/msg/CameraInfo", about)


def parameters(modality=CAMERA, **changes):
    return build_parameters({f"{modality}.{name}": value for name, value in changes.items()})


def frame(modality, size, frame_id="eye"):
    picture = RawImage(*size, "rgb8", 3 * size[1], np.zeros(3 * size[0] * size[1], np.uint8))
    return SensorFrame(modality, 1, frame_id, picture)


def test_camera_sets_frame_of_masks():
    learner = RigBuilder(Rig(""))
    learner.on_camera_info("/dvs/info", EVENT, info("dvs"))
    assert learner.rig.camera_frame == "" and set(learner.rig.lenses) == {EVENT}
    learner.on_camera_info("/info", CAMERA, info("/eye"))
    assert learner.rig.camera_frame == "eye" and learner.rig.camera.width == 64
    learner = RigBuilder(Rig(""), parameters(frame_id="own"))
    learner.on_camera_info("/info", CAMERA, info("eye"))
    assert learner.rig.camera_frame == "own"


def test_repeated_camera_info_changes_nothing():
    learner = RigBuilder(Rig(""))
    learner.on_camera_info("/info", CAMERA, info())
    first = learner.rig.camera
    learner.on_camera_info("/info", CAMERA, info())
    assert learner.rig.camera is first
    learner.on_camera_info("/info", CAMERA, info(k=LENS.K * 1.1 + np.diag([0, 0, -0.1])))
    assert learner.rig.camera is not first and learner.rig.camera.K[0, 0] == pytest.approx(44)


def test_fit_is_applied_to_camera_info():
    learner = RigBuilder(Rig(""), parameters(fit="rescale", picture_size=(32, 24)))
    learner.on_camera_info("/info", CAMERA, info())
    assert (learner.rig.camera.width, learner.rig.camera.K[0, 0]) == (32, 20)


def test_problems_are_reported_once_and_cleared():
    told = []
    learner = RigBuilder(Rig(""), report=lambda topic, problem: told.append(topic))
    for _ in range(3):
        learner.on_camera_info("/info", CAMERA, info(k=np.zeros(9)))
    learner.on_camera_info("/info", CAMERA, info(frame=""))
    assert told == ["/info", "/info"] and "has no frame" in learner.problems["/info"]
    learner.on_camera_info("/info", CAMERA, info())
    assert learner.problems == {} and learner.rig.camera_frame == "eye"


def test_invalid_transform_does_not_affect_others():
    poses = [("base", name, Transform.identity()) for name in ("one", "two", "three")]
    message = build(typestore(), "tf2_msgs/msg/TFMessage", transforms(poses, 5))
    message.transforms[1].transform.rotation.w = float("nan")
    message.transforms.append(SimpleNamespace(header=None))
    learner = RigBuilder(Rig(""))
    learner.on_transforms("/tf", message)
    assert set(learner.rig.tree.frames) == {"base", "one", "three"}
    assert "AttributeError" in learner.problems["/tf"]
    learner.on_transforms("/tf_static", message)
    assert [child for _, child, _ in learner.rig.tree.static_transforms()] == ["one", "three"]


# A lens belongs to the stream that it describes


@pytest.mark.parametrize("order", [(CAMERA, DEPTH), (DEPTH, CAMERA), (DEPTH, EVENT, CAMERA, EVENT, DEPTH)])
@pytest.mark.parametrize("other", ["other size", "other distortion", "rectified"])
def test_streams_in_one_frame_keep_own_lenses(order, other):
    """The kind: identity by frame name. Registered depth, or an event camera, in the camera's optical frame."""
    distorted = {"d": np.array([-0.3, 0.09, 0, 0, 0])}
    messages = {
        "other size": (info(), info(height=24, width=32, k=np.array([20.0, 0, 15.5, 0, 20, 11.5, 0, 0, 1]))),
        "other distortion": (info(), info(**distorted)),
        "rectified": (info(**distorted), info(**distorted)),
    }[other]
    learner = RigBuilder(Rig(""), parameters(rectified=True) if other == "rectified" else None)
    for _ in range(3):
        for modality in order:
            learner.on_camera_info(f"/{modality}/info", modality, messages[modality != CAMERA])
    rig = learner.rig
    assert (rig.camera_frame, rig.camera.width, rig.camera.D.any()) == ("eye", 64, False)
    for modality in set(order) - {CAMERA}:
        model = rig.model_of(frame(modality, (48, 64)))
        assert (model.width, model.D.any()) == (32 if other == "other size" else 64, other != "other size")
    assert learner.problems == {}


def test_lens_change_does_not_affect_older_frames():
    """The kind: uniqueness assumed. The camera zooms while a frame waits for its partners."""
    learner = RigBuilder(Rig(""))
    unknown = learner.bind(frame(CAMERA, (48, 64)))
    learner.on_camera_info("/info", CAMERA, info())
    old = learner.bind(frame(CAMERA, (48, 64)))
    learner.on_camera_info("/info", CAMERA, info("zoomed", k=np.array([80.0, 0, 31.5, 0, 80, 23.5, 0, 0, 1])))
    new = learner.bind(frame(CAMERA, (48, 64), "zoomed"))
    for made, focal, name in ((unknown, 80, "zoomed"), (old, 40, "eye"), (new, 80, "zoomed")):
        rig = learner.rig.of_set(FrameSet(1, CAMERA, {CAMERA: made}, {CAMERA: 0}))
        assert (rig.camera.K[0, 0], rig.camera_frame) == (focal, name)
    rig = learner.rig.of_set(FrameSet(1, DEPTH, {}, {}))
    assert (rig.camera.K[0, 0], rig.camera_frame) == (80, "zoomed")


@pytest.mark.parametrize("names", [("eye", "other"), ("eye", "eye")])
def test_two_cameras_on_one_topic_are_distinguished(names):
    learner = RigBuilder(Rig(""))
    small = {"height": 24, "width": 32, "k": np.array([20.0, 0, 15.5, 0, 20, 11.5, 0, 0, 1])}
    for first, second in ((0, 1), (1, 0), (0, 1)):
        for at in (first, second):
            learner.on_camera_info("/info", CAMERA, info(names[at], **(small if at else {})))
        lenses = [
            learner.bind(frame(CAMERA, size, name)).lens for size, name in zip(((48, 64), (24, 32)), names, strict=True)
        ]
        assert [(lens.frame_id, lens.model.width) for lens in lenses] == [(names[0], 64), (names[1], 32)]
    learner.on_camera_info("/info", CAMERA, info(names[0]))
    assert learner.rig.camera is lenses[0].model  # what comes again is the same model


def test_frame_id_of_parameters_is_set():
    learner = RigBuilder(Rig(""), parameters("lidar", frame_id="roof"))
    assert learner.bind(SensorFrame("lidar", 1, "velodyne", None)).frame_id == "roof"
    assert learner.bind(frame(DEPTH, (4, 4))).frame_id == "eye"


@pytest.mark.parametrize(
    ("rectified", "named"), [((CAMERA,), True), ((CAMERA, DEPTH), False), ((), False), ((DEPTH,), False)]
)
def test_unrectified_depth_beside_rectified_camera_is_reported(rectified, named):
    """The remedy is tried: with depth.rectified set as well nothing is doubted."""
    given = build_parameters({f"{modality}.rectified": True for modality in rectified})
    learner = RigBuilder(Rig(""), given, topics={CAMERA: "/image", DEPTH: "/depth"})
    for modality in (DEPTH, CAMERA):
        learner.on_camera_info(f"/{modality}/info", modality, info(d=np.array([-0.3, 0.09, 0, 0, 0])))
    assert list(learner.problems) == ["/depth"] * named


def test_rectified_topic_name_is_reported_until_parameter_is_set():
    for changes, doubted in (({}, True), ({"rectified": True}, False)):
        learner = RigBuilder(Rig(""), parameters(**changes), topics={CAMERA: "/camera/image_rect"})
        learner.on_camera_info("/info", CAMERA, info(d=np.array([1e-6, 0, 0, 0, 0])))
        assert ("/camera/image_rect" in learner.problems) == doubted


# Transforms


def poses(*entries, stamp=0):
    return build(typestore(), "tf2_msgs/msg/TFMessage", transforms(entries, stamp))


def test_transform_with_zero_stamp_is_static():
    """The kind: a rigid mounting on /tf."""
    learner = RigBuilder(Rig("eye"))
    learner.on_transforms("/tf", poses(("eye", "lidar", Transform(np.eye(3), [1, 2, 3]))))
    for stamp in (1, 10**18):
        assert learner.rig.extrinsic("lidar", stamp).translation.tolist() == [1, 2, 3]


def test_only_conflicts_of_sensor_frames_are_reported():
    told = []
    learner = RigBuilder(Rig("eye"), report=lambda topic, problem: told.append(problem))
    for parent, child in (("eye", "lidar"), ("eye", "cup"), ("base", "lidar"), ("hand", "cup")):
        learner.on_transforms("/tf_static", poses((parent, child, Transform.identity())))
    assert told == [] and learner.problems == {}
    learner.bind(SensorFrame("lidar", 1, "lidar", None))
    assert len(told) == 1 and list(learner.problems.values()) == told
    assert all(word in told[0] for word in ("'lidar'", "two parents", "'eye'", "'base'"))


@pytest.mark.parametrize(
    ("carried", "chosen"),
    [
        (["/tf", "/tf_static"], ["/tf", "/tf_static"]),
        (["/r1/tf", "/r1/tf_static", "/r2/tf", "/r2/tf_static"], ["/r1/tf", "/r1/tf_static"]),
        (["/tf", "/tf_static", "/r2/tf", "/r2/tf_static"], ["/tf", "/tf_static"]),
        (["/tf", "/r1/tf", "/tf_static"], ["/r1/tf", "/tf_static"]),
        (["/r2/tf", "/r2/tf_static"], []),
        (["/r10/tf", "/r2/tf"], []),
        (["/r1/front/tf", "/r1/tf", "/tf"], ["/r1/front/tf", "/r1/tf"]),
    ],
)
def test_transforms_of_other_robot_are_ignored(carried, chosen):
    """The kind: sources merged by message type."""
    assert transform_topics(carried, ["/r1/front/image", "/r1/lidar/points"]) == chosen


def test_transforms_outside_namespace_are_reported():
    """The kind: a transient problem that stays. Discovery finds another robot's topics first, and loses them."""
    told = []
    learner = RigBuilder(Rig("eye"), report=lambda topic, problem: told.append(topic))
    other, own, sensors = ["/r2/tf", "/r2/tf_static"], ["/r1/tf", "/r1/tf_static"], ["/r1/lidar/points"]
    for carried, expected in (([], []), (other, other[:1]), (other, other[:1]), (other[1:], other[1:])):
        assert learner.choose_topics(carried, sensors) == [] and list(learner.problems) == expected
    assert told == other
    assert learner.choose_topics([*other, *own], sensors) == own and learner.problems == {}
    learner.choose_topics(other, sensors)
    assert told == [*other, other[0]] and list(learner.problems) == other[:1]
    learner.choose_topics([], sensors)
    assert learner.problems == {}


def test_static_topics_are_recognized_by_name():
    assert [is_static(name) for name in ("/tf", "/tf_static", "/r1/tf_static", "/static/tf")] == [0, 1, 1, 0]
