"""The player over real DDS: from its own process to subscribers in this one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from small_bag import PERIOD, START, STORE, TYPES, image, write_small_bag

from mlesam_ros.bags.reader import Outage
from mlesam_ros.errors import BagError, ConfigError
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.player import Playlist, PlayOptions, play
from mlesam_ros.types import NANOSECONDS

MOMENTS = 12
CAMERA, INFO, LIDAR, TRUTH = "/camera/image_raw", "/camera/camera_info", "/lidar/points", "/ground_truth/labels"


def nanoseconds(stamp) -> int:
    return stamp.sec * NANOSECONDS + stamp.nanosec


class Ears:
    """Everything that arrives, per topic, with the time of arrival."""

    def __init__(self, graph) -> None:
        self.heard = defaultdict(list)
        self._graph = graph
        node = graph.node("ears")
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for topic, kind in {CAMERA: Image, INFO: CameraInfo, LIDAR: PointCloud2, TRUTH: Image, "/clock": Clock}.items():
            self._listen(node, topic, kind, 50)
        transforms = message_class("tf2_msgs/msg/TFMessage")
        self._listen(node, "/tf", transforms, 50)
        self._listen(node, "/tf_static", transforms, latched)

    def _listen(self, node, topic, kind, qos) -> None:
        node.create_subscription(kind, topic, lambda message: self.heard[topic].append((time.time_ns(), message)), qos)

    def listen_to(self, process) -> None:
        try:
            assert self._graph.spin_until(lambda: process.poll() is not None, 90)
            self._graph.spin_for(0.3)
        finally:
            process.kill()

    def stamps(self, topic) -> list[int]:
        return [nanoseconds(message.header.stamp) for _, message in self.heard[topic]]


def start_player(*arguments: object) -> subprocess.Popen:
    """Plays once everything that `Ears` listens to is listened to."""
    waiting = [part for topic in (CAMERA, INFO, LIDAR, TRUTH, "/tf") for part in ("--listener", topic)]
    command = [sys.executable, "-m", "mlesam_ros.cli", "play", "--wait", "20", *waiting, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "small"
    write_small_bag(path, MOMENTS)
    return path


def test_everything_arrives_and_was_measured_now(graph, bag, tmp_path):
    ears = Ears(graph)
    ears.listen_to(start_player(bag, "--json", tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    for topic in (CAMERA, INFO, LIDAR, TRUTH, "/tf"):
        assert len(ears.heard[topic]) == report["published"][topic] == MOMENTS
    begin = report["start_ns"]
    moments = [begin + index * PERIOD for index in range(MOMENTS)]
    # One moment's stamps were equal, or 20 ms apart, and still are.
    assert ears.stamps(CAMERA) == ears.stamps(INFO) == ears.stamps(TRUTH) == moments
    assert ears.stamps(LIDAR) == [moment + 20_000_000 for moment in moments]
    moved = [nanoseconds(message.transforms[0].header.stamp) for _, message in ears.heard["/tf"]]
    assert moved == moments
    # Nothing comes before its time.
    assert all(arrival >= nanoseconds(m.header.stamp) for arrival, m in ears.heard[CAMERA])
    assert [int(message.data[0]) for _, message in ears.heard[CAMERA]] == list(range(MOMENTS))


def test_latched_transforms_reach_those_who_come_late(graph, bag):
    process = start_player(bag, "--loop", "--wait", 0)
    try:
        assert any("playing" in line for line in process.stderr)
        ears = Ears(graph)
        assert graph.spin_until(lambda: ears.heard["/tf_static"], 60)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    _, message = ears.heard["/tf_static"][0]
    assert (message.transforms[0].child_frame_id, nanoseconds(message.transforms[0].header.stamp)) == ("base", 0)


def test_dropped_sensor_is_silent_while_the_others_go_on(graph, bag, tmp_path):
    ears = Ears(graph)
    ears.listen_to(start_player(bag, "--drop", "camera@0.3..0.7", "--json", tmp_path / "report.json"))
    alive = [index for index in range(MOMENTS) if not 3 <= index < 7]
    assert [int(message.data[0]) for _, message in ears.heard[CAMERA]] == alive
    assert len(ears.heard[INFO]) == len(alive)
    assert len(ears.heard[LIDAR]) == len(ears.heard[TRUTH]) == MOMENTS
    assert json.loads((tmp_path / "report.json").read_text())["dropped"] == {CAMERA: 4, INFO: 4}


def test_bags_follow_one_another_and_time_goes_on(graph, bag, tmp_path):
    ears = Ears(graph)
    process = start_player(bag, bag, "--loop", "--rate", 4)
    assert graph.spin_until(lambda: len(ears.heard[CAMERA]) > 3 * MOMENTS, 60)
    process.send_signal(signal.SIGTERM)
    ears.listen_to(process)
    assert process.returncode == 0
    steps = np.diff(ears.stamps(CAMERA))
    assert steps.min() > 0.9 * PERIOD / 4
    assert steps.max() < 1.7 * PERIOD / 4  # over the seam as well: the LiDAR's 20 ms and one period


def test_recorded_time_on_request(graph, bag):
    ears = Ears(graph)
    ears.listen_to(start_player(bag, "--clock", "--rate", 2))
    assert ears.stamps(CAMERA) == [START + index * PERIOD for index in range(MOMENTS)]
    clock = [nanoseconds(message.clock) for _, message in ears.heard["/clock"]]
    assert len(clock) > MOMENTS
    assert clock == sorted(clock)
    assert START <= clock[0] <= clock[-1] <= START + MOMENTS * PERIOD


def test_sqlite_is_played_like_mcap(tmp_path):
    write_small_bag(tmp_path / "old", 3, StoragePlugin.SQLITE3)
    playlist = Playlist([tmp_path / "old"])
    assert playlist.types == TYPES
    assert playlist.latched == {"/tf_static"}
    assert len(list(playlist.once())) == 1
    assert len(list(playlist.stream())) == 15
    offsets = [message.offset for message in playlist.stream(topics={LIDAR})]
    assert offsets == [20_000_000 + index * PERIOD for index in range(3)]
    playlist.close()


def test_unusable_input_is_named(bag, tmp_path):
    with pytest.raises(BagError, match="nowhere"):
        Playlist([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match=r"radar.*/camera/image_raw"):
        play(Playlist([bag]), PlayOptions(drops=(Outage("radar"),)))
    with pytest.raises(ConfigError, match="rate -1"):
        PlayOptions(rate=-1)


def test_a_damaged_message_does_not_end_the_playing(tmp_path):
    """Kind: one bad message ends the whole."""
    with Writer(tmp_path / "bag", version=9) as writer:
        known = {topic: writer.add_connection(topic, TYPES[topic], typestore=STORE) for topic in (CAMERA, LIDAR, "/tf")}
        for topic, raw in product(known, (b"", b"\0\1\0", b"\0\1\0\0" + b"\xff" * 60)):
            writer.write(known[topic], START, raw)
        good = bytes(STORE.serialize_cdr(image(START, "mono8", 1, 0), TYPES[CAMERA]))
        writer.write(known[CAMERA], START + PERIOD, good)
    report = play(Playlist([tmp_path / "bag"]), PlayOptions(wait=0.0))
    assert report.published == {CAMERA: 4, LIDAR: 3, "/tf": 3}


def test_two_bags_that_disagree_about_a_topic_are_refused(bag, tmp_path, monkeypatch):
    monkeypatch.setitem(TYPES, "/lidar/points", "sensor_msgs/msg/Image")
    monkeypatch.setattr("small_bag.cloud", lambda stamp: image(stamp, "mono8", 1, 0))
    write_small_bag(tmp_path / "other", 1)
    with pytest.raises(BagError, match="/lidar/points"):
        Playlist([bag, tmp_path / "other"])
