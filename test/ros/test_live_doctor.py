# SPDX-License-Identifier: Apache-2.0
"""`mlesam doctor` without a bag: a robot in one process, the node in another, the doctor in this one."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
from robot import CAMERA_FRAME, EVENT_FRAME, LIDAR_FRAME
from test_end_to_end import launch  # noqa: F401 (a fixture)
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.errors import NOTE, ConfigError, Problem
from mlesam_ros.ros.live_doctor import diagnose_live

HERE = Path(__file__).resolve().parent
PATH = os.pathsep.join([str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")])
NODE = "/mlesam"


@pytest.fixture
def drive():
    """Start robot processes and end them."""
    gc.collect()  # a lifecycle node that an earlier test destroyed stays in the graph until Python has let go of it
    started = []

    def start(**options):
        command = [sys.executable, str(HERE / "robot_process.py"), json.dumps(options)]
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATH}, stdout=subprocess.PIPE))
        assert started[-1].stdout.readline() == b"driving\n"

    yield start
    for robot in started:
        robot.terminate()
        robot.wait(20)


def diagnose_until(expected, settings=None, seconds=1.2):
    """Return the report whose findings except notes are these (subject, words); retries on a busy machine."""
    for _ in range(6):
        report = diagnose_live(NODE, settings or {}, None, seconds)
        found = [(f.subject, f.message) for f in report.findings if f.severity != NOTE]
        named = [any(s == subject and words in message for s, message in found) for subject, words in expected]
        if all(named) and len(found) == len(expected):
            return report
    pytest.fail(f"found were {found}")


def until(condition):
    """Wait for another process."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_healthy_robot(drive):
    drive()
    report = diagnose_until([])
    assert report.verdict == "healthy" and {*report.sensors} == {"camera", "depth", "event", "lidar"}
    assert all(5 < row["rate_hz"] < 15 for row in report.sensors.values())
    assert report.sensors["lidar"]["topic"] == "/lidar/points" and report.sensors["camera"]["size"] == "64x48"
    assert report.sets["complete"] > 5
    assert "the node is not running" in report.findings[0].message


FAULTY = {
    "nobody": (None, [(m, "no publisher on") for m in ("camera", "depth", "event", "lidar")]),
    "no lens": ({"infos": False}, [("camera", "no CameraInfo of the camera")]),
    "several things": (
        {"frames": [CAMERA_FRAME, LIDAR_FRAME], "silent": ["lidar"], "clock": True},
        [
            ("event", f"no transform connects its frame '{EVENT_FRAME}'"),
            ("lidar", "/lidar/points has a publisher, but"),
            ("/clock", "use_sim_time of the node is off"),
        ],
    ),
    "ahead": ({"lead": 0.2}, [("clock", "all sensors are")]),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_robot(drive, name):
    options, expected = FAULTY[name]
    if options is None:
        expected = [("camera", "no CameraInfo"), ("graph", "no sensor topic has a publisher"), *expected]
    else:
        drive(**options)
    diagnose_until(expected)


def test_incompatible_qos_is_reported(drive):
    drive(static="VOLATILE", reliability="BEST_EFFORT")
    lidar = "qos_overrides./lidar/points.subscription.reliability"
    found = diagnose_until(
        [
            ("lidar", "/robot offers best effort, /mlesam_doctor requests reliable"),
            ("/tf_static", "/robot offers volatile, /mlesam_doctor requests transient local"),
            ("event", "no transform connects"),
        ],
        {lidar: "reliable"},
    ).findings
    assert lidar in found[0].remedy and "transient_local" in found[1].remedy


def test_lost_messages_cause_no_other_finding():
    """Neither gaps nor jitter nor a wider tolerance is reported."""
    driver = subprocess.Popen([sys.executable, str(HERE / "oversize_publisher.py"), "/camera/image_raw"])
    try:
        for _ in range(6):
            report = diagnose_live(NODE, {"modalities": ["camera"]}, None, 2.0)
            found = {f.message: f for f in report.findings if f.subject == "camera"}
            torn = [f for words, f in found.items() if "the transport lost" in words]
            if torn:
                break
        assert torn and "_DEFAULT_PROFILES_FILE" in torn[0].remedy
        assert not any(words in message for message in found for words in ("gap", "irregular", "part of"))
        assert report.parameters == {}
    finally:
        driver.kill()
        driver.wait()


def test_stopped_clock_is_reported(drive):
    drive()
    report = diagnose_live(NODE, {"use_sim_time": True}, None, 2.0)
    assert ("/clock", "error") in [(found.subject, found.severity) for found in report.findings]
    assert not any("clock of arrival" in found.message for found in report.findings), "of no stamp's fault"
    assert report.sensors and report.parameters == {}


def test_parameters_of_the_running_node_are_used(drive, launch):  # noqa: F811
    drive()
    node = launch(**{"camera.topic": "/nowhere"})
    until(lambda: node.said("active"))
    report = diagnose_until([("camera", "no publisher on /nowhere")])
    remedy = "Start its driver, set camera.topic to /camera/image_raw, or remove camera from modalities."
    assert report.findings[0].remedy == remedy
    assert report.sets["parts"].keys() == {"depth", "event", "lidar"}


def test_inactive_node_is_reported(drive, launch):  # noqa: F811
    drive()
    launch(autostart=False)
    (finding, *_) = diagnose_until([(NODE, "the node is unconfigured")]).findings
    assert finding.remedy == "Run: ros2 lifecycle set /mlesam configure"


def test_parameters_are_read_from_a_file_and_validated(drive, tmp_path):
    settings = tmp_path / "robot.yaml"
    settings.write_text("/**:\n  ros__parameters:\n    modalities: [lidar]\n    lidar:\n      topic: /none\n")
    report = diagnose_live(NODE, {}, settings, 0.5)
    assert [f.message for f in report.findings if f.subject == "lidar"] == ["no publisher on /none."]
    settings.write_text("{{{")
    with pytest.raises(ConfigError, match=r"robot\.yaml"):
        diagnose_live(NODE, {}, settings, 0.5)
    with pytest.raises(ConfigError, match="radar"):
        diagnose_live(NODE, {"modalities": ["radar"]}, None, 0.5)


def test_command(drive):
    result = CliRunner().invoke(app, ["doctor", "--seconds", "0.5", "--json", "-"])
    found = json.loads(result.stdout)
    assert result.exit_code == 1 and found["verdict"] == "faulty" and found["name"] == NODE
    assert {"severity", "subject", "message", "remedy"} == {*found["findings"][0]}


def test_most_frequent_refusal_is_reported(monkeypatch):
    """Not the newest reason."""

    def receive(diagnosis, seconds, progress):
        source = diagnosis._subscribers["lidar"]
        source.received, source.type_name = 9, "sensor_msgs/msg/PointCloud2"
        source.refusals.count(Problem("usual reason.", "Mend it."), 6)
        source.refusals.count("other reasons", 2)
        source.refusals.count(Problem("newest reason.", "Mend that."))

    monkeypatch.setattr("mlesam_ros.ros.live_doctor._LiveDiagnosis._spin", receive)
    found = diagnose_live(NODE, {"modalities": ["lidar"]}, None, 0.0).findings
    (refused,) = [f for f in found if f.message.startswith("none of 9 messages is usable")]
    assert "usual reason" in refused.message and "newest" not in refused.message
    assert "Mend it." in refused.remedy
