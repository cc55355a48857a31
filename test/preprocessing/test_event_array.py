# SPDX-License-Identifier: Apache-2.0
"""Arrays of events from CDR bytes, against two serializers: rosbags' and the middleware's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.errors import PacketError
from mlesam_ros.preprocessing.event_codecs import read_event_array

TYPES = ("dvs_msgs/msg", "prophesee_event_msgs/msg")
EVENT = st.tuples(
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


def serialized(events, frame_id="dvs", package="dvs_msgs/msg", little_endian=True):
    store = typestore()
    event, array = store.types[f"{package}/Event"], store.types[f"{package}/EventArray"]
    time, header = store.types["builtin_interfaces/msg/Time"], store.types["std_msgs/msg/Header"]
    listed = [event(x=x, y=y, ts=time(sec=sec, nanosec=nsec), polarity=p) for x, y, sec, nsec, p in events]
    message = array(
        header=header(stamp=time(sec=5, nanosec=7), frame_id=frame_id), height=480, width=640, events=listed
    )
    return bytes(store.serialize_cdr(message, f"{package}/EventArray", little_endian=little_endian))


def as_list(array):
    return [(int(x), int(y), int(t), bool(p)) for x, y, t, p in zip(*array.columns, strict=True)]


@settings(deadline=None)
@given(st.lists(EVENT, max_size=12), st.text(max_size=9), st.sampled_from(TYPES), st.booleans())
def test_what_rosbags_serializes_comes_back(events, frame_id, package, little_endian):
    array = read_event_array(serialized(events, frame_id, package, little_endian))
    assert (array.stamp, array.frame_id.rstrip("\0")) == (5 * 10**9 + 7, frame_id.rstrip("\0"))
    assert (array.height, array.width) == (480, 640)
    assert as_list(array) == [(x, y, sec * 10**9 + nanosec, p) for x, y, sec, nanosec, p in events]


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("package", ["dvs_msgs", "prophesee_event_msgs"])
def test_what_the_middleware_serializes_comes_back(package, count):
    pytest.importorskip("rclpy")
    from importlib import import_module

    from builtin_interfaces.msg import Time
    from rclpy.serialization import serialize_message

    types = import_module(f"{package}.msg")
    events = [types.Event(x=i + 1, y=i + 2, ts=Time(sec=i, nanosec=9), polarity=i % 2 == 0) for i in range(count)]
    message = types.EventArray(height=480, width=640, events=events)
    message.header.frame_id = "dvs"
    array = read_event_array(serialize_message(message))
    assert (array.frame_id, array.height, array.width) == ("dvs", 480, 640)
    assert as_list(array) == [(i + 1, i + 2, i * 10**9 + 9, i % 2 == 0) for i in range(count)]


def test_the_events_are_one_view_of_the_message():
    raw = bytearray(serialized([(1, 2, 3, 4, True)] * 1000))
    assert np.shares_memory(read_event_array(raw).events, np.frombuffer(raw, np.uint8))


def test_padding_of_the_last_word_is_not_an_event():
    raw = serialized([(1, 2, 3, 4, True)]) + b"\0\0\0"
    assert as_list(read_event_array(raw)) == [(1, 2, 3 * 10**9 + 4, True)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "declares 3 events, which end at byte 81, but has 80 bytes"),
        (lambda raw: raw + bytes(4), "declares 3 events, which end at byte 81, but has 85 bytes"),
        (lambda raw: raw[:30], "height, width and number of events end at byte 36: it is truncated"),
        (lambda raw: raw[:9], "header end at byte 16"),
        (lambda raw: raw[:12] + b"\xff\xff\0\0" + raw[16:], "frame_id has 65535 bytes"),
        (lambda raw: raw[:32] + b"\xff\xff\xff\xff" + raw[36:], "declares 4294967295 events"),
        (lambda raw: b"\0\x03" + raw[2:], "starts with 00 03; plain CDR starts with 00 00 or 00 01"),
        (lambda raw: b"", "starts with no bytes"),
    ],
)
def test_damaged_array_is_rejected(damage, message):
    raw = serialized([(1, 2, 3, 4, True)] * 3, "dvscam")
    with pytest.raises(PacketError, match=message):
        read_event_array(damage(raw))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=90) | st.binary(max_size=80).map(lambda tail: b"\0\1\0\0" + bytes(8) + tail))
def test_any_bytes_are_parsed_or_raise_packet_error(raw):
    try:
        columns = read_event_array(raw).columns
    except PacketError:
        return
    assert len({len(column) for column in columns}) == 1
