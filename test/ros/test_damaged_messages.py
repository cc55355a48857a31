# SPDX-License-Identifier: Apache-2.0
"""Damaged serialized messages are counted and reported; rclpy's deserialization drops them or crashes."""

import struct

import pytest

pytest.importorskip("rclpy")
from rclpy.serialization import serialize_message
from robot import CAMERA_FRAME, HEIGHT, TOPICS, WIDTH, Robot, camera_info
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from mlesam_ros.bags.serialization import deserialize
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import PacketError
from mlesam_ros.messages import FrameReader
from mlesam_ros.parameter_groups import SensorParameters
from mlesam_ros.ros.calibration_listener import CalibrationListener
from mlesam_ros.ros.subscribers import SensorSubscriber
from mlesam_ros.types import CAMERA, EVENT, LIDAR

IMAGE = "sensor_msgs/msg/Image"
PADDED = b"\0\1\0\3"
"""No content, less three bytes of padding: Fast CDR 2.3 reads on behind the end."""


@pytest.fixture
def robot(graph):
    return Robot(graph.node("robot"), qos=100)


@pytest.mark.parametrize("modality", [CAMERA, EVENT, LIDAR])
def test_deserialized_messages_equal_those_of_rclpy(robot, modality):
    message = getattr(robot, f"_{modality}")(robot.now())
    package, name = type(message).__module__.partition(".")[0], type(message).__name__
    kind = f"{package}/msg/{name}"
    ours = FrameReader(modality, kind).read(deserialize(serialize_message(message), kind))
    theirs = FrameReader(modality, kind).read(message)
    assert (ours.stamp, ours.frame_id) == (theirs.stamp, theirs.frame_id)
    assert repr(ours.payload) == repr(theirs.payload)


def test_deserialized_arrays_are_views_of_the_bytes(robot):
    raw = serialize_message(robot._camera(robot.now()))
    data = deserialize(raw, IMAGE).data
    assert data.base is not None and data.tobytes() == raw[-len(data) :]


def test_truncated_messages_are_refused():
    raw = serialize_message(camera_info(Header(frame_id="eye")))
    for length in range(len(raw) - 3):  # up to three bytes are padding
        with pytest.raises(PacketError, match=f"{length} bytes are no sensor_msgs/msg/CameraInfo"):
            deserialize(raw[:length], "sensor_msgs/msg/CameraInfo")


@pytest.mark.parametrize("raw", [b"", b"\0\1\0", PADDED, b"\0\7\0\0" + bytes(60), b"\0\1\0\0" + b"\xff" * 60])
def test_damaged_bytes_are_refused_with_a_reason(raw):
    with pytest.raises(PacketError, match=r"damaged\.$"):
        deserialize(raw, IMAGE)


def test_messages_that_crash_a_plain_subscription_are_refused(graph, robot):
    """The first leaves a length of 2 GB in the memory of the transport, the second causes it to be read."""
    source = SensorSubscriber(graph.node("listener"), CAMERA, SensorParameters(topic=TOPICS[CAMERA]))
    frames = []
    source.registerCallback(frames.append)
    assert graph.spin_until(lambda: source.poll() or source.type_name)
    assert graph.spin_until(lambda: source.publishers == 1)
    good = serialize_message(robot._camera(robot.now()))
    at = good.index(struct.pack("<I", HEIGHT * WIDTH * 3))
    lying = good[:at] + struct.pack("<I", 0x7FFFFFFF) + good[at + 4 :]
    for count, raw in enumerate((lying, PADDED, lying, PADDED), 1):
        robot.send(CAMERA, raw)
        assert graph.spin_until(lambda count=count: source.received == count)
    assert source.refusals.total() == 4 and not frames and f"bytes are no {IMAGE}" in "".join(source.refusals)
    robot.send(CAMERA, good)
    assert graph.spin_until(lambda: frames)
    assert (source.received, source.refusals.total(), frames[0].frame_id) == (5, 4, CAMERA_FRAME)


@pytest.mark.parametrize(("kind", "topic"), [(CameraInfo, "camera/camera_info"), (TFMessage, "/tf")])
def test_damaged_calibration_message_is_a_problem(graph, kind, topic):
    feed = CalibrationListener(graph.node("listener"), NodeParameters())
    publisher = graph.node("driver").create_publisher(kind, topic, 10)
    assert graph.spin_until(lambda: publisher.publish(PADDED) or feed.problems)
    ((where, words),) = feed.problems.items()
    assert where == (topic if topic.startswith("/") else f"/{topic}") and "bytes are no" in words
