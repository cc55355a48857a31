"""Moving a serialized message to another moment without unpacking it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from rosbags.typesys.store import Typestore

from mlesam_ros.encoding.cloud_times import move_times
from mlesam_ros.encoding.settings import Preprocessing
from mlesam_ros.frame import AUTO, LIDAR, NANOSECONDS, PointCloud
from mlesam_ros.messages import FrameReader, stamp_ns

Shift = Callable[[int], int]
"""Old stamp in nanoseconds → new stamp in nanoseconds."""
Restamper = Callable[[bytes, Shift], bytes]

_HEADER = "std_msgs/msg/Header"
_TRANSFORMS = "tf2_msgs/msg/TFMessage"
_CLOUD = "sensor_msgs/msg/PointCloud2"
_STAMP_START, _STAMP_END = 4, 12


def restamper(typestore: Typestore, type_name: str, time_unit: str = AUTO) -> Restamper:
    """The cheapest way to move messages of one type.

    A message that begins with a header has its stamp right after the four bytes of CDR encapsulation, whatever follows,
    so eight bytes are replaced and megabytes of pixels are never looked at. Transforms are unpacked: they are small,
    and every one of them has a stamp of its own. So are point clouds, whose points may have times that count from the
    stamp's epoch. Other types have no stamp and stay as they are, and so does what cannot be moved.

    Args:
        typestore: knows the type.
        type_name: such as `sensor_msgs/msg/Image`.
        time_unit: of the times of a cloud's points, as parameter `lidar.time_unit`.
    """
    if type_name == _TRANSFORMS:
        return _Transforms(typestore)
    if type_name == _CLOUD:
        return _Clouds(typestore, time_unit)
    _, fields = typestore.fielddefs[type_name]
    starts_with_header = bool(fields) and fields[0][1][1] == _HEADER
    return _patch_header if starts_with_header or type_name == _HEADER else _keep


def _keep(raw: bytes, shift: Shift) -> bytes:
    return raw


def _patch_header(raw: bytes, shift: Shift) -> bytes:
    layout = "<iI" if raw[1:2] and raw[1] & 1 else ">iI"
    try:
        seconds, nanoseconds = struct.unpack_from(layout, raw, _STAMP_START)
        if seconds == 0 and nanoseconds == 0:
            return raw  # "no time", as latched messages say it; it must stay recognizable
        stamp = struct.pack(layout, *divmod(shift(seconds * NANOSECONDS + nanoseconds), NANOSECONDS))
    except struct.error:
        return raw  # too short, or a stamp that no header can hold
    return b"".join((raw[:_STAMP_START], stamp, raw[_STAMP_END:]))


class _Clouds:
    """Moves a PointCloud2 and the absolute times of its points."""

    def __init__(self, typestore: Typestore, time_unit: str) -> None:
        self._typestore = typestore
        self._reader = FrameReader(LIDAR, _CLOUD, Preprocessing(gather=0.0, time_unit=time_unit))

    def __call__(self, raw: bytes, shift: Shift) -> bytes:
        moved = _patch_header(raw, shift)
        if moved is raw:
            return raw
        try:
            return self._with_times(raw, shift) or moved
        except Exception:  # whatever the bytes are, the message is played; its reader says what is wrong with it
            return moved

    def _with_times(self, raw: bytes, shift: Shift) -> bytes:
        """The message with stamp and points moved; empty where no point's time counts from the epoch."""
        message: Any = self._typestore.deserialize_cdr(raw, _CLOUD)
        old = stamp_ns(message.header)
        message.data = message.data.copy()
        cloud = self._reader.read(message).payload
        assert isinstance(cloud, PointCloud)
        if not move_times(cloud, old, shift(old) - old):
            return b""
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = divmod(shift(old), NANOSECONDS)
        return bytes(self._typestore.serialize_cdr(message, _CLOUD, little_endian=bool(raw[1] & 1)))


class _Transforms:
    """Moves every transform of a TFMessage."""

    def __init__(self, typestore: Typestore) -> None:
        self._typestore = typestore

    def __call__(self, raw: bytes, shift: Shift) -> bytes:
        try:
            message: Any = self._typestore.deserialize_cdr(raw, _TRANSFORMS)
            for transform in message.transforms:
                stamp = transform.header.stamp
                old = stamp.sec * NANOSECONDS + stamp.nanosec
                if old:
                    stamp.sec, stamp.nanosec = divmod(shift(old), NANOSECONDS)
            return bytes(self._typestore.serialize_cdr(message, _TRANSFORMS))
        except Exception:  # whatever the bytes are, the message is played; its reader says what is wrong with it
            return raw
