# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of the preprocessors, on synthetic frames of four sensors, and of the synchronizer, on a stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.bench.measurement import BenchmarkResult, PeakMemory, Work, measure, row, summary
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.base import Image, Preprocessor
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, PREPROCESSORS, encode, make_preprocessors
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.sync import Synchronizer
from mlesam_ros.types import (
    CAMERA,
    DEPTH,
    EVENT,
    LIDAR,
    NANOSECONDS,
    EventWindow,
    FrameSet,
    Modality,
    Payload,
    PointCloud,
    RawImage,
    SensorFrame,
)

SIZE = (576, 1024)
"""Height and width of the network's images at 1080p."""
POINTS = 131_072
EVENTS = 300_000
STAMP = 1_700_000_000 * NANOSECONDS
POINT = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"), ("ring", "u2"), ("t", "u4")])
"""Packed point layout, as most LiDAR drivers publish it."""

_AHEAD = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # optical_from_body
_SWEEP = NANOSECONDS // 10


def run(repeats: int, memory: PeakMemory | None = None) -> list[BenchmarkResult]:
    """Measure every preprocessor alone, with its z-buffers and alignment between sensors, and all of a frame set."""
    rig, frames = make_frames()
    frame_set, repeats = FrameSet(STAMP, CAMERA, frames, dict.fromkeys(frames, 0)), max(repeats // 3, min(repeats, 5))

    def encode_alone(preprocessor: Preprocessor) -> Image:
        return preprocessor(frames[preprocessor.modality], rig, SIZE, FrameContext(frame_set.time, frames))

    works: dict[str, Work] = {
        f"encode {name} at {SIZE[1]}x{SIZE[0]}": partial(encode_alone, cls()) for name, cls in PREPROCESSORS.items()
    }
    every = make_preprocessors(DEFAULT_PREPROCESSORS)
    works["encode a set of four sensors"] = lambda: encode(frame_set, rig, SIZE, every)
    return [result for name, work in works.items() for result in measure(name, work, repeats, memory=memory)]


def make_frames() -> tuple[Rig, dict[Modality, SensorFrame]]:
    """Generate a rig and a frame of each sensor, on a car at 15 m/s.

    The sensors are a 1080p camera, a 1280x720 event camera, an 848x480 depth camera and a spinning LiDAR.
    """
    rng = np.random.default_rng(0)
    points = _sweep(rng)
    image = cv2.resize(rng.integers(0, 256, (68, 120, 3), np.uint8), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    meters = cv2.resize(rng.uniform(2, 30, (12, 20)), (848, 480), interpolation=cv2.INTER_LINEAR)
    payloads: dict[Modality, Payload] = {
        CAMERA: RawImage(1080, 1920, "rgb8", 5760, np.asarray(image, np.uint8).reshape(-1)),
        DEPTH: RawImage(480, 848, "16UC1", 1696, (meters * 1000).astype("<u2").reshape(-1).view(np.uint8)),
        EVENT: make_events(rng),
        LIDAR: PointCloud(points),
    }
    return _rig(), {m: SensorFrame(m, STAMP, m, payload) for m, payload in payloads.items()}


def make_events(rng: np.random.Generator, height: int = 720, width: int = 1280) -> EventWindow:
    """Generate a window of EVENTS events over 30 ms, clustered like the events of moving edges."""
    edges = rng.uniform(0, 1, (200, 2))
    which = rng.integers(0, len(edges), EVENTS)
    x, y = np.clip(edges[which] + rng.normal(0, 0.02, (EVENTS, 2)), 0, 0.9999).T
    t = np.sort(rng.integers(0, 30_000, EVENTS)) * 1000 + STAMP - 30_000_000
    polarity = rng.random(EVENTS) < 0.5
    return EventWindow(
        width, height, (x * width).astype(np.uint16), (y * height).astype(np.uint16), t.astype(np.int64), polarity,
        STAMP - 30_000_000, STAMP,
    )  # fmt: skip


def _sweep(rng: np.random.Generator) -> npt.NDArray[np.void]:
    """Generate a sweep of 128 rings with 1024 columns, ordered by time."""
    azimuth = np.repeat(np.linspace(np.pi, -np.pi, POINTS // 128, endpoint=False), 128)
    elevation = np.tile(np.radians(np.linspace(-25, 15, 128)), POINTS // 128)
    reach = np.minimum(rng.uniform(4, 80, POINTS), 1.8 / np.maximum(-np.sin(elevation), 1e-3))
    points = np.empty(POINTS, POINT)
    points["x"] = reach * np.cos(elevation) * np.cos(azimuth)
    points["y"] = reach * np.cos(elevation) * np.sin(azimuth)
    points["z"] = reach * np.sin(elevation)
    points["intensity"] = rng.uniform(0, 255, POINTS)
    points["ring"] = np.tile(np.arange(128), POINTS // 128)
    points["t"] = np.repeat(np.linspace(0, _SWEEP - 1, POINTS // 128).astype(np.uint32), 128)
    return points


def _rig() -> Rig:
    rig = Rig(CAMERA, {
        CAMERA: _camera(1920, 1080, 1200, (-0.12, 0.09, 0.0007, 0.0014, -0.02)),
        DEPTH: _camera(848, 480, 430, ()),
        EVENT: _camera(1280, 720, 900, (-0.1, 0.05, 0.0, 0.0, 0.0)),
    })  # fmt: skip
    for frame, place in ((CAMERA, (1.2, 0.0, 1.4)), (DEPTH, (1.2, 0.05, 1.4)), (EVENT, (1.2, -0.06, 1.4))):
        rig.tree.set("base_link", frame, Transform(_AHEAD.T, np.array(place)))
    rig.tree.set("base_link", LIDAR, Transform(np.eye(3), np.array([1.1, 0.0, 1.8])))
    for step in range(-20, 21):  # two seconds before and after STAMP, at 10 Hz
        turn = 0.02 * step
        heading = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        rig.tree.set("odom", "base_link", Transform(heading, np.array([1.5 * step, 0, 0])), STAMP + step * _SWEEP)
    return rig


def _camera(width: int, height: int, focal: float, d: tuple[float, ...]) -> CameraModel:
    k = np.array([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]])
    return CameraModel(width, height, k, np.array(d), "plumb_bob" if d else "pinhole")


Push = Callable[[int, SensorFrame], object]
"""Processes a frame that arrives at a time in nanoseconds."""
_DELAYS = {CAMERA: 0.020, LIDAR: 0.045, DEPTH: 0.015, EVENT: 0.004}
_RATES = {
    "10 Hz, events 100 Hz": {CAMERA: 10, LIDAR: 10, DEPTH: 10, EVENT: 100},
    "30 Hz, LiDAR 10 Hz, events 1 kHz": {CAMERA: 30, LIDAR: 10, DEPTH: 30, EVENT: 1000},
}


def run_sync(repeats: int, *alternative: tuple[str, Callable[[], Push]]) -> list[BenchmarkResult]:
    """Measure the synchronizer with four modalities at two sets of rates; every message is timed individually.

    Args:
        repeats: ten times the number of passes over each stream.
        alternative: name and factory of another synchronizer for the same streams, if any.
    """
    rows = []
    for name, rates in _RATES.items():
        arrivals = stream(rates)
        seconds: dict[str, list[float]] = {}
        for _ in range(max(repeats // 10, 1)):
            for words, make in (("", _synchronizer), *alternative):
                push, times = make(), seconds.setdefault(words, [])
                for now, frame in arrivals:
                    start = time.perf_counter()
                    push(now, frame)
                    times.append(time.perf_counter() - start)
        ours, *others = ((words, summary(times)) for words, times in seconds.items())
        rows.append(row(f"message of 4 modalities, {name}", "us", ours[1], next(iter(others), None)))
    return rows


def stream(rates: dict[Modality, int]) -> list[tuple[int, SensorFrame]]:
    """Generate 10 s of (arrival in nanoseconds, frame) pairs ordered by arrival, with jitter in stamps and delays."""
    rng = np.random.default_rng(0)
    arrivals = []
    for modality, rate in rates.items():
        for i in range(10 * rate):
            stamp = STAMP + round((i / rate + rng.uniform(-0.003, 0.003)) * NANOSECONDS)
            delay = max(rng.normal(_DELAYS[modality], 0.003), 0.0001)
            frame = SensorFrame(modality, stamp, modality, None)  # type: ignore[arg-type]  # payload unused
            arrivals.append((stamp + round(delay * NANOSECONDS), frame))
    return sorted(arrivals, key=lambda arrival: arrival[0])


def _synchronizer() -> Push:
    sync = Synchronizer()

    def push(now: int, frame: SensorFrame) -> None:
        """Push the frame, take a ready set and query the next deadline, as the node does."""
        sync.push(frame, now)
        sync.take(now)
        sync.next_deadline()

    return push
