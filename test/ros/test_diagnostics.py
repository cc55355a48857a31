"""The reports say in words what is wrong and what to do."""

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")
from mlesam_ros.ros.diagnostics import ERROR, OK, WARN, PipelineHealth, Reporter

COUNTS = {"received": 5, "used": 5, "superseded": 0, "late": 0, "unmatched": 0, "refused": 0}


def lidar(**changes):
    facts = {
        "modality": "lidar",
        "topic": "/lidar/points",
        "type_name": "sensor_msgs/msg/PointCloud2",
        "received": 5,
        "refusal": "",
        "obstacle": None,
        "publishers": 1,
        "silence": 0.05,
        "rate": 10.0,
        "decoded": {},
    }
    return SimpleNamespace(**{**facts, **changes})


def report(listening, counts=COUNTS, reasons=None, trouble=""):
    return Reporter("/mlesam").sensor(listening, counts, reasons or {}, 1.0, trouble)


def test_a_sensor_that_is_well():
    status = report(lidar())
    assert (status.level, status.name, status.message) == (OK, "mlesam: lidar", "10.0 Hz on /lidar/points")
    assert {pair.key: pair.value for pair in status.values}["rate_hz"] == "10.00"


def test_what_a_decoder_counted_is_among_the_values():
    status = report(lidar(modality="event", decoded={"lost": 3, "unknown": 7}))
    values = {pair.key: pair.value for pair in status.values}
    assert (values["decoded: lost"], values["decoded: unknown"]) == ("3", "7")


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"silence": 1.4}, WARN, "no message for 1.4 s on /lidar/points, publisher present"),
        ({"publishers": 0, "received": 0, "silence": 3.0}, WARN, "no publisher on /lidar/points; start its driver"),
        ({"publishers": 0, "silence": 3.0}, WARN, "the last message came 3.0 s ago"),
        ({"received": 0, "silence": 2.0}, ERROR, "FASTDDS_DEFAULT_PROFILES_FILE"),
        (
            {"received": 0, "silence": 0.1, "obstacle": "QoS incompatible: reliability; match"},
            ERROR,
            "publisher present, QoS incompatible: reliability",
        ),
    ],
)
def test_a_silent_sensor_says_why(facts, level, words):
    status = report(lidar(**facts))
    assert status.level == level and words in status.message


def test_a_frame_that_cannot_be_used_says_why():
    status = report(lidar(), trouble="no transform connects 'lidar' to 'camera'.")
    assert (status.level, status.message) == (WARN, "no transform connects 'lidar' to 'camera'.")


def test_refusals_are_news_once():
    reporter = Reporter("/mlesam")
    counts = {**COUNTS, "refused": 3}
    reasons = {"stamp is zero": 3}
    first = reporter.sensor(lidar(), counts, reasons, 1.0, "")
    assert first.level == WARN and "3 messages refused since the last report: stamp is zero" in first.message
    assert reporter.sensor(lidar(), counts, reasons, 1.0, "").level == OK


@pytest.mark.parametrize(
    ("health", "level", "words"),
    [
        (
            PipelineHealth("unconfigured", "no such file."),
            ERROR,
            "configure failed: no such file. Then: ros2 lifecycle",
        ),
        (PipelineHealth("inactive"), OK, "inactive"),
        (PipelineHealth("active", hindrance="no CameraInfo yet"), ERROR, "no CameraInfo yet"),
        (PipelineHealth("active", error="out of memory"), ERROR, "out of memory"),
        (PipelineHealth("active", silence=2.1), ERROR, "no mask for 2.1 s"),
        (PipelineHealth("active", silence=0.1), OK, "waiting for the first mask"),
        (
            PipelineHealth("active", rate=9.8, latencies=[0.05, 0.07, 0.2], used=["camera", "lidar"]),
            OK,
            "9.8 masks/s from camera, lidar, 70 ms from stamp to mask",
        ),
    ],
)
def test_the_pipeline_in_words(health, level, words):
    status = Reporter("/mlesam").pipeline(health, 1.0)
    assert status.level == level and words in status.message
