"""ROS messages as the data that flows, the same for the messages of rclpy and of rosbags.

Nothing here imports ROS: a message is any object with the fields of its type. Payloads are views of a message's bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, Problem
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.event_codecs import read_event_array
from mlesam_ros.preprocessing.event_stream import EventWindower
from mlesam_ros.preprocessing.images import (
    CAMERA_LAYOUTS,
    DEPTH_LAYOUTS,
    announces_16_bits,
    decode_camera,
    find_significant_bits,
    image_view,
)
from mlesam_ros.preprocessing.point_cloud import IntensityFinder, cloud_from_fields
from mlesam_ros.preprocessing.settings import DEFAULTS, EVENT_WINDOW, Found, Preprocessing
from mlesam_ros.preprocessing.sweep_gatherer import SweepGatherer
from mlesam_ros.types import (
    CAMERA,
    DEPTH,
    EVENT,
    LIDAR,
    NANOSECONDS,
    CompressedImage,
    EventWindow,
    Modality,
    PointCloud,
    RawImage,
    SensorFrame,
)

_IMAGE = "sensor_msgs/msg/Image"
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_CLOUD = "sensor_msgs/msg/PointCloud2"
_PACKET = "event_camera_msgs/msg/EventPacket"
_ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")

MESSAGE_TYPES: dict[Modality, tuple[str, ...]] = {
    CAMERA: (_IMAGE, _COMPRESSED),
    DEPTH: (_IMAGE, _COMPRESSED),
    EVENT: (_PACKET, *_ARRAYS, _IMAGE, _COMPRESSED),
    LIDAR: (_CLOUD,),
}
"""Modality → the message types that are read, the preferred one first."""

RAW_TYPES = frozenset(_ARRAYS)
"""The types that are read from a message's serialized bytes, because unpacking makes an object of every event."""


class FrameReader:
    """Reads the messages of one topic, in order.

    What is found out about the data (scale of the intensity, significant bits) is kept from message to message and
    handed on with each frame, so that all consumers of the topic agree.

    Attributes:
        modality: the modality of the frames.
        type_name: the type of the messages.
        offset: nanoseconds by which the stamps are late.
    """

    def __init__(
        self, modality: Modality, type_name: str, settings: Preprocessing = DEFAULTS, offset: float = 0.0
    ) -> None:
        """Prepare for one type of message.

        Args:
            modality: a key of `MESSAGE_TYPES`.
            type_name: one of its types.
            settings: of the sensors' data.
            offset: seconds by which the stamps are late, for the frames' `time`.

        Raises:
            ConfigError: the modality or the type is not read.
        """
        if modality not in MESSAGE_TYPES:
            raise ConfigError(f"modality {modality!r} has no messages; accepted are {', '.join(MESSAGE_TYPES)}.")
        if type_name not in MESSAGE_TYPES[modality]:
            raise ConfigError(
                f"{modality} cannot be read from {type_name}.", f"Use {' or '.join(MESSAGE_TYPES[modality])}."
            )
        self.modality = modality
        self.type_name = type_name
        self.offset = round(offset * NANOSECONDS)
        self._settings = settings
        self._stream = EventWindower(settings.event_window or EVENT_WINDOW)
        self._intensity = IntensityFinder(settings.cloud_field, settings.intensity_scale)
        self._bits = self._bits_given = settings.significant_bits if modality == CAMERA else 0
        self._sweeps = SweepGatherer(settings.gather)

    @property
    def pieces(self) -> int:
        """Messages in the newest sweep of a LiDAR; 1 where each message is whole."""
        return self._sweeps.pieces

    @property
    def counters(self) -> dict[str, int]:
        """What happened to the messages of an event camera so far; empty for types that are not events."""
        return self._stream.counters if self.type_name == _PACKET or self.type_name in RAW_TYPES else {}

    @property
    def found(self) -> dict[str, Found]:
        """What is known about the data by now: `intensity` of a LiDAR, `significant_bits` of a 16-bit camera."""
        found = {"intensity": self._intensity.found} if self._intensity.found else {}
        if self._bits:
            how = "as set" if self._bits_given else "by the largest sample"
            found["significant_bits"] = Found(f"{self._bits} of 16, {how}", self._bits == 16 and not self._bits_given)
        return found

    def read(self, message: Any) -> SensorFrame:
        """The frame that a message holds.

        Args:
            message: of the type announced, its serialized bytes where that is one of `RAW_TYPES`; events in the order
                in which they were sent.

        Returns:
            A frame whose payload is a view of the message; for events the window up to the end of this packet, for a
            sweep that is sent in pieces the turn up to this one.

        Raises:
            MlesamError: the message's fields do not fit each other.
        """
        if self.type_name in RAW_TYPES:
            array = read_event_array(message)
            events = self._stream.push_array(array)
            return SensorFrame(self.modality, events.end, array.frame_id.lstrip("/"), events, self.offset)
        header = message.header
        stamp, payload = stamp_ns(header), self._payload(message)
        if isinstance(payload, EventWindow):
            stamp = payload.end
        frame = SensorFrame(self.modality, stamp, header.frame_id.lstrip("/"), payload, self.offset)
        return self._sweeps.gather(frame)

    def _payload(self, message: Any) -> RawImage | CompressedImage | PointCloud | EventWindow:
        if self.type_name == _IMAGE:
            return self._measured(_picture(message, self.modality, self._unit))
        if self.type_name == _COMPRESSED:
            return self._compressed(CompressedImage(message.format, _bytes(message.data), unit=self._unit))
        if self.type_name == _CLOUD:
            return self._intensity.describe(replace(_cloud(message), time_unit=self._settings.time_unit))
        size = message.height, message.width
        return self._stream.push(
            _bytes(message.events),
            message.encoding,
            size,
            stamp_ns(message.header),
            message.seq,
            bool(message.is_bigendian),
            int(message.time_base),
        )

    @property
    def _unit(self) -> float:
        return self._settings.depth_unit if self.modality == DEPTH else 0.0

    def _compressed(self, picture: CompressedImage) -> RawImage | CompressedImage:
        """As it is; a camera's of 16 bits decoded, since the bits in use are known only then."""
        if self.modality == DEPTH or not announces_16_bits(picture.data):
            return picture
        return self._measured(decode_camera(picture))

    def _measured(self, picture: RawImage) -> RawImage:
        """With the significant bits of this topic so far, where a camera's samples have 16; the number never falls."""
        layout = CAMERA_LAYOUTS.get(picture.encoding)
        if self.modality == DEPTH or layout is None or layout.dtype != "u2":
            return picture
        if not self._bits_given:
            samples = image_view(picture, CAMERA_LAYOUTS, "a camera picture")
            self._bits = self._bits if self._bits == 16 else find_significant_bits(samples, self._bits or 8)
        return replace(picture, significant_bits=self._bits)


def label_image(message: Any) -> RawImage | CompressedImage:
    """The image of a topic with true labels, of whatever encoding; unlike a camera's its samples are class ids."""
    if hasattr(message, "format"):
        return CompressedImage(message.format, _bytes(message.data))
    big = bool(message.is_bigendian)
    return RawImage(message.height, message.width, message.encoding, message.step, _bytes(message.data), big)


def type_problem(name: str, offered: Collection[str], accepted: Sequence[str]) -> Problem:
    """The problem of a topic with messages that are not read.

    Args:
        name: parameter that names the topic.
        offered: types of the messages.
        accepted: types that are read.
    """
    return Problem(
        f"publisher sends {', '.join(sorted(offered))}; accepted are {', '.join(accepted)}",
        f"Set {name} to a topic of one of these types.",
    )


def stamp_ns(header: Any) -> int:
    """A header's stamp in nanoseconds."""
    return int(header.stamp.sec) * NANOSECONDS + int(header.stamp.nanosec)


def camera_model(message: Any) -> CameraModel:
    """The camera that a `sensor_msgs/msg/CameraInfo` describes; its raw pictures, with ROI and binning.

    Raises:
        CalibrationError: with the field and the value that is not accepted.
    """
    return CameraModel.from_info(message)


def transforms(message: Any) -> list[tuple[str, str, Transform, int]]:
    """What a `tf2_msgs/msg/TFMessage` says.

    Returns:
        (parent, child, parent_from_child, stamp in nanoseconds) per transform.

    Raises:
        CalibrationError: a rotation or translation is none.
    """
    return [_transform(stamped) for stamped in message.transforms]


def _transform(stamped: Any) -> tuple[str, str, Transform, int]:
    t, q = stamped.transform.translation, stamped.transform.rotation
    transform = Transform.from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
    parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
    return parent, child, transform, stamp_ns(stamped.header)


def _picture(message: Any, modality: Modality, unit: float) -> RawImage:
    data, big = _bytes(message.data), bool(message.is_bigendian)
    picture = RawImage(message.height, message.width, message.encoding, message.step, data, big, unit=unit)
    if modality == DEPTH:
        image_view(picture, DEPTH_LAYOUTS, "a depth picture")
    else:
        image_view(picture, CAMERA_LAYOUTS, "a camera picture")
    return picture


def _cloud(message: Any) -> PointCloud:
    return cloud_from_fields(
        message.fields,
        message.height,
        message.width,
        message.point_step,
        message.row_step,
        bool(message.is_bigendian),
        _bytes(message.data),
    )


def _bytes(data: Any) -> npt.NDArray[np.uint8]:
    """The bytes of a `uint8[]` field: rclpy gives array.array, rosbags NumPy, tests and converters bytes."""
    if isinstance(data, bytes | bytearray | memoryview):
        return np.frombuffer(data, np.uint8)
    return np.asarray(data, np.uint8)
