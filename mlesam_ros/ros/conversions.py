"""Fields as `bags.fields` and `mask_messages` make them → messages of rclpy.

`uint8[]` fields are filled in place, or from `array.array`: everything else is copied element by element by one ROS
release or another, which takes up to half a second for a camera image.
"""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from std_msgs.msg import Header

from mlesam_ros.bags import fields
from mlesam_ros.ros.compat.interfaces import message_class

T = TypeVar("T")


def message_from(kind: type[T], content: Mapping[str, Any]) -> T:
    """A message of a class, filled from the same fields as `bags.build.build` takes.

    Args:
        kind: the message's class.
        content: field → value; a dict for a nested message, a list of dicts for a list of them, an array for numbers.
            Fields that are left out keep their defaults.

    Raises:
        AttributeError: the message has no such field.
    """
    message = kind()
    _fill_message(message, content)
    return message


def header(stamp: int, frame_id: str) -> Header:
    """Nanoseconds and a TF frame → `std_msgs/Header`."""
    return message_from(Header, fields.header(stamp, frame_id))


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


def _fill_message(message: Any, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, Mapping):
            _fill_message(getattr(message, name), value)
        elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
            fill(getattr(message, name), value)
        elif isinstance(value, np.ndarray):
            setattr(message, name, value.ravel().tolist())
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            element = _element(message.get_fields_and_field_types()[name])
            setattr(message, name, [message_from(element, entry) for entry in value])
        else:
            setattr(message, name, value)


@cache
def _element(sequence: str) -> type:
    """The class of the elements of a list of messages, such as that of `sequence<sensor_msgs/PointField>`."""
    package, _, short = sequence.partition("<")[2].rstrip(">").partition("/")
    found = message_class(f"{package}/msg/{short}")
    assert found is not None
    return found
