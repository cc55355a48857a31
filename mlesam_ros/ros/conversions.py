"""NumPy arrays and plain values → messages.

`uint8[]` fields are filled in place, or from `array.array`: everything else is copied element by element by one ROS
release or another, which takes up to half a second for a camera image.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from mlesam_ros.frame import NANOSECONDS

_CHANNELS = {"mono8": 1, "rgb8": 3}
_POINT_TYPES = {
    "i1": PointField.INT8,
    "u1": PointField.UINT8,
    "i2": PointField.INT16,
    "u2": PointField.UINT16,
    "i4": PointField.INT32,
    "u4": PointField.UINT32,
    "f4": PointField.FLOAT32,
    "f8": PointField.FLOAT64,
}


def time_message(stamp: int) -> Time:
    """Nanoseconds → `builtin_interfaces/Time`."""
    seconds, nanoseconds = divmod(stamp, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def header(stamp: int, frame_id: str) -> Header:
    """Nanoseconds and a TF frame → `std_msgs/Header`."""
    return Header(stamp=time_message(stamp), frame_id=frame_id)


def byte_array(data: npt.NDArray[Any]) -> array.array[int]:
    """The bytes of an array, copied once into what message setters take without looking at each element."""
    filled = array.array("B")
    fill(filled, data)
    return filled


def fill(field: array.array[int], data: npt.NDArray[Any]) -> None:
    """Copy the bytes of an array into an empty `uint8[]` field of a message, once.

    Some releases copy what is assigned to such a field, even an `array.array`; what it holds already can be filled.
    """
    field.frombytes(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)


def image_message(pixels: npt.NDArray[np.uint8], encoding: str, head: Header) -> Image:
    """A picture → `sensor_msgs/Image`.

    Args:
        pixels: (H, W) uint8 for mono8, (H, W, 3) for rgb8.
        encoding: `mono8` or `rgb8`.
        head: stamp and frame.
    """
    height, width = pixels.shape[:2]
    message = Image(header=head, height=height, width=width, encoding=encoding, step=width * _CHANNELS[encoding])
    fill(message.data, pixels)
    return message


def points_message(points: npt.NDArray[np.void], head: Header) -> PointCloud2:
    """A structured array → unorganised `sensor_msgs/PointCloud2` with the same fields at the same offsets.

    Args:
        points: (N,) structured array whose fields are single numbers in the machine's byte order.
        head: stamp and frame.
    """
    message = PointCloud2(header=head, height=1, width=len(points), is_bigendian=False, is_dense=True)
    message.fields = [_point_field(name, points.dtype) for name in points.dtype.names or ()]
    message.point_step = points.dtype.itemsize
    message.row_step = message.point_step * len(points)
    fill(message.data, points)
    return message


def _point_field(name: str, dtype: np.dtype[np.void]) -> PointField:
    kind, offset = dtype.fields[name][:2]  # type: ignore[index]
    return PointField(name=name, offset=offset, datatype=_POINT_TYPES[kind.str[1:]], count=1)
