"""EVT3, the format of Prophesee's event cameras, decoded without a loop over events.

The stream is 16-bit little-endian words whose top four bits say what they carry: a row, a column with polarity, half of
the clock, a vector of columns. An event is a column meeting the row and the time that came last; so decoding means
holding the last value of each over the words that follow, and over packets.

Format: Prophesee, "EVT 3.0 Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import PacketError

_Y, _X, _BASE, _VECTOR12, _VECTOR8, _TIME_LOW, _TIME_HIGH, _TRIGGER = (0, 2, 3, 4, 5, 6, 8, 10)
_UNKNOWN = (1, 9, 11, 12, 13)
_COORDINATE, _POLARITY = np.uint16(0x7FF), np.uint16(0x800)
_TWELVE, _EIGHT = np.uint16(0xFFF), np.uint16(0xFF)
_OUTSIDE = 0xFFF
"""A coordinate beyond every sensor."""
_SMALL_STEP = 10
"""Ticks of TIME_HIGH. A step back of no more than this is no wrap of the clock (as in event_camera_codecs)."""

_BITS = ((np.arange(4096)[:, None] >> np.arange(12)) & 1).astype(np.bool_)
_COUNT = _BITS.sum(axis=1).astype(np.uint8)

Words = npt.NDArray[np.uint16]
Places = npt.NDArray[np.intp]
Decoded = tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""(x, y, t, polarity), each (n,), in order of arrival."""


class Evt3Decoder:
    """Decodes the packets of one sensor, in order.

    Attributes:
        counters: what gave no event: words of `unknown` type, external `triggers`, events `outside` the sensor,
            events `untimed` because the clock was not known yet, and `clock_errors`, TIME_HIGH words not believed.
    """

    def __init__(self, width: int = 2048, height: int = 2048) -> None:
        """Start without history.

        Args:
            width: columns of the sensor; events beyond it are dropped and counted.
            height: rows of the sensor, likewise.
        """
        self.width, self.height = width, height
        self.counters = {"unknown": 0, "triggers": 0, "outside": 0, "untimed": 0, "clock_errors": 0}
        self.reset()

    def reset(self) -> None:
        """Forget row, clock and vector base, as after packets were lost; the counters stay."""
        self._clock = _Clock()
        self._low = 0
        self._timed = False  # a TIME_LOW has come after the first TIME_HIGH
        self._row = _OUTSIDE
        self._base = _OUTSIDE
        self._base_sign = False

    @property
    def now(self) -> int | None:
        """The sensor's clock after the last packet in microseconds, None before it is known."""
        return (self._clock.ticks << 12) | self._low if self._timed else None

    def decode(self, data: npt.NDArray[np.uint8]) -> Decoded:
        """Decode the next packet. A stream may be cut into packets between any two words.

        Args:
            data: (2 * words,) uint8.

        Returns:
            x, y (n,) uint16 pixels; t (n,) int64 microseconds of the sensor's clock, whose wrap after 16.777 s is
            undone since the first packet; polarity (n,) bool.

        Raises:
            PacketError: the packet is not a whole number of words; the decoder's state is then unchanged.
        """
        if len(data) % 2:
            raise PacketError(f"EVT3 packet has {len(data)} bytes; it must be a whole number of 16-bit words.")
        words: Words = np.ascontiguousarray(data).view("<u2")
        code = (words >> 12).astype(np.uint8)
        self._tally(code)
        vectors = np.flatnonzero((code == _VECTOR12) | (code == _VECTOR8))
        masks: Words = words[vectors] & np.where(code[vectors] == _VECTOR12, _TWELVE, _EIGHT)
        events = (code == _X).view(np.uint8)  # events per word
        events[vectors] = _COUNT[masks]
        low, high = (np.flatnonzero(code == _TIME_LOW), np.flatnonzero(code == _TIME_HIGH))
        self._drop_untimed(events, low, high)
        y, t = self._rows_and_times(words, events, np.flatnonzero(code == _Y), low, high)
        x, polarity = self._columns(words, code, events, vectors, masks)
        return self._inside(x, y, t, polarity)

    def _tally(self, code: npt.NDArray[np.uint8]) -> None:
        self.counters["triggers"] += int(np.count_nonzero(code == _TRIGGER))
        self.counters["unknown"] += sum(int(np.count_nonzero(code == k)) for k in _UNKNOWN)

    def _drop_untimed(self, events: npt.NDArray[np.uint8], low: Places, high: Places) -> None:
        """Zero the event counts of the words before the clock is known."""
        if self._timed:
            return
        end = len(events)
        if self._clock.started or len(high):
            known = low if self._clock.started else low[low > high[0]]
            if len(known):
                end, self._timed = int(known[0]), True
        self.counters["untimed"] += int(events[:end].sum())
        events[:end] = 0

    def _rows_and_times(
        self, words: Words, events: npt.NDArray[np.uint8], row: Places, low: Places, high: Places
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
        """Row and time of each event: those of the last word that set them."""
        seen = np.cumsum(events, dtype=np.int32)
        total = int(seen[-1]) if len(seen) else 0
        rows = np.concatenate([[self._row], words[row] & _COORDINATE]).astype(np.uint16)
        lows = np.concatenate([[self._low], words[low] & _TWELVE])
        ticks = np.concatenate([[self._clock.ticks], self._clock.follow(words[high] & _TWELVE)])
        self.counters["clock_errors"] += self._clock.errors
        self._row, self._low = int(rows[-1]), int(lows[-1])
        times = _held(ticks << 12, seen[high], total)
        times |= _held(lows, seen[low], total)
        return _held(rows, seen[row], total), times

    def _columns(
        self, words: Words, code: npt.NDArray[np.uint8], events: npt.NDArray[np.uint8], vectors: Places, masks: Words
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
        """Column and polarity of each event: its word's own, or its bit's place after the vector's base."""
        used = np.flatnonzero(events != 0)
        x, sign = words[used] & _COORDINATE, (words[used] & _POLARITY) != 0
        starts, signs = self._vector_starts(words, code, vectors)
        filled = events[vectors] > 0
        if not filled.any():
            return x, sign
        vector = code[used] != _X
        x[vector], sign[vector] = starts[filled], signs[filled]
        x, sign, vector = (np.repeat(a, events[used]) for a in (x, sign, vector))
        x[vector] += np.nonzero(_BITS[masks[filled]])[1].astype(np.uint16)
        return x, sign

    def _vector_starts(
        self, words: Words, code: npt.NDArray[np.uint8], vectors: Places
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """First column and polarity of each vector: the base moves on by the length of every vector after it."""
        base = np.flatnonzero(code == _BASE)
        columns = np.concatenate([[self._base], words[base] & _COORDINATE]).astype(np.int64)
        signs = np.concatenate([[self._base_sign], (words[base] & _POLARITY) != 0])
        travelled = np.concatenate([[0], np.cumsum(np.where(code[vectors] == _VECTOR12, 12, 8))])
        origins = np.concatenate([[0], travelled[np.searchsorted(vectors, base)]])
        current = np.searchsorted(base, vectors)
        starts = np.minimum(columns[current] + travelled[:-1] - origins[current], _OUTSIDE)
        self._base = int(min(columns[-1] + travelled[-1] - origins[-1], _OUTSIDE))
        self._base_sign = bool(signs[-1])
        return starts, signs[current]

    def _inside(
        self,
        x: npt.NDArray[np.uint16],
        y: npt.NDArray[np.uint16],
        t: npt.NDArray[np.int64],
        polarity: npt.NDArray[np.bool_],
    ) -> Decoded:
        if not len(x) or (x.max() < self.width and y.max() < self.height):
            return x, y, t, polarity
        inside = (x < self.width) & (y < self.height)
        self.counters["outside"] += int(len(x) - np.count_nonzero(inside))
        return x[inside], y[inside], t[inside], polarity[inside]


@dataclass
class _Clock:
    """TIME_HIGH as a count of 4096 µs that does not wrap, and that a flipped bit does not upset.

    A sensor repeats TIME_HIGH many times per tick. A value one flipped bit away from the expected one is therefore not
    believed until a second word does not return to it: a true jump of the clock costs one word, an error costs nothing.
    """

    ticks: int = 0
    started: bool = False
    doubted: bool = False
    errors: int = 0

    def follow(self, values: Words) -> npt.NDArray[np.int64]:
        """The count after each of the (n,) 12-bit values, (n,) int64; `errors` of these were not believed."""
        self.errors = 0
        if not len(values):
            return np.empty(0, np.int64)
        if not self.started:
            self.ticks, self.started = int(values[0]), True
        chain = np.concatenate([[self.ticks & 0xFFF], values]).astype(np.int64)
        steps = (chain[1:] - chain[:-1]) & 0xFFF
        if steps.max() <= _SMALL_STEP:
            counted = self.ticks + np.cumsum(steps)
            self.ticks, self.doubted = int(counted[-1]), False
            return counted
        return np.fromiter((self._believe(int(v)) for v in values), np.int64, len(values))

    def _believe(self, value: int) -> int:
        last = self.ticks & 0xFFF
        step = (value - last) & 0xFFF
        if step <= _SMALL_STEP:
            self.ticks += step
            self.doubted = False
        elif step < 0x1000 - _SMALL_STEP:
            flipped = any((value ^ expected).bit_count() == 1 for expected in (last, (last + 1) & 0xFFF))
            self.doubted = flipped and not self.doubted
            self.errors += self.doubted
            self.ticks += 0 if self.doubted else step
        return self.ticks


def _held(values: npt.NDArray[Any], before: npt.NDArray[np.int32], total: int) -> npt.NDArray[Any]:
    """Values held over events: `values[0]` until `before[0]` events have passed, then `values[1]`, and so on."""
    edges = np.concatenate([[0], before, [total]])
    return np.repeat(values, edges[1:] - edges[:-1])
