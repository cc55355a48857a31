# SPDX-License-Identifier: Apache-2.0
"""Accumulate event packets into a sliding time window on the host's clock."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import PacketError
from mlesam_ros.preprocessing.base import EVENT_WINDOW, EVENT_WINDOW_RANGE
from mlesam_ros.preprocessing.event_codecs import (
    Decoded,
    EventArray,
    LibcaerCmpDecoder,
    clip_to_sensor,
    decode_libcaer,
    decode_mono,
)
from mlesam_ros.preprocessing.evt3 import WRAP_US, Evt3Decoder
from mlesam_ros.types import NANOSECONDS, EventWindow

MAX_DRIFT = 200e-6
"""Largest clock drift in seconds per second: two crystals of 100 ppm each."""
MAX_DEVIATION_NS = 10_000_000
"""Nanoseconds. A larger deviation from the expected offset is a clock step, not a transport delay."""


class SensorClock:
    """Estimates the offset between one sensor's clock and the host's.

    Attributes:
        jumps: number of clock steps; also increases while a recording is played at another rate.
    """

    def __init__(self, wrap: int = 0) -> None:
        """Start without an offset.

        Args:
            wrap: period in nanoseconds at which the sensor's clock may wrap unnoticed; 0 for never.
        """
        self.jumps = 0
        self._wrap = wrap
        self.reset()

    def reset(self) -> None:
        """Discard the offset after a restart of the sensor."""
        self._offset: int | None = None
        self._stamp = 0

    def offset(self, stamp: int, sensor: int) -> int:
        """Update the offset with a packet and return the nanoseconds to add to its sensor times.

        Args:
            stamp: arrival time of one of its events, nanoseconds on the host's clock.
            sensor: time of the same event, nanoseconds on the sensor's clock.

        Returns:
            Nanoseconds; at most stamp - sensor.
        """
        seen = stamp - sensor
        if self._offset is not None:
            expected = self._offset + round(MAX_DRIFT * max(stamp - self._stamp, 0))
            if self._wrap:
                expected += round((seen - expected) / self._wrap) * self._wrap
            delay = seen - expected
            self.jumps += abs(delay) > MAX_DEVIATION_NS
            if 0 < delay <= MAX_DEVIATION_NS:
                seen = expected
        self._offset, self._stamp = seen, stamp
        return seen


class EventBuffer:
    """Time-ordered queue of events in contiguous arrays.

    Returned views are never overwritten: when the arrays are full, the live events are copied to new ones.

    Attributes:
        newest: time of the last appended event in nanoseconds; far in the past before the first.
    """

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: largest number of events; the newest are kept.
        """
        self._capacity = capacity
        self._arrays = _empty(0)
        self._start = self._stop = 0
        self.newest = -(1 << 62)

    @property
    def columns(self) -> Decoded:
        """x, y, t, polarity of the live events; views."""
        x, y, t, polarity = self._arrays
        live = slice(self._start, self._stop)
        return x[live], y[live], t[live], polarity[live]

    def extend(self, events: Decoded, since: int) -> int:
        """Append events and drop those before `since`.

        Args:
            events: events in order of time, none before `newest`.
            since: nanoseconds.

        Returns:
            Number of further events dropped because of the capacity.
        """
        self._start += int(np.searchsorted(self.columns[2], since))
        first = int(np.searchsorted(events[2], since))
        count = len(events[2]) - first
        surplus = max(self._stop - self._start + count - self._capacity, 0)
        from_live = min(surplus, self._stop - self._start)
        self._start += from_live
        first += surplus - from_live
        x, y, t, polarity = events
        self._append((x[first:], y[first:], t[first:], polarity[first:]))
        return surplus

    def _append(self, events: Decoded) -> None:
        count = len(events[2])
        if not count:
            return
        if self._stop + count > len(self._arrays[2]):
            live = self.columns
            self._arrays = _empty(max(2 * (len(live[2]) + count), 1 << 14))
            self._start, self._stop = 0, len(live[2])
            _copy(live, self._arrays, 0)
        _copy(events, self._arrays, self._stop)
        self._stop += count
        self.newest = int(events[2][-1])


def _copy(columns: Iterable[npt.NDArray[Any]], arrays: Iterable[npt.NDArray[Any]], at: int) -> None:
    for column, array in zip(columns, arrays, strict=True):
        array[at : at + len(column)] = column


def _empty(size: int) -> Decoded:
    return (np.empty(size, np.uint16), np.empty(size, np.uint16), np.empty(size, np.int64), np.empty(size, np.bool_))


ENCODINGS = ("evt3", "libcaer_cmp", "libcaer", "mono")

_ARRAY = "event array"
_MAX_EVENTS = 4_000_000
"""Capacity of the event buffer, regardless of stamps: more than any sensor sends in 30 ms."""
_MAX_PACKET_NS = 10 * NANOSECONDS
"""Nanoseconds. Longest plausible time span of a packet; drivers send many packets per second."""
_MAX_TIME_BASE_NS = 1 << 62
"""Nanoseconds. Upper limit of time_base, in the year 2116."""
_CONTAINER_NS = NANOSECONDS // 100
"""Nanoseconds of events in a libcaer container by default; the driver sends one container per message."""
_SAME_CLOCK_NS = NANOSECONDS
"""Nanoseconds. Events of an array within this distance of its stamp are on the host's clock."""


class EventWindower:
    """Accumulates the messages of one event camera, in order, into windows."""

    def __init__(self, window: float = EVENT_WINDOW) -> None:
        """Start without history.

        Args:
            window: seconds of events to keep.

        Raises:
            PacketError: the window is outside `EVENT_WINDOW_RANGE`.
        """
        low, high = EVENT_WINDOW_RANGE
        if not low <= window <= high:
            raise PacketError(f"event window is {window} s; accepted are {low:g} to {high:g}.")
        self._window = round(window * NANOSECONDS)
        self._counters = {"packets": 0, "lost": 0, "resets": 0, "clock_jumps": 0, "overflow": 0, "outside": 0}
        self._evt3, self._libcaer_cmp = Evt3Decoder(), LibcaerCmpDecoder()
        self._seq: int | None = None
        self._camera: tuple[str, tuple[int, int]] | None = None
        self._clock = SensorClock()
        self._buffer = EventBuffer(_MAX_EVENTS)

    @property
    def counters(self) -> dict[str, int]:
        """Totals since construction.

        `packets` read, `lost` by gaps in seq, `resets` by a restarted driver or recording, `clock_jumps` of
        `SensorClock`, `overflow` events dropped by the capacity, and the counters of `Evt3Decoder`. Of these, `unknown`
        and `outside` count in every encoding.
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
            stamp: stamp of the header, nanoseconds on the host's clock.
            seq: sequence number of the packet.
            is_bigendian: byte order of `mono` and `libcaer_cmp`; the others are always little-endian.
            time_base: origin of the packet's times in nanoseconds; not used by EVT3.

        Returns:
            The events of the window that ends with the newest event, or with the stamp if the packet has no event. The
            arrays are views that are never overwritten.

        Raises:
            PacketError: encoding, size, time base or data are invalid.
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
        """Add an `EventArray`; see `push` for the result and errors."""
        self._reset_on_change(_ARRAY, (array.height, array.width))
        x, y, t, polarity = array.columns
        _check_span(t)
        if len(t) and min(abs(int(t[0]) - array.stamp), abs(int(t[-1]) - array.stamp)) > _SAME_CLOCK_NS:
            t += self._clock.offset(array.stamp, int(t[0]))
        return self._add((x, y, t, polarity), array.stamp)

    def _reset_on_change(self, encoding: str, size: tuple[int, int]) -> None:
        """Discard decoder state, clock offset and events if the sensor size or encoding changes."""
        if not all(0 < side <= 0xFFFF for side in size):
            raise PacketError(f"event sensor is {size[1]}x{size[0]} pixels; both must be 1 to 65535.")
        if self._camera == (encoding, size):
            return
        self._camera = encoding, size
        self._evt3.height, self._evt3.width = size
        self._counters["clock_jumps"] += self._clock.jumps
        self._clock = SensorClock(WRAP_US * 1000 if encoding == "evt3" else 0)
        self._reset_decoders()
        self._buffer = EventBuffer(_MAX_EVENTS)

    def _check_sequence(self, seq: int) -> None:
        """Reset the decoders after lost packets, and the clock offset after a restart of the driver."""
        # Some simulators send a constant seq.
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
        """Events in packet order, t in nanoseconds of the sensor's clock or since the packet's time base."""
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
        """Append events on the host's clock and return the window."""
        assert self._camera is not None
        size = self._camera[1]
        self._counters["packets"] += 1
        if stamp < self._buffer.newest - self._window:
            self._counters["resets"] += 1
            self._buffer = EventBuffer(_MAX_EVENTS)
        (x, y, t, polarity), outside = clip_to_sensor(events, size)
        self._counters["outside"] += outside
        end = max(stamp, self._buffer.newest)
        if len(t):
            # Keep times from decreasing, after a packet with a shorter delay than all before or with damaged bytes.
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
    if encoding != "evt3" and not 0 <= time_base < _MAX_TIME_BASE_NS:
        raise PacketError(f"time_base is {time_base} ns; in a {encoding} packet it must be below {_MAX_TIME_BASE_NS}.")


def _stamped_index(t: npt.NDArray[np.int64], encoding: str) -> int:
    """Index of the event that the packet's stamp refers to."""
    return int(t.searchsorted(t[0] + _CONTAINER_NS, side="right")) - 1 if encoding.startswith("libcaer") else 0


def _check_span(t: npt.NDArray[np.int64]) -> None:
    if len(t) and (span := int(t.max()) - int(t.min())) > _MAX_PACKET_NS:
        raise PacketError(
            f"event packet spans {span / NANOSECONDS:.1f} s by its own clock; more than "
            f"{_MAX_PACKET_NS / NANOSECONDS:g} s means that its bytes are damaged."
        )
