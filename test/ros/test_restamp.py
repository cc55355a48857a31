"""Stamps move, everything else stays: against the type store's own serialiser."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_bag import START, STORE, TYPES, cloud, image, info, transforms

from mlesam_ros.ros.restamp import restamper

MAKERS = {
    "/camera/image_raw": lambda stamp: image(stamp, "rgb8", 3, 7),
    "/camera/camera_info": info,
    "/lidar/points": cloud,
    "/tf": transforms,
}
STAMPS = st.integers(1, 2**31 * 10**9 - 1)


@pytest.mark.parametrize("topic", sorted(MAKERS))
@given(old=STAMPS, new=STAMPS)
def test_moved_message_is_the_one_written_with_the_new_stamp(topic, old, new):
    name = TYPES[topic]
    before, after = (bytes(STORE.serialize_cdr(MAKERS[topic](stamp), name)) for stamp in (old, new))
    assert restamper(STORE, name)(before, lambda stamp: stamp - old + new) == after


def test_big_endian_message_is_moved_too():
    raw = bytes(STORE.serialize_cdr(image(START, "mono8", 1, 3), TYPES["/camera/image_raw"], little_endian=False))
    moved = restamper(STORE, TYPES["/camera/image_raw"])(raw, lambda stamp: stamp + 5)
    assert struct.unpack_from(">iI", moved, 4) == (START // 10**9, 5)
    assert moved[12:] == raw[12:]


@pytest.mark.parametrize("topic", sorted(MAKERS))
def test_no_time_stays_no_time(topic):
    raw = bytes(STORE.serialize_cdr(MAKERS[topic](0), TYPES[topic]))
    assert restamper(STORE, TYPES[topic])(raw, lambda stamp: stamp + START) == raw


def test_message_without_a_stamp_is_left_alone():
    raw = bytes(STORE.serialize_cdr(STORE.types["std_msgs/msg/UInt8"](np.uint8(3)), "std_msgs/msg/UInt8"))
    assert restamper(STORE, "std_msgs/msg/UInt8")(raw, lambda stamp: stamp + 1) is raw
