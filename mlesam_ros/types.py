# SPDX-License-Identifier: Apache-2.0
"""Data types of the pipeline: sensor frames, sets of frames, and masks.

    message ──▶ SensorFrame ──▶ FrameSet ──▶ Segmentation ──▶ topics, bags, reports

Times are integers in nanoseconds of the host's ROS clock. Payloads are views of the message's bytes, without a copy.

A frame has two times. `stamp` is the driver's and is only for publishing. `time` is the stamp without the sensor's
offset, the time of the measurement; all code that compares times, moves points or looks up transforms uses `time`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Modality = str
"""Name of a modality. The model takes any ordered set of names; those of `MODALITIES` are the node's sensors."""
CAMERA: Modality = "camera"
DEPTH: Modality = "depth"
EVENT: Modality = "event"
LIDAR: Modality = "lidar"

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
EVENT_ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")

MESSAGE_TYPES: dict[Modality, tuple[str, ...]] = {
    CAMERA: (IMAGE, COMPRESSED_IMAGE),
    DEPTH: (IMAGE, COMPRESSED_IMAGE),
    EVENT: (EVENT_PACKET, *EVENT_ARRAYS, IMAGE, COMPRESSED_IMAGE),
    LIDAR: (POINT_CLOUD,),
}
"""Modality → the supported message types, the preferred one first."""
MODALITIES: tuple[Modality, ...] = tuple(MESSAGE_TYPES)
GROUND_TRUTH = "truth"
"""Name of the ground-truth labels in options that take a modality; not a parameter of the node."""

NODE = "/mlesam"
"""Default full name of the perception node."""
AUTO = "auto"
"""Value of a setting that is determined from the messages."""
NANOSECONDS = 1_000_000_000
"""Nanoseconds per second."""


@dataclass(frozen=True, slots=True)
class RawImage:
    """An uncompressed image as `sensor_msgs/Image` carries it.

    Attributes:
        height, width: size in pixels.
        encoding: one of the names in `sensor_msgs/image_encodings`, such as `rgb8` or `16UC1`.
        step: bytes per row, padding included.
        data: (height * step,) uint8, a view of the message's bytes.
        is_bigendian: byte order of samples wider than one byte.
        significant_bits: of 16-bit color samples; 0 to derive them from the largest sample of this image.
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
    """A compressed image as `sensor_msgs/CompressedImage` carries it.

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
        lag: nanoseconds by which its stamp lies before the stamp of the sweep's newest message.
    """

    points: npt.NDArray[np.void]
    lag: int


@dataclass(frozen=True, slots=True)
class PointCloud:
    """A LiDAR sweep.

    Attributes:
        points: structured array of any shape with at least the float fields `x`, `y`, `z` (meters, in the sensor's
            frame), a view of the message's bytes in its own byte order. `intensity` and per-point times are optional.
        time_unit: unit of the per-point times, `s`, `ms`, `us` or `ns`; `auto` detects it.
        intensity_field: name of the field with the strength of the echoes; empty for the first known name.
        intensity_scale: the value of that field at full strength; 0 to derive it from type and range of this sweep.
        earlier: the other messages of a sweep that is sent in pieces, newest first; `points` are the last message's.
        xyz: (N, 3) float32, the result of `cloud_xyz`, which several cameras and topics need; None before its call.
    """

    points: npt.NDArray[np.void]
    time_unit: str = AUTO
    intensity_field: str = ""
    intensity_scale: float = 0.0
    earlier: tuple[Piece, ...] = ()
    xyz: npt.NDArray[np.float32] | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def pieces(self) -> list[PointCloud]:
        """The messages of the sweep, newest first."""
        return [replace(self, earlier=()), *(replace(self, points=p.points, earlier=()) for p in self.earlier)]


@dataclass(frozen=True, slots=True)
class EventWindow:
    """The events of one time window.

    Attributes:
        width, height: sensor size in pixels.
        x, y: (n,) uint16 pixel coordinates.
        t: (n,) int64 nanoseconds on the host's clock, not decreasing.
        polarity: (n,) bool, true where the brightness increased.
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
    """One measurement of one sensor.

    Attributes:
        modality: the modality, which selects the expert.
        stamp: the driver's stamp, nanoseconds; for events, the end of their window.
        frame_id: the TF frame that the payload is expressed in; optical (z forward) for all payloads with pixels.
        payload: the data of the sensor.
        offset: nanoseconds by which the sensor's stamps are late.
        lens: the `geometry.rig.Lens` of its stream at its arrival; None without CameraInfo.
        lag: nanoseconds by which the stamp lies after the middle of a sweep gathered from pieces; 0 for others.
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
class DetectedProperty:
    """A property of a topic's data that was detected, since its messages do not declare it.

    Attributes:
        text: the property in one phrase.
        usual: whether it is that of most drivers and no parameter is set.
        absent: whether the data lack it.
    """

    text: str
    usual: bool = False
    absent: bool = False


@dataclass(frozen=True, slots=True)
class FrameSet:
    """The synchronized frames of one timestamp: at most one per modality, at least one in all.

    Attributes:
        stamp: the stamp of the primary's frame, nanoseconds; masks are published with it.
        primary: the modality of the reference frame.
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
    """The segmentation of one `FrameSet`.

    Attributes:
        stamp: the stamp of the set, nanoseconds.
        frame_id: the camera's optical frame, in which the labels are expressed even without a camera frame.
        labels: (H, W) uint8 class ids at camera resolution, or at the network's on request; the label space's ignore
            id where unlabeled.
        confidence: (H, W) uint8, the winning class's probability times 255.
        weights: pyramid level → modality → router weight in [0, 1]; absent modalities are not listed.
        used: the modalities that contributed, in model order.
        skews: the skews of the set, modality → nanoseconds.
        timings: stage → seconds, in the order of execution.
        placements: modality → the `geometry.rig.PointTransform` that moved its points into the camera's frame.
        sweep: the `preprocessing.registration.PlacedSweep` of the LiDAR, kept for later use; None if the mask was made
            without it or its image was made on a GPU.
        network_size: (h, w) of the network's images; None for that of the labels.
        depth: (h, w) float32 meters of the depth sensor along the camera's axis, at the network's size, NaN where
            unknown, kept for later use; None if the mask was made without it or its image was made on a GPU.
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
    sweep: Any = field(default=None, compare=False, repr=False)
    network_size: tuple[int, int] | None = None
    depth: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
