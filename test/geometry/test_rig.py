# SPDX-License-Identifier: Apache-2.0
"""The calibration file: what it may say, what it must not, and that a mistake is named."""

import copy

import numpy as np
import pytest
import yaml

from mlesam_ros.errors import CalibrationError, ConfigError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig, load_rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.resources import resource_path

GOOD = {
    "camera": "cam",
    "cameras": {
        "cam": {"width": 640, "height": 480, "K": [500, 500, 320, 240], "model": "plumb_bob", "D": [0.1, 0, 0, 0]}
    },
    "transforms": [
        {"parent": "base", "child": "cam", "translation": [1, 0, 1.4], "quaternion": [-0.5, 0.5, -0.5, 0.5]}
    ],
}


def changed(*path, value=None, gone=False):
    fields = copy.deepcopy(GOOD)
    *way, last = path
    at = fields
    for key in way:
        at = at[key]
    if gone:
        del at[last]
    else:
        at[last] = value
    return fields


def turned(**entry):
    return changed("transforms", 0, value={"parent": "base", "child": "cam", **entry})


def test_example_calibration_is_loaded():
    rig = load_rig(resource_path("config/rigs/example.yaml"))
    assert rig.camera.width == 1920
    ahead = rig.extrinsic("lidar", stamp=123).apply(np.array([[10.0, 0.0, 0.0]]))
    np.testing.assert_allclose(ahead, [[0.0, -0.4, 9.9]], atol=1e-12)


def test_there_and_back_through_yaml(tmp_path):
    rig = Rig.from_dict(GOOD)
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(rig.to_dict()))
    assert load_rig(path).to_dict() == rig.to_dict()
    assert load_rig(path).fixed_frame is None
    path.write_text(yaml.safe_dump(rig.to_dict() | {"fixed_frame": "earth"}))
    assert load_rig(path).fixed_frame == load_rig(path).to_dict()["fixed_frame"] == "earth"


@pytest.mark.parametrize(
    "entry",
    [
        {"translation": [1, 2, 3], "quaternion": [0, 0, np.sqrt(0.5), np.sqrt(0.5)]},
        {"translation": [1, 2, 3], "rpy": [0, 0, np.pi / 2]},
        {"translation": [1, 2, 3], "rotation": [[0, -1, 0], [1, 0, 0], [0, 0, 1]]},
        {"translation": [1, 2, 3], "rotation": [0, -1, 0, 1, 0, 0, 0, 0, 1]},
        {"matrix": [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]]},
        {"matrix": [0, -1, 0, 1, 1, 0, 0, 2, 0, 0, 1, 3, 0, 0, 0, 1]},
    ],
)
def test_all_forms_of_transform_are_equal(entry):
    got = Rig.from_dict(turned(**entry)).tree.lookup("base", "cam")
    np.testing.assert_allclose(got.apply(np.array([[1.0, 0, 0]])), [[1, 3, 3]], atol=1e-12)


def test_rpy_is_about_fixed_axes():
    rig = Rig.from_dict(turned(translation=[0, 0, 0], rpy=[np.pi / 2, 0, np.pi / 2]))
    # y goes to z by the roll, and stays there in the yaw.
    np.testing.assert_allclose(rig.tree.lookup("base", "cam").apply(np.array([[0.0, 1, 0]])), [[0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        (changed("camera", gone=True), ConfigError, "calibration lacks camera;"),
        (changed("transfroms", value=[]), ConfigError, "unknown key 'transfroms'. Did you mean transforms?"),
        (
            changed("cameras", "cam", "heigth", value=3),
            ConfigError,
            "camera cam has the unknown key 'heigth'. Did you mean height?",
        ),
        (changed("cameras", "cam", "colour", value=3), ConfigError, "unknown key 'colour'; accepted are width, height"),
        (changed("cameras", "cam", "K", gone=True), ConfigError, "camera cam lacks K"),
        (changed("cameras", value={}), ConfigError, "at least one TF frame"),
        (changed("cameras", "cam", value=7), ConfigError, "camera cam is 7; it must be a mapping"),
        (changed("camera", value="front"), ConfigError, "camera: front is not one of the cameras cam"),
        (changed("cameras", "cam", "K", value=[500, 500]), CalibrationError, "camera cam: K must be 3x3"),
        (
            changed("cameras", "cam", "K", value="five"),
            CalibrationError,
            "camera cam: K is 'five'; it must be 3x3 numbers",
        ),
        (changed("cameras", "cam", "D", value=[0.1]), CalibrationError, "camera cam: .*4 or 5 coefficients, not 1"),
        (changed("cameras", "cam", "width", value=0), CalibrationError, "camera cam: camera size 0x480"),
        (changed("transforms", value=3), ConfigError, "transforms must be a list"),
        (changed("transforms", value=False), ConfigError, "transforms must be a list"),
        (turned(translation=[0, 0, 0]), ConfigError, "cam to base: exactly one of .* not none"),
        (turned(quaternion=[0, 0, 0, 1]), ConfigError, "cam to base: translation is needed"),
        (turned(translation=[0, 0, 0], quaternion=[0, 0, 0, 2]), CalibrationError, "cam to base: .* length 1"),
        (turned(translation=[0, 0], quaternion=[0, 0, 0, 1]), CalibrationError, "3 finite numbers in meters"),
        (turned(translation=[0, 0, 0], rotation=[1, 0, 0, 0, 1, 0, 0, 0, 2]), CalibrationError, "is not a rotation"),
        (turned(translation=[0, 0, 0], rpy=[0, 0]), CalibrationError, "roll, pitch, yaw in radians"),
        (turned(translation=[0, 0, 0], rpy="up"), CalibrationError, "rpy is 'up'; it must be numbers"),
        (turned(translation=[0, 0, 0], rpy=[0, np.inf, 0]), CalibrationError, "rpy is .* its numbers must be finite"),
        (turned(matrix=[1, 2, 3]), CalibrationError, "matrix has 3 numbers; it must be 3x4 or 4x4"),
        (turned(matrix=[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2]), CalibrationError, "last row of matrix"),
    ],
)
def test_invalid_file_is_rejected(fields, error, says):
    with pytest.raises(error, match=says) as caught:
        Rig.from_dict(fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00", ""])
def test_file_without_calibration_is_rejected(tmp_path, text):
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"rig\.yaml"):
        load_rig(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rig(tmp_path / "absent.yaml")


def test_rig_is_extended_by_messages():
    rig = Rig("cam")
    with pytest.raises(CalibrationError, match="'cam' is known; calibrated are none"):
        _ = rig.camera
    rig.models["cam"] = CameraModel(64, 48, [[50, 0, 32], [0, 50, 24], [0, 0, 1]], [], "pinhole")
    rig.tree.set("cam", "lidar", Transform.identity())
    assert rig.camera is rig.models["cam"]
    with pytest.raises(CalibrationError, match="'radar' to 'cam'; known frames are cam, lidar"):
        rig.extrinsic("radar", 1)


def test_duplicate_key_is_rejected(tmp_path):
    path = tmp_path / "rig.yaml"
    path.write_text("camera: cam\ncameras:\n  cam: {width: 640}\n  cam: {width: 320}\n")
    with pytest.raises(ConfigError, match="key 'cam' is duplicated in line 4"):
        load_rig(path)


@pytest.mark.parametrize(
    "text", ["[" * 5000, "a: &a [x]\nb: [*a, *a]\n" * 2, "? [1]\n: 2\n", "x: 2024-13-45", "9" * 5000]
)
def test_malicious_yaml_is_rejected(tmp_path, text):
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_rig(path)
    assert len(str(caught.value)) < 1000
