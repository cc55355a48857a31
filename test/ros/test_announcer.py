"""The log says what lasts, once."""

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus

from mlesam_ros.ros.diagnostics import ERROR, OK, WARN, DiagnosticLogger


@pytest.fixture
def log():
    return []


@pytest.fixture
def announcer(log):
    severities = {name: (lambda words, name=name: log.append((name, words))) for name in ("info", "warning", "error")}
    return DiagnosticLogger(SimpleNamespace(**severities))


def lidar(level, words="words"):
    return DiagnosticStatus(level=level, name="robot/mlesam: lidar", message=words)


def test_what_lasts_is_said_once_and_its_end_too(announcer, log):
    for level in (OK, OK, WARN, WARN, WARN, ERROR, ERROR, ERROR, OK, OK, OK):
        announcer.hear([lidar(level)])
    assert log == [("warning", "lidar: words"), ("error", "lidar: words"), ("info", "lidar: words")]


def test_what_passes_is_not_said(announcer, log):
    for level in (OK, WARN, OK, WARN, OK, OK):
        announcer.hear([lidar(level)])
    assert log == []


def test_what_cannot_wait_is_said_each_time(announcer, log):
    for words in ("no such file", "no such device"):
        announcer.hear([lidar(ERROR, words)], at_once=True)
        for _ in range(3):
            announcer.hear([lidar(ERROR, words)])
    assert log == [("error", "lidar: no such file"), ("error", "lidar: no such device")]


def test_a_part_that_went_away_begins_anew(announcer, log):
    for reports in ([lidar(WARN)], [lidar(WARN)], [], [lidar(WARN)], [lidar(WARN)]):
        announcer.hear(reports)
    assert [words for _, words in log] == ["lidar: words"] * 2
