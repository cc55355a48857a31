# SPDX-License-Identifier: Apache-2.0
"""Sweeps in pieces: gathered where a driver sends them so, and nothing else is touched.

Kind: a message taken for a measurement. The world is a ring of posts whose azimuths are known.
"""

import warnings

import numpy as np
import pytest

from mlesam_ros.bags import serialization as fields
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.doctor.diagnosis import diagnose_bag
from mlesam_ros.evaluation.bag_sensors import BagRig, find_topics
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.labels import load_label_space
from mlesam_ros.preprocessing.point_cloud import SweepGatherer, cloud_intensity, cloud_times, cloud_xyz
from mlesam_ros.preprocessing.registration import cloud_to_camera
from mlesam_ros.types import LIDAR, FrameSet, PointCloud, RawImage, SensorFrame

START, MS = 1_700_000_000_000_000_000, 1_000_000
TURN = 100 * MS
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("t", "<u4")])
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def scan(start, width, points=6000, seed=0):
    """Points in the order of their azimuths; intensity is the azimuth in degrees."""
    azimuth = start + width * (np.arange(points) + 0.5) / points
    distance = np.random.default_rng(seed).uniform(4, 30, points)
    made = np.zeros(points, POINT)
    made["x"], made["y"] = distance * np.cos(azimuth), distance * np.sin(azimuth)
    made["intensity"] = np.degrees(azimuth)
    return made


def messages(parts, turns=4, start=-np.pi, width=2 * np.pi, lost=(), one_stamp=False, points=6000):
    """(stamp, points) of pieces; those whose number is in `lost` are missing."""
    for number in range(parts * turns):
        turn, part = divmod(number, parts)
        whole = scan(start, width, points, seed=turn)
        if number not in lost:
            stamp = START + turn * TURN + (0 if one_stamp else part * TURN // parts)
            yield stamp, whole[part * points // parts : (part + 1) * points // parts]


def gathered(sent, seconds=-1.0):
    gatherer = SweepGatherer(seconds)
    return [gatherer.gather(SensorFrame(LIDAR, stamp, "lidar", PointCloud(points), 0)) for stamp, points in sent]


def degrees(frame):
    return np.sort(np.unique(cloud_intensity(frame.payload).round(3)))


@pytest.mark.parametrize("parts", [2, 3, 4, 10, 12, 36, 75])
@pytest.mark.parametrize(("start", "width"), [(-np.pi, 2 * np.pi), (0.7, -2 * np.pi), (-1.0, 2.2)])
def test_pieces_are_joined_into_turn(parts, start, width):
    frames = gathered(messages(parts, start=start, width=width))
    for number, frame in enumerate(frames[parts + 1 :], parts + 1):
        assert 1 + len(frame.payload.earlier) == parts
        np.testing.assert_array_equal(degrees(frame), np.unique(scan(start, width)["intensity"].round(3)))
        assert frame.stamp == START + number // parts * TURN + number % parts * TURN // parts
        assert abs(frame.time - (frame.stamp - TURN * (parts - 1) // parts // 2)) <= 1  # the middle of the turn


@pytest.mark.parametrize("width", [2 * np.pi, np.radians(270), np.radians(120), np.radians(70), np.radians(25)])
@pytest.mark.parametrize("points", [6000, 40])
def test_whole_sweeps_are_unchanged(width, points):
    """Of a spinning LiDAR, one that is covered in part, and a Livox of 70 degrees, with many returns or few."""
    sent = [(START + turn * TURN, scan(-width / 2, width, points, seed=turn)) for turn in range(30)]
    rng = np.random.default_rng(1)
    for _, made in sent:
        made["x"][rng.random(points) < 0.7] = np.nan
    frames = gathered(sent)
    for (stamp, made), frame in zip(sent, frames, strict=True):
        assert frame.payload.points is made and not frame.payload.earlier and frame.time == frame.stamp == stamp


def test_single_moving_return_is_not_a_turn():
    """Somebody walks through an empty field of view: azimuths change from message to message, and never come back."""
    sent = [(START + turn * TURN, scan(-0.5 + 0.08 * turn, 0.05, 60)) for turn in range(12)]
    assert all(not frame.payload.earlier for frame in gathered(sent))


@pytest.mark.parametrize("lost", [(33,), (33, 34, 35), (30, 41, 52)])
def test_lost_pieces_leave_gap_without_stale_pieces(lost):
    for frame in gathered(messages(10, turns=9, lost=lost))[12:]:
        angles = cloud_intensity(frame.payload)
        assert len(angles) == len(np.unique(angles.round(3))) >= 6000 - 600 * len(lost)
        assert max(piece.lag for piece in frame.payload.earlier) <= TURN * 5 // 4


def test_pieces_without_returns_belong_to_turn():
    sent = list(messages(10))
    for number, (_, points) in enumerate(sent):
        if number % 10 in (3, 4):
            points["x"] = np.nan
    for frame in gathered(sent)[12:]:
        angles = cloud_intensity(frame.payload)[np.isfinite(cloud_xyz(frame.payload)).all(axis=1)]
        assert len(angles) == len(np.unique(angles.round(3))) == 4800


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
@pytest.mark.parametrize("value", ["largest", "least", "infinite", "quiet", "signalling"])
def test_nonfinite_coordinates_are_skipped_without_warning(kind, value):
    """Kind: arithmetic on a message's numbers. A sum of two of them may overflow, a signalling NaN may not be cast."""
    bits = {"<f4": ("<u4", 0x7F800001), "<f8": ("<u8", 0x7FF0000000000001)}[kind]
    with np.errstate(over="ignore"):
        values = {
            "largest": np.finfo(kind).max, "least": np.finfo(kind).min, "infinite": np.inf, "quiet": np.nan,
            "signalling": np.array(bits[1], bits[0]).view(kind),
        }  # fmt: skip
    sent = []
    for stamp, points in messages(6):
        odd = points.astype([(name, kind) for name in "xyz"] + POINT.descr[3:])
        for name in "xy":
            odd[name][::7] = values[value]
            raw = odd[name].view(bits[0])
            if value == "signalling":
                raw[::7] = bits[1]
        sent.append((stamp, odd))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gathered(sent)
    if not np.isfinite(values[value]):
        assert [len(f.payload.pieces) for f in found][-6:] == [6] * 6


def test_pieces_with_equal_stamps_are_distinguished():
    frames = gathered(messages(10, one_stamp=True))[11:]
    assert len({frame.time for frame in frames}) == len(frames)
    assert all(1 + len(frame.payload.earlier) == 10 for frame in frames)


def test_pieces_with_equal_stamps_keep_point_times():
    """The kind: a limit derived from a distance that is 0. By hand: point i of 6000 is measured i/6000 turns later."""
    after = np.linspace(0, TURN, 6000, endpoint=False).astype(np.int64)
    sent = []
    for number, (stamp, points) in enumerate(messages(10, one_stamp=True)):
        points["t"] = after[number % 10 * 600 :][:600]
        sent.append((stamp, points))
    whole = gathered(sent)[-1]  # all ten pieces have the stamp of the last turn
    assert {piece.lag for piece in whole.payload.earlier} == {0}
    np.testing.assert_array_equal(np.sort(cloud_times(whole.payload, whole.stamp)), START + 3 * TURN + after)


def test_clock_jump_or_gap_resets_sweep():
    first, later = list(messages(10)), [(stamp + 60_000 * MS, points) for stamp, points in messages(10, turns=1)]
    assert all(not frame.payload.earlier for frame in gathered([*first, *later])[40:])
    assert all(not frame.payload.earlier for frame in gathered([*later, *first])[10:20])


@pytest.mark.parametrize(("seconds", "pieces"), [(0.0, 1), (0.03, 3), (0.1, 10), (0.25, 25)])
def test_sweep_duration_can_be_set(seconds, pieces):
    assert {1 + len(frame.payload.earlier) for frame in gathered(messages(10), seconds)[25:]} == {pieces}


@pytest.mark.parametrize("timed", [True, False])
def test_points_keep_times_and_positions(timed):
    """Pieces of 10 ms from a car at 10 m/s: a wall 25 m ahead at START, by hand nearer by 0.1 m in each piece."""
    k = np.array([[70.0, 0, 39.5], [0, 70.0, 29.5], [0, 0, 1]])
    rig = Rig("front", {"front": CameraModel(80, 60, k, np.zeros(0))})
    rig.tree.set("base_link", "front", Transform(OPTICAL, np.zeros(3)))
    rig.tree.set("base_link", "lidar", Transform.identity())
    for tick in range(-100, 401, 10):
        rig.tree.set("odom", "base_link", Transform(np.eye(3), np.array([tick / 100, 0, 0])), START + tick * MS)
    gatherer, layout = SweepGatherer(0.1), POINT if timed else np.dtype(POINT.descr[:4])
    for number in range(20):
        piece = np.zeros(5, layout)
        within = 2 * MS * np.arange(5) if timed else np.zeros(5, int)
        piece["x"], piece["y"] = 25 - 0.01 * (number * 10 + within / MS), np.linspace(-4, 4, 5)
        if timed:
            piece["t"] = within
        frame = gatherer.gather(SensorFrame(LIDAR, START + number * 10 * MS, "lidar", PointCloud(piece)))
    times = cloud_times(frame.payload, frame.stamp)
    assert times[0] == START + 190 * MS and times[-1] == START + 100 * MS + (8 * MS if timed else 0)
    shown = cloud_to_camera(frame, rig).apply(cloud_xyz(frame.payload).astype(np.float64))
    np.testing.assert_allclose(shown[:, 2], 25 - 0.01 * (frame.time - START) / MS, atol=1e-3)


def write_bag(path, parts):
    """A camera and a LiDAR in pieces at 10 turns a second, mounted as in the doctor's drives."""
    lens = CameraModel(160, 120, np.array([[100.0, 0, 79.5], [0, 100.0, 59.5], [0, 0, 1]]), np.zeros(5), "plumb_bob")
    pixels = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8).ravel()
    mounting = fields.transforms([("lidar", "camera", Transform(OPTICAL, np.zeros(3)))], START)
    with BagWriter(path) as writer:
        writer.add("/tf_static", "tf2_msgs/msg/TFMessage", START, mounting, latched=True)
        for turn in range(20):
            stamp = START + turn * TURN
            info = fields.camera_info(stamp, "camera", lens)
            writer.add("/camera/camera_info", "sensor_msgs/msg/CameraInfo", stamp, info)
            image = fields.image(stamp, "camera", RawImage(120, 160, "rgb8", 480, pixels))
            writer.add("/camera/image_raw", "sensor_msgs/msg/Image", stamp + 1, image)
            for at, points in list(messages(parts, turns=20))[turn * parts : (turn + 1) * parts]:
                cloud = fields.point_cloud(at, "lidar", np.ascontiguousarray(points[["x", "y", "z", "intensity"]]))
                writer.add("/lidar/points", "sensor_msgs/msg/PointCloud2", at + 2, cloud)
    return path


@pytest.mark.parametrize("parts", [1, 4, 10])
def test_bag_with_pieces_gives_whole_turns_and_doctor_finding(tmp_path, parts):
    path = write_bag(tmp_path / "bag", parts)
    with BagReader(path) as reader:
        topics = find_topics(reader.topics)
        replay = Replay(reader, topics, BagRig(reader, topics), load_label_space("deliver"))
        sets = [step for step in replay.steps() if isinstance(step, FrameSet)]
    counts = replay.counters[LIDAR]
    assert counts["received"] == 20 * parts == sum(counts[f] for f in counts if f != "received")
    with_lidar = [s for s in sets if LIDAR in s.frames and s.primary != LIDAR]
    assert len(with_lidar) == 20
    for frame_set in with_lidar[2:]:
        assert 1 + len(frame_set.frames[LIDAR].payload.earlier) == parts
        assert len(degrees(frame_set.frames[LIDAR])) == 6000
    checkup = diagnose_bag(path)
    assert [f for f in checkup.findings if f.severity == "error"] == []
    told = [f.message for f in checkup.findings if f.message.startswith("each sweep")]
    assert told == ([f"each sweep arrives in {parts} messages, which are merged."] if parts > 1 else [])


@pytest.mark.parametrize("kind", ["nanoseconds", "seconds"])
def test_times_within_a_packet_keep_their_unit(kind):
    """75 packets a turn, 1.3 ms each, and 750, of 0.13 ms: too short for a sweep in nanoseconds, not microseconds."""
    for parts in (75, 750):
        gatherer = SweepGatherer()
        for stamp, sent in messages(parts, turns=2, points=12_000):
            within = TURN // parts * np.arange(len(sent)) // len(sent)
            points = sent if kind == "nanoseconds" else sent.astype([*POINT.descr[:4], ("t", "<f4")])
            points["t"] = within if kind == "nanoseconds" else within / 1e9
            frame = gatherer.gather(SensorFrame(LIDAR, stamp, "lidar", PointCloud(points)))
        times = cloud_times(frame.payload, frame.stamp)
        newest = frame.stamp + TURN // parts
        assert newest - 2 * TURN // parts < times.max() < newest and newest - TURN - 1000 <= times.min()
