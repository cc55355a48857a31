# SPDX-License-Identifier: Apache-2.0
"""Rules of distributions without wheels, forced on the installed rclpy: the real node, transport and doctor.

Jazzy's and Kilted's rules need no force: these tests and all others run on their wheels.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
from node_process import CHECKOUT, NodeProcess
from rclpy.subscription import Subscription
from rclpy_rules import callbacks_get_the_message_alone
from robot import TOPICS, Robot
from std_msgs.msg import String
from test_end_to_end import Drive

from mlesam_ros.cli.common import configure_ros_env
from mlesam_ros.parameter_groups import SensorParameters
from mlesam_ros.ros import middleware
from mlesam_ros.ros.subscribers import RawSubscriber, SensorSubscriber
from mlesam_ros.types import LIDAR, MODALITIES

RULES = str(Path(__file__).with_name("rclpy_rules.py"))
# Humble's messages always check what is assigned to their fields; later ones do it on demand.
ENVIRONMENT = {**os.environ, "ROS_PYTHON_CHECK_FIELDS": "1", "PYTHONPATH": str(CHECKOUT)}


@pytest.mark.parametrize("distribution", ["humble", "lyrical"])
def test_node_makes_masks_and_doctor_examines_it_by_the_rules_of(distribution, graph, weights, tmp_path):
    """Humble: callbacks get the message alone, and fields are checked. Lyrical: a module moved."""
    node = NodeProcess(tmp_path / "log", ENVIRONMENT, start=(RULES, distribution, "mlesam_ros.ros.node"), **weights)
    try:
        drive = Drive(graph)
        drive.until(lambda: len(drive.listener.masks_from(*MODALITIES)) >= 3)
        ages = [sensor.age for status in drive.listener.masks_from(*MODALITIES) for sensor in status.sensors]
        assert all(0 <= age < 5 for age in ages)
        path = tmp_path / "report.json"
        command = [sys.executable, RULES, distribution, "mlesam_ros.cli", "doctor", "--seconds", "2", "--json", path]
        with subprocess.Popen(command, env=ENVIRONMENT, cwd=CHECKOUT) as doctor:
            try:
                drive.until(lambda: doctor.poll() is not None)
            finally:
                doctor.kill()
        report = json.loads(path.read_text())
        assert set(report["sensors"]) == set(MODALITIES) and all(s["received"] for s in report["sensors"].values())
        assert "Traceback" not in node.log.read_text()
    finally:
        node.kill()


def test_raw_subscriber_works_by_humbles_rule(graph, monkeypatch):
    """It serves the demo, the benchmarks and the comparison of live and offline masks."""
    callbacks_get_the_message_alone(monkeypatch)
    assert not hasattr(Subscription, "CallbackType")
    got: list[tuple[str, int, bytes]] = []
    publisher = graph.node("talker").create_publisher(String, "/words", 10)
    with RawSubscriber(lambda *message: got.append(message)) as subscriber:
        subscriber.subscribe("/words", "std_msgs/msg/String")
        assert graph.spin_until(publisher.get_subscription_count)
        begin = time.time_ns()
        publisher.publish(String(data="one"))
        subscriber.spin_for(0.5)
    ((topic, arrived, raw),) = got
    assert topic == "/words" and b"one" in raw and begin <= arrived <= time.time_ns()


def test_receipt_times_of_a_queue_are_those_of_the_call_by_humbles_rule(graph, monkeypatch):
    """The executor passes no time for the first message, and the transport's for the others are earlier than its."""
    callbacks_get_the_message_alone(monkeypatch)
    robot, node = Robot(graph.node("robot"), qos=100), graph.node("listener")
    source = SensorSubscriber(node, LIDAR, SensorParameters(topic=TOPICS[LIDAR]))
    assert graph.spin_until(lambda: source.poll() or (source.type_name and source.publishers))
    graph.spin_for(0.3)
    stamps = [robot.sense((LIDAR,)) for _ in range(5)]
    time.sleep(0.3)
    begin = time.time_ns()
    assert graph.spin_until(lambda: source.received)
    times = [source.received_at(stamp) for stamp in stamps]
    assert source.received == 5 and begin <= times[0] and times == sorted(times)


@pytest.mark.parametrize(
    ("version", "expected"),
    [(3, {"ROS_LOCALHOST_ONLY": "1"}), (4, {}), (10, {})],
    ids=["humble", "iron", "lyrical"],
)
def test_discovery_stays_on_the_machine_by_the_variable_that_is_read(monkeypatch, version, expected):
    """Before Iron only ROS_LOCALHOST_ONLY is read; later releases warn about it."""
    monkeypatch.setattr(middleware, "_rclpy_version", lambda: version)
    for name in ("ROS_LOCALHOST_ONLY", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
        monkeypatch.delenv(name, raising=False)
    assert middleware.localhost_environment() == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **expected}
    monkeypatch.setattr(os, "environ", dict(os.environ))
    configure_ros_env()
    assert middleware.localhost_environment().items() <= os.environ.items()
    (profile,) = middleware.transport_environment({"ROS_LOCALHOST_ONLY": "1"}).values()
    assert "<address>127.0.0.1</address>" in Path(profile).read_text()
