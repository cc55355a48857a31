# SPDX-License-Identifier: Apache-2.0
"""Every remedy of the doctor is tried: the fault is found, the remedy is applied, the finding disappears.

The recordings are made by `analytic_scene`. A remedy that names a parameter, an option or a command is parsed from the
finding; one for the driver is applied to the faulty messages.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from analytic_scene import (
    CAMERA_FRAME,
    EVENT_FRAME,
    HEIGHT,
    LENS,
    LIDAR_FRAME,
    START,
    WIDTH,
    framed,
    on,
    turned_lidar,
    write,
)
from rule_findings import LIVE, findings_of_rule
from test_diagnosis import DEPTH, EVENTS, FAULTS, IMAGE, INFO, LIDAR, number, without
from typer.testing import CliRunner

from mlesam_ros.bags.serialization import header, transforms
from mlesam_ros.cli.app import app
from mlesam_ros.config import load_parameters
from mlesam_ros.doctor.diagnosis import diagnose_bag
from mlesam_ros.doctor.rules import RULES
from mlesam_ros.geometry.transforms import Transform

BY_HAND = {
    "image_blank": "a cap is taken off, an exposure set",
    "cloud_empty": "a LiDAR's motor is looked at",
    "depth_empty": "a camera is turned to something within its range",
    "bag_damaged": "a recording is made again",
    "gaps": "the load of a machine at another time is looked at",
    "messages_lost": "a recorder of another package is set",
    "packets_lost": "a recorder of another package is set",
    "clock_drift": "clocks of machines are synchronized",
    "sensor_silent": "a driver's log is looked at",
    "unaligned": "the printed command draws images to look at; test_printed_commands_run runs it",
}
"""Rules whose remedy no test can apply, and why."""

WITHOUT_REMEDY = {name for name, kind in RULES.items() if not kind.remedy}
THROUGH_OTHERS = {"poor_primary", "no_sets", "frames_refused", "node_error", "node_warning"}
"""Rules that pass on the remedy of another finding or report, or that `tune_sync` has simulated."""

Setting = tuple[Callable, list[str]]
"""A further change of the recording, and `-p` rules for the doctor."""


@dataclass
class Trial:
    """A fault, and the application of its printed remedy.

    Attributes:
        kind: rule of the finding.
        fault: change of a healthy recording.
        apply: the printed remedy → a change on top of the fault, and `-p` rules.
    """

    kind: str
    fault: Callable
    apply: Callable[[str], Setting]


def same(entry):
    return [entry]


def driver(word: str, change: Callable) -> Callable[[str], Setting]:
    """A remedy for the driver; it must contain the word."""

    def apply(remedy: str) -> Setting:
        assert word in remedy, remedy
        return change, []

    return apply


def parameter(remedy: str) -> Setting:
    """`Set NAME: VALUE`, applied as `-p NAME:=VALUE`."""
    name, value = re.search(r"[Ss]et ([\w.]+): (\[[^]]*\]|-?[\d.e-]*\d)", remedy).groups()
    return same, [f"{name}:={value}"]


def calibration_file(remedy: str) -> Setting:
    assert "calibration file" in remedy
    return same, ["calibration_file:=FOLDER/rig.yaml"]


def yaw(was: float) -> Callable[[str], Setting]:
    """`rotate its mounting by that angle to the right`: that of `--yaw`; REP 103 counts yaw to the left."""

    def apply(remedy: str) -> Setting:
        side, angle = re.search(r"by that angle to the (right|left)\. .* --yaw (-?[\d.]+)", remedy).groups()
        return turned_lidar(was + {"left": 1, "right": -1}[side] * abs(float(angle))), []

    return apply


def a_field(remedy: str) -> Setting:
    """`Set lidar.intensity_field to a field of it`: the sweeps of `posts` have x, y and z."""
    return same, [re.search(r"Set (lidar\.intensity_field) to a field", remedy)[1] + ":=z"]


def override(remedy: str) -> Setting:
    return same, [re.search(r"(\w+\.\w+)( to true|:=true|: true)", remedy)[1] + ":=true"]


def topic_option(remedy: str) -> Setting:
    """`set them with -p SENSOR.topic:=TOPIC`."""
    rule = re.search(r"with -p (SENSOR\S*TOPIC)\.$", remedy)[1]
    return same, [rule.replace("SENSOR", "lidar").replace("TOPIC", "/radar/returns")]


def two_cameras(entry):
    """Every other picture is another camera's."""
    topic, kind, stamp, message = entry
    other = topic == IMAGE and number(stamp) % 2
    return [(topic, kind, stamp, framed(message, "rear_optical_frame") if other else message)]


def apart(entry):
    topic, kind, stamp, message = entry
    rear = topic == IMAGE and message["header"]["frame_id"] == "rear_optical_frame"
    return [("/rear/image_raw" if rear else topic, kind, stamp, message)]


def half_scale(entry):
    return on(
        DEPTH,
        lambda stamp, message: (
            stamp,
            message if number(stamp) else {**message, "height": 60, "data": message["data"][: 60 * 4 * WIDTH]},
        ),
    )(entry)


def unstamped(stamp, message):
    return stamp, {**message, "header": header(0, CAMERA_FRAME)}


def stamped(stamp, message):
    return stamp, {**message, "header": header(stamp, message["header"]["frame_id"])}


def in_millimeters(stamp, message):
    """What the depth camera measured, as 16UC1."""
    meters = np.frombuffer(message["data"].tobytes(), "<f4") / 1000
    data = np.where(meters < 65, meters * 1000, 0).astype("<u2").view(np.uint8)
    return stamp, {**message, "encoding": "16UC1", "step": 2 * WIDTH, "data": data}


def meters_without_lidar(entry):
    return [kept for e in without(LIDAR)(entry) for kept in FAULTS["millimetres"][0](e)]


def all_ahead(entry):
    topic, kind, stamp, message = entry
    return [entry] if topic == "/tf_static" else [(topic, kind, stamp - 200_000_000, message)]


def synchronized(entry):
    topic, kind, stamp, message = entry
    return [entry] if topic == "/tf_static" else [(topic, kind, stamp + 200_000_000, message)]


def moving_camera(gap):
    """The mounting of the LiDAR on /tf at 10 Hz, silent for a second in between."""

    def change(entry):
        topic, _kind, stamp, _message = entry
        if topic == LIDAR and not (gap and 10 <= number(stamp) < 20):
            pose = ("base_link", "mast", Transform(np.eye(3), np.array([0.0, 0.0, number(stamp) / 10])))
            return [entry, ("/tf", "tf2_msgs/msg/TFMessage", stamp, transforms([pose], stamp))]
        return [entry]

    return change


def moving_lidar(last):
    """The LiDAR's own mounting, which moves, on /tf up to some sweep."""

    def change(entry):
        topic, _, stamp, message = entry
        if topic == "/tf_static":
            kept = [pose for pose in message["transforms"] if pose["child_frame_id"] != LIDAR_FRAME]
            return [(*entry[:3], {"transforms": kept})]
        if topic == LIDAR and number(stamp) < last:
            pose = ("base_link", LIDAR_FRAME, Transform(np.eye(3), np.array([0.0, 0.0, number(stamp) / 10])))
            return [entry, ("/tf", "tf2_msgs/msg/TFMessage", stamp, transforms([pose], stamp))]
        return [entry]

    return change


RIG = f"""
camera: {CAMERA_FRAME}
cameras:
  {CAMERA_FRAME}: {{width: {WIDTH}, height: {HEIGHT}, K: [200, 200, 159.5, 59.5]}}
  {EVENT_FRAME}: {{width: {WIDTH}, height: {HEIGHT}, K: [200, 200, 159.5, 59.5]}}
transforms:
  - {{parent: {LIDAR_FRAME}, child: {CAMERA_FRAME}, translation: [0, 0, 0], quaternion: [-0.5, 0.5, -0.5, 0.5]}}
  - {{parent: {LIDAR_FRAME}, child: {EVENT_FRAME}, translation: [0, 0, 0], quaternion: [-0.5, 0.5, -0.5, 0.5]}}
"""

TRIALS = [
    Trial("few_sets", FAULTS["late"][0], parameter),
    Trial("stamp_ahead", FAULTS["stamps ahead"][0], parameter),
    Trial("shifted", FAULTS["stamps behind"][0], parameter),
    Trial("no_camera_info", FAULTS["no CameraInfo"][0], calibration_file),
    Trial("no_sensor_info", FAULTS["no CameraInfo of events"][0], calibration_file),
    Trial("no_transform", FAULTS["no transforms"][0], calibration_file),
    Trial("rotated", turned_lidar(2.0), yaw(2.0)),
    Trial("rotated", turned_lidar(-3.0), yaw(-3.0)),
    Trial("cloud_out_of_view", turned_lidar(180.0), driver("transform", turned_lidar(0.0))),
    Trial("stamp_zero", on(DEPTH, unstamped), driver("header.stamp", on(DEPTH, stamped))),
    Trial("foreign_clock", FAULTS["foreign clock"][0], driver("clock", on(LIDAR, stamped))),
    Trial("jitter", FAULTS["uneven stamps"][0], driver("at the time of measurement", on(IMAGE, stamped))),
    Trial("stamp_backward", FAULTS["clock set back"][0], driver("clock that was set back", on(IMAGE, stamped))),
    Trial("stamp_repeated", FAULTS["stamps twice"][0], driver("two publishers", on(IMAGE, stamped))),
    Trial("clock_ahead", all_ahead, driver("clocks", synchronized)),
    Trial(
        "no_frame_id",
        FAULTS["no frame"][0],
        driver("frame_id", on(LIDAR, lambda stamp, message: (stamp, framed(message, LIDAR_FRAME)))),
    ),
    Trial(
        "info_frame",
        FAULTS["CameraInfo in another frame"][0],
        driver("header.frame_id", on(INFO, lambda stamp, message: (stamp, framed(message, CAMERA_FRAME)))),
    ),
    Trial(
        "info_size",
        FAULTS["CameraInfo of another size"][0],
        driver("resolution", on(INFO, lambda stamp, m: (stamp, {**m, "width": WIDTH, "height": HEIGHT}))),
    ),
    Trial(
        "bad_info",
        FAULTS["no calibration"][0],
        driver("Calibrate", on(INFO, lambda stamp, message: (stamp, {**message, "k": LENS.K.ravel()}))),
    ),
    Trial(
        "all_unreadable",
        FAULTS["unknown encoding"][0],
        driver("driver", on(IMAGE, lambda stamp, message: (stamp, {**message, "encoding": "rgb8"}))),
    ),
    Trial(
        "some_unreadable",
        FAULTS["some garbage"][0],
        driver("driver", on(LIDAR, lambda stamp, message: (stamp, {**message, "point_step": 12}))),
    ),
    Trial(
        "size_changes",
        half_scale,
        driver("one resolution", on(DEPTH, lambda s, m: (s, m) if m["height"] == HEIGHT else None)),
    ),
    Trial("several_frames", two_cameras, driver("topic of its own", apart)),
    Trial("depth_scale", FAULTS["another unit"][0], parameter),
    Trial("intensity_missing", same, a_field),
    Trial("depth_unit", meters_without_lidar, driver("16UC1 in millimeters", on(DEPTH, in_millimeters))),
    Trial("transform_late", moving_lidar(8), driver("the sensor's rate", moving_lidar(30))),
    Trial("transform_gaps", moving_camera(True), driver("sensors' rate", moving_camera(False))),
    Trial(
        "no_sensor",
        lambda entry: [("/radar/returns", *entry[1:])] if entry[0] == LIDAR else without(IMAGE, DEPTH, EVENTS)(entry),
        topic_option,
    ),
    Trial(
        "doubtful_info",
        lambda entry: [
            ("/camera/image_rect", *entry[1:])
            if entry[0] == IMAGE
            else (*entry[:3], {**entry[3], "d": np.array([1e-6, 0, 0, 0, 0])})
            if entry[0] == INFO
            else entry
        ],
        override,
    ),
    Trial(
        "bad_transform",
        on("/tf_static", lambda stamp, message: (stamp, nameless(message, ""))),
        driver("where it is published", on("/tf_static", lambda stamp, message: (stamp, nameless(message, "mast")))),
    ),
]


def nameless(message, name):
    """One more transform, to a frame of that name."""
    more = transforms([("base_link", "more", Transform.identity())], START)["transforms"][0]
    kept = [entry for entry in message["transforms"] if entry["header"]["frame_id"] == "base_link"][:3]
    return {"transforms": [*kept, {**more, "child_frame_id": name}]}


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.kind)
def test_printed_remedy_helps(tmp_path, trial):
    before = diagnose_bag(write(tmp_path / "faulty", trial.fault))
    found = findings_of_rule(before, trial.kind)
    assert found and all(f.remedy[:1].isupper() for f in found), before.findings
    change, rules = trial.apply(found[0].remedy)
    rules = [rule.replace("FOLDER", str(tmp_path)) for rule in rules]
    (tmp_path / "rig.yaml").write_text(RIG)
    mended = write(tmp_path / "mended", lambda entry: [kept for e in trial.fault(entry) for kept in change(e)])
    after = diagnose_bag(mended, load_parameters(overrides=rules))
    subjects = {f.subject for f in found}
    assert not [f for f in findings_of_rule(after, trial.kind) if f.subject in subjects]


@pytest.mark.parametrize(("fault", "kind"), [("yaw", "rotated"), ("mounted backwards", "unaligned")])
def test_printed_commands_run(tmp_path, monkeypatch, fault, kind):
    """`mlesam sensors show BAG … --out images/`, as printed, on the faulty recording."""
    bag = write(tmp_path / "bag", FAULTS[fault][0])
    (found,) = findings_of_rule(diagnose_bag(bag), kind)
    words = re.search(r"mlesam (sensors show BAG.*?images/)", found.remedy)[1].replace("BAG", str(bag)).split()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "images").iterdir())


def test_every_rule_is_tried_or_listed_as_manual():
    tried = {trial.kind for trial in TRIALS} | LIVE
    assert set(RULES) - tried - set(BY_HAND) - WITHOUT_REMEDY - THROUGH_OTHERS == set()
    assert not tried & set(BY_HAND)


@pytest.mark.parametrize(
    ("rule", "late"), [("max_wait:=0.05", True), ("max_wait:=0.3", False), ("lidar.max_wait:=0.3", False)]
)
def test_transforms_may_arrive_within_max_wait(tmp_path, rule, late):
    """Kind: a default in place of the parameter. The transform of each sweep comes 200 ms after it."""

    def change(entry):
        for topic, kind, stamp, message in moving_lidar(30)(entry):
            yield topic, kind, stamp + (200_000_000 if topic == "/tf" else 0), message

    found = diagnose_bag(write(tmp_path / "bag", change), load_parameters(overrides=[rule])).findings
    assert any("no transform is available at the time" in entry.message for entry in found) == late
