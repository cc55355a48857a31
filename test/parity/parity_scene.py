# SPDX-License-Identifier: Apache-2.0
"""Bags of an analytic scene: every measurement is given here in numbers, nothing is rendered.

The camera's lens is 80 pixels long with its center at (48, 32), so that a point (x, y, z) meters ahead, to the left and
up lands on column 48 - 80 y / x and row 32 - 80 z / x.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlesam_ros.bags.serialization import event_packet, header, image, pixels, point_cloud, transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, RawImage

START, PERIOD = 1_700_000_000_000_000_000, 100_000_000
WIDTH, HEIGHT, FOCAL = 96, 64, 80.0
CENTER = (48.0, 32.0)
TOPICS = {CAMERA: "/camera/image_raw", DEPTH: "/depth/image_raw", EVENT: "/events", LIDAR: "/lidar/points"}
INFOS = {CAMERA: "/camera/camera_info", DEPTH: "/depth/camera_info", EVENT: "/events/camera_info"}
TRUTH = "/ground_truth/labels"
FRAMES = {CAMERA: "camera_optical", DEPTH: "depth_optical", EVENT: "event_optical", LIDAR: "lidar"}
IMAGE, COMPRESSED, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
CLOUD, PACKET, TF = "sensor_msgs/msg/PointCloud2", "event_camera_msgs/msg/EventPacket", "tf2_msgs/msg/TFMessage"

OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # body_from_optical
TURN = 0.1  # rad, to the left, of event_turned
ASIDE = {CAMERA: "camera_aside", DEPTH: "depth_aside", EVENT: "event_turned", LIDAR: "lidar_aside"}
"""Frames that the messages do not name, and where they are: to the left of the others, but the event camera's."""
LEFT = {CAMERA: 0.5, DEPTH: 0.4, LIDAR: 1.0}

WALL = 10.0
POINTS = np.array([(WALL, y, z) for y in (-3.0, -1.5, 0.0, 1.5, 3.0) for z in (-2.0, -1.0, 1.0, 2.0)])
"""(20, 3) meters ahead, left, up of the LiDAR: a part of a wall."""
BLOB = (40, 24)
"""Column and row of the middle of what the event camera sees, 5x5 pixels with an event each."""
BLOCK = (slice(20, 29), slice(62, 71))
"""Rows and columns of what is near the depth camera; the middle is column 66, row 24."""
BLOCK_MIDDLE, NEAR, FAR = (66, 24), 4.0, 8.0

Fields = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """A recording. Moment i is at `START + i * PERIOD`; every sensor measures at every step.

    Attributes:
        steps: how many.
        speed: m/s ahead, of the robot with all its sensors; the wall stands where the LiDAR has it at step 0.
        lag: sensor → s by which its stamps are late.
        delay: sensor → s from the step to the recording.
        behind: s from every stamp to its recording, more than usual.
        absent: sensor → steps that it misses.
        infos: topic → fields of CameraInfo that differ.
        messages: topic → what its messages are changed to, given fields and step; None for another topic's copy.
        others: topic → function of the step that makes type and fields of a further topic.
        frames: sensor → frame that its messages name.
        unplaced: frames that TF lacks.
        size: (width, height) of the camera's images, with the lens in proportion.
    """

    steps: int = 4
    speed: float = 0.0
    lag: Mapping[str, float] = field(default_factory=dict)
    delay: Mapping[str, float] = field(default_factory=dict)
    behind: float = 0.0
    absent: Mapping[str, Collection[int]] = field(default_factory=dict)
    infos: Mapping[str, Fields] = field(default_factory=dict)
    messages: Mapping[str, Callable[[Fields, int], Fields]] = field(default_factory=dict)
    others: Mapping[str, Callable[[int], tuple[str, Fields]]] = field(default_factory=dict)
    frames: Mapping[str, str] = field(default_factory=dict)
    unplaced: Collection[str] = ()
    size: tuple[int, int] = (WIDTH, HEIGHT)

    def write(self, path: Path) -> Path:
        """The recording as a bag."""
        with BagWriter(path) as bag:
            for recorded, topic, kind, message in sorted(self._entries(), key=lambda entry: entry[0]):
                late = recorded + round(self.behind * 1e9)
                bag.add(topic, kind, late, message, latched=topic == "/tf_static")
        return path

    def _entries(self) -> Iterator[tuple[int, str, str, Fields]]:
        yield START - 50_000_000, "/tf_static", TF, transforms(self._mounting(), START)
        for tick in range(-2, 5 * self.steps + 5):
            stamp = START + tick * PERIOD // 5
            pose = Transform(np.eye(3), np.array([self.speed * tick / 50, 0.0, 0.0]))
            yield stamp, "/tf", TF, transforms([("odom", "base_link", pose)], stamp)
        for index in range(self.steps):
            step = START + index * PERIOD
            for sensor in MODALITIES:
                if index in self.absent.get(sensor, ()):
                    continue
                stamp = step + round(self.lag.get(sensor, 0.0) * 1e9)
                recorded = step + 2_000_000 + round(self.delay.get(sensor, 0.0) * 1e9)
                if sensor in INFOS:
                    size = self.size if sensor == CAMERA else (WIDTH, HEIGHT)
                    given = info(stamp, self._frame(sensor), size) | dict(self.infos.get(INFOS[sensor], {}))
                    yield recorded - 1_000_000, INFOS[sensor], INFO, given
                kind, made = self._reading(sensor, stamp, index)
                yield recorded, TOPICS[sensor], kind, self.messages.get(TOPICS[sensor], lambda m, i: m)(made, index)
            for topic, make in self.others.items():
                kind, made = make(index)
                yield step, topic, kind, made
            labels = np.full(self.size[::-1], 3, np.uint8)
            stamp = step + round(self.lag.get(CAMERA, 0.0) * 1e9)
            yield step + 3_000_000, TRUTH, IMAGE, pixels(stamp, self._frame(CAMERA), labels, "mono8")

    def _frame(self, sensor: str) -> str:
        return self.frames.get(sensor, FRAMES[sensor])

    def _mounting(self) -> list[tuple[str, str, Transform]]:
        left = {FRAMES[s]: 0.0 for s in MODALITIES} | {ASIDE[s]: LEFT.get(s, 0.0) for s in MODALITIES}
        turned = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
        rotations = {frame: np.eye(3) if frame.startswith("lidar") else OPTICAL for frame in left}
        rotations[ASIDE[EVENT]] = turned @ OPTICAL
        return [
            ("base_link", frame, Transform(rotations[frame], np.array([0.0, left[frame], 0.0])))
            for frame in left
            if frame not in self.unplaced
        ]

    def _reading(self, sensor: str, stamp: int, index: int) -> tuple[str, Fields]:
        frame = self._frame(sensor)
        if sensor == CAMERA:
            return IMAGE, pixels(stamp, frame, picture(self.size), "rgb8")
        if sensor == DEPTH:
            return IMAGE, depth_image(stamp, frame)
        if sensor == LIDAR:
            moved = POINTS - [self.speed * index * PERIOD / 1e9, 0, 0]
            return CLOUD, point_cloud(stamp, frame, cloud(moved))
        return PACKET, packet(stamp, frame, index)


def picture(size: tuple[int, int] = (WIDTH, HEIGHT), seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8, darker than any color that points are drawn in."""
    return np.random.default_rng(seed).integers(0, 40, (size[1], size[0], 3), np.uint8)


def depth_meters() -> np.ndarray:
    """(H, W) meters: a wall, and a block before it."""
    meters = np.full((HEIGHT, WIDTH), FAR)
    meters[BLOCK] = NEAR
    return meters


def depth_image(stamp: int, frame: str, unit: float = 0.001) -> Fields:
    """A 16-bit depth image."""
    counts = np.round(depth_meters() / unit).astype("<u2")
    return image(stamp, frame, RawImage(HEIGHT, WIDTH, "16UC1", 2 * WIDTH, counts.reshape(-1).view(np.uint8)))


def cloud(xyz: np.ndarray, intensity: float = 100.0, name: str = "intensity", kind: str = "<f4") -> np.ndarray:
    """Points with a strength each."""
    points = np.zeros(len(xyz), [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), (name, kind)])
    points["x"], points["y"], points["z"] = xyz.T
    points[name] = intensity
    return points


def mono16(fields_of: Fields, index: int) -> Fields:
    """The camera's image as one of 16 bits, of which 10 are in use."""
    size = fields_of["width"], fields_of["height"]
    made = RawImage(size[1], size[0], "mono16", 2 * size[0], samples(size).reshape(-1).view(np.uint8))
    return image(_stamp(fields_of), fields_of["header"]["frame_id"], made)


def samples(size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """(H, W) uint16 below 640, so that 12 bits make them darker than any color of a point."""
    return np.random.default_rng(2).integers(0, 640, size[::-1]).astype("<u2")


def in_units(unit: float, fields_of: Fields, index: int) -> Fields:
    """The depth image in another unit."""
    return depth_image(_stamp(fields_of), fields_of["header"]["frame_id"], unit)


def with_columns(make: Callable[[np.ndarray], Mapping[str, np.ndarray]], fields_of: Fields, index: int) -> Fields:
    """The cloud with further columns, made of its points."""
    points = np.frombuffer(fields_of["data"].tobytes(), cloud(POINTS).dtype)
    more = make(points)
    wide = np.zeros(len(points), [*points.dtype.descr, *((name, column.dtype) for name, column in more.items())])
    for name in points.dtype.names:
        wide[name] = points[name]
    for name, column in more.items():
        wide[name] = column
    return point_cloud(_stamp(fields_of), fields_of["header"]["frame_id"], wide)


def half(left: bool, stamp: int) -> Fields:
    """The points on one side of a sweep, or the others."""
    return point_cloud(stamp, FRAMES[LIDAR], cloud(POINTS[(POINTS[:, 1] > 0) == left]))


def left_out(fields_of: Fields, index: int) -> Fields:
    """The sweep without its left side."""
    return half(False, _stamp(fields_of))


def _stamp(fields_of: Fields) -> int:
    stamp = fields_of["header"]["stamp"]
    return int(stamp["sec"]) * 10**9 + int(stamp["nanosec"])


def packet(stamp: int, frame: str, index: int, blob: tuple[int, int] = BLOB) -> Fields:
    """An event in each of 5x5 pixels, brighter, within 5 ms of which the last is at the stamp."""
    rows, columns = np.indices((5, 5)).reshape(2, -1)
    times = np.linspace(0, 5000, 25).astype(np.int64) + 100_000 * (index + 1)
    x, y = columns + blob[0] - 2, rows + blob[1] - 2
    events = np.asarray(encode_evt3(x, y, times, np.ones(25, np.int64)))
    return event_packet(stamp - 5_000_000, frame, (HEIGHT, WIDTH), index, events)


def info(
    stamp: int,
    frame: str,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    focal: float | None = None,
    center: tuple[float, float] | None = None,
    **more: Any,
) -> Fields:
    """A CameraInfo; more: `d`, and `p` as (focal, u, v) of the rectified images."""
    scale = size[0] / WIDTH
    f, (u, v) = focal or FOCAL * scale, center or (CENTER[0] * scale, CENTER[1] * scale)
    rectified, u_, v_ = more.get("p", (f, u, v))
    return {
        "header": header(stamp, frame), "width": size[0], "height": size[1], "distortion_model": "plumb_bob",
        "d": np.array(more.get("d", (0.0,) * 5)), "k": np.array([[f, 0, u], [0, f, v], [0, 0, 1.0]]),
        "r": np.eye(3), "p": np.array([[rectified, 0, u_, 0], [0, rectified, v_, 0], [0, 0, 1.0, 0]]),
    }  # fmt: skip


def lens(**changes: Any) -> Fields:
    """What differs in a CameraInfo; arguments as for `info`."""
    made = info(0, "", **changes)
    return {name: made[name] for name in ("width", "height", "d", "k", "p")}
