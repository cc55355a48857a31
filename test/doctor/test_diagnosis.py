# SPDX-License-Identifier: Apache-2.0
"""A healthy recording has no findings; each of many faults leads to its findings only."""

import numpy as np
import pytest
import yaml
from analytic_scene import (
    CAMERA_FRAME,
    HEIGHT,
    LENS,
    LIDAR_FRAME,
    PERIOD,
    START,
    WIDTH,
    framed,
    on,
    restamped,
    turned_lidar,
    write,
)
from assembled_bag import assemble_real_bag

from mlesam_ros.bags.serialization import header
from mlesam_ros.config import load_parameters
from mlesam_ros.doctor.diagnosis import diagnose_bag
from mlesam_ros.doctor.rules import RULES
from mlesam_ros.errors import ERROR, NOTE, WARNING, BagError
from mlesam_ros.simulation.export import write_simulated_bag
from mlesam_ros.simulation.world import World

IMAGE, DEPTH, LIDAR, EVENTS, INFO = (
    "/camera/image_raw",
    "/depth/image_raw",
    "/lidar/points",
    "/events",
    "/camera/camera_info",
)


def number(stamp: int) -> int:
    return (stamp - START) // PERIOD


def blank(value):
    return lambda stamp, message: (stamp, {**message, "data": np.full_like(message["data"], value)})


def without(*topics):
    return lambda entry: [] if entry[0] in topics else [entry]


def grown(stamp, message):
    return stamp, {**message, "width": 640, "height": 480}


def in_fifths(stamp, message):
    """16UC1 of 0.2 mm a count, as in the TUM RGB-D data set."""
    meters = np.frombuffer(message["data"].tobytes(), "<f4")
    counts = np.where((meters > 0) & (meters < 13), meters * 5000, 0).astype("<u2")
    return stamp, {**message, "encoding": "16UC1", "step": 2 * WIDTH, "data": counts.view(np.uint8)}


def in_millimeters(stamp, message):
    meters = np.frombuffer(message["data"].tobytes(), "<f4")
    return stamp, {**message, "data": (meters * 1000).view(np.uint8)}


# Change → the findings that it must lead to, as (severity, subject, words of the message), and no others but notes.
FAULTS = {
    "yaw": (turned_lidar(2.0), [(ERROR, "lidar", "degrees to the right")]),
    "yaw back": (turned_lidar(-3.0), [(ERROR, "lidar", "degrees to the left")]),
    "mounted backwards": (turned_lidar(40.0), [(WARNING, "lidar", "nowhere within 6 degrees")]),
    "stamps ahead": (
        on(LIDAR, lambda stamp, message: (stamp, restamped(message, 0.1))),
        [(ERROR, "lidar", "100 ms ahead of their arrival"), (ERROR, "lidar", "taken 100 ms before")],
    ),
    "stamps behind": (
        on(LIDAR, lambda stamp, message: (stamp, restamped(message, -0.1))),
        [(ERROR, "lidar", "taken 100 ms after")],
    ),
    "late": (
        on(LIDAR, lambda stamp, message: (stamp + 80_000_000, message)),
        [(WARNING, "lidar", "arrives up to 80 ms")],
    ),
    "no stamp": (
        on(DEPTH, lambda stamp, message: (stamp, {**message, "header": header(0, CAMERA_FRAME)})),
        [(ERROR, "depth", "30 of 30 messages have no stamp")],
    ),
    "foreign clock": (
        on(LIDAR, lambda stamp, message: (stamp, restamped(message, -5000))),
        [(ERROR, "lidar", "83 minutes behind the clock")],
    ),
    "clock set back": (
        on(IMAGE, lambda stamp, message: (stamp, restamped(message, -0.25 if number(stamp) % 7 == 6 else 0))),
        [(WARNING, "camera", "4 of 30 stamps are earlier")],
    ),
    "stamps twice": (
        on(IMAGE, lambda stamp, message: (stamp, restamped(message, -0.1 if number(stamp) % 5 == 4 else 0))),
        [(WARNING, "camera", "6 of 30 stamps repeat"), (WARNING, "camera", "are missing")],
    ),
    "uneven stamps": (
        on(IMAGE, lambda stamp, message: (stamp, restamped(message, -0.04 * (number(stamp) % 2)))),
        [(WARNING, "camera", "stamps are irregular")],
    ),
    "gap": (
        on(IMAGE, lambda stamp, message: None if 10 <= number(stamp) < 20 else (stamp, message)),
        [(WARNING, "camera", "the longest is 1.10 s, from 0.9 s on")],
    ),
    "messages lost": (
        on(IMAGE, lambda stamp, message: None if number(stamp) % 6 == 3 else (stamp, message)),
        [(WARNING, "camera", "about 5 of 30 messages are missing")],
    ),
    "packets lost": (
        on(EVENTS, lambda stamp, message: None if number(stamp) % 6 == 3 else (stamp, message)),
        [(WARNING, "event", "5 of 30 event packets are missing")],
    ),
    "no CameraInfo": (without(INFO), [(ERROR, "camera", "no CameraInfo of the camera")]),
    "no CameraInfo of events": (without("/events/camera_info"), [(WARNING, "event", "no CameraInfo of this sensor")]),
    "CameraInfo of another size": (
        on(INFO, grown),
        [(ERROR, "camera", "images are 320x120, CameraInfo is for 640x480")],
    ),
    "CameraInfo in another frame": (
        on(INFO, lambda stamp, message: (stamp, framed(message, "cam"))),
        [(ERROR, "camera", "CameraInfo in 'cam'")],
    ),
    "no calibration": (
        on(INFO, lambda stamp, message: (stamp, {**message, "k": np.zeros(9)})),
        [(ERROR, INFO, "all-zero K")],
    ),
    "calibration in metres": (
        on(INFO, lambda stamp, message: (stamp, {**message, "k": np.array(message["k"]) * [[0.01], [0.01], [1]]})),
        [(ERROR, INFO, "is implausible")],
    ),
    "no transforms": (
        without("/tf_static"),
        [(ERROR, "event", "no transform connects"), (ERROR, "lidar", "no transform connects")],
    ),
    "no frame": (
        on(LIDAR, lambda stamp, message: (stamp, framed(message, ""))),
        [(ERROR, "lidar", "header.frame_id")],
    ),
    "unknown encoding": (
        on(IMAGE, lambda stamp, message: (stamp, {**message, "encoding": "rgb13"})),
        [(ERROR, "camera", "none of 30 messages is usable: encoding 'rgb13'")],
    ),
    "some garbage": (
        on(LIDAR, lambda stamp, message: (stamp, {**message, "point_step": 7 if number(stamp) == 4 else 12})),
        [(WARNING, "lidar", "1 of 30 messages are unusable")],
    ),
    "two sizes": (
        on(
            DEPTH,
            lambda stamp, message: (
                stamp,
                message if number(stamp) else {**message, "height": 60, "data": message["data"][: 60 * 4 * WIDTH]},
            ),
        ),
        [(WARNING, "depth", "several sizes: 320x120, 320x60")],
    ),
    "cap on": (on(IMAGE, blank(9)), [(WARNING, "camera", "are uniform")]),
    "no return": (on(LIDAR, blank(0)), [(ERROR, "lidar", "no valid return")]),
    "no depth": (on(DEPTH, blank(0)), [(ERROR, "depth", "no valid pixel")]),
    "another unit": (on(DEPTH, in_fifths), [(ERROR, "depth", "is 5 times the LiDAR's")]),
    "millimetres": (on(DEPTH, in_millimeters), [(ERROR, "depth", "the unit is wrong")]),
    "silent": (
        lambda entry: [] if entry[0] == LIDAR and number(entry[2]) else [entry],
        [],  # one message is no silence, and nothing can be said about its rhythm
    ),
}


def told(report):
    return [(found.severity, found.subject, found.message) for found in report.findings if found.severity != NOTE]


def test_healthy_recording_has_no_findings(tmp_path):
    report = diagnose_bag(write(tmp_path / "bag"))
    assert told(report) == [] and report.verdict == "healthy" and report.parameters == {}
    assert report.sets["sets"] == report.sets["complete"] == 30
    assert report.sensors["camera"]["rate_hz"] == 10.0 and report.sensors["lidar"]["used"] == 30
    assert report.sensors["camera"]["size"] == f"{WIDTH}x{HEIGHT}"


@pytest.mark.parametrize("name", FAULTS)
def test_fault_leads_to_its_findings_only(tmp_path, name):
    change, expected = FAULTS[name]
    report = diagnose_bag(write(tmp_path / "bag", change))
    found = told(report)
    for severity, subject, words in expected:
        assert any((severity, subject) == entry[:2] and words in entry[2] for entry in found), found
    assert len(found) == len(expected), found
    worst = min((("error", "warning").index(severity) for severity, _, _ in expected), default=2)
    assert report.verdict == ("faulty", "usable", "healthy")[worst]


def test_proposed_parameters(tmp_path):
    late = diagnose_bag(write(tmp_path / "late", FAULTS["late"][0]))
    assert late.parameters == {"lidar.max_wait": 0.09} and late.sets["parts"]["lidar"] == 0
    (found,) = (entry for entry in late.findings if entry.severity != NOTE)
    assert found.remedy == "Set lidar.max_wait: 0.09; then it is part of 100 %."
    ahead = diagnose_bag(write(tmp_path / "ahead", FAULTS["stamps ahead"][0]))
    assert ahead.parameters == {"lidar.offset": 0.1}


def test_calibration_file_replaces_missing_messages(tmp_path):
    bag = write(tmp_path / "bag", without(INFO, "/events/camera_info", "/tf_static"))
    frames = (CAMERA_FRAME, "event_optical_frame")
    optical = {"translation": [0, 0, 0], "quaternion": [-0.5, 0.5, -0.5, 0.5]}  # x forward to z forward
    rig = {
        "camera": CAMERA_FRAME,
        "cameras": {frame: LENS.to_dict() for frame in frames},
        "transforms": [{"parent": LIDAR_FRAME, "child": frame, **optical} for frame in frames],
    }
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(rig))
    parameters = load_parameters(overrides=[f"calibration_file:={tmp_path}/rig.yaml"])
    assert diagnose_bag(bag, parameters).verdict == "healthy"


def test_topic_name_that_contradicts_its_camera_info_is_a_warning(tmp_path):
    """Pictures called rectified whose CameraInfo has a distortion."""

    def change(entry):
        topic, kind, stamp, message = entry
        if topic == INFO:
            return [("/camera/camera_info", kind, stamp, {**message, "d": np.array([1e-6, 0, 0, 0, 0])})]
        return [("/camera/image_rect", kind, stamp, message)] if topic == IMAGE else [entry]

    found = told(diagnose_bag(write(tmp_path / "bag", change)))
    assert [entry[:2] for entry in found] == [(WARNING, "camera")] and "by its name it is rectified" in found[0][2]


def test_disabled_sensor_has_no_finding(tmp_path):
    """Kind: a sensor that the user disabled, reported as missing. The bag has its topic."""
    bag = write(tmp_path / "bag", moments=8)
    report = diagnose_bag(bag, load_parameters(None, ["modalities:=[camera, lidar]"]))
    assert not {found.subject for found in report.findings} & {"depth", "event"}
    without_depth = write(tmp_path / "without", without(DEPTH, EVENTS), 8)
    report = diagnose_bag(without_depth, load_parameters(None, ["modalities:=[camera, depth]"]))
    assert [f.subject for f in report.findings if "no topic found" in f.message] == ["depth"]


def test_recording_without_sensors_and_missing_recording(tmp_path):
    bag = write(tmp_path / "bag", without(IMAGE, DEPTH, LIDAR, EVENTS))
    report = diagnose_bag(bag)
    assert report.verdict == "faulty" and report.findings[0].message.startswith("no topic of the bag is a sensor")
    with pytest.raises(BagError, match="Did you mean /camera/image_raw"):
        diagnose_bag(write(tmp_path / "whole"), load_parameters(overrides=["camera.topic:=/camera/image"]))
    with pytest.raises(BagError, match="does not exist"):
        diagnose_bag(tmp_path / "nowhere")


def test_damaged_recording_is_read_up_to_the_damage(tmp_path):
    bag = write(tmp_path / "bag")
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    report = diagnose_bag(bag)
    assert report.verdict == "usable" and any("cut off after" in message for _, _, message in told(report))
    assert 10 < report.sensors["camera"]["messages"] < 30


def test_result_is_json_and_every_finding_has_a_rule(tmp_path):
    bag = write(tmp_path / "bag", FAULTS["no transforms"][0])
    result = diagnose_bag(bag).to_dict()
    assert result["verdict"] == "faulty" and {"severity", "subject", "message", "remedy"} == {*result["findings"][0]}
    starts = {kind.message.split("{")[0] for kind in RULES.values()}
    assert all(any(found["message"].startswith(start) for start in starts) for found in result["findings"])


def test_simulated_street_is_healthy(tmp_path):
    bag = write_simulated_bag(tmp_path / "bag", World(1, "sun", (96, 96)), range(8))
    assert told(diagnose_bag(bag)) == []


def test_real_recordings(tmp_path, shared_data):
    """A street and its LiDAR sweep, an event camera; and the same with the mounting written down 2 degrees wrong."""
    frame, events = shared_data / "camera_lidar" / "opencalib_ours_1", shared_data / "events" / "test_events_1"
    assemble_real_bag(frame, events, tmp_path / "bag")
    report = diagnose_bag(tmp_path / "bag")
    assert told(report) == [] and report.sets["complete"] == 21
    alone = diagnose_bag(events)
    assert [found[:2] for found in told(alone)] == [(ERROR, "camera")]
    foreign = diagnose_bag(shared_data / "events" / "test_data_evt3_trigger")
    assert (ERROR, "event") in [found[:2] for found in told(foreign)] and "302 days" in foreign.findings[0].message
    broken = diagnose_bag(shared_data / "events" / "test_events_2")
    assert any("names the storage ''" in message for _, _, message in told(broken))
