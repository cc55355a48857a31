"""The `libcaer` encoding of `event_camera_msgs/EventPacket`: iniVation's cameras, one 64-bit event after the other.

Format: libcaer's `polarity.h`, as its ROS driver (ros-event-camera/libcaer_driver) copies it into the message.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.words import Decoded
from mlesam_ros.errors import PacketError

_EVENT = np.dtype([("data", "<u4"), ("time", "<u4")])
_WRAP = 1 << 31
"""Microseconds after which an event's own clock starts again; the driver then moves the packet's time base on."""


def decode_libcaer(data: npt.NDArray[np.uint8]) -> Decoded:
    """Decode a packet. Its byte order is little-endian on every machine.

    An event's first half holds x in bits 17-31, y in 2-16 and polarity in 1; its second half microseconds.

    Args:
        data: (8 * n,) uint8.

    Returns:
        x, y uint16 pixels; t int64 nanoseconds since the packet's time base, whose wrap within the packet is undone;
        polarity bool.

    Raises:
        PacketError: the packet is not a whole number of events.
    """
    if len(data) % _EVENT.itemsize:
        raise PacketError(f"libcaer packet has {len(data)} bytes; it must be a whole number of 64-bit events.")
    events = np.ascontiguousarray(data).view(_EVENT)
    fields = events["data"]
    time = (events["time"] & (_WRAP - 1)).astype(np.int64)
    back = np.diff(time, prepend=time[:1]) < -_WRAP // 2
    if back.any():
        time += np.cumsum(back) * _WRAP
    x, y = (fields >> 17).astype(np.uint16), (fields >> 2 & 0x7FFF).astype(np.uint16)
    return x, y, time * 1000, (fields & 2) != 0
