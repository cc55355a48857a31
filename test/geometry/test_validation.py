# SPDX-License-Identifier: Apache-2.0
"""The calibration check: everything that is wrong is found at once, and nothing is found where nothing is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rig import GOOD, changed, turned

from mlesam_ros.errors import ERROR, NOTE, WARNING, Finding, MlesamError, Problem, worst
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.validation import image_findings, validate_rig
from mlesam_ros.resources import resource_path
from mlesam_ros.strict_yaml import parse_yaml, read_yaml


def said(fields, severity=None):
    return [f"{f.subject}: {f.message} {f.remedy}" for f in validate_rig(fields) if severity in (None, f.severity)]


def camera(**change):
    return changed("cameras", "cam", value={**GOOD["cameras"]["cam"], **change})


@pytest.mark.parametrize(
    "fields", [GOOD, read_yaml(resource_path("config/rigs/example.yaml"))], ids=["small", "example"]
)
def test_valid_file_has_no_findings(fields):
    assert worst(validate_rig(fields)) == NOTE
    assert len(validate_rig(fields)) == 1  # how far the camera sees


def test_all_faults_are_reported():
    text = """
    camera: front
    colour: red
    cameras:
      cam: {width: 640, height: 480, heigth: 480, K: [0.5, 500, 3200, 240], D: [0.1], model: plumb_bob}
      two: {width: 640, height: 480, K: [500, 600, 100, 240], D: [-0.5, 0, 0, 0], model: plumb_bob}
    transforms:
      - {parent: base, child: two, translation: [1400, 0, 0], quaternion: [0, 0, 0, 1.005]}
      - {parent: two, child: base, translation: [0, 0, 0], quaternion: [0, 0, 0, 1]}
      - {parent: base, child: lidar, translation: [0, 0, 0], quaternion: [0, 0, 0, 2]}
      - {parent: base, child: imu, translation: [0, 0, 0], rpy: [0, 0]}
      - 3
    """
    errors, warnings = said(parse_yaml(text), ERROR), said(parse_yaml(text), WARNING)
    for part in (
        "unknown key 'colour'",
        "'front' is not one of the cameras. Name one of cam, two",
        "camera cam: it has the unknown key 'heigth'. Did you mean height?",
        "camera cam: a focal length of 0.5 px",
        "camera cam: the principal point 3200 px is outside the width of 640 px",
        "camera cam: distortion model plumb_bob takes 4 or 5 coefficients, not 1",
        "closes a cycle",
        "transform from lidar to base: [0.0, 0.0, 0.0, 2.0] is not a rotation: a quaternion is x, y, z, w with length",
        "rpy has 2 numbers; it must be roll, pitch, yaw",
        "transform 5: it is 3;",
    ):
        assert any(part in sentence for sentence in errors), part
    for part in (
        "fx is 500 and fy 600",
        "column is 100, 220 pixels from the middle",
        "folds back at 39.2 degrees off its axis: 46.0 % of the image has no ray",
        "quaternion's length is 1.0050",
        "it has the orientation of base, with z up",
    ):
        assert any(part in sentence for sentence in warnings), part


def test_disconnected_frames_are_errors():
    fields = changed("transforms", value=[*GOOD["transforms"], {"parent": "x", "child": "lidar", **PLAIN}])
    assert [s for s in said(fields, ERROR) if "frame lidar: it is not connected to cam" in s]
    two = camera()
    two["cameras"]["rear"] = {"width": 320, "height": 240, "K": [300, 300, 160, 120]}
    assert [s for s in said(two, ERROR) if "frame rear: it is not connected to cam" in s]
    assert [s for s in said(two, NOTE) if "different sizes: cam 640x480, rear 320x240" in s]
    assert "there are none" in said(changed("transforms", gone=True), WARNING)[0]


PLAIN = {"translation": [0, 0, 0], "quaternion": [0, 0, 0, 1]}
AHEAD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def about(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.roll(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), (axis + 1, axis + 1), (0, 1))
    return turn


def mounted(rotation, **more):
    return turned(**{"translation": [1.0, 0.2, 1.4], "rotation": rotation.tolist(), **more})


@given(st.integers(-180, 180), st.integers(-35, 35), st.integers(-10, 10))
@settings(max_examples=60, deadline=None)
def test_common_mounting_mistakes_are_found(yaw, pitch, roll):
    good = about(2, yaw) @ about(1, pitch) @ about(0, roll) @ AHEAD
    assert not said(mounted(good), WARNING)
    body = about(2, yaw) @ about(1, pitch / 3) @ about(0, roll)
    assert ["with z up" in s for s in said(mounted(body), WARNING)] == [True]


@pytest.mark.parametrize("yaw", [-160, -45, -15, 0, 15, 45, 90, 180])  # to the right, at -90, both ways are the same
def test_inverted_mounting_is_found(yaw):
    inverted = (about(2, yaw) @ about(1, 5) @ AHEAD).T
    assert ["seems to be inverted" in s for s in said(mounted(inverted), WARNING)] == [True]


def test_translations_in_millimeters_are_found():
    assert ["it is 1400.0 m from cam" in s for s in said(mounted(AHEAD, translation=[0, 0, 1400]), WARNING)] == [True]


def test_fit_is_described():
    fields = camera(picture=[640, 400], fit="crop_center")
    assert any("crop_center takes it from 640x480 to 640x400" in s for s in said(fields, NOTE))
    assert not said(fields, WARNING)
    assert "stretches the images by 1.200" in said(camera(picture=[640, 400], fit="rescale"), WARNING)[0]
    for wrong in ({"fit": "crop_top"}, {"picture": [640, 400]}, {"picture": 3, "fit": "rescale"}):
        assert len(said(camera(**wrong), ERROR)) == 1


def test_image_size_is_compared():
    assert not image_findings(GOOD, None, (480, 640), "a.png")
    assert (
        "a.png is 640x400 but its calibration is for 640x480"
        in image_findings(GOOD, None, (400, 640), "a.png")[0].message
    )
    assert "no camera rear" in image_findings(GOOD, "rear", (400, 640), "a.png")[0].message


def test_a_problem_becomes_a_finding():
    assert Finding.from_problem(ERROR, "x", Problem("a; b.", "Do c.")) == Finding(ERROR, "x", "a; b.", "Do c.")
    assert Finding.from_problem(ERROR, "x", Problem("a; b")) == Finding(ERROR, "x", "a; b.", "")


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["cam", "base", "plumb_bob", "fisheye", "rescale", [500, 500, 320, 240], [0, 0, 0, 1]])
)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4), max_leaves=6)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    ("camera",),
                    ("cameras",),
                    ("cameras", "cam"),
                    ("transforms",),
                    ("transforms", 0),
                    *(("cameras", "cam", k) for k in ("width", "height", "K", "D", "model", "picture", "fit")),
                    *(("transforms", 0, k) for k in ("parent", "child", "translation", "quaternion", "rpy", "matrix")),
                ]
            ),
            ANYTHING,
        ),
        max_size=3,
    )
)
@settings(max_examples=300, deadline=None)
def test_validation_and_loading_agree(damage):
    fields = changed("camera", value="cam")
    for (*way, last), value in damage:
        at = fields
        for key in way:
            inside = isinstance(at, dict if isinstance(key, str) else list) and len(at)
            at = at[key] if inside and (key in at or key == 0) else {}
        if isinstance(at, dict):
            at[last] = value
    findings = validate_rig(fields)
    try:
        Rig.from_dict(fields)
    except MlesamError:
        assert worst(findings) == ERROR
    else:
        assert all("frame" in f.subject for f in findings if f.severity == ERROR)
