# SPDX-License-Identifier: Apache-2.0
"""A robot that drives past posts in front of a wall: drawn and measured by formulas of its own, no ray is cast.

What the tests break, they break here, in the messages, before they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlesam_ros.bags.serialization import camera_info, event_packet, header, image, point_cloud, transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.evt3 import encode_evt3
from mlesam_ros.types import RawImage

START, PERIOD = 1_700_000_000_000_000_000, 100_000_000
HEIGHT, WIDTH, FOCAL = 120, 320, 200.0
CAMERA_FRAME, EVENT_FRAME, LIDAR_FRAME = "camera_optical_frame", "event_optical_frame", "lidar"
K = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
LENS = CameraModel(WIDTH, HEIGHT, K, np.zeros(5), "plumb_bob")
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # body_from_optical
_WALL, _SPEED, _HALF = 60.0, 12.0, 0.15
IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
CLOUD, PACKET, TF = "sensor_msgs/msg/PointCloud2", "event_camera_msgs/msg/EventPacket", "tf2_msgs/msg/TFMessage"

Entry = tuple[str, str, int, dict[str, Any]]
"""Topic, type, nanoseconds of recording, fields."""
Change = Callable[[Entry], list[Entry]]


class Posts:
    """Posts beside a road, seen by somebody at x = speed * t who looks along x."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.x = rng.uniform(0, 150, 130)
        self.y = rng.uniform(3, 18, 130) * rng.choice((-1, 1), 130)
        self.gray = rng.integers(0, 90, 130)

    def ahead(self, t: float) -> Iterator[tuple[float, float, int]]:
        """(meters ahead, meters to the left, gray), the farthest first."""
        ahead = self.x - _SPEED * t
        for i in np.argsort(-ahead):
            if 2.5 < ahead[i] < _WALL:
                yield float(ahead[i]), float(self.y[i]), int(self.gray[i])

    def picture(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 and (H, W) meters."""
        rgb, depth = np.full((HEIGHT, WIDTH, 3), 170, np.uint8), np.full((HEIGHT, WIDTH), _WALL, np.float32)
        for x, y, gray in self.ahead(t):
            left, right = (round(K[0, 2] - FOCAL * (y + side) / x) for side in (_HALF, -_HALF))
            columns = slice(max(left, 0), max(right + 1, 0))
            rgb[:, columns], depth[:, columns] = gray, x
        return rgb, depth

    def sweep(self, t: float) -> np.ndarray:
        """(N, 3) float32 in the LiDAR's frame, x ahead."""
        azimuth = np.radians(np.arange(-60, 60, 0.2))
        reach = _WALL / np.cos(azimuth)
        for x, y, _ in self.ahead(t):
            low, high = np.arctan2(y - _HALF, x), np.arctan2(y + _HALF, x)
            reach[(azimuth >= low) & (azimuth <= high)] = np.hypot(x, y)
        tilt = np.radians(np.arange(-8, 9, 2.0))[:, None]
        xyz = np.stack(
            [reach * np.cos(azimuth) + 0 * tilt, reach * np.sin(azimuth) + 0 * tilt, reach * np.tan(tilt)], -1
        )
        return xyz.reshape(-1, 3).astype(np.float32)


def entries(moments: int = 30) -> Iterator[Entry]:
    """A healthy recording."""
    posts, rng = Posts(), np.random.default_rng(1)
    poses = [
        ("base_link", CAMERA_FRAME, Transform(OPTICAL, np.array([0.0, 0, 0]))),
        ("base_link", EVENT_FRAME, Transform(OPTICAL, np.array([0.0, 0.1, 0]))),
        ("base_link", LIDAR_FRAME, Transform.identity()),
    ]
    yield "/tf_static", TF, START, transforms(poses, START)
    for index in range(moments):
        stamp = START + index * PERIOD
        rgb, depth = posts.picture(index / 10)
        for topic, frame in (("/camera/camera_info", CAMERA_FRAME), ("/events/camera_info", EVENT_FRAME)):
            yield topic, INFO, stamp, camera_info(stamp, frame, LENS)
        picture = RawImage(HEIGHT, WIDTH, "rgb8", 3 * WIDTH, rgb.reshape(-1))
        yield "/camera/image_raw", IMAGE, stamp, image(stamp, CAMERA_FRAME, picture)
        meters = RawImage(HEIGHT, WIDTH, "32FC1", 4 * WIDTH, depth.reshape(-1).view(np.uint8))
        yield "/depth/image_raw", IMAGE, stamp, image(stamp, CAMERA_FRAME, meters)
        points = np.zeros(5400, [("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
        points["x"], points["y"], points["z"] = posts.sweep(index / 10).T
        yield "/lidar/points", CLOUD, stamp, point_cloud(stamp, LIDAR_FRAME, points)
        times = np.sort(rng.integers(0, 5000, 50)) + index * 100_000
        events = encode_evt3(rng.integers(0, WIDTH, 50), rng.integers(0, HEIGHT, 50), times, rng.integers(0, 2, 50))
        size = HEIGHT, WIDTH
        packet = event_packet(stamp - 5_000_000, EVENT_FRAME, size, index, np.asarray(events))
        yield "/events", PACKET, stamp, packet


def write(path: Path, change: Change = lambda entry: [entry], moments: int = 30) -> Path:
    """Write a recording of what a change leaves of a healthy one."""
    changed = [kept for entry in entries(moments) for kept in change(entry)]
    with BagWriter(path) as writer:
        for topic, kind, stamp, message in sorted(changed, key=lambda entry: entry[2]):
            writer.add(topic, kind, stamp, message, latched=topic == "/tf_static")
    return path


# Changes


def on(topic: str, change: Callable[[int, dict[str, Any]], Entry | tuple[int, dict[str, Any]] | None]) -> Change:
    """A change of one topic's messages: (recorded, fields) → the same, or None to leave it out."""

    def changed(entry: Entry) -> list[Entry]:
        name, kind, stamp, message = entry
        if name != topic:
            return [entry]
        kept = change(stamp, message)
        return [] if kept is None else [(name, kind, *kept)]  # type: ignore[list-item]

    return changed


def restamped(message: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The message with its stamp moved."""
    head = message["header"]
    stamp = head["stamp"]["sec"] * 10**9 + head["stamp"]["nanosec"] + round(seconds * 1e9)
    return {**message, "header": header(stamp, head["frame_id"])}


def framed(message: dict[str, Any], frame: str) -> dict[str, Any]:
    """The message in another frame."""
    return {**message, "header": {**message["header"], "frame_id": frame}}


def turned_lidar(degrees: float) -> Change:
    """The LiDAR's mounting as somebody has written it down, turned about the vertical axis."""

    def change(stamp: int, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        half = np.radians(degrees) / 2
        for entry in message["transforms"]:
            if entry["child_frame_id"] == LIDAR_FRAME:
                entry["transform"]["rotation"] = {"x": 0.0, "y": 0.0, "z": np.sin(half), "w": np.cos(half)}
        return stamp, message

    return on("/tf_static", change)


def without_place(frame: str) -> Change:
    """Nothing says where a sensor is mounted."""

    def change(stamp: int, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return stamp, {"transforms": [e for e in message["transforms"] if e["child_frame_id"] != frame]}

    return on("/tf_static", change)
