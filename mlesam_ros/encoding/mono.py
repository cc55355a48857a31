"""The `mono` encoding of `event_camera_msgs/EventPacket`: one 64-bit word per event."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.words import Decoded
from mlesam_ros.errors import PacketError


def decode_mono(data: npt.NDArray[np.uint8], is_bigendian: bool) -> Decoded:
    """Decode a packet: bit 63 is the polarity, 48-62 y, 32-47 x, 0-31 nanoseconds since the packet's time base.

    Args:
        data: (8 * n,) uint8.
        is_bigendian: byte order of the words.

    Returns:
        x, y uint16 pixels; t int64 nanoseconds since the packet's time base; polarity bool.

    Raises:
        PacketError: the packet is not a whole number of events.
    """
    if len(data) % 8:
        raise PacketError(f"mono event packet has {len(data)} bytes; it must be a whole number of 64-bit events.")
    words = np.ascontiguousarray(data).view(">u8" if is_bigendian else "<u8").astype(np.uint64, copy=False)
    high = (words >> np.uint64(32)).astype(np.uint32)
    x, y = (high & 0xFFFF).astype(np.uint16), (high >> 16 & 0x7FFF).astype(np.uint16)
    return x, y, (words & np.uint64(0xFFFF_FFFF)).astype(np.int64), high >> 31 != 0
