"""What a rig learns from messages, and what it says of those that it cannot learn from."""

from types import SimpleNamespace

import numpy as np
import pytest

from mlesam_ros.bags import fields
from mlesam_ros.bags.build import build
from mlesam_ros.bags.typestore import typestore
from mlesam_ros.frame import CAMERA, EVENT
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transform import Transform
from mlesam_ros.rig_learner import LensOptions, RigLearner

LENS = CameraModel(64, 48, np.array([[40.0, 0, 31.5], [0, 40, 23.5], [0, 0, 1]]), np.zeros(5), "plumb_bob")


def info(frame="eye", **changes):
    about = {**fields.camera_info(0, frame, LENS), **changes}
    return build(typestore(), "sensor_msgs/msg/CameraInfo", about)


def test_the_camera_names_the_frame_of_the_masks_and_no_other_does():
    learner = RigLearner(Rig(""))
    learner.hear_info("/dvs/info", EVENT, info("dvs"))
    assert learner.rig.camera_frame == "" and set(learner.rig.models) == {"dvs"}
    learner.hear_info("/info", CAMERA, info("/eye"))
    assert learner.rig.camera_frame == "eye" and learner.rig.camera.width == 64
    learner.hear_info("/info", CAMERA, info("eye"), LensOptions(frame_id="own"))
    assert learner.rig.camera_frame == "own"


def test_what_is_said_again_changes_nothing_and_what_is_new_does():
    learner = RigLearner(Rig(""))
    learner.hear_info("/info", CAMERA, info())
    first = learner.rig.camera
    learner.hear_info("/info", CAMERA, info())
    assert learner.rig.camera is first
    learner.hear_info("/info", CAMERA, info(k=LENS.K * 1.1 + np.diag([0, 0, -0.1])))
    assert learner.rig.camera is not first and learner.rig.camera.K[0, 0] == pytest.approx(44)


def test_pictures_of_another_size_are_fitted():
    learner = RigLearner(Rig(""))
    learner.hear_info("/info", CAMERA, info(), LensOptions(fit="rescale", picture_size=(32, 24)))
    assert (learner.rig.camera.width, learner.rig.camera.K[0, 0]) == (32, 20)


def test_problems_are_told_once_and_end_with_a_good_message():
    told = []
    learner = RigLearner(Rig(""), lambda topic, problem: told.append(topic))
    for _ in range(3):
        learner.hear_info("/info", CAMERA, info(k=np.zeros(9)))
    learner.hear_info("/info", CAMERA, info(frame=""))
    assert told == ["/info", "/info"] and "names no frame" in learner.problems["/info"]
    learner.hear_info("/info", CAMERA, info())
    assert learner.problems == {} and learner.rig.camera_frame == "eye"


def test_a_bad_transform_does_not_take_the_others_with_it():
    poses = [("base", name, Transform.identity()) for name in ("one", "two", "three")]
    message = build(typestore(), "tf2_msgs/msg/TFMessage", fields.transforms(poses, 5))
    message.transforms[1].transform.rotation.w = float("nan")
    message.transforms.append(SimpleNamespace(header=None))
    learner = RigLearner(Rig(""))
    learner.hear_transforms("/tf", message, static=False)
    assert set(learner.rig.tree.frames) == {"base", "one", "three"}
    assert "AttributeError" in learner.problems["/tf"]
    learner.hear_transforms("/tf_static", message, static=True)
    assert [child for _, child, _ in learner.rig.tree.statics()] == ["one", "three"]
