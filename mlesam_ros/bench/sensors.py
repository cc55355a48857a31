"""Benchmark of preprocessing: projection into the camera, events, images and whole preprocessors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.bench.machine import least_seconds
from mlesam_ros.bench.readings import EVENTS, POINTS, STAMP, SyntheticFrame, make_events, make_readings
from mlesam_ros.bench.row import BenchmarkResult, compare, rate
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import project
from mlesam_ros.geometry.rig import Rig, sensor_motion
from mlesam_ros.preprocessing.base import Image, Preprocessor
from mlesam_ros.preprocessing.event_stream import EventWindower
from mlesam_ros.preprocessing.events import count_events
from mlesam_ros.preprocessing.evt3 import Evt3Decoder, encode_evt3
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import CAMERA, LIDAR, EventWindow, FrameSet, RawImage, SensorFrame

_PACKET = 1_200
_SIZE = (576, 1024)  # size of the network's images at 1080p
_CONVERSIONS = {"bgr8": cv2.COLOR_BGR2RGB, "bayer_rggb8": cv2.COLOR_BayerRGGB2RGB, "yuyv": cv2.COLOR_YUV2RGB_YUY2}


def run(repeats: int) -> list[BenchmarkResult]:
    """Measure projection, events, images, rays, motion compensation and every preprocessor on synthetic frames."""
    readings = make_readings()
    parts = (_projection, _events, _pictures, _lenses, _motion, _preprocessors)
    return [row for part in parts for row in part(readings, repeats)]


def _projection(readings: SyntheticFrame, repeats: int) -> Iterator[BenchmarkResult]:
    rig, camera = readings.rig, readings.rig.camera
    mounting = rig.extrinsic(LIDAR, STAMP)
    turn, shift = cv2.Rodrigues(mounting.rotation)[0], mounting.translation

    def ours(points: npt.NDArray[np.float32]) -> object:
        return camera.project_visible(mounting.apply(points))

    def opencv(points: npt.NDArray[np.float32]) -> Any:
        return cv2.projectPoints(points, turn, shift, camera.K, camera.D)

    ahead = readings.xyz[camera.project_visible(mounting.apply(readings.xyz))[0]]
    ahead = np.resize(ahead, (POINTS, 3))
    for name, points in (
        (f"{POINTS} points of a sweep, plumb_bob", readings.xyz),
        (f"{POINTS} points, all seen", ahead),
    ):
        yield compare(
            f"project {name}",
            partial(ours, points),
            repeats,
            ("cv2.projectPoints", partial(opencv, points)),
            least_seconds(points, points[:, :2]),
        )
    yield compare(
        f"project {POINTS} points into {_SIZE[1]}x{_SIZE[0]}, nearest wins",
        lambda: project(readings.xyz, mounting, camera, _SIZE),
        repeats,
        ("cv2.projectPoints, sort, scatter", lambda: _sorted_scatter(readings.xyz, opencv)),
        least_seconds(readings.xyz),
    )


def _sorted_scatter(points: npt.NDArray[np.float32], project_points: Any) -> npt.NDArray[np.float32]:
    """Z-buffer by sorting: far points are written first, near points overwrite them."""
    uv = project_points(points)[0][:, 0] * [_SIZE[1] / 1920, _SIZE[0] / 1080]
    keep = (points[:, 0] > 0) & (uv >= 0).all(axis=1) & (uv < _SIZE[::-1]).all(axis=1)
    cols, rows = np.zeros((2, len(uv)), np.intp)
    cols[keep], rows[keep] = uv[keep].astype(np.intp).T
    meters = np.linalg.norm(points[keep], axis=1)
    order = np.argsort(-meters)
    image = np.zeros(_SIZE, np.float32)
    image[rows[keep][order], cols[keep][order]] = meters[order]
    return image


def _events(readings: SyntheticFrame, repeats: int) -> Iterator[BenchmarkResult]:
    events = make_events(np.random.default_rng(0), 480, 640)
    pixels = np.empty((480, 640, 2), np.float32)
    for alternative, count in (("np.add.at(image, (p, y, x), 1)", _add_at), ("np.bincount(index)", _bincount)):
        yield compare(
            f"count {EVENTS} events per pixel and polarity",
            lambda: count_events(events, (480, 640)),
            repeats,
            (alternative, partial(count, events)),
            least_seconds(events.x, events.y, events.polarity, pixels),
        )
    microseconds = (events.t - events.t[0]) // 1000
    words = encode_evt3(events.x, events.y, microseconds, events.polarity)
    yield rate(
        f"decode {EVENTS} events of EVT3, {len(words) / EVENTS:.1f} bytes each",
        lambda: Evt3Decoder(events.width, events.height).decode(words),
        EVENTS,
        "events",
        repeats,
        least_seconds(words, events.x, events.y, events.t, events.polarity),
    )
    packets = [encode_evt3(*(column[i : i + _PACKET] for column in (events.x, events.y, microseconds, events.polarity)))
               for i in range(0, EVENTS, _PACKET)]  # fmt: skip
    yield compare(f"{len(packets)} packets of {_PACKET} events to the window of 30 ms", lambda: _push(packets), repeats)


def _add_at(events: EventWindow) -> npt.NDArray[np.float32]:
    """Count events with `np.add.at`, as in public code."""
    image = np.zeros((2, events.height, events.width), np.float32)
    np.add.at(image, (events.polarity.astype(np.intp), events.y, events.x), 1)
    return image


def _bincount(events: EventWindow) -> npt.NDArray[np.float32]:
    index = (events.polarity.astype(np.intp) * events.height + events.y) * events.width + events.x
    counts = np.bincount(index, minlength=2 * events.height * events.width)
    return counts.astype(np.float32).reshape(2, events.height, events.width)


def _push(packets: list[npt.NDArray[np.uint8]]) -> None:
    stream = EventWindower()
    for number, packet in enumerate(packets):
        stream.push(packet, "evt3", (480, 640), STAMP + number * 120_000, number)


def _pictures(readings: SyntheticFrame, repeats: int) -> Iterator[BenchmarkResult]:
    rng = np.random.default_rng(1)
    for encoding, code in _CONVERSIONS.items():
        channels = {"bgr8": 3, "bayer_rggb8": 1, "yuyv": 2}[encoding]
        samples = rng.integers(0, 256, (1080, 1920, channels), np.uint8)
        picture = RawImage(1080, 1920, encoding, 1920 * channels, samples.reshape(-1))
        yield compare(
            f"1080p {encoding} to RGB",
            partial(to_rgb, picture),
            repeats,
            ("cv2.cvtColor alone", partial(cv2.cvtColor, samples, code)),
            least_seconds(samples, np.empty((1080, 1920, 3), np.uint8)),
        )
    rgb = readings.frames[CAMERA].payload
    assert isinstance(rgb, RawImage)
    yield compare(
        "1080p rgb8 to RGB",
        lambda: to_rgb(rgb),
        repeats,
        ("a copy, as cv_bridge makes it", lambda: rgb.data.reshape(1080, 1920, 3).copy()),
        unit="us",
    )


def _lenses(readings: SyntheticFrame, repeats: int) -> Iterator[BenchmarkResult]:
    camera = readings.rig.camera
    u, v = np.meshgrid(np.arange(1920.0), np.arange(1080.0))
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)[:, None]
    yield compare(
        "rays of 1080p, plumb_bob, once per camera",
        lambda: CameraModel(1920, 1080, camera.K, camera.D, camera.model).rays,
        max(repeats // 10, 3),
        ("cv2.undistortPoints", lambda: cv2.undistortPoints(pixels, camera.K, camera.D)),
        least_seconds(camera.rays),
    )


def _motion(readings: SyntheticFrame, repeats: int) -> Iterator[BenchmarkResult]:
    sweep = readings.frames[LIDAR].payload.points  # type: ignore[union-attr]
    times = STAMP + sweep["t"].astype(np.int64)
    rig = readings.rig
    yield compare(
        f"take {POINTS} points to one moment, each by its own time",
        lambda: sensor_motion(rig, LIDAR, times, STAMP).apply(readings.xyz),
        repeats,
        ("one rigid transform for all, motion ignored", lambda: rig.extrinsic(LIDAR, STAMP).apply(readings.xyz)),
        least_seconds(readings.xyz, readings.xyz, times),
    )


def _encode(preprocessor: Preprocessor, frame: SensorFrame, rig: Rig, frame_set: FrameSet) -> Image:
    return preprocessor(frame, rig, _SIZE, FrameContext(frame_set.time, frame_set.frames))


def _preprocessors(readings: SyntheticFrame, repeats: int) -> Iterator[BenchmarkResult]:
    """Time whole preprocessors, including z-buffers and alignment between sensors; without an alternative."""
    rig, frame_set = readings.rig, FrameSet(STAMP, CAMERA, readings.frames, dict.fromkeys(readings.frames, 0))
    repeats = max(repeats // 3, 5)
    for name, cls in PREPROCESSORS.items():
        yield compare(
            f"encode {name} at {_SIZE[1]}x{_SIZE[0]}",
            partial(_encode, cls(), readings.frames[cls.modality], rig, frame_set),
            repeats,
        )
    preprocessors = make_preprocessors(DEFAULT_PREPROCESSORS)
    yield compare("encode a set of four sensors", lambda: encode(frame_set, rig, _SIZE, preprocessors), repeats)
