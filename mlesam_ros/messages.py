# SPDX-License-Identifier: Apache-2.0
"""Conversion of ROS messages, of rclpy and rosbags alike, to sensor frames and transforms.

This module does not import ROS: a message is any object with the fields of its type. Payloads are views of a message's
bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError, Problem
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.preprocessing.base import DEFAULTS, EVENT_WINDOW, Preprocessing
from mlesam_ros.preprocessing.event_codecs import read_event_array
from mlesam_ros.preprocessing.event_stream import EventWindower
from mlesam_ros.preprocessing.images import (
    CAMERA_LAYOUTS,
    DEPTH_LAYOUTS,
    declares_16_bits,
    decode_camera,
    find_significant_bits,
    image_view,
)
from mlesam_ros.preprocessing.point_cloud import IntensityFinder, SweepGatherer, cloud_from_fields
from mlesam_ros.types import (
    CAMERA,
    COMPRESSED_IMAGE,
    DEPTH,
    EVENT_ARRAYS,
    EVENT_PACKET,
    IMAGE,
    MESSAGE_TYPES,
    NANOSECONDS,
    POINT_CLOUD,
    CompressedImage,
    DetectedProperty,
    EventWindow,
    Modality,
    PointCloud,
    RawImage,
    SensorFrame,
)

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"

RAW_TYPES = frozenset(EVENT_ARRAYS)
"""Types that are read from the serialized bytes, because deserialization creates an object for every event."""


class FrameReader:
    """Reads the messages of one topic, in order.

    The detected properties of the data (scale of the intensity, significant bits) are kept from message to message and
    passed on with each frame, so that all consumers of the topic use the same.

    Attributes:
        modality: the modality of the frames.
        type_name: the type of the messages.
        offset: nanoseconds by which the stamps are late.
        frame_type: class of the frames.
    """

    def __init__(
        self, modality: Modality, type_name: str, settings: Preprocessing = DEFAULTS, offset: float = 0.0
    ) -> None:
        """Initialize the reader for one message type.

        Args:
            modality: a key of `MESSAGE_TYPES`.
            type_name: one of its types.
            settings: preprocessing parameters of the sensors.
            offset: seconds by which the stamps are late, for the frames' `time`.

        Raises:
            ConfigError: the modality or the type is not supported.
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
        self.frame_type = SensorFrame
        self._settings = settings
        self._stream = EventWindower(settings.event_window or EVENT_WINDOW)
        self._intensity = IntensityFinder(settings.cloud_field, settings.intensity_scale)
        self._bits = self._bits_set = settings.significant_bits if modality == CAMERA else 0
        self._sweeps = SweepGatherer(settings.gather)

    @property
    def counters(self) -> dict[str, int]:
        """Counters of an event camera's messages so far; empty for other types."""
        return self._stream.counters if self.type_name == EVENT_PACKET or self.type_name in RAW_TYPES else {}

    @property
    def found(self) -> dict[str, DetectedProperty]:
        """Properties of the data detected so far: `intensity` of a LiDAR, `significant_bits` of a 16-bit camera."""
        found = {"intensity": self._intensity.found} if self._intensity.found else {}
        if self._bits:
            how = "as set" if self._bits_set else "by the largest sample"
            found["significant_bits"] = DetectedProperty(
                f"{self._bits} of 16, {how}", self._bits == 16 and not self._bits_set
            )
        return found

    def read(self, message: Any) -> SensorFrame:
        """Convert a message to a frame.

        Args:
            message: a message of `type_name`, or its serialized bytes for `RAW_TYPES`; event messages in the order of
                their publication.

        Returns:
            A frame with a view of the message as payload; for events the window up to the end of this packet, for a
            sweep that is sent in pieces the turn up to this piece.

        Raises:
            MlesamError: the message's fields are inconsistent.
        """
        if self.type_name in RAW_TYPES:
            array = read_event_array(message)
            events = self._stream.push_array(array)
            return self.frame_type(self.modality, events.end, array.frame_id.lstrip("/"), events, self.offset)
        header = message.header
        stamp, payload = stamp_ns(header), self._payload(message)
        if isinstance(payload, EventWindow):
            stamp = payload.end
        frame = self.frame_type(self.modality, stamp, header.frame_id.lstrip("/"), payload, self.offset)
        return self._sweeps.gather(frame)

    def _payload(self, message: Any) -> RawImage | CompressedImage | PointCloud | EventWindow:
        if self.type_name == IMAGE:
            return self._with_significant_bits(_image(message, self.modality, self._unit))
        if self.type_name == COMPRESSED_IMAGE:
            return self._compressed(CompressedImage(message.format, _bytes(message.data), unit=self._unit))
        if self.type_name == POINT_CLOUD:
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

    def _compressed(self, image: CompressedImage) -> RawImage | CompressedImage:
        """Decode 16-bit camera images, since their significant bits require the samples; return others unchanged."""
        if self.modality == DEPTH or not declares_16_bits(image.data):
            return image
        return self._with_significant_bits(decode_camera(image))

    def _with_significant_bits(self, image: RawImage) -> RawImage:
        """Set the significant bits of a 16-bit camera image to the topic's so far; the number never decreases."""
        layout = CAMERA_LAYOUTS.get(image.encoding)
        if self.modality == DEPTH or layout is None or layout.dtype != "u2":
            return image
        if not self._bits_set:
            samples = image_view(image, CAMERA_LAYOUTS, "a camera image")
            self._bits = self._bits if self._bits == 16 else find_significant_bits(samples, self._bits or 8)
        return replace(image, significant_bits=self._bits)


def label_image(message: Any) -> RawImage | CompressedImage:
    """Convert a ground-truth label image of any encoding; its samples are class ids."""
    if hasattr(message, "format"):
        return CompressedImage(message.format, _bytes(message.data))
    big = bool(message.is_bigendian)
    return RawImage(message.height, message.width, message.encoding, message.step, _bytes(message.data), big)


def type_problem(name: str, offered: Collection[str], accepted: Sequence[str]) -> Problem:
    """Problem of a topic with an unsupported message type.

    Args:
        name: parameter of the topic.
        offered: types of the publishers.
        accepted: supported types.
    """
    return Problem(
        f"publisher sends {', '.join(sorted(offered))}; accepted are {', '.join(accepted)}",
        f"Set {name} to a topic of one of these types.",
    )


def stamp_ns(header: Any) -> int:
    """A header's stamp in nanoseconds."""
    return int(header.stamp.sec) * NANOSECONDS + int(header.stamp.nanosec)


def transforms(message: Any) -> list[tuple[str, str, Transform, int]]:
    """Transforms of a `tf2_msgs/msg/TFMessage`.

    Returns:
        (parent, child, parent_from_child, stamp in nanoseconds) per transform.

    Raises:
        CalibrationError: a rotation or translation is invalid.
    """
    return [_transform(stamped) for stamped in message.transforms]


def _transform(stamped: Any) -> tuple[str, str, Transform, int]:
    t, q = stamped.transform.translation, stamped.transform.rotation
    transform = Transform.from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
    parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
    return parent, child, transform, stamp_ns(stamped.header)


def _image(message: Any, modality: Modality, unit: float) -> RawImage:
    data, big = _bytes(message.data), bool(message.is_bigendian)
    image = RawImage(message.height, message.width, message.encoding, message.step, data, big, unit=unit)
    if modality == DEPTH:
        image_view(image, DEPTH_LAYOUTS, "a depth image")
    else:
        image_view(image, CAMERA_LAYOUTS, "a camera image")
    return image


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
    """Bytes of a `uint8[]` field: array.array in rclpy, a NumPy array in rosbags, bytes in tests and converters."""
    if isinstance(data, bytes | bytearray | memoryview):
        return np.frombuffer(data, np.uint8)
    return np.asarray(data, np.uint8)
