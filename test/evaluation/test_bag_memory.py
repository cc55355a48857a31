# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the length of the bag."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
from drive import INFO, PERIOD, START

from mlesam_ros.bags.serialization import camera_info, image, point_cloud
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions
from mlesam_ros.evaluation.bag_outputs import Outputs, evaluate_to_folder
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.types import RawImage

IMAGE, CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
SIZE = HEIGHT, WIDTH = 480, 640
WARM, STEPS = 45, 140
MEGABYTE = 1 << 20


def write_long(path: Path) -> Path:
    """Images, labels and sweeps of 1.3 MB per step that compress well."""
    lens = CameraModel(
        WIDTH, HEIGHT, np.array([[400.0, 0, 319.5], [0, 400.0, 239.5], [0, 0, 1]]), np.zeros(0), "pinhole"
    )
    ramp = np.tile(np.arange(WIDTH, dtype=np.uint8)[None, :, None], (HEIGHT, 1, 3))
    points = np.zeros(4_000, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
    points["x"], points["z"] = np.linspace(-3, 3, len(points)), 6.0
    with BagWriter(path) as writer:
        for index in range(STEPS):
            stamp = START + index * PERIOD
            rgb = RawImage(HEIGHT, WIDTH, "rgb8", 3 * WIDTH, (ramp + np.uint8(index)).reshape(-1))
            truth = RawImage(HEIGHT, WIDTH, "mono8", WIDTH, np.full(HEIGHT * WIDTH, index % 25, np.uint8))
            writer.add("/camera/camera_info", INFO, stamp, camera_info(stamp, "camera", lens))
            writer.add("/camera/image_raw", IMAGE, stamp, image(stamp, "camera", rgb))
            writer.add("/ground_truth/labels", IMAGE, stamp, image(stamp, "camera", truth))
            writer.add("/lidar/points", CLOUD, stamp, point_cloud(stamp, "camera", points))
    return path


def resident() -> int:
    """Resident memory of this process in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_resident_memory_stays_constant_over_a_long_bag(tmp_path, pipeline):
    """Keeping one mask per step would take 26 MB at the end, one image 78 MB."""
    bag, held = write_long(tmp_path / "bag"), {}

    def measure(seconds: float) -> None:
        step = round(seconds * 10)
        if step in (WARM, STEPS - 10):
            held.setdefault(step, resident())

    (tmp_path / "out").mkdir()
    found, _ = evaluate_to_folder(tmp_path / "out", bag, pipeline, EvaluationOptions(), Outputs(), measure)
    assert found.sets == STEPS and found.scores.compared == STEPS
    assert held[STEPS - 10] - held[WARM] < 20 * MEGABYTE, {step: b // MEGABYTE for step, b in held.items()}
