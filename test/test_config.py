# SPDX-License-Identifier: Apache-2.0
"""Parameters of several cameras: names, defaults, own values, and the node that each camera alone would be."""

from itertools import permutations

import pytest

from mlesam_ros.config import (
    build_parameters,
    camera_parameter,
    follow_common,
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


@pytest.mark.parametrize(
    ("given", "infos"),
    [
        ({"depth.topic": "/depth/image_raw"}, ["/depth/camera_info"] * 2),
        ({"depth.topic": "/depth/image_raw", "depth.info_topic": "depth/camera_info"}, ["/depth/camera_info"] * 2),
        ({"depth.topic": "/image"}, ["/camera_info"] * 2),
        ({"depth.topic": "~/depth"}, ["~/camera_info"] * 2),
        ({"depth.topic": "/image", "depth.info_topic": "/info"}, ["/info"] * 2),
        ({"depth.topic": "/image", "depth.info_topic": "info"}, ["front/info", "left/info"]),
        ({"depth.topic": "/image", "depth.info_topic": ""}, ["", ""]),
        ({"left.depth.topic": "/d/image"}, ["front/depth/camera_info", "/d/camera_info"]),
        ({"left.depth.topic": "/d/image", "left.depth.info_topic": "own"}, ["front/depth/camera_info", "own"]),
    ],
)
def test_camera_info_of_an_absolute_topic_is_beside_it(given, infos):
    """By the rule of image_transport: camera_info in the namespace of the image."""
    views = build_parameters({"cameras": CAMERAS, **given}).views.values()
    assert [view.depth.info_topic for view in views] == infos


def changed(values, changes, own=()):
    """All values after changes as those of a node that apply one by one; names in `own` were set separately."""
    values, own = dict(values), set(own)
    for name, value in changes:
        values |= {name: value} | follow_common(values, {name: value}, own)
        own |= {name} if camera_parameter(name) != name else set()
    return values


@pytest.fixture
def values():
    """Name → value of a node with two cameras."""
    return {name: value for name, _, value in iter_declared(build_parameters({"cameras": CAMERAS}))}


def test_order_of_changes_has_no_effect(values):
    """A dump of parameters has those of cameras that are before and after `camera` in the alphabet."""
    dump = [("front.camera.rate", 0.0), ("camera.rate", 5.0), ("left.camera.rate", 7.0), ("lidar.offset", 0.1)]
    for order in permutations(dump):
        found = changed(values, order)
        assert {name: found[name] for name, _ in dump} == dict(dump)
        assert found["front.lidar.offset"] == found["left.lidar.offset"] == 0.1


def test_a_change_for_all_cameras_leaves_what_is_set_for_one(values):
    found = changed(values, [("modalities", [CAMERA])], {"left.modalities"})
    assert found["front.modalities"] == [CAMERA] and found["left.modalities"] == MODALITIES
    found = changed(values, [("depth.topic", "/depth/image"), ("camera.topic", "eye")])
    assert found["left.depth.info_topic"] == "/depth/camera_info" and found["left.camera.topic"] == "left/eye"
    assert changed(values, [("overlay_alpha", 0.1), ("overlay_alpha", 0.5)]) == values


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
