# SPDX-License-Identifier: Apache-2.0
"""The replay gives the synchronizer the same input as a live node."""

from __future__ import annotations

import re

import numpy as np
import pytest
from drive import CAMERA, INFO, PERIOD, START, labels, write_drive
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from mlesam_ros.bags.reader import BagReader, parse_outage
from mlesam_ros.bags.serialization import camera_info
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.config import NodeParameters, load_parameters, sync_config
from mlesam_ros.doctor.diagnosis import diagnose_bag
from mlesam_ros.errors import BagError, ConfigError
from mlesam_ros.evaluation.bag_sensors import BagRig, find_topics, with_ground_truth
from mlesam_ros.evaluation.ground_truth import GroundTruth
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.labels import load_label_space
from mlesam_ros.messages import FrameReader
from mlesam_ros.sync import OUTCOMES, Synchronizer
from mlesam_ros.types import FrameSet

SPACE = load_label_space("deliver")


def replayed(path, drops=(), parameters=None, busy=0.0, **span):
    with BagReader(path) as reader:
        topics = with_ground_truth(find_topics(reader.topics), reader.topics, None, "--topic truth:=TOPIC")
        replay = Replay(
            reader, topics, BagRig(reader, topics), SPACE, parameters, [parse_outage(drop) for drop in drops]
        )
        steps = []
        for step in replay.steps(**span):
            steps.append(step)
            if busy and isinstance(step, FrameSet):
                replay.set_busy(busy)
    return replay, [s for s in steps if isinstance(s, FrameSet)], [s for s in steps if isinstance(s, GroundTruth)]


def check_counters(counters):
    for counts in counters.values():
        assert counts["received"] == sum(counts[outcome] for outcome in OUTCOMES)


def test_every_stamp_gives_a_set_and_ground_truth(tmp_path):
    replay, sets, truths = replayed(write_drive(tmp_path / "bag"))
    assert [s.stamp for s in sets] == [t.time for t in truths] == [START + i * PERIOD for i in range(10)]
    assert all(tuple(s.frames) == ("camera", "lidar") for s in sets)
    assert all(s.skews == {"camera": 0, "lidar": 20_000_000} for s in sets)
    assert all(np.array_equal(t.labels, labels(i)) for i, t in enumerate(truths))
    assert replay.warnings == []
    check_counters(replay.counters)


def by_hand(path, sync):
    """The node's loop over the same messages: push what comes, take at once and at every deadline."""
    synchronizer, sets = Synchronizer(sync), []

    def take(now):
        if (found := synchronizer.take(now)) is not None:
            sets.append(found)

    with BagReader(path) as reader:
        topics = find_topics(reader.topics).sensors
        readers = {source.topic: FrameReader(m, source.type) for m, source in topics.items()}
        for topic, _, now, message in reader.messages(list(readers)):
            while (deadline := synchronizer.next_deadline()) is not None and deadline <= now:
                before = deadline
                take(deadline)
                if synchronizer.next_deadline() == before:
                    break
            synchronizer.push(readers[topic].read(message), now)
            take(now)
        while (deadline := synchronizer.next_deadline()) is not None:
            take(deadline)
            if synchronizer.next_deadline() == deadline:
                break
    return [(s.stamp, s.primary, tuple(s.frames), s.skews) for s in sets]


@pytest.mark.parametrize("seed", range(4))
def test_sets_equal_those_of_a_synchronizer_with_the_same_arrivals(tmp_path, seed):
    chance = np.random.default_rng(seed)
    lost = chance.random((2, 30)) < 0.25

    def lose(topic, index, made):
        return None if topic.endswith(("raw", "points")) and lost[int("lidar" in topic), index] else made

    path = write_drive(tmp_path / "bag", 30, change=lose, delay=int(chance.integers(0, 80)) * 1_000_000)
    sync = sync_config(NodeParameters(), ("camera", "lidar"))
    replay, sets, _ = replayed(path)
    assert [(s.stamp, s.primary, tuple(s.frames), s.skews) for s in sets] == by_hand(path, sync)
    check_counters(replay.counters)


def test_messages_during_an_outage_are_not_counted(tmp_path):
    path = write_drive(tmp_path / "bag", 20)
    replay, sets, truths = replayed(path, drops=["camera@0.45..1.05"])
    assert replay.counters["camera"]["received"] == 14
    assert replay.counters["lidar"]["received"] == 20
    assert len(truths) == 20
    silent = [s for s in sets if "camera" not in s.frames]
    assert silent and all(s.primary == "lidar" for s in silent)


def test_outage_of_a_modality_applies_to_its_topic(tmp_path):
    path = write_drive(tmp_path / "bag", lidar_topic="/velodyne_points")
    for target in ("lidar", "/velodyne_points"):
        replay, sets, _ = replayed(path, drops=[target])
        assert {tuple(s.frames) for s in sets} == {("camera",)}
        assert replay.counters["lidar"]["received"] == 0
    with pytest.raises(ConfigError, match=r"drop 'event' matches no sensor of this bag; it has camera \(/camera"):
        replayed(path, drops=["event"])


def test_start_and_duration_limit_the_replay(tmp_path):
    _, sets, _ = replayed(write_drive(tmp_path / "bag", 20), start=0.5, duration=0.6)
    assert [round((s.stamp - START) / PERIOD) for s in sets] == [5, 6, 7, 8, 9, 10]


def test_slow_consumer_gets_the_newest_sets_only(tmp_path):
    replay, sets, _ = replayed(write_drive(tmp_path / "bag", 30), busy=0.35)
    steps = np.diff([s.stamp for s in sets]) / PERIOD
    assert 3 <= np.median(steps) <= 4
    assert replay.counters["camera"]["superseded"] > 10
    check_counters(replay.counters)


@pytest.mark.parametrize(
    ("delay", "text"), [(3600_000_000_000, "3.6e+03 s behind"), (-50_000_000_000, "50 s ahead of")]
)
def test_common_clock_offset_is_used_as_clock_with_a_warning(tmp_path, delay, text):
    replay, sets, _ = replayed(write_drive(tmp_path / "bag", delay=delay))
    assert len(sets) == 10
    assert text in replay.warnings[0]
    assert replay.counters["camera"]["refused"] == 0


@pytest.mark.parametrize("sensor", ["lidar", "camera"])
@pytest.mark.parametrize(("seconds", "cause"), [(37, "TAI"), (18, "GPS"), (-3600, "time zone")])
@pytest.mark.parametrize("delay", [0, 3_000_000_000_000])
def test_foreign_clock_of_one_sensor_is_named_and_its_remedy_helps(tmp_path, sensor, seconds, cause, delay):
    """The evaluation and the doctor reject the same sensor."""
    topic, other = {"lidar": ("/lidar/points", "camera"), "camera": ("/camera/image_raw", "lidar")}[sensor]

    def shifted(at, index, made):
        if at == topic:
            made["header"]["stamp"]["sec"] += seconds
        return made

    path = write_drive(tmp_path / "bag", change=shifted, delay=delay, truth=False)
    replay, sets, _ = replayed(path)
    refused = "lidar" if delay else sensor  # of two clocks that are both foreign the camera's is the recording's
    used = "camera" if delay else other
    assert {tuple(s.frames) for s in sets} == {(used,)}
    assert len(sets) >= (10 if used == "camera" else 6)  # the LiDAR opens sets once the camera counts as dead
    assert replay.counters[refused]["refused"] == 10 and replay.counters[used]["refused"] == 0
    (warning,) = [w for w in replay.warnings if w.startswith(refused)]
    assert cause in warning
    (reason,) = replay.synchronizer.refusals[refused]
    assert cause in reason
    rehearsed = diagnose_bag(path)
    assert rehearsed.sets["parts"] == {refused: 0, used: len(sets)}
    if not delay:
        (finding,) = [f for f in rehearsed.findings if f.severity == "error" and f.subject == refused]
        assert cause in finding.message and finding.remedy in warning
    told = float(re.search(rf"-p {refused}.offset:=(\S+)\)", warning)[1])
    replay, sets, _ = replayed(path, parameters=load_parameters(overrides=[f"{refused}.offset:={told}"]))
    assert [tuple(s.frames) for s in sets] == [("camera", "lidar")] * 10
    assert all(s.skews["lidar"] == 20_000_000 for s in sets) and len(replay.warnings) == bool(delay)


def test_messages_with_an_unknown_clock_are_refused(tmp_path):
    def stray(topic, index, made):
        if topic == "/lidar/points":
            made["header"]["stamp"]["sec"] -= 1000
        return made

    replay, sets, _ = replayed(write_drive(tmp_path / "bag", lidar_late=0, change=stray))
    assert {tuple(s.frames) for s in sets} == {("camera",)}
    assert replay.counters["lidar"]["refused"] == 10


def test_unreadable_messages_are_counted_by_reason(tmp_path):
    def break_some(topic, index, made):
        if topic == "/camera/image_raw" and index % 3 == 0:
            made["encoding"] = "rgb17"
        if topic == "/ground_truth/labels" and index == 4:
            made["encoding"] = "rgb18"
        return made

    replay, _, truths = replayed(write_drive(tmp_path / "bag", change=break_some))
    assert replay.counters["camera"] == {**replay.counters["camera"], "received": 10, "refused": 4}
    assert "rgb17" in replay.problems["/camera/image_raw"]
    assert "rgb18" in replay.problems["/ground_truth/labels"]
    assert len(truths) == 9
    check_counters(replay.counters)


def test_undeserializable_bytes_are_counted_once(tmp_path):
    write_drive(tmp_path / "whole")
    with (
        Reader(tmp_path / "whole") as reader,
        Writer(tmp_path / "broken", version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        known = {
            c.topic: writer.add_connection(c.topic, c.msgtype, msgdef=c.msgdef.data, rihs01=c.digest)
            for c in reader.connections
        }
        seen = 0
        for connection, stamp, raw in reader.messages():
            seen += connection.topic == "/lidar/points"
            bad = connection.topic == "/lidar/points" and seen in (2, 7)
            writer.write(known[connection.topic], stamp, bytes(raw)[:40] if bad else raw)
    replay, _, _ = replayed(tmp_path / "broken")
    assert replay.counters["lidar"]["received"] == 10
    assert replay.counters["lidar"]["refused"] == 2
    check_counters(replay.counters)


def test_bag_without_sensor_messages_is_rejected(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.add("/camera/camera_info", INFO, START, camera_info(START, "camera", CAMERA))
    with pytest.raises(BagError, match="no topic of the bag is a sensor"):
        replayed(tmp_path / "bag")


def test_two_sensors_on_one_topic_are_a_problem(tmp_path):
    """Every other image is of another camera."""

    def mixed(at, index, made):
        if at == "/camera/image_raw" and index % 2:
            made["header"]["frame_id"] = "rear_camera"
        return made

    replay, _, _ = replayed(write_drive(tmp_path / "bag", change=mixed))
    problem = replay.problems["/camera/image_raw"]
    assert "'rear_camera'" in problem.message and "2 sensors share the topic" in problem.message
    assert problem.remedy == "Record each sensor on a topic of its own."
    once, _, _ = replayed(
        write_drive(tmp_path / "renamed", change=lambda at, index, made: mixed(at, int(index > 4), made))
    )
    assert "/camera/image_raw" not in once.problems  # a driver that was set anew is one sensor
