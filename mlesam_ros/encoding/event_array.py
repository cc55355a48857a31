"""`dvs_msgs/msg/EventArray` and `prophesee_event_msgs/msg/EventArray` from their serialized bytes.

As a message each event would be a Python object with a time of its own; as bytes all of them are one strided view. The
two types have the same fields. Layout: OMG CDR as DDS-RTPS carries it, every number aligned to its own size, counted
from the end of the four bytes of encapsulation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.words import Decoded
from mlesam_ros.errors import PacketError
from mlesam_ros.frame import NANOSECONDS

_ENCAPSULATION = 4
_ORDERS = {b"\x00\x00": ">", b"\x00\x01": "<"}
_STRIDE = 16
_PADDING = 3
"""Bytes that a middleware may add to fill the last word."""


@dataclass(frozen=True)
class EventArray:
    """A message's fields.

    Attributes:
        stamp: the header's, nanoseconds.
        frame_id: the header's.
        height, width: of the sensor in pixels.
        events: (n,) structured array, a view of the message: `sec`, `nanosec`, `polarity`, and `x` and `y`, which for
            the first event lie two bytes later: `first`.
        first: x and y of the first event; (0, 0) without events.
    """

    stamp: int
    frame_id: str
    height: int
    width: int
    events: npt.NDArray[np.void]
    first: tuple[int, int]

    @property
    def columns(self) -> Decoded:
        """x, y uint16; t int64 nanoseconds as the driver gave them; polarity bool. Copies."""
        x, y = self.events["x"].astype(np.uint16), self.events["y"].astype(np.uint16)
        x[:1], y[:1] = self.first
        t = self.events["sec"].astype(np.int64)
        t *= NANOSECONDS
        t += self.events["nanosec"]
        return x, y, t, self.events["polarity"] != 0


def read_event_array(raw: bytes | bytearray | memoryview) -> EventArray:
    """A message's fields and a view of its events.

    Args:
        raw: the serialized message with its encapsulation, in either byte order.

    Raises:
        PacketError: it is cut off, longer than its events, or not plain CDR.
    """
    order = _ORDERS.get(bytes(raw[:2]))
    if order is None or len(raw) < _ENCAPSULATION:
        raise PacketError(
            f"event array starts with {bytes(raw[:2]).hex(' ') or 'no bytes'}; plain CDR starts with 00 00 or 00 01."
        )
    sec, nanosec, letters = _fields(raw, order + "iII", _ENCAPSULATION, "header")
    at = _ENCAPSULATION + 12
    if letters > len(raw) - at:
        raise PacketError(f"frame_id has {letters} bytes; the event array ends after {len(raw) - at} more.")
    frame_id = bytes(raw[at : at + letters]).rstrip(b"\0").decode("utf-8", "replace")
    at += letters + -letters % 4
    height, width, count = _fields(raw, order + "III", at, "height, width and number of events")
    events, first = _events(raw, order, at + 12, count)
    return EventArray(sec * NANOSECONDS + nanosec, frame_id, height, width, events, first)


def _fields(raw: bytes | bytearray | memoryview, layout: str, at: int, what: str) -> tuple[int, ...]:
    needed = struct.calcsize(layout)
    if len(raw) < at + needed:
        raise PacketError(f"event array has {len(raw)} bytes; {what} end at byte {at + needed}: it is cut off.")
    return struct.unpack_from(layout, raw, at)


def _events(
    raw: bytes | bytearray | memoryview, order: str, at: int, count: int
) -> tuple[npt.NDArray[np.void], tuple[int, int]]:
    """The events and the first one's x and y.

    Behind a count, which ends on a multiple of four, the first event's x, y, sec, nanosec and polarity lie without gaps
    in 13 bytes. Every other event starts two bytes after a multiple of four and so has a gap of two before its sec:
    from sec on all of them are 16 bytes apart.
    """
    end = at + count * _STRIDE - 3 if count else at
    if not end <= len(raw) <= end + _PADDING:
        raise PacketError(
            f"event array announces {count} events, which end at byte {end}, but has {len(raw)} bytes; "
            "it is cut off or damaged."
        )
    layout = np.dtype({
        "names": ["x", "y", "sec", "nanosec", "polarity"],
        "formats": [f"{order}u2", f"{order}u2", f"{order}i4", f"{order}u4", "u1"],
        "offsets": [0, 2, 6, 10, 14],
        "itemsize": 15,
    })  # fmt: skip
    events = np.ndarray((count,), layout, raw, at - 2, (_STRIDE,))
    x, y = struct.unpack_from(order + "HH", raw, at) if count else (0, 0)
    return events, (x, y)
