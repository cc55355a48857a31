"""Serialized messages, unpacked here rather than by the transport.

The transport drops what it cannot unpack without a word, so that nobody would count it, and Fast CDR 2.3 takes the
padding that a message announces off its end without asking whether there is that much: four bytes from anywhere on the
network are then read as whatever lies in memory behind them, a mask of a picture that nobody sent, or the node's end.
Here every length is compared with the bytes that are there, and arrays stay views of them, as when a bag is read.
"""

from __future__ import annotations

from typing import Any

from mlesam_ros.bags.typestore import typestore
from mlesam_ros.errors import PacketError


def deserialize(raw: bytes, type_name: str) -> Any:
    """A message with the fields of its type, its arrays NumPy views of the bytes.

    Args:
        raw: the serialized message with its encapsulation, plain CDR in either byte order.
        type_name: such as `sensor_msgs/msg/Image`, one that `typestore()` knows.

    Raises:
        PacketError: the bytes are not such a message.
    """
    try:
        return typestore().deserialize_cdr(memoryview(raw), type_name)
    except Exception as error:  # rosbags names most of its own, but its parsers trip over others
        raise PacketError(
            f"{len(raw)} bytes are no {type_name}: {error}; its publisher sends something else or they are damaged."
        ) from error
