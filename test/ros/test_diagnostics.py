# SPDX-License-Identifier: Apache-2.0
"""Diagnostics: level, message, remedy and values of each status, and the log of changes."""

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus

from mlesam_ros.errors import Problem
from mlesam_ros.ros.camera_view import PipelineStatistics
from mlesam_ros.ros.diagnostics import (
    ERROR,
    OK,
    WARN,
    DiagnosticBuilder,
    DiagnosticLogger,
    PipelineHealth,
    SensorHealth,
)

COUNTS = {"received": 5, "used": 5, "superseded": 0, "late": 0, "unmatched": 0, "refused": 0}


def lidar(**changes):
    facts = {
        "modality": "lidar",
        "topic": "/lidar/points",
        "type_name": "sensor_msgs/msg/PointCloud2",
        "received": 5,
        "lost": 0,
        "problem": None,
        "publishers": 1,
        "competing_publishers": [],
        "silence": 0.05,
        "rate": 10.0,
        "decoded": {},
        "found": {},
    }
    return SimpleNamespace(**{**facts, **changes})


def report(subscription, **health):
    return DiagnosticBuilder("/mlesam").sensor(subscription, SensorHealth(COUNTS, **health), 1.0)


def test_sensor_without_problems_is_ok():
    status = report(lidar())
    assert (status.level, status.name, status.message) == (OK, "mlesam: lidar", "10.0 Hz on /lidar/points")
    assert {pair.key: pair.value for pair in status.values}["rate_hz"] == "10.00"


def test_type_of_a_sensor_is_among_the_values():
    """Without a subscription the type of the topic is not known."""
    types = [{pair.key: pair.value for pair in report(lidar(type_name=name)).values}["type"] for name in (None, "a/B")]
    assert types == ["not known yet", "a/B"]


def test_decoder_counters_are_among_the_values():
    status = report(lidar(modality="event", decoded={"lost": 3, "unknown": 7}))
    values = {pair.key: pair.value for pair in status.values}
    assert (values["decoded: lost"], values["decoded: unknown"]) == ("3", "7")


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        ({"silence": 1.4}, WARN, "no message for 1.4 s on /lidar/points, publisher present"),
        ({"publishers": 0, "received": 0, "silence": 3.0}, WARN, "no publisher on /lidar/points. Start its driver"),
        ({"publishers": 0, "silence": 3.0}, WARN, "last message 3.0 s ago"),
        ({"publishers": 0, "silence": 0.2}, WARN, "last message 0.2 s ago"),
        ({"received": 0, "silence": 2.0}, ERROR, "_DEFAULT_PROFILES_FILE"),
        (
            {"received": 0, "silence": 0.1, "problem": Problem("QoS incompatible: reliability", "Match.")},
            ERROR,
            "publisher present, QoS incompatible: reliability",
        ),
    ],
)
def test_silent_sensor_has_a_reason(facts, level, words):
    status = report(lidar(**facts))
    assert status.level == level and words in status.message


@pytest.mark.parametrize(("level", "words"), [(ERROR, "no transform"), (WARN, "2 publishers")])
def test_error_precedes_the_warning_of_several_publishers(level, words):
    status = report(
        lidar(competing_publishers=["/a", "/b"]),
        missing_extrinsic=(level, Problem("no transform to the camera.", "Publish it.")),
    )
    assert status.level == level and words in status.message


def test_remedy_suggests_topics():
    status = report(lidar(publishers=0, received=0, silence=3.0), suggested_topics=["/points", "/rear/points"])
    assert "set lidar.topic to /points or /rear/points, or" in status.message


def test_lost_messages_are_reported_once_and_counted_anew_after_activation():
    now = [0.0]
    builder, health = DiagnosticBuilder("/mlesam", lambda: now[0]), SensorHealth(COUNTS)
    words = []
    for second, lost in enumerate((4, 4, 6, 0, 1)):
        now[0] = second
        status = builder.sensor(lidar(lost=lost), health, 1.0)
        values = {pair.key: pair.value for pair in status.values}
        assert status.level == (WARN if "lost in transport" in status.message else OK)
        assert values["lost_on_the_way"] == str(lost)
        words.append(status.message.partition(" on ")[0])
    assert words == ["4 messages", "10.0 Hz", "2 messages", "10.0 Hz", "1 messages"]
    assert "_DEFAULT_PROFILES_FILE" in DiagnosticBuilder("/mlesam").sensor(lidar(lost=1), health, 1.0).message


@pytest.mark.parametrize("received", [0, 5])
def test_loss_precedes_silence(received):
    assert (
        "9 messages on /lidar/points lost in transport" in report(lidar(lost=9, silence=4.0, received=received)).message
    )


def test_unusable_frame_has_its_reason():
    status = report(lidar(), recent_error="no transform connects 'lidar' to 'camera'.")
    assert (status.level, status.message) == (WARN, "no transform connects 'lidar' to 'camera'.")


def test_refusals_are_reported_for_one_second():
    now = [0.0]
    builder = DiagnosticBuilder("/mlesam", lambda: now[0])
    counts = {**COUNTS, "refused": 3}
    reasons = {"stamp is zero": 3}
    health = SensorHealth(counts, reasons)
    first = builder.sensor(lidar(), health, 1.0)
    assert first.level == WARN and "3 messages refused in the last second: stamp is zero" in first.message
    for now[0], level in ((0.25, WARN), (0.5, WARN), (0.75, WARN), (1.0, OK), (1.25, OK)):
        assert builder.sensor(lidar(), health, 1.0).level == level
    for now[0], level in ((1.5, WARN), (1.75, WARN), (2.25, WARN), (2.5, OK)):
        status = builder.sensor(lidar(), SensorHealth({**counts, "refused": 5}, reasons), 1.0)
        assert status.level == level and ("2 messages refused" in status.message) == (level == WARN)


@pytest.mark.parametrize(
    ("outcomes", "level"),
    [
        ({"used": 6, "late": 5}, OK),
        ({"used": 4, "late": 5}, WARN),
        ({"superseded": 90, "used": 10, "unmatched": 90}, OK),
        ({"unmatched": 3}, OK),
        ({"unmatched": 2, "late": 2}, WARN),
    ],
)
def test_mostly_unmatched_messages_are_a_warning(outcomes, level):
    now = [0.0]
    builder = DiagnosticBuilder("/mlesam", lambda: now[0])
    assert builder.sensor(lidar(), SensorHealth(COUNTS), 1.0).level == OK
    now[0] = 1.0
    counts = {name: count + outcomes.get(name, 0) for name, count in COUNTS.items()}
    status = builder.sensor(lidar(), SensorHealth(counts), 1.0)
    assert status.level == level
    words = f"messages on /lidar/points too late and {outcomes.get('unmatched', 0)} without a matching set"
    assert (words in status.message) == (level == WARN)
    now[0] = 2.0
    assert builder.sensor(lidar(), SensorHealth(counts), 1.0).level == OK


def test_delay_above_the_timeout_is_a_warning():
    status = report(lidar(), delay=1.53)
    assert status.level == WARN and "messages on /lidar/points arrive 1.5 s after their stamps" in status.message
    assert report(lidar(), delay=0.9).level == report(lidar(), delay=-0.9).level == OK


def test_slow_sensor_is_not_silent():
    assert report(lidar(rate=0.5, silence=2.9)).level == OK
    assert report(lidar(rate=0.5, silence=3.1)).level == WARN
    assert report(lidar(rate=0.0, received=1, silence=1.1)).level == WARN
    slow = PipelineHealth("active", silence=1.4, rate=1.0, latencies=[0.5], used=["camera"])
    assert DiagnosticBuilder("/mlesam").pipeline(slow, 1.0).level == OK


def test_frames_without_label_camera_are_not_the_sensors_refusals():
    counts = {**COUNTS, "refused": 3}
    assert report(lidar()).level == OK
    assert DiagnosticBuilder("/mlesam").sensor(lidar(), SensorHealth(counts, blocked=3), 1.0).level == OK
    status = DiagnosticBuilder("/mlesam").sensor(lidar(), SensorHealth(counts, {"stamp is zero": 1}, blocked=2), 1.0)
    assert status.level == WARN and "1 messages refused" in status.message


@pytest.mark.parametrize(
    ("facts", "health", "level", "words"),
    [
        ({"rate": 7.9}, {"rate": 10.0}, WARN, "7.9 Hz on /lidar/points, 10 Hz expected"),
        ({"rate": 8.1}, {"rate": 10.0}, OK, "8.1 Hz on /lidar/points"),
        ({"rate": 0.0, "received": 1}, {"rate": 10.0}, OK, "0.0 Hz"),
        ({}, {"skew": 0.021, "expected_skew": 0.02}, WARN, "median skew 21 ms to the masks' stamps, 20 ms expected"),
        ({}, {"skew": 0.019, "expected_skew": 0.02}, OK, "10.0 Hz"),
        ({}, {"skew": 5.0}, OK, "10.0 Hz"),
        ({}, {"degradation": "no odometry."}, OK, "10.0 Hz on /lidar/points; no odometry."),
    ],
)
def test_rate_and_skew_are_compared_with_expectations(facts, health, level, words):
    status = report(lidar(**facts), **health)
    assert status.level == level and words in status.message


def test_rates_delays_and_reasons_are_among_the_values():
    status = report(lidar(), skew=0.0042, delay=0.0123, rate=10.0, reasons={"stamp is zero": 2})
    values = {pair.key: pair.value for pair in status.values}
    assert (values["skew_ms"], values["stamp_to_receipt_ms"], values["expected_rate_hz"]) == ("4.2", "12.3", "10")
    assert values["refused: stamp is zero"] == "2" and "expected_skew_ms" not in values


@pytest.mark.parametrize(
    ("health", "level", "words"),
    [
        (
            PipelineHealth("unconfigured", "no such file."),
            ERROR,
            "configure failed: no such file. Then: ros2 lifecycle",
        ),
        (PipelineHealth("unconfigured"), OK, "ros2 lifecycle set /mlesam configure"),
        (PipelineHealth("inactive"), OK, "ros2 lifecycle set /mlesam activate"),
        (PipelineHealth("finalized"), OK, "finalized"),
        (PipelineHealth("active", blocking_reason=(ERROR, Problem("no CameraInfo yet"))), ERROR, "no CameraInfo yet"),
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
def test_pipeline_status(health, level, words):
    status = DiagnosticBuilder("/mlesam").pipeline(health, 1.0)
    assert status.level == level and words in status.message


def test_slow_camera_causes_one_error_at_most(monkeypatch):
    """Masks at 10 Hz with the LiDAR as primary, then at 1 Hz with the camera."""
    now = [100.0]
    monkeypatch.setattr("mlesam_ros.ros.camera_view.time", SimpleNamespace(monotonic=lambda: now[0]))
    statistics, statuses = PipelineStatistics(lambda words: None), []
    builder = DiagnosticBuilder("/mlesam", lambda: now[0])
    mask = SimpleNamespace(used=("camera",), skews={})
    for begin, period, count in ((100.0, 0.1, 30), (103.0, 1.0, 30)):
        for index in range(count):
            now[0] = begin + index * period
            statistics.record_mask(mask, 0.05, {})
            for tenth in range(1, round(10 * period) + 1):
                now[0] = begin + index * period + tenth / 10 - 0.001
                figures = {"silence": statistics.silence, "rate": statistics.rate, "gap": statistics.gap}
                health = PipelineHealth("active", **figures, latencies=[0.1])
                statuses.append((now[0], builder.pipeline(health, 0.6)))
    errors = [(when, status) for when, status in statuses if status.level == ERROR]
    assert all(103.6 <= when <= 104.0 for when, _ in errors)  # before anybody can know that the rhythm is another
    assert errors and all("sensor_timeout is 0.6 s" in status.message for _, status in errors)
    assert "raise sensor_timeout" in errors[0][1].message
    now[0] += 1.6
    figures = {"silence": statistics.silence, "rate": statistics.rate, "gap": statistics.gap}
    health = PipelineHealth("active", **figures, latencies=[0.1])
    assert builder.pipeline(health, 0.6).level == ERROR  # really silent


def test_expected_rate_extends_the_timeout():
    slow = lidar(received=1, rate=0.0, silence=0.9)
    status = DiagnosticBuilder("/mlesam").sensor(slow, SensorHealth(COUNTS), 0.6)
    assert status.level == WARN and "set lidar.rate or raise sensor_timeout" in status.message
    assert DiagnosticBuilder("/mlesam").sensor(slow, SensorHealth(COUNTS, rate=1.0), 0.6).level == OK


@pytest.fixture
def log():
    return []


@pytest.fixture
def diagnostic_logger(log):
    severities = {name: (lambda words, name=name: log.append((name, words))) for name in ("info", "warning", "error")}
    return DiagnosticLogger(SimpleNamespace(**severities))


def lidar_status(level, words="words"):
    return DiagnosticStatus(level=level, name="robot/mlesam: lidar", message=words)


def test_lasting_level_is_logged_once_and_so_is_its_end(diagnostic_logger, log):
    for level in (OK, OK, WARN, WARN, WARN, ERROR, ERROR, ERROR, OK, OK, OK):
        diagnostic_logger.update([lidar_status(level)])
    assert log == [("warning", "lidar: words"), ("error", "lidar: words"), ("info", "lidar: words")]


def test_transient_level_is_not_logged(diagnostic_logger, log):
    for level in (OK, WARN, OK, WARN, OK, OK):
        diagnostic_logger.update([lidar_status(level)])
    assert log == []


def test_immediate_reports_are_logged_each_time(diagnostic_logger, log):
    for words in ("no such file", "no such device"):
        diagnostic_logger.update([lidar_status(ERROR, words)], at_once=True)
        for _ in range(3):
            diagnostic_logger.update([lidar_status(ERROR, words)])
    assert log == [("error", "lidar: no such file"), ("error", "lidar: no such device")]


def test_absent_status_is_reset(diagnostic_logger, log):
    for reports in ([lidar_status(WARN)], [lidar_status(WARN)], [], [lidar_status(WARN)], [lidar_status(WARN)]):
        diagnostic_logger.update(reports)
    assert [words for _, words in log] == ["lidar: words"] * 2


def test_an_error_of_the_pipeline_is_logged_when_it_begins():
    logged = []
    statistics, problem = PipelineStatistics(logged.append), Problem("no memory", "Close other programs.")
    for modality in ("camera", None, None):
        statistics.record_error(modality, problem)
    assert logged == [problem]
