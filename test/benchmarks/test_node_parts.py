# SPDX-License-Identifier: Apache-2.0
"""The traffic of the node comparison has the named sizes in every period, and the parts of the node are timed."""

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")

from node_parts import parts, publishing

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.bench.sensor_benchmark import EVENTS, POINTS
from mlesam_ros.bench.traffic import PERIOD, ROBOTS, large
from mlesam_ros.mask_messages import MASK_TOPICS
from mlesam_ros.messages import FrameReader
from mlesam_ros.types import CAMERA, EVENT, LIDAR, NANOSECONDS

STAMP = 1_700_000_000 * NANOSECONDS


def received(messages, number):
    """Yield (topic, deserialized message) of a period."""
    for message in messages:
        raw = message.at(STAMP + number * PERIOD, number)
        yield message.topic, typestore().deserialize_cdr(raw, message.type_name)


def test_large_robot_has_the_named_sizes_in_every_period():
    messages = large().messages()
    readers = {
        "/camera/image_raw": FrameReader(CAMERA, "sensor_msgs/msg/Image"),
        "/lidar/points": FrameReader(LIDAR, "sensor_msgs/msg/PointCloud2"),
        "/events": FrameReader(EVENT, "event_camera_msgs/msg/EventPacket"),
    }
    for number in range(4):
        frames = {t: readers[t].read(m) for t, m in received(messages, number) if t in readers}
        assert all(abs(f.stamp - STAMP - number * PERIOD) <= 50_000_000 for f in frames.values())
        assert frames["/camera/image_raw"].payload.height == 1080
        assert len(frames["/lidar/points"].payload.points) == POINTS
        events = frames["/events"].payload
        assert len(events.x) == EVENTS and np.ptp(events.t) < 30_000_000
    counters = readers["/events"].counters
    assert counters["lost"] == counters["resets"] == counters["outside"] == 0


def test_every_camera_of_a_robot_has_a_camera_info():
    sensors = {"large": ("camera", "depth", "events"), "views": ("front/camera", "left/camera", "right/camera")}
    assert sensors.keys() | {"street"} == ROBOTS.keys()
    for name, cameras in sensors.items():
        assert {m.topic for m in ROBOTS[name]().messages()} >= {f"/{c}/camera_info" for c in cameras}


def test_parts_are_timed_beside_alternatives():
    rows = [row.to_dict() for rows in parts(1) for row in rows]
    json.dumps(rows, allow_nan=False)
    assert all(row["median"] > 0 for row in rows)
    assert sum(row["alternative"] is not None for row in rows) >= 3


def test_publishing_times_every_topic_of_a_mask():
    rows = publishing(1)
    assert [row.name for row in rows[: len(MASK_TOPICS)]] == [f"~/{name}" for name in MASK_TOPICS]
    assert [bool(row.alternative) for row in rows] == [False] * len(MASK_TOPICS) + [True] * (
        len(rows) - len(MASK_TOPICS)
    )
