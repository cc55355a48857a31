"""Stamps move, everything else stays: against the type store's own serialiser."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_bag import START, STORE, TYPES, cloud, header, image, info, make, transforms

from mlesam_ros.encoding.cloud_times import cloud_times
from mlesam_ros.messages import FrameReader
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


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("<f8", lambda stamp: stamp / 1e9 + np.linspace(0, 0.1, 50)),  # Hesai, RoboSense
        ("<f8", lambda stamp: stamp + np.linspace(0, 1e8, 50)),  # Livox
        ("<u8", lambda stamp: stamp // 1000 + np.linspace(0, 1e5, 50).astype("u8")),
        ("<u4", lambda stamp: np.linspace(0, 1e8, 50).astype("u4")),  # Ouster: after the stamp
        ("<f4", lambda stamp: np.linspace(-0.1, 0, 50)),  # Velodyne
    ],
)
def test_the_times_of_points_move_with_the_stamp(kind, values):
    """Kind: a time that one of two corrections leaves behind. Played now, points count from now or from their stamp."""

    def sweep(stamp):
        points = np.zeros(50, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("timestamp", kind)])
        points["x"], points["timestamp"] = 5, values(stamp)
        types = {"<f4": 7, "<f8": 8, "<u4": 6, "<u8": 8}
        if kind == "<u8":
            points = points.astype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("timestamp", "<f8")])
        names = [(name, points.dtype.fields[name][1]) for name in points.dtype.names]
        kinds = {"timestamp": types[kind]}
        fields = [make("sensor_msgs/msg/PointField", name, at, kinds.get(name, 7), 1) for name, at in names]
        data, step = np.frombuffer(points.tobytes(), np.uint8), points.dtype.itemsize
        layout = 1, 50, fields, False, step, 50 * step
        return make("sensor_msgs/msg/PointCloud2", header(stamp, "lidar"), *layout, data, True)

    name, new = TYPES["/lidar/points"], START + 86_400_123_000_000
    before, after = (bytes(STORE.serialize_cdr(sweep(stamp), name)) for stamp in (START, new))
    moved = STORE.deserialize_cdr(restamper(STORE, name)(before, lambda stamp: stamp - START + new), name)
    expected = STORE.deserialize_cdr(after, name)
    times = [cloud_times(FrameReader("lidar", name).read(m).payload, new) for m in (moved, expected)]
    np.testing.assert_allclose(times[0] - new, times[1] - new, atol=1000)
    assert np.ptp(times[0]) > 99_000_000
