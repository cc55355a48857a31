"""Synthetic frames of four sensors, the input of the sensor benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.types import (
    CAMERA,
    DEPTH,
    EVENT,
    LIDAR,
    NANOSECONDS,
    EventWindow,
    Modality,
    Payload,
    PointCloud,
    RawImage,
    SensorFrame,
)

POINTS = 131_072
EVENTS = 300_000
STAMP = 1_700_000_000 * NANOSECONDS
POINT = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"), ("ring", "u2"), ("t", "u4")])
"""Packed point layout, as most LiDAR drivers publish it."""

_AHEAD = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # optical_from_body
_SWEEP = NANOSECONDS // 10


@dataclass(frozen=True)
class SyntheticFrame:
    """Frames of a 1080p, a 1280x720 event and an 848x480 depth camera and a spinning LiDAR, on a car at 15 m/s.

    Attributes:
        rig: camera models and transforms, including the motion of the car.
        frames: modality → frame.
        xyz: (POINTS, 3) float32 meters in the LiDAR's frame.
    """

    rig: Rig
    frames: dict[Modality, SensorFrame]
    xyz: npt.NDArray[np.float32]


def make_readings(seed: int = 0) -> SyntheticFrame:
    """Generate the frames; deterministic for a seed."""
    rng = np.random.default_rng(seed)
    points = _sweep(rng)
    picture = cv2.resize(rng.integers(0, 256, (68, 120, 3), np.uint8), (1920, 1080), interpolation=cv2.INTER_CUBIC)
    meters = cv2.resize(rng.uniform(2, 30, (12, 20)), (848, 480), interpolation=cv2.INTER_LINEAR)
    payloads: dict[Modality, Payload] = {
        CAMERA: RawImage(1080, 1920, "rgb8", 5760, np.asarray(picture, np.uint8).reshape(-1)),
        DEPTH: RawImage(480, 848, "16UC1", 1696, (meters * 1000).astype("<u2").reshape(-1).view(np.uint8)),
        EVENT: make_events(rng),
        LIDAR: PointCloud(points),
    }
    frames = {m: SensorFrame(m, STAMP, m, payload) for m, payload in payloads.items()}
    xyz = np.stack([points["x"], points["y"], points["z"]], axis=1)
    return SyntheticFrame(_rig(), frames, xyz)


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
