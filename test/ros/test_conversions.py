"""Messages hold exactly the bytes of the arrays, and survive the wire."""

import array
import struct

import numpy as np
import pytest

pytest.importorskip("rclpy")
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2

from mlesam_ros.bags import serialization as fields
from mlesam_ros.messages import FrameReader, stamp_ns
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.ros.publishers import byte_array, header_message, message_from
from mlesam_ros.types import CAMERA, LIDAR

POINT = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"), ("label", "u1"), ("rgb", "u4")])


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_keep_every_nanosecond(stamp):
    assert stamp_ns(header_message(stamp, "")) == stamp


def test_uint8_fields_are_filled_from_array_array():
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for data in (pixels, pixels[:, ::2], pixels.T):
        assert isinstance(byte_array(data), array.array)
        assert byte_array(data).tobytes() == data.tobytes()


def test_a_picture_comes_back_as_it_was():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    sent = message_from(Image, fields.pixels(5_000_000_007, "camera", pixels, "rgb8"))
    back = deserialize_message(serialize_message(sent), Image)
    frame = FrameReader(CAMERA, "sensor_msgs/msg/Image").read(back)
    assert (frame.stamp, frame.frame_id) == (5_000_000_007, "camera")
    np.testing.assert_array_equal(to_rgb(frame.payload), pixels)


def test_a_class_map_is_one_byte_per_pixel():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    message = message_from(Image, fields.pixels(1, "camera", labels, "mono8"))
    assert (message.height, message.width, message.step) == (2, 3, 3)
    assert bytes(message.data) == labels.tobytes()


def test_a_cloud_comes_back_with_every_field():
    rng = np.random.default_rng(1)
    points = np.zeros(11, POINT)
    for name in "xyz":
        points[name] = rng.normal(size=11)
    points["label"], points["rgb"] = np.arange(11), 0x00FF8000
    back = deserialize_message(
        serialize_message(message_from(PointCloud2, fields.point_cloud(3, "lidar", points))), PointCloud2
    )
    assert [f.name for f in back.fields] == list(POINT.names)
    frame = FrameReader(LIDAR, "sensor_msgs/msg/PointCloud2").read(back)
    for name in POINT.names:
        np.testing.assert_array_equal(frame.payload.points[name].ravel(), points[name])


def test_rviz_finds_the_color_where_it_looks():
    points = np.zeros(1, POINT)
    points["rgb"] = 0x00FF8040
    message = message_from(PointCloud2, fields.point_cloud(0, "lidar", points))
    found = next(f for f in message.fields if f.name == "rgb")
    assert struct.unpack_from("BBB", message.data, found.offset) == (0x40, 0x80, 0xFF)  # b, g, r in memory
