"""Stamps move, everything else stays: against the type store's own serializer."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import Writer
from small_bag import START, STORE, TYPES, cloud, header, image, info, make, transforms

from mlesam_ros.config import load_parameters
from mlesam_ros.messages import FrameReader
from mlesam_ros.preprocessing.point_cloud import cloud_times
from mlesam_ros.ros.player import Playlist, restamper

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


@pytest.mark.parametrize("topic", ["/camera/image_raw", "/lidar/points", "/tf"])
@pytest.mark.parametrize("kept", [0, 1, 3, 9, 30, 70, "claims", "year 2038"])
def test_a_damaged_message_is_played_as_far_as_it_can_be_moved(topic, kept):
    """Kind: one bad message ends the whole. The bytes that can be read as a header's stamp move, the others stay."""
    raw = bytes(STORE.serialize_cdr(MAKERS[topic](START), TYPES[topic]))
    if kept == "claims":
        raw = raw[:20] + b"\xff" * (len(raw) - 20)
    elif kept == "year 2038":
        raw = raw.replace(struct.pack("<i", START // 10**9), struct.pack("<i", 2**31 - 1))
    else:
        raw = raw[:kept]
    moved = restamper(STORE, TYPES[topic])(raw, lambda stamp: stamp + 10**9)
    if topic != "/tf" and len(raw) >= 12 and kept != "year 2038":
        assert moved == raw[:4] + struct.pack("<i", START // 10**9 + 1) + raw[8:]
    else:
        assert moved == raw


def test_the_times_of_points_are_read_in_the_unit_that_is_given(tmp_path):
    """Kind: an option that one command takes and does not use. Of 0 to 0.1 s after a stamp of simulated time, counted
    in microseconds, auto takes the numbers as times since the start of the simulation."""
    name, topic, stamp = TYPES["/lidar/points"], "/lidar/points", 50_000_000
    points = np.zeros(50, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("t", "<u4")])
    points["x"], points["t"] = 5, np.linspace(0, 100_000, 50).astype("u4")
    described = [make("sensor_msgs/msg/PointField", n, 4 * at, 6 if n == "t" else 7, 1) for at, n in enumerate("xyzt")]
    data = np.frombuffer(points.tobytes(), np.uint8)
    sweep = make("sensor_msgs/msg/PointCloud2", header(stamp, "lidar"), 1, 50, described, False, 16, 800, data, True)
    raw = bytes(STORE.serialize_cdr(sweep, name))
    with Writer(tmp_path / "bag", version=9) as writer:
        for each in (topic, "/other/points"):
            writer.write(writer.add_connection(each, name, typestore=STORE), stamp, raw)

    def played(*rules):
        playlist = Playlist([tmp_path / "bag"], load_parameters(overrides=rules))
        moved = {m.topic: m.restamp(m.raw, lambda old: old + 60 * 10**9) for m in playlist.stream()}
        playlist.close()
        shown = {
            each: STORE.deserialize_cdr(bytes_, name).data.view(points.dtype)["t"] for each, bytes_ in moved.items()
        }
        return {each for each, times in shown.items() if np.array_equal(times, points["t"])}

    assert played("lidar.time_unit:=us") == {topic, "/other/points"}
    assert played("lidar.time_unit:=us", "lidar.topic:=/lidar/points") == {topic}
    assert played() == set()  # nothing in the message tells


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
