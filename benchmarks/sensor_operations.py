# SPDX-License-Identifier: Apache-2.0
"""Operations of preprocessing beside OpenCV and NumPy: projection into the camera, events, images and rays."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from bounds import least_seconds
from counting import asked_bytes

from mlesam_ros.bench import sensor_benchmark
from mlesam_ros.bench.measurement import BenchmarkResult, measure
from mlesam_ros.bench.sensor_benchmark import EVENTS, POINTS, SIZE, STAMP, make_events, make_frames
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import project_points
from mlesam_ros.geometry.rig import Rig, sensor_motion
from mlesam_ros.preprocessing.event_stream import EventWindower
from mlesam_ros.preprocessing.events import count_events
from mlesam_ros.preprocessing.evt3 import Evt3Decoder, encode_evt3
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.types import CAMERA, LIDAR, EventWindow, Modality, PointCloud, RawImage, SensorFrame

_PACKET = 1_200
_CONVERSIONS = {"bgr8": cv2.COLOR_BGR2RGB, "bayer_rggb8": cv2.COLOR_BayerRGGB2RGB, "yuyv": cv2.COLOR_YUV2RGB_YUY2}

Frames = dict[Modality, SensorFrame]
compare = partial(measure, memory=asked_bytes)


def run(repeats: int) -> list[BenchmarkResult]:
    """Measure the operations, then every preprocessor, on synthetic frames."""
    rig, frames = make_frames()
    parts = (_projection, _events, _images, _rays, _motion)
    rows = [row for part in parts for rows in part(rig, frames, repeats) for row in rows]
    return [*rows, *sensor_benchmark.run(repeats, asked_bytes)]


def sweep_points(frames: Frames) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The LiDAR's points, (N, 3) meters, and their times in nanoseconds."""
    cloud = frames[LIDAR].payload
    assert isinstance(cloud, PointCloud)
    points = cloud.points
    return np.stack([points["x"], points["y"], points["z"]], axis=1), STAMP + points["t"].astype(np.int64)


def _projection(rig: Rig, frames: Frames, repeats: int) -> Iterator[list[BenchmarkResult]]:
    xyz, _ = sweep_points(frames)
    camera, mounting = rig.camera, rig.extrinsic(LIDAR, STAMP)
    turn, shift = cv2.Rodrigues(mounting.rotation)[0], mounting.translation

    def ours(points: npt.NDArray[np.float32]) -> object:
        return camera.project_visible(mounting.apply(points))

    def opencv(points: npt.NDArray[np.float32]) -> Any:
        return cv2.projectPoints(points, turn, shift, camera.K, camera.D)

    ahead = np.resize(xyz[camera.project_visible(mounting.apply(xyz))[0]], (POINTS, 3))
    for name, points in ((f"{POINTS} points of a sweep, plumb_bob", xyz), (f"{POINTS} points, all seen", ahead)):
        yield compare(
            f"project {name}",
            partial(ours, points),
            repeats,
            ("cv2.projectPoints", partial(opencv, points)),
            bound=least_seconds(points, points[:, :2]),
        )
    yield compare(
        f"project {POINTS} points into {SIZE[1]}x{SIZE[0]}, nearest wins",
        lambda: project_points(mounting.apply(xyz), camera, SIZE),
        repeats,
        ("cv2.projectPoints, sort, scatter", lambda: _sorted_scatter(xyz, opencv)),
        bound=least_seconds(xyz),
    )


def _sorted_scatter(points: npt.NDArray[np.float32], project_points: Any) -> npt.NDArray[np.float32]:
    """Z-buffer by sorting: far points are written first, near points overwrite them."""
    uv = project_points(points)[0][:, 0] * [SIZE[1] / 1920, SIZE[0] / 1080]
    keep = (points[:, 0] > 0) & (uv >= 0).all(axis=1) & (uv < SIZE[::-1]).all(axis=1)
    cols, rows = np.zeros((2, len(uv)), np.intp)
    cols[keep], rows[keep] = uv[keep].astype(np.intp).T
    meters = np.linalg.norm(points[keep], axis=1)
    order = np.argsort(-meters)
    image = np.zeros(SIZE, np.float32)
    image[rows[keep][order], cols[keep][order]] = meters[order]
    return image


def _events(rig: Rig, frames: Frames, repeats: int) -> Iterator[list[BenchmarkResult]]:
    events = make_events(np.random.default_rng(0), 480, 640)
    pixels = np.empty((480, 640, 2), np.float32)
    yield compare(
        f"count {EVENTS} events per pixel and polarity",
        lambda: count_events(events, (480, 640)),
        repeats,
        ("np.add.at(image, (p, y, x), 1)", partial(add_at, events)),
        ("np.bincount(index)", partial(bincount, events)),
        bound=least_seconds(events.x, events.y, events.polarity, pixels),
    )
    columns = events.x, events.y, (events.t - events.t[0]) // 1000, events.polarity
    words = encode_evt3(*columns)
    yield compare(
        f"decode {EVENTS} events of EVT3, {len(words) / EVENTS:.1f} bytes each",
        lambda: Evt3Decoder(events.width, events.height).decode(words),
        repeats,
        unit="Mevents/s",
        items=EVENTS / 1e6,
        bound=least_seconds(words, events.x, events.y, events.t, events.polarity),
    )
    packets = [encode_evt3(*(c[i : i + _PACKET] for c in columns)) for i in range(0, EVENTS, _PACKET)]
    yield compare(f"{len(packets)} packets of {_PACKET} events to the window of 30 ms", lambda: _push(packets), repeats)


def add_at(events: EventWindow) -> npt.NDArray[np.float32]:
    """Count events with `np.add.at`, as in public code."""
    image = np.zeros((2, events.height, events.width), np.float32)
    np.add.at(image, (events.polarity.astype(np.intp), events.y, events.x), 1)
    return image


def bincount(events: EventWindow) -> npt.NDArray[np.float32]:
    """Count events with `np.bincount`."""
    index = (events.polarity.astype(np.intp) * events.height + events.y) * events.width + events.x
    counts = np.bincount(index, minlength=2 * events.height * events.width)
    return counts.astype(np.float32).reshape(2, events.height, events.width)


def _push(packets: list[npt.NDArray[np.uint8]]) -> None:
    stream = EventWindower()
    for number, packet in enumerate(packets):
        stream.push(packet, "evt3", (480, 640), STAMP + number * 120_000, number)


def _images(rig: Rig, frames: Frames, repeats: int) -> Iterator[list[BenchmarkResult]]:
    rng = np.random.default_rng(1)
    for encoding, code in _CONVERSIONS.items():
        channels = {"bgr8": 3, "bayer_rggb8": 1, "yuyv": 2}[encoding]
        samples = rng.integers(0, 256, (1080, 1920, channels), np.uint8)
        image = RawImage(1080, 1920, encoding, 1920 * channels, samples.reshape(-1))
        yield compare(
            f"1080p {encoding} to RGB",
            partial(to_rgb, image),
            repeats,
            ("cv2.cvtColor alone", partial(cv2.cvtColor, samples, code)),
            bound=least_seconds(samples, np.empty((1080, 1920, 3), np.uint8)),
        )
    rgb = frames[CAMERA].payload
    assert isinstance(rgb, RawImage)
    yield compare(
        "1080p rgb8 to RGB",
        lambda: to_rgb(rgb),
        repeats,
        ("a copy, as cv_bridge makes it", lambda: rgb.data.reshape(1080, 1920, 3).copy()),
        unit="us",
    )


def _rays(rig: Rig, frames: Frames, repeats: int) -> Iterator[list[BenchmarkResult]]:
    camera = rig.camera
    u, v = np.meshgrid(np.arange(1920.0), np.arange(1080.0))
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)[:, None]
    yield compare(
        "rays of 1080p, plumb_bob, once per camera",
        lambda: CameraModel(1920, 1080, camera.K, camera.D, camera.model).rays,
        max(repeats // 10, 3),
        ("cv2.undistortPoints", lambda: cv2.undistortPoints(pixels, camera.K, camera.D)),
        bound=least_seconds(camera.rays),
    )


def _motion(rig: Rig, frames: Frames, repeats: int) -> Iterator[list[BenchmarkResult]]:
    xyz, times = sweep_points(frames)
    yield compare(
        f"take {POINTS} points to one time, each by its own stamp",
        lambda: sensor_motion(rig, LIDAR, times, STAMP).apply(xyz),
        repeats,
        ("one rigid transform for all, motion ignored", lambda: rig.extrinsic(LIDAR, STAMP).apply(xyz)),
        bound=least_seconds(xyz, xyz, times),
    )
