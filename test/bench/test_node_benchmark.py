"""The node's benchmark: its robots say what they claim to, and its figures are what happened."""

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bench import node
from mlesam_ros.bench.live import Run, child, drive
from mlesam_ros.bench.readings import EVENTS, POINTS
from mlesam_ros.bench.robot import PERIOD, ROBOTS, large
from mlesam_ros.cli.common import prepare_own_domain
from mlesam_ros.messages import FrameReader
from mlesam_ros.types import CAMERA, EVENT, LIDAR, NANOSECONDS

MOMENT = 1_700_000_000 * NANOSECONDS


def spoken(messages, number):
    """(topic, message as it is received) of a moment."""
    for message in messages:
        raw = message.at(MOMENT + number * PERIOD, number)
        yield message.topic, typestore().deserialize_cdr(raw, message.type_name)


def test_the_large_robot_is_as_large_as_announced_at_every_moment():
    messages = large().messages()
    readers = {
        "/camera/image_raw": FrameReader(CAMERA, "sensor_msgs/msg/Image"),
        "/lidar/points": FrameReader(LIDAR, "sensor_msgs/msg/PointCloud2"),
        "/events": FrameReader(EVENT, "event_camera_msgs/msg/EventPacket"),
    }
    for number in range(4):
        frames = {t: readers[t].read(m) for t, m in spoken(messages, number) if t in readers}
        assert all(abs(f.stamp - MOMENT - number * PERIOD) <= 50_000_000 for f in frames.values())
        assert frames["/camera/image_raw"].payload.height == 1080
        assert len(frames["/lidar/points"].payload.points) == POINTS
        events = frames["/events"].payload
        assert len(events.x) == EVENTS and np.ptp(events.t) < 30_000_000
    counters = readers["/events"].counters
    assert counters["lost"] == counters["resets"] == counters["outside"] == 0


def test_every_lens_of_a_robot_can_be_read():
    for robot in (make() for name, make in ROBOTS.items() if name != "street"):
        assert {m.topic for m in robot.messages()} >= {f"/{s}/camera_info" for s in ("camera", "depth", "events")}


def test_a_run_counts_the_moments_that_it_covers():
    run = Run(stamps=[MOMENT, MOMENT + PERIOD, MOMENT + 4 * PERIOD])
    run.stages["stamp_to_mask"], run.stages["model"] = [0.05, 0.06, 0.07], [0.04, 0.04, 0.04]
    assert run.offered == 5
    assert run.rate == pytest.approx(0.5 * NANOSECONDS / PERIOD)
    np.testing.assert_allclose(run.overhead(), [0.01, 0.02, 0.03])


def test_a_child_ends_with_its_block():
    with child("mlesam_ros.cli", "--help") as process:
        pass
    assert process.returncode is not None


@pytest.fixture
def own_domain(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "")  # remembered, and put back
    prepare_own_domain()


def test_a_short_drive_gives_every_row(own_domain, monkeypatch):
    heard = drive("street", 1.0)
    for run in heard:  # nothing of what came after it: the second begins with two seconds that nobody asked for
        assert 0 <= run.complete <= len(run.stamps) == len(run.stages["model"])
    assert heard[1].stamps[0] - heard[0].stamps[-1] > NANOSECONDS
    monkeypatch.setattr(node, "drive", lambda robot, seconds: heard)
    rows = [row.to_dict() for row in node._live("street", "street robot", 1)]
    json.dumps(rows, allow_nan=False)
    by_name = {row["name"].split(": ")[1]: row for row in rows}
    whole, model, rest = (by_name[n]["median"] for n in ("stamp to publish", "model", "everything but the model"))
    assert 0 < model < whole and 0 < rest < whole
    assert by_name["memory of the node"]["median"] > 100
    started = by_name.pop("from the process's start to the first mask of all sensors")
    assert started["median"] > 1 and started["alternative"] is None
    assert all(row["alternative"] == "every topic listened to" for row in by_name.values())


def test_the_parts_are_timed_beside_the_usual_way():
    rows = [row.to_dict() for row in node._parts(1)]
    json.dumps(rows, allow_nan=False)
    assert all(row["median"] > 0 for row in rows)
    assert sum(row["alternative"] is not None for row in rows) >= 3
