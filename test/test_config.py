# SPDX-License-Identifier: Apache-2.0
"""Parameters of several cameras: names, defaults, own values, and the node that each camera alone would be."""

import pytest

from mlesam_ros.config import (
    build_parameters,
    initial_rig,
    iter_declared,
    load_parameters,
    mutability,
    unknown_names,
)
from mlesam_ros.errors import ConfigError
from mlesam_ros.types import CAMERA, EVENT, LIDAR, MODALITIES

CAMERAS = ["front", "left"]


def test_one_camera_without_a_name_is_the_default():
    parameters = build_parameters({"camera.topic": "eye"})
    assert parameters.views == {"": parameters} and parameters.alone is parameters
    assert not [name for name, _, _ in iter_declared(parameters) if "camera.camera" in name]


def test_topics_are_below_the_camera_name_and_the_lidar_is_shared():
    views = build_parameters({"cameras": CAMERAS, "depth.topic": "/depth", "camera.info_topic": "info"}).views
    assert list(views) == CAMERAS
    assert [view.camera.topic for view in views.values()] == ["front/camera/image_raw", "left/camera/image_raw"]
    assert [view.camera.info_topic for view in views.values()] == ["front/info", "left/info"]
    assert {view.depth.topic for view in views.values()} == {"/depth"}, "an absolute name is that of all cameras"
    assert {view.lidar.topic for view in views.values()} == {"lidar/points"}


def test_a_camera_has_the_parameters_of_all_and_its_own_before_them():
    given = {"cameras": CAMERAS, "lidar.offset": 0.1, "left.lidar.offset": 0.2, "left.modalities": [CAMERA, LIDAR]}
    front, left = build_parameters(given, "/robot/mlesam").views.values()
    assert (front.lidar.offset, left.lidar.offset) == (0.1, 0.2)
    assert (front.modalities, left.modalities) == (MODALITIES, (CAMERA, LIDAR))
    assert left.resolve(left.camera.topic) == "/robot/left/camera/image_raw"
    assert {"lidar.offset", "modalities", "camera.topic"} <= left.given and "modalities" not in front.given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cameras": []}, "cameras is []; accepted are lists of strings, each once."),
        ({"cameras": ["front", "front"]}, "cameras is ['front', 'front']; accepted are lists of strings, each once."),
        ({"cameras": ["front", ""]}, "cameras has ''; accepted are names of letters, digits and underscores"),
        ({"cameras": ["2nd"]}, "cameras has '2nd'; accepted are names of letters, digits and underscores"),
        ({"cameras": ["front/left"]}, "cameras has 'front/left'; accepted are names of letters"),
        ({"cameras": CAMERAS, "left.camera.topic": "front/camera/image_raw"}, "each camera needs its own"),
        ({"cameras": CAMERAS, "left.camera.topic": ""}, "camera left: camera.topic is empty"),
        ({"cameras": CAMERAS, "left.lidar.offset": "late"}, "left.lidar.offset is 'late'; accepted are numbers"),
        (
            {"cameras": CAMERAS, "left.modalities": [EVENT], "left.camera.required": True},
            "camera left: camera.required",
        ),
    ],
)
def test_invalid_cameras_are_refused_in_one_sentence(given, words):
    with pytest.raises(ConfigError) as error:
        build_parameters(given)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_unknown_names_of_cameras_have_the_nearest_known_one():
    assert unknown_names(["front.camera.tpic", "front.lidar.offset"], CAMERAS) == [
        "parameter front.camera.tpic does not exist; did you mean front.camera.topic?"
    ]
    (warning,) = build_parameters({"front.camera.topic": "eye"}).warnings
    assert warning.startswith("parameter front.camera.topic does not exist")


def test_parameters_of_cameras_change_as_those_of_all():
    assert mutability("front.camera.rate") == mutability("camera.rate") == "live"
    assert mutability("front.camera.topic") == "configure" and mutability("cameras") == "start"
    assert mutability("front.max_wait") is None


def test_offline_commands_choose_one_of_several_cameras(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text("mlesam: {ros__parameters: {cameras: [front, left], left: {camera: {topic: /eye}}}}")
    with pytest.raises(ConfigError, match=r"cameras is \[front, left\].*-p 'cameras:=\[front\]'"):
        _ = load_parameters(path).alone
    left = load_parameters(path, ["cameras:=[left]"]).alone
    assert left.camera.topic == "/eye" and "camera.topic" in left.given


def test_each_camera_names_its_frame_in_a_calibration_file(tmp_path):
    lens = "{width: 64, height: 48, K: [50, 0, 32, 0, 50, 24, 0, 0, 1]}"
    path = tmp_path / "rig.yaml"
    path.write_text(f"camera: eye\ncameras: {{eye: {lens}, left_eye: {lens}}}\n")
    given = {"cameras": CAMERAS, "calibration_file": str(path), "front.camera.frame_id": "eye"}
    front, left = build_parameters({**given, "left.camera.frame_id": "left_eye"}).views.values()
    assert (initial_rig(front).camera_frame, initial_rig(left).camera_frame) == ("eye", "left_eye")
    for typo in ("", "lef_eye"):
        left = build_parameters({**given, "left.camera.frame_id": typo}).views["left"]
        with pytest.raises(ConfigError, match=f"has the camera frames eye, left_eye; .* is '{typo}'"):
            initial_rig(left)
    assert initial_rig(build_parameters({"calibration_file": str(path)})).camera_frame == "eye"
