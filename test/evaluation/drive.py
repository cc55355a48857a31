# SPDX-License-Identifier: Apache-2.0
"""Small drives as bags: a camera and a LiDAR at 10 Hz with labels, and faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlesam_ros.bags.serialization import Fields, camera_info, image, point_cloud, transforms
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.evaluation.scores import MaskListener, MaskRecord
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.types import RawImage

START, PERIOD = 1_700_000_000_000_000_000, 100_000_000
HEIGHT, WIDTH = 24, 32
STEPS = 12
"""Of the simulated street in conftest.py."""
CAMERA = CameraModel(WIDTH, HEIGHT, np.array([[20.0, 0, 15.5], [0, 20.0, 11.5], [0, 0, 1]]), np.zeros(5), "plumb_bob")
POSE = Transform.from_quaternion((0.0, 0.0, 0.0), (0.5, -0.5, 0.5, -0.5))
"""camera_from_lidar: x forward becomes z forward."""
IMAGE, CLOUD, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/CameraInfo"
Change = Callable[[str, int, Fields], Fields | None]


class Recorder(MaskListener):
    """Keeps every mask, and every comparison with ground truth."""

    def __init__(self) -> None:
        self.records: list[MaskRecord] = []
        self.matches: list[tuple[int, np.ndarray, np.ndarray]] = []

    def on_mask(self, record: MaskRecord) -> None:
        self.records.append(record)

    def on_match(self, stamp: int, labels: np.ndarray, ground_truth: np.ndarray) -> None:
        self.matches.append((stamp, labels, ground_truth))


def camera_image(index: int) -> RawImage:
    pixels = np.random.default_rng(index).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    return RawImage(HEIGHT, WIDTH, "rgb8", 3 * WIDTH, pixels.reshape(-1))


def labels(index: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), index % 25, np.uint8)


def points() -> np.ndarray:
    made = np.zeros(50, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
    made["x"], made["y"], made["z"] = 5.0, np.linspace(-3, 3, 50), 0.5
    return made


def write_drive(
    path: Path,
    steps: int = 10,
    calibrated: bool = True,
    delay: int = 0,
    change: Change | None = None,
    truth: bool = True,
    lidar_late: int = 20_000_000,
    lidar_topic: str = "/lidar/points",
    camera_topic: str = "/camera/image_raw",
) -> Path:
    """Record a drive.

    Args:
        path: the bag's folder.
        steps: number of steps.
        calibrated: with CameraInfo and TF.
        delay: nanoseconds from a stamp to its recording.
        change: topic, index, fields → other fields, or None to lose the message.
        truth: with labels; step i is all of class i mod 25.
        lidar_topic, camera_topic: where their messages are.
        lidar_late: nanoseconds by which the LiDAR's stamps are after the camera's.
    """
    with BagWriter(path) as writer:

        def add(topic: str, type_name: str, index: int, stamp: int, made: Fields) -> None:
            kept = made if change is None else change(topic, index, made)
            if kept is not None:
                writer.add(topic, type_name, stamp + delay, kept)

        if calibrated:
            mounting = transforms([("camera", "lidar", POSE)], START)
            writer.add("/tf_static", "tf2_msgs/msg/TFMessage", START + delay, mounting, latched=True)
        for index in range(steps):
            stamp, late = START + index * PERIOD, START + index * PERIOD + lidar_late
            if calibrated:
                add("/camera/camera_info", INFO, index, stamp, camera_info(stamp, "camera", CAMERA))
            add(camera_topic, IMAGE, index, stamp, image(stamp, "camera", camera_image(index)))
            if truth:
                mask = RawImage(HEIGHT, WIDTH, "mono8", WIDTH, labels(index).reshape(-1))
                add("/ground_truth/labels", IMAGE, index, stamp, image(stamp, "camera", mask))
            add(lidar_topic, CLOUD, index, late, point_cloud(late, "lidar", points()))
    return path
