"""The data that flows: what a sensor said, what belongs together, and what the network made of it.

    message ──▶ SensorFrame ──▶ FrameSet ──▶ Segmentation ──▶ topics, bags, reports

Times are integers in nanoseconds of the host's ROS clock. Payloads are views of the message's bytes; nothing copies.

A frame has two of them. `stamp` is the driver's, and is only for publishing. `time` is the stamp without the sensor's
offset, the time of the measurement; everything that compares times, moves points or looks up transforms uses this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Modality = str
"""A modality's name. The model takes any ordered set of names; these four have encoders."""
CAMERA: Modality = "camera"
DEPTH: Modality = "depth"
EVENT: Modality = "event"
LIDAR: Modality = "lidar"
MODALITIES: tuple[Modality, ...] = (CAMERA, DEPTH, EVENT, LIDAR)

AUTO = "auto"
"""A setting that is found from the messages."""
NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second."""


@dataclass(frozen=True, slots=True)
class RawImage:
    """An uncompressed image as `sensor_msgs/Image` carries it.

    Attributes:
        height, width: size in pixels.
        encoding: one of the names in `sensor_msgs/image_encodings`, such as `rgb8` or `16UC1`.
        step: bytes per row, padding included.
        data: (height * step,) uint8, a view of the message's bytes.
        is_bigendian: byte order of samples wider than one byte.
        significant_bits: of 16-bit color samples; 0 to find them by the largest sample of this image.
        unit: meters per count of a depth image; 0 for millimeters in integers and meters in floats.
    """

    height: int
    width: int
    encoding: str
    step: int
    data: npt.NDArray[np.uint8]
    is_bigendian: bool = False
    significant_bits: int = 0
    unit: float = 0.0


@dataclass(frozen=True, slots=True)
class CompressedImage:
    """A picture as `sensor_msgs/CompressedImage` carries it.

    Attributes:
        format: the message's format string, such as `jpeg` or `rgb8; png compressed bgr8`.
        data: (n,) uint8, the encoded file.
        significant_bits, unit: as for `RawImage`.
    """

    format: str
    data: npt.NDArray[np.uint8]
    significant_bits: int = 0
    unit: float = 0.0


class Piece(NamedTuple):
    """An earlier message of a sweep that is sent in pieces.

    Attributes:
        points: as in `PointCloud`.
        lag: nanoseconds that its stamp lies before that of the sweep's newest message.
    """

    points: npt.NDArray[np.void]
    lag: int


@dataclass(frozen=True, slots=True)
class PointCloud:
    """A LiDAR sweep.

    Attributes:
        points: structured array of any shape with at least the float fields `x`, `y`, `z` (meters, in the sensor's
            frame), a view of the message's bytes in its own byte order. `intensity` and per-point times are optional.
        time_unit: unit of the per-point times, `s`, `ms`, `us` or `ns`; `auto` finds it.
        intensity_field: name of the field with the strength of the echoes; empty for the first known name.
        intensity_scale: the value of that field at full strength; 0 to find it by type and range of this sweep.
        earlier: the other messages of a sweep that is sent in pieces, the newest first; `points` are the last one's.
    """

    points: npt.NDArray[np.void]
    time_unit: str = AUTO
    intensity_field: str = ""
    intensity_scale: float = 0.0
    earlier: tuple[Piece, ...] = ()

    @property
    def pieces(self) -> list[PointCloud]:
        """The messages of the sweep, the newest first."""
        return [replace(self, earlier=()), *(replace(self, points=p.points, earlier=()) for p in self.earlier)]


@dataclass(frozen=True, slots=True)
class EventWindow:
    """The events of one window of time.

    Attributes:
        width, height: sensor size in pixels.
        x, y: (n,) uint16 pixel coordinates.
        t: (n,) int64 nanoseconds on the host's clock, not decreasing.
        polarity: (n,) bool, true where the light became brighter.
        start, end: the window [start, end] in nanoseconds on the host's clock.
    """

    width: int
    height: int
    x: npt.NDArray[np.uint16]
    y: npt.NDArray[np.uint16]
    t: npt.NDArray[np.int64]
    polarity: npt.NDArray[np.bool_]
    start: int
    end: int


Payload = RawImage | CompressedImage | PointCloud | EventWindow


@dataclass(frozen=True, slots=True)
class SensorFrame:
    """One reading of one sensor.

    Attributes:
        modality: which expert reads it.
        stamp: the driver's, nanoseconds; for events, the end of their window.
        frame_id: the TF frame that the payload is expressed in; optical (z forward) for everything with pixels.
        payload: what the sensor said.
        offset: nanoseconds by which the sensor's stamps are late.
        lens: the `geometry.rig.Lens` of its stream when it came; None where no CameraInfo was known.
        lag: nanoseconds that the stamp lies after the middle of a sweep that was gathered from pieces; 0 for others.
    """

    modality: Modality
    stamp: int
    frame_id: str
    payload: Payload
    offset: int = 0
    lens: object | None = None
    lag: int = 0

    @property
    def time(self) -> int:
        """The time of the measurement: the stamp without offset and lag, nanoseconds on the host's clock."""
        return self.stamp - self.offset - self.lag


@dataclass(frozen=True, slots=True)
class FrameSet:
    """The readings that belong to one moment: at most one per modality, at least one in all.

    Attributes:
        stamp: the stamp of the primary's frame, nanoseconds; masks are published with it.
        primary: the modality that set the reference.
        frames: modality → its frame, in the model's modality order.
        skews: modality → its frame's time minus the set's, in nanoseconds.
        offset: nanoseconds by which the stamp is later than the time of the primary's frame.
    """

    stamp: int
    primary: Modality
    frames: dict[Modality, SensorFrame]
    skews: dict[Modality, int]
    offset: int = 0

    @property
    def time(self) -> int:
        """The reference: the time of the primary's frame, nanoseconds on the host's clock."""
        return self.stamp - self.offset


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What the network made of one `FrameSet`.

    Attributes:
        stamp: the reference moment of the set, nanoseconds.
        frame_id: the camera's optical frame, the one that the labels are expressed in even when no camera frame came.
        labels: (H, W) uint8 class ids at camera resolution, or the network's where that was asked for; the label
            space's ignore id where unlabeled.
        confidence: (H, W) uint8, the winning class's probability times 255.
        weights: pyramid level → modality → router weight in [0, 1]; absent modalities are not listed.
        used: the modalities that took part, in model order.
        skews: modality → nanoseconds, from the set.
        timings: stage → seconds, in the order of execution.
        placements: modality → the `geometry.motion.Placement` with which its points were brought before the camera.
    """

    stamp: int
    frame_id: str
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    weights: dict[str, dict[Modality, float]]
    used: tuple[Modality, ...]
    skews: dict[Modality, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    placements: dict[Modality, Any] = field(default_factory=dict, compare=False, repr=False)
