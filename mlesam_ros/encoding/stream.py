"""A live event camera: packets in, the last 30 ms of events on the host's clock out.

Messages: `event_camera_msgs/EventPacket` in its four encodings, and the `EventArray`s of `event_array.py`.

Which clock an event's time is of, and what a message's stamp says about it:

    evt3            free-running from 0, wraps after 16.777 s   the host's time at the first event
    mono            free-running, absolute by time_base         the host's time at the first event
    libcaer, _cmp   set to the host's when the driver starts,   the host's time when 10 ms were gathered, so at the
                    free-running from then on                   newest event of the packet's first 10 ms
    EventArray      the driver's idea of the host's             the first or newest event's time

For the packets `SensorClock` turns these pairs into an offset. Arrays are believed: their stamps are their events' own
times and say nothing new. Only when the two lie apart, as in a recording that is played with new stamps, are they
treated like packets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.event_array import EventArray
from mlesam_ros.encoding.event_buffer import EventBuffer
from mlesam_ros.encoding.evt3 import WRAP, Evt3Decoder
from mlesam_ros.encoding.libcaer import decode_libcaer
from mlesam_ros.encoding.libcaer_cmp import LibcaerCmpDecoder
from mlesam_ros.encoding.mono import decode_mono
from mlesam_ros.encoding.sensor_clock import SensorClock
from mlesam_ros.encoding.settings import EVENT_WINDOW, WINDOWS
from mlesam_ros.encoding.words import Decoded, clip_to_sensor
from mlesam_ros.errors import PacketError
from mlesam_ros.frame import NANOSECONDS, EventWindow

ENCODINGS = ("evt3", "libcaer_cmp", "libcaer", "mono")

_ARRAY = "event array"
_MOST_EVENTS = 4_000_000
"""Events kept at most, whatever the stamps say: more than any sensor sends in 30 ms."""
_LONGEST_PACKET = 10 * NANOSECONDS
"""Drivers send many packets per second."""
_LATEST_BASE = 1 << 62
"""Nanoseconds, the year 2116."""
_CONTAINER = NANOSECONDS // 100
"""What libcaer gathers before it hands events on, by default; its driver sends one such container per message."""
_SAME_CLOCK = NANOSECONDS
"""An array whose events lie no further from its stamp has them on the host's clock."""


class EventWindower:
    """Gathers the messages of one event camera, in order."""

    def __init__(self, window: float = EVENT_WINDOW) -> None:
        """Start without history.

        Args:
            window: seconds of events to keep.

        Raises:
            PacketError: the window is outside `WINDOWS`.
        """
        low, high = WINDOWS
        if not low <= window <= high:
            raise PacketError(f"event window is {window} s; accepted are {low:g} to {high:g}.")
        self._window = round(window * NANOSECONDS)
        self._counters = {"packets": 0, "lost": 0, "resets": 0, "clock_jumps": 0, "overflow": 0, "outside": 0}
        self._evt3, self._libcaer_cmp = Evt3Decoder(), LibcaerCmpDecoder()
        self._seq: int | None = None
        self._camera: tuple[str, tuple[int, int]] | None = None
        self._clock = SensorClock()
        self._buffer = EventBuffer(_MOST_EVENTS)

    @property
    def counters(self) -> dict[str, int]:
        """What happened so far.

        `packets` read, `lost` by gaps in seq, `resets` by a driver or recording that started again, `clock_jumps` as
        `SensorClock` counts them, `overflow` events that were one too many, and what `Evt3Decoder` counts; of these
        `unknown` and `outside` in every encoding.
        """
        total = self._counters | self._evt3.counters
        total["outside"] += self._counters["outside"]
        total["unknown"] += self._libcaer_cmp.counters["unknown"]
        total["clock_jumps"] += self._clock.jumps
        return total

    def push(
        self,
        data: npt.NDArray[np.uint8],
        encoding: str,
        size: tuple[int, int],
        stamp: int,
        seq: int,
        is_bigendian: bool = False,
        time_base: int = 0,
    ) -> EventWindow:
        """Add an `EventPacket`.

        Args:
            data: (n,) uint8, the packet's `events`.
            encoding: one of `ENCODINGS`.
            size: (height, width) of the sensor in pixels.
            stamp: the header's, nanoseconds on the host's clock.
            seq: the packet's number.
            is_bigendian: byte order of `mono` and `libcaer_cmp`; the others are little-endian always.
            time_base: nanoseconds that the packet's times count from; EVT3 has no use for it.

        Returns:
            The events of the window that ends with the newest one, or with the stamp when nothing moves. The arrays are
            views of memory that is not written again.

        Raises:
            PacketError: encoding, size, time base or data are not what they must be.
        """
        _check(encoding, time_base)
        self._reset_on_change(encoding, size)
        self._check_sequence(seq)
        x, y, t, polarity = self._decode(data, encoding, is_bigendian)
        if encoding != "evt3":
            t += time_base
        if len(t):
            t += self._clock.offset(stamp, int(t[_stamped_index(t, encoding)]))
        return self._add((x, y, t, polarity), stamp)

    def push_array(self, array: EventArray) -> EventWindow:
        """Add an `EventArray`; returns and raises what `push` does."""
        self._reset_on_change(_ARRAY, (array.height, array.width))
        x, y, t, polarity = array.columns
        _check_span(t)
        if len(t) and min(abs(int(t[0]) - array.stamp), abs(int(t[-1]) - array.stamp)) > _SAME_CLOCK:
            t += self._clock.offset(array.stamp, int(t[0]))
        return self._add((x, y, t, polarity), array.stamp)

    def _reset_on_change(self, encoding: str, size: tuple[int, int]) -> None:
        """With another sensor or encoding everything before is history."""
        if not all(0 < side <= 0xFFFF for side in size):
            raise PacketError(f"event sensor is {size[1]}x{size[0]} pixels; both must be 1 to 65535.")
        if self._camera == (encoding, size):
            return
        self._camera = encoding, size
        self._evt3.height, self._evt3.width = size
        self._counters["clock_jumps"] += self._clock.jumps
        self._clock = SensorClock(WRAP * 1000 if encoding == "evt3" else 0)
        self._reset_decoders()
        self._buffer = EventBuffer(_MOST_EVENTS)

    def _check_sequence(self, seq: int) -> None:
        """After lost packets the decoder's row is stale; after a restart of the driver its clock is, too."""
        # A seq that stays the same is a simulator's that does not count.
        gap = 0 if self._seq in (None, seq) else seq - self._seq - 1
        if gap:
            self._counters["lost"] += max(gap, 0)
            self._reset_decoders()
        if gap < 0:
            self._clock.reset()
        self._seq = seq

    def _reset_decoders(self) -> None:
        self._evt3.reset()
        self._libcaer_cmp.reset()

    def _decode(self, data: npt.NDArray[np.uint8], encoding: str, is_bigendian: bool) -> Decoded:
        """Events in the order of the packet, t in nanoseconds of the sensor's clock or since the packet's time base."""
        try:
            if encoding == "evt3":
                x, y, t, polarity = self._evt3.decode(data)
                t *= 1000
            elif encoding == "libcaer_cmp":
                x, y, t, polarity = self._libcaer_cmp.decode(data, is_bigendian)
            else:
                x, y, t, polarity = decode_libcaer(data) if encoding == "libcaer" else decode_mono(data, is_bigendian)
            _check_span(t)
        except PacketError:
            self._reset_decoders()
            raise
        return x, y, t, polarity

    def _add(self, events: Decoded, stamp: int) -> EventWindow:
        """The window, once events with host times are added to it."""
        assert self._camera is not None
        size = self._camera[1]
        self._counters["packets"] += 1
        if stamp < self._buffer.newest - self._window:
            self._counters["resets"] += 1
            self._buffer = EventBuffer(_MOST_EVENTS)
        (x, y, t, polarity), outside = clip_to_sensor(events, size)
        self._counters["outside"] += outside
        end = max(stamp, self._buffer.newest)
        if len(t):
            # Time does not run back, neither for a packet that came faster than all before nor for damaged bytes.
            t = np.maximum.accumulate(np.maximum(t, self._buffer.newest))
            end = int(t[-1])
        self._counters["overflow"] += self._buffer.extend((x, y, t, polarity), end - self._window)
        x, y, t, polarity = self._buffer.columns
        return EventWindow(size[1], size[0], x, y, t, polarity, end - self._window, end)


def _check(encoding: str, time_base: int) -> None:
    if encoding not in ENCODINGS:
        raise PacketError(
            f"event encoding {encoding[:40]!r} is not decoded; accepted are {', '.join(ENCODINGS)}.",
            "Set the camera driver's encoding.",
        )
    if encoding != "evt3" and not 0 <= time_base < _LATEST_BASE:
        raise PacketError(f"time_base is {time_base} ns; in a {encoding} packet it must be below {_LATEST_BASE}.")


def _stamped_index(t: npt.NDArray[np.int64], encoding: str) -> int:
    """Which of a packet's events the stamp is about."""
    return int(t.searchsorted(t[0] + _CONTAINER, side="right")) - 1 if encoding.startswith("libcaer") else 0


def _check_span(t: npt.NDArray[np.int64]) -> None:
    if len(t) and (span := int(t.max()) - int(t.min())) > _LONGEST_PACKET:
        raise PacketError(
            f"event packet spans {span / NANOSECONDS:.1f} s by its own clock; more than "
            f"{_LONGEST_PACKET / NANOSECONDS:g} s means that its bytes are damaged."
        )
