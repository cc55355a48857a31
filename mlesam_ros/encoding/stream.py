"""A live event camera: packets in, the last 30 ms of events on the host's clock out.

Message and encodings: `event_camera_msgs/EventPacket`. An event camera's clock runs freely; the header's stamp is the
host's time at the packet's first event. An event's host time is therefore stamp + (t - t of the packet's first event),
anew with every packet, so that no drift builds up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.event_buffer import EventBuffer
from mlesam_ros.encoding.evt3 import Evt3Decoder
from mlesam_ros.encoding.mono import decode_mono
from mlesam_ros.encoding.words import Decoded
from mlesam_ros.errors import PacketError
from mlesam_ros.frame import NANOSECONDS, Events

ENCODINGS = ("evt3", "mono")
WINDOW = 0.030
"""Seconds of events in one picture, as in MUSES."""

_MOST_EVENTS = 4_000_000
"""Events kept at most, whatever the stamps say: more than any sensor sends in 30 ms."""
_LONGEST_PACKET = 10_000_000
"""Microseconds. Drivers send many packets per second."""


class EventStream:
    """Gathers the packets of one event camera, in order."""

    def __init__(self, window: float = WINDOW) -> None:
        """Start without history.

        Args:
            window: seconds of events to keep.

        Raises:
            PacketError: the window is not positive.
        """
        if not 0 < window <= 60:
            raise PacketError(f"event window is {window} s; it must be above 0 and at most 60.")
        self._window = round(window * NANOSECONDS)
        self._counters = {"packets": 0, "lost": 0, "resets": 0, "overflow": 0}
        self._seq: int | None = None
        self._decoder = Evt3Decoder()
        self._buffer = EventBuffer(_MOST_EVENTS)

    @property
    def counters(self) -> dict[str, int]:
        """`packets` read, `lost` by gaps in seq, `resets` by a clock or driver that started again, `overflow` events.

        Besides them what `Evt3Decoder` counts.
        """
        return {**self._counters, **self._decoder.counters}

    def push(
        self,
        data: npt.NDArray[np.uint8],
        encoding: str,
        size: tuple[int, int],
        stamp: int,
        seq: int,
        is_bigendian: bool = False,
    ) -> Events:
        """Add a packet.

        Args:
            data: (n,) uint8, the packet's `events`.
            encoding: one of `ENCODINGS`.
            size: (height, width) of the sensor in pixels.
            stamp: the header's, nanoseconds on the host's clock.
            seq: the packet's number.
            is_bigendian: byte order of `mono`; EVT3 is little-endian always.

        Returns:
            The events of the window that ends with the newest one, or with the stamp when nothing moves. The arrays are
            views of memory that is not written again.

        Raises:
            PacketError: encoding, size or data are not what they must be.
        """
        self._check(encoding, size)
        self._follow(seq, size)
        try:
            decoded = decode_mono(data, is_bigendian, size) if encoding == "mono" else self._decode_evt3(data)
        except PacketError:
            self._decoder.reset()
            raise
        self._counters["packets"] += 1
        if stamp < self._buffer.newest - self._window:
            self._counters["resets"] += 1
            self._buffer = EventBuffer(_MOST_EVENTS)
        events, end = self._on_host_clock(decoded, stamp)
        self._counters["overflow"] += self._buffer.extend(events, end - self._window)
        x, y, t, polarity = self._buffer.columns
        return Events(size[1], size[0], x, y, t, polarity, end - self._window, end)

    def _check(self, encoding: str, size: tuple[int, int]) -> None:
        if encoding not in ENCODINGS:
            raise PacketError(
                f"event encoding {encoding[:40]!r} is not decoded; accepted are {', '.join(ENCODINGS)}: "
                "set the camera driver's encoding."
            )
        if not all(0 < side <= 0xFFFF for side in size):
            raise PacketError(f"event sensor is {size[1]}x{size[0]} pixels; both must be 1 to 65535.")

    def _follow(self, seq: int, size: tuple[int, int]) -> None:
        """After lost packets the decoder's row is stale; after a restart or with another sensor everything is."""
        if (self._decoder.height, self._decoder.width) != size:
            self._decoder.height, self._decoder.width = size
            self._decoder.reset()
            self._buffer = EventBuffer(_MOST_EVENTS)
        # A seq that stays the same is a simulator's that does not count.
        gap = 0 if self._seq in (None, seq) else seq - self._seq - 1
        if gap:
            self._counters["lost"] += max(gap, 0)
            self._decoder.reset()
        self._seq = seq

    def _decode_evt3(self, data: npt.NDArray[np.uint8]) -> Decoded:
        x, y, t, polarity = self._decoder.decode(data)
        if len(t) and np.ptp(t) > _LONGEST_PACKET:
            raise PacketError(
                f"event packet spans {np.ptp(t) / 1e6:.1f} s by its own clock; more than {_LONGEST_PACKET / 1e6:g} s "
                "means that its bytes are damaged."
            )
        return x, y, t * 1000, polarity

    def _on_host_clock(self, decoded: Decoded, stamp: int) -> tuple[Decoded, int]:
        """The events with their host times, and the end of the window."""
        x, y, t, polarity = decoded
        newest = self._buffer.newest
        if not len(t):
            return decoded, max(stamp, newest)
        # Packets overlap by the jitter of their stamps; time does not run back for that.
        t = np.maximum.accumulate(np.maximum(t - t[0] + stamp, newest))
        return (x, y, t, polarity), int(t[-1])
