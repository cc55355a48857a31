# SPDX-License-Identifier: Apache-2.0
"""Decoder and encoder of Prophesee EVT 3.0 event words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import PacketError
from mlesam_ros.preprocessing.event_codecs import (
    Decoded,
    Places,
    Words,
    as_words,
    by_kind,
    chunks,
    clip_to_sensor,
    expand_vectors,
    hold_table,
    joined,
    merge_sorted,
    running_ranks,
    skip_first,
)

_Y, _X, _BASE, _VECTOR12, _VECTOR8, _TIME_LOW, _TIME_HIGH, _TRIGGER = (0, 2, 3, 4, 5, 6, 8, 10)
_UNKNOWN = (1, 9, 11, 12, 13)
_COORDINATE, _POLARITY = np.uint16(0x7FF), np.uint16(0x800)
_TWELVE, _EIGHT = np.uint16(0xFFF), np.uint16(0xFF)
_OUTSIDE = 0xFFF
"""A coordinate beyond every sensor."""
_MAX_SMALL_STEP = 10
"""Ticks of TIME_HIGH. A smaller or equal step back is not a wrap of the clock (as in event_camera_codecs)."""

WRAP_US = 1 << 24
"""Microseconds after which the sensor's clock wraps."""


class Evt3Decoder:
    """Decodes the packets of one sensor, in order.

    Attributes:
        counters: ignored words of `unknown` type, external `triggers`, events `outside` the sensor, events `untimed`
            before the first clock value, and `clock_errors`, TIME_HIGH words rejected as bit errors.
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
        """Reset row, clock and vector base after lost packets; the counters are kept."""
        self._clock = _Clock()
        self._low = 0
        self._timed = False  # a TIME_LOW has come after the first TIME_HIGH
        self._row = _OUTSIDE
        self._base = _OUTSIDE
        self._base_sign = False

    @property
    def now(self) -> int | None:
        """The sensor's clock after the last packet in microseconds; None before the first clock value."""
        return (self._clock.ticks << 12) | self._low if self._timed else None

    def decode(self, data: npt.NDArray[np.uint8]) -> Decoded:
        """Decode the next packet. A stream may be split into packets between any two words.

        Args:
            data: (2 * words,) uint8.

        Returns:
            x, y (n,) uint16 pixels; t (n,) int64 microseconds of the sensor's clock, which wraps after 16.777 s and is
            unwrapped since the first packet; polarity (n,) bool.

        Raises:
            PacketError: the packet is not a whole number of words; the decoder's state is then unchanged.
        """
        words = as_words(data, "EVT3")
        decoded, outside = clip_to_sensor(
            joined([self._decode(run) for run in chunks(words)]), (self.height, self.width)
        )
        self.counters["outside"] += outside
        return decoded

    def _decode(self, words: Words) -> Decoded:
        """The events of a run, before events outside the sensor are dropped."""
        kinds = by_kind(words)
        self.counters["triggers"] += len(kinds[_TRIGGER])
        self.counters["unknown"] += sum([len(kinds[kind]) for kind in _UNKNOWN])
        vectors = merge_sorted(kinds[_VECTOR12], kinds[_VECTOR8])
        source = merge_sorted(kinds[_X], vectors)
        skipped = 0 if self._timed else int(source.searchsorted(self._first_timed(kinds, len(words))))
        y, t = self._rows_and_times(words, source, kinds)
        singles = words[source]
        decoded = singles & _COORDINATE, y, t, (singles & _POLARITY) != 0
        if len(vectors) or len(kinds[_BASE]):
            decoded, counts = self._with_vectors(decoded, singles >> 12 != _X, words, vectors, kinds[_BASE])
            skipped = int(counts[:skipped].sum())
        self.counters["untimed"] += skipped
        return skip_first(decoded, skipped)

    def _first_timed(self, kinds: list[Places], length: int) -> int:
        """Index of the word in the run from which the clock is valid; `length` if there is none."""
        low, high = kinds[_TIME_LOW], kinds[_TIME_HIGH]
        if not self._clock.started:
            low = low[low > high[0]] if len(high) else low[:0]
        self._timed = bool(len(low))
        return int(low[0]) if len(low) else length

    def _rows_and_times(
        self, words: Words, source: Places, kinds: list[Places]
    ) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
        """Row and time at each of the `source` words."""
        row, low, high = kinds[_Y], kinds[_TIME_LOW], kinds[_TIME_HIGH]
        rows = hold_table(self._row, words[row] & _COORDINATE, np.uint16)
        lows = hold_table(self._low, words[low] & _TWELVE, np.int64)
        ticks = hold_table(self._clock.ticks, self._clock.follow(words[high] & _TWELVE), np.int64)
        self.counters["clock_errors"] += self._clock.errors
        self._row, self._low = int(rows[-1]), int(lows[-1])
        at_row, at_low, at_high = running_ranks(source, len(words), (row, low, high))
        times = (ticks << 12)[at_high]
        times |= lows[at_low]
        return rows[at_row], times

    def _with_vectors(
        self, decoded: Decoded, vector: npt.NDArray[np.bool_], words: Words, vectors: Places, base: Places
    ) -> tuple[Decoded, npt.NDArray[np.uint8]]:
        """Expand the vectors to one event per set bit of their masks; return the events and their number per word.

        Args:
            decoded: one entry per event word.
            vector: whether an entry is a vector.
            words: the run.
            vectors: indices of the vector words.
            base: indices of the vector base words.
        """
        twelve = words[vectors] >> 12 == _VECTOR12
        masks = words[vectors] & np.where(twelve, _TWELVE, _EIGHT)
        decoded[0][vector], decoded[3][vector] = self._vector_starts(words, base, vectors, np.where(twelve, 12, 8))
        return expand_vectors(decoded, vector, masks, axis=0)

    def _vector_starts(
        self, words: Words, base: Places, vectors: Places, lengths: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """First column and polarity of each vector: each vector advances the base by its length."""
        columns = hold_table(self._base, words[base] & _COORDINATE, np.int64)
        signs = hold_table(self._base_sign, (words[base] & _POLARITY) != 0, np.bool_)
        traveled = hold_table(0, np.cumsum(lengths), np.int64)
        origins = hold_table(0, traveled[vectors.searchsorted(base)], np.int64)
        current = base.searchsorted(vectors)
        starts = np.minimum(columns[current] + traveled[:-1] - origins[current], _OUTSIDE)
        self._base = int(min(columns[-1] + traveled[-1] - origins[-1], _OUTSIDE))
        self._base_sign = bool(signs[-1])
        return starts, signs[current]


@dataclass
class _Clock:
    """TIME_HIGH as an unwrapped count of 4096 µs that is robust against bit errors.

    A sensor repeats TIME_HIGH many times per tick. A value that differs from the expected one by a single bit is
    therefore rejected once. If the next word does not return to the expected value, it is accepted as a clock jump.
    """

    ticks: int = 0
    started: bool = False
    suspect: bool = False
    errors: int = 0

    def follow(self, values: Words) -> npt.NDArray[np.int64]:
        """The count after each of the (n,) 12-bit values, (n,) int64; sets `errors` to the number of rejections."""
        self.errors = 0
        if not len(values):
            return np.empty(0, np.int64)
        if not self.started:
            self.ticks, self.started = int(values[0]), True
        chain = np.concatenate([[self.ticks & 0xFFF], values]).astype(np.int64)
        steps = (chain[1:] - chain[:-1]) & 0xFFF
        if steps.max() <= _MAX_SMALL_STEP:
            counted = self.ticks + np.cumsum(steps)
            self.ticks, self.suspect = int(counted[-1]), False
            return counted
        return np.fromiter((self._count(int(v)) for v in values), np.int64, len(values))

    def _count(self, value: int) -> int:
        last = self.ticks & 0xFFF
        step = (value - last) & 0xFFF
        if step <= _MAX_SMALL_STEP:
            self.ticks += step
            self.suspect = False
        elif step < 0x1000 - _MAX_SMALL_STEP:
            flipped = any((value ^ expected).bit_count() == 1 for expected in (last, (last + 1) & 0xFFF))
            self.suspect = flipped and not self.suspect
            self.errors += self.suspect
            self.ticks += 0 if self.suspect else step
        return self.ticks


_MAX_GAP_US = 16_000_000
"""Microseconds. The 24-bit clock wraps after 16.777 s, so a decoder cannot recover a longer gap between two events."""


def encode_evt3(
    x: npt.ArrayLike, y: npt.ArrayLike, t_us: npt.ArrayLike, polarity: npt.ArrayLike
) -> npt.NDArray[np.uint8]:
    """Encode one self-contained packet, which starts with time and row and does not depend on earlier packets.

    Only single-event words are written. TIME_HIGH is written twice, as sensors repeat it, so that a decoder can
    distinguish a clock jump from a bit error.

    Args:
        x: (n,) columns, 0 to 2047.
        y: (n,) rows, 0 to 2047.
        t_us: (n,) microseconds, not decreasing, not negative; only the lowest 24 bits are transmitted.
        polarity: (n,) true for an increase of brightness.

    Returns:
        (2 * words,) uint8; empty for no events.

    Raises:
        PacketError: arrays of unequal length, or values that the format cannot hold.
    """
    columns, rows, times = _integers("x", x), _integers("y", y), _integers("t", t_us)
    signs = (_integers("polarity", polarity) != 0).astype(np.uint16)
    if not len(columns) == len(rows) == len(times) == len(signs):
        sizes = ", ".join(str(len(a)) for a in (columns, rows, times, signs))
        raise PacketError(f"x, y, t and polarity have {sizes} values; EVT3 needs one of each per event.")
    if not len(columns):
        return np.empty(0, np.uint8)
    _check(columns, rows, times)
    words = np.empty((len(times), 5), "<u2")
    words[:, 0] = words[:, 1] = _TIME_HIGH << 12 | ((times >> 12) & 0xFFF)
    words[:, 2] = _TIME_LOW << 12 | (times & 0xFFF)
    words[:, 3] = _Y << 12 | rows
    words[:, 4] = _X << 12 | columns | (signs << 11)
    needed = np.ones(words.shape, np.bool_)
    needed[1:, 0] = needed[1:, 1] = np.diff(times >> 12) != 0
    needed[1:, 2] = np.diff(times) != 0
    needed[1:, 3] = np.diff(rows) != 0
    return words[needed].view(np.uint8)


def _integers(name: str, values: Any) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise PacketError(f"{name} is a {array.ndim}-d array of {array.dtype}; EVT3 needs (n,) integers.")
    return array.astype(np.int64)


def _check(x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], t: npt.NDArray[np.int64]) -> None:
    for name, values in (("x", x), ("y", y)):
        if values.min() < 0 or values.max() > 0x7FF:
            raise PacketError(f"{name} runs from {values.min()} to {values.max()}; EVT3 holds 0 to 2047.")
    gaps = np.diff(t, prepend=t[0])
    if t[0] < 0 or gaps.min() < 0:
        raise PacketError("event times are negative or decrease.", "Sort the events by time, in microseconds from 0.")
    if gaps.max() > _MAX_GAP_US:
        raise PacketError(
            f"two events lie {gaps.max()} µs apart; EVT3's clock holds gaps up to {_MAX_GAP_US} µs.",
            "Split the packet.",
        )
