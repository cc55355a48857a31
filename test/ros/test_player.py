# SPDX-License-Identifier: Apache-2.0
"""Playback of bags, and restamping of messages against the typestore's own serializer."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from small_bag import PERIOD, START, STORE, TYPES, cloud, header, image, info, make, transforms, write_small_bag

from mlesam_ros.bags.reader import Outage
from mlesam_ros.config import load_parameters
from mlesam_ros.errors import BagError, ConfigError
from mlesam_ros.messages import FrameReader
from mlesam_ros.preprocessing.point_cloud import cloud_times
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.player import Playlist, PlayOptions, play, restamper
from mlesam_ros.types import NANOSECONDS

STEPS = 12
CAMERA, INFO, LIDAR, TRUTH = "/camera/image_raw", "/camera/camera_info", "/lidar/points", "/ground_truth/labels"


def nanoseconds(stamp) -> int:
    return stamp.sec * NANOSECONDS + stamp.nanosec


class Recorder:
    """Received messages per topic with their time of arrival."""

    def __init__(self, graph) -> None:
        self.heard = defaultdict(list)
        self._graph = graph
        node = graph.node("recorder")
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for topic, kind in {CAMERA: Image, INFO: CameraInfo, LIDAR: PointCloud2, TRUTH: Image, "/clock": Clock}.items():
            self._listen(node, topic, kind, 50)
        transforms = message_class("tf2_msgs/msg/TFMessage")
        self._listen(node, "/tf", transforms, 50)
        self._listen(node, "/tf_static", transforms, latched)

    def _listen(self, node, topic, kind, qos) -> None:
        node.create_subscription(kind, topic, lambda message: self.heard[topic].append((time.time_ns(), message)), qos)

    def record_while(self, process) -> None:
        try:
            assert self._graph.spin_until(lambda: process.poll() is not None, 90)
            self._graph.spin_for(0.3)
        finally:
            process.kill()

    def stamps(self, topic) -> list[int]:
        return [nanoseconds(message.header.stamp) for _, message in self.heard[topic]]


def start_player(*arguments: object) -> subprocess.Popen:
    """Start a player that waits for the subscriptions of `Recorder`."""
    waiting = [part for topic in (CAMERA, INFO, LIDAR, TRUTH, "/tf") for part in ("--listener", topic)]
    command = [sys.executable, "-m", "mlesam_ros.cli", "play", "--wait", "20", *waiting, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "small"
    write_small_bag(path, STEPS)
    return path


def test_all_messages_arrive_with_present_stamps(graph, bag, tmp_path):
    recorder = Recorder(graph)
    recorder.record_while(start_player(bag, "--json", tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    for topic in (CAMERA, INFO, LIDAR, TRUTH, "/tf"):
        assert len(recorder.heard[topic]) == report["published"][topic] == STEPS
    begin = report["start_ns"]
    stamps = [begin + index * PERIOD for index in range(STEPS)]
    # One stamp's stamps were equal, or 20 ms apart, and still are.
    assert recorder.stamps(CAMERA) == recorder.stamps(INFO) == recorder.stamps(TRUTH) == stamps
    assert recorder.stamps(LIDAR) == [stamp + 20_000_000 for stamp in stamps]
    moved = [nanoseconds(message.transforms[0].header.stamp) for _, message in recorder.heard["/tf"]]
    assert moved == stamps
    # Nothing comes before its time.
    assert all(arrival >= nanoseconds(m.header.stamp) for arrival, m in recorder.heard[CAMERA])
    assert [int(message.data[0]) for _, message in recorder.heard[CAMERA]] == list(range(STEPS))


def test_late_subscribers_receive_latched_transforms(graph, bag):
    process = start_player(bag, "--loop", "--wait", 0)
    try:
        assert any("playing" in line for line in process.stderr)
        recorder = Recorder(graph)
        assert graph.spin_until(lambda: recorder.heard["/tf_static"], 60)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    _, message = recorder.heard["/tf_static"][0]
    assert (message.transforms[0].child_frame_id, nanoseconds(message.transforms[0].header.stamp)) == ("base", 0)


def test_drop_silences_one_sensor(graph, bag, tmp_path):
    recorder = Recorder(graph)
    recorder.record_while(start_player(bag, "--drop", "camera@0.3..0.7", "--json", tmp_path / "report.json"))
    alive = [index for index in range(STEPS) if not 3 <= index < 7]
    assert [int(message.data[0]) for _, message in recorder.heard[CAMERA]] == alive
    assert len(recorder.heard[INFO]) == len(alive)
    assert len(recorder.heard[LIDAR]) == len(recorder.heard[TRUTH]) == STEPS
    assert json.loads((tmp_path / "report.json").read_text())["dropped"] == {CAMERA: 4, INFO: 4}


def test_bags_are_played_in_sequence(graph, bag, tmp_path):
    recorder = Recorder(graph)
    process = start_player(bag, bag, "--loop", "--rate", 4)
    assert graph.spin_until(lambda: len(recorder.heard[CAMERA]) > 3 * STEPS, 60)
    process.send_signal(signal.SIGTERM)
    recorder.record_while(process)
    assert process.returncode == 0
    steps = np.diff(recorder.stamps(CAMERA))
    assert steps.min() > 0.9 * PERIOD / 4
    assert steps.max() < 1.7 * PERIOD / 4  # over the seam as well: the LiDAR's 20 ms and one period


def test_clock_keeps_recorded_stamps(graph, bag):
    recorder = Recorder(graph)
    recorder.record_while(start_player(bag, "--clock", "--rate", 2))
    assert recorder.stamps(CAMERA) == [START + index * PERIOD for index in range(STEPS)]
    clock = [nanoseconds(message.clock) for _, message in recorder.heard["/clock"]]
    assert len(clock) > STEPS
    assert clock == sorted(clock)
    assert START <= clock[0] <= clock[-1] <= START + STEPS * PERIOD


def test_sqlite_is_played_like_mcap(tmp_path):
    write_small_bag(tmp_path / "old", 3, StoragePlugin.SQLITE3)
    playlist = Playlist([tmp_path / "old"])
    assert playlist.types == TYPES
    assert playlist.latched == {"/tf_static"}
    assert len(list(playlist.latched_messages())) == 1
    assert len(list(playlist.stream())) == 15
    offsets = [message.offset for message in playlist.stream(topics={LIDAR})]
    assert offsets == [20_000_000 + index * PERIOD for index in range(3)]
    playlist.close()


def test_invalid_input_is_refused(bag, tmp_path):
    with pytest.raises(BagError, match="nowhere"):
        Playlist([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match=r"radar.*/camera/image_raw"):
        play(Playlist([bag]), PlayOptions(outages=(Outage("radar"),)))
    with pytest.raises(ConfigError, match="rate -1"):
        PlayOptions(rate=-1)


def test_damaged_message_does_not_end_playback(tmp_path):
    """Other messages are published."""
    with Writer(tmp_path / "bag", version=9) as writer:
        known = {topic: writer.add_connection(topic, TYPES[topic], typestore=STORE) for topic in (CAMERA, LIDAR, "/tf")}
        for topic, raw in product(known, (b"", b"\0\1\0", b"\0\1\0\0" + b"\xff" * 60)):
            writer.write(known[topic], START, raw)
        good = bytes(STORE.serialize_cdr(image(START, "mono8", 1, 0), TYPES[CAMERA]))
        writer.write(known[CAMERA], START + PERIOD, good)
    report = play(Playlist([tmp_path / "bag"]), PlayOptions(wait=0.0))
    assert report.published == {CAMERA: 4, LIDAR: 3, "/tf": 3}


def test_bags_with_different_types_on_one_topic_are_refused(bag, tmp_path, monkeypatch):
    monkeypatch.setitem(TYPES, "/lidar/points", "sensor_msgs/msg/Image")
    monkeypatch.setattr("small_bag.cloud", lambda stamp: image(stamp, "mono8", 1, 0))
    write_small_bag(tmp_path / "other", 1)
    with pytest.raises(BagError, match="/lidar/points"):
        Playlist([bag, tmp_path / "other"])


MAKERS = {
    "/camera/image_raw": lambda stamp: image(stamp, "rgb8", 3, 7),
    "/camera/camera_info": info,
    "/lidar/points": cloud,
    "/tf": transforms,
}
STAMPS = st.integers(1, 2**31 * 10**9 - 1)


@pytest.mark.parametrize("topic", sorted(MAKERS))
@given(old=STAMPS, new=STAMPS)
def test_shifted_message_equals_one_written_with_the_new_stamp(topic, old, new):
    name = TYPES[topic]
    before, after = (bytes(STORE.serialize_cdr(MAKERS[topic](stamp), name)) for stamp in (old, new))
    assert restamper(STORE, name)(before, lambda stamp: stamp - old + new) == after


def test_big_endian_message_is_shifted():
    raw = bytes(STORE.serialize_cdr(image(START, "mono8", 1, 3), TYPES["/camera/image_raw"], little_endian=False))
    moved = restamper(STORE, TYPES["/camera/image_raw"])(raw, lambda stamp: stamp + 5)
    assert struct.unpack_from(">iI", moved, 4) == (START // 10**9, 5)
    assert moved[12:] == raw[12:]


@pytest.mark.parametrize("topic", sorted(MAKERS))
def test_zero_stamp_is_kept(topic):
    raw = bytes(STORE.serialize_cdr(MAKERS[topic](0), TYPES[topic]))
    assert restamper(STORE, TYPES[topic])(raw, lambda stamp: stamp + START) == raw


def test_message_without_header_is_unchanged():
    raw = bytes(STORE.serialize_cdr(STORE.types["std_msgs/msg/UInt8"](np.uint8(3)), "std_msgs/msg/UInt8"))
    assert restamper(STORE, "std_msgs/msg/UInt8")(raw, lambda stamp: stamp + 1) is raw


@pytest.mark.parametrize("topic", ["/camera/image_raw", "/lidar/points", "/tf"])
@pytest.mark.parametrize("kept", [0, 1, 3, 9, 30, 70, "claims", "year 2038"])
def test_damaged_message_is_shifted_if_its_header_is_readable(topic, kept):
    """Only the bytes of a readable header stamp change."""
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


def test_time_unit_applies_to_point_times(tmp_path):
    """Of point times from 0 to 0.1 s after a stamp of simulated time, counted
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
def test_point_times_shift_with_the_stamp(kind, values):
    """Absolute times and times since the stamp."""

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
