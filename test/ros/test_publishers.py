# SPDX-License-Identifier: Apache-2.0
"""Publishers: conversion of fields to messages, and sensor health as markers."""

import array
import struct

import numpy as np
import pytest

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from mlesam_ros.bags import serialization as fields
from mlesam_ros.messages import FrameReader, stamp_ns
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.ros.publishers import health_markers, message_from
from mlesam_ros.types import CAMERA, LIDAR

POINT = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"), ("label", "u1"), ("rgb", "u4")])


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_keep_nanoseconds(stamp):
    assert stamp_ns(message_from(Header, fields.header(stamp, ""))) == stamp


def test_uint8_fields_are_filled_from_array_array():
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for data in (pixels, pixels[:, ::2], pixels.T):
        message = message_from(Image, {"data": data})
        assert isinstance(message.data, array.array) and message.data.tobytes() == data.tobytes()


def test_image_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    sent = message_from(Image, fields.pixels(5_000_000_007, "camera", pixels, "rgb8"))
    back = deserialize_message(serialize_message(sent), Image)
    frame = FrameReader(CAMERA, "sensor_msgs/msg/Image").read(back)
    assert (frame.stamp, frame.frame_id) == (5_000_000_007, "camera")
    np.testing.assert_array_equal(to_rgb(frame.payload), pixels)


def test_cloud_round_trip():
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


def test_cloud_colors_have_the_layout_of_rviz():
    points = np.zeros(1, POINT)
    points["rgb"] = 0x00FF8040
    message = message_from(PointCloud2, fields.point_cloud(0, "lidar", points))
    found = next(f for f in message.fields if f.name == "rgb")
    assert struct.unpack_from("BBB", message.data, found.offset) == (0x40, 0x80, 0xFF)  # b, g, r in memory


def test_health_markers():
    ill = DiagnosticStatus(level=DiagnosticStatus.ERROR, name="mlesam: lidar", message="no message for 3 s. Set this.")
    ill.values = [KeyValue(key="remedy", value="Set this.")]
    well = DiagnosticStatus(level=DiagnosticStatus.OK, name="mlesam: camera", message="10.0 Hz on /image")
    unheard = DiagnosticStatus(level=DiagnosticStatus.WARN, name="mlesam: event", message="no publisher")
    markers = health_markers([(well, "optical"), (unheard, ""), (ill, "roof")]).markers
    assert [(m.header.frame_id, m.type) for m in markers] == [
        ("optical", Marker.SPHERE),
        ("optical", Marker.TEXT_VIEW_FACING),
        ("roof", Marker.SPHERE),
        ("roof", Marker.TEXT_VIEW_FACING),
    ]
    assert len({m.id for m in markers}) == 4
    assert [m.text for m in markers[1::2]] == ["camera: 10.0 Hz on /image", "lidar: no message for 3 s."]
    assert markers[0].color.g > markers[0].color.r and markers[2].color.r > markers[2].color.g
    assert all(m.lifetime.sec and m.color.a == 1.0 and m.pose.orientation.w == 1.0 for m in markers)
