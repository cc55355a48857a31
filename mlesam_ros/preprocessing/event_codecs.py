# SPDX-License-Identifier: Apache-2.0
"""Decoders of mono, libcaer and libcaer_cmp event packets and of EventArray messages, with shared word operations."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import PacketError
from mlesam_ros.types import NANOSECONDS

Words = npt.NDArray[np.uint16]
Places = npt.NDArray[np.intp]
"""Indices into a run of words, ascending."""
Decoded = tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""(x, y, t, polarity), each (n,), in order of arrival."""

MAX_RUN_WORDS = (1 << 15) - 1
"""Words per run of `running_ranks`: four ranks of 15 bits share an int64, and a run fits in the L2 cache."""

BITS = ((np.arange(4096)[:, None] >> np.arange(12)) & 1).astype(np.bool_)
"""(4096, 12): the bits of each mask, lowest first."""
BIT_COUNTS = BITS.sum(axis=1).astype(np.uint8)
"""(4096,): number of set bits of each mask."""


def as_words(data: npt.NDArray[np.uint8], encoding: str, order: str = "<") -> Words:
    """A packet's bytes as words in native byte order; a view if the packet has that order.

    Raises:
        PacketError: the packet is not a whole number of words.
    """
    if len(data) % 2:
        raise PacketError(f"{encoding} packet has {len(data)} bytes; it must be a whole number of 16-bit words.")
    return np.ascontiguousarray(data).view(f"{order}u2").astype(np.uint16, copy=False)


def chunks(words: Words) -> list[Words]:
    """The words split into runs of at most `MAX_RUN_WORDS`; one empty run for an empty packet."""
    return [words[start : start + MAX_RUN_WORDS] for start in range(0, max(len(words), 1), MAX_RUN_WORDS)]


def joined(parts: Sequence[Decoded]) -> Decoded:
    """Concatenate the events of consecutive runs."""
    if len(parts) == 1:
        return parts[0]
    x, y, t, polarity = zip(*parts, strict=True)
    return np.concatenate(x), np.concatenate(y), np.concatenate(t), np.concatenate(polarity)


def by_kind(words: Words) -> list[Places]:
    """Indices of the words of each of the sixteen kinds (bits 12 to 15)."""
    kind = (words >> 12).astype(np.uint8)
    order = np.argsort(kind, kind="stable")
    ends = kind[order].searchsorted(_KINDS, side="right").tolist()
    return [order[a:b] for a, b in pairwise([0, *ends])]


_KINDS = np.arange(16, dtype=np.uint8)


def merge_sorted(first: Places, second: Places) -> Places:
    """Merge two index arrays in ascending order."""
    if not len(first) or not len(second):
        return first if len(first) else second
    return np.sort(np.concatenate((first, second)), kind="stable")


def running_ranks(at: Places, length: int, kinds: Sequence[Places]) -> list[Places]:
    """Count the words of each kind before each of the given words.

    Args:
        at: indices of the given words, which are of none of these kinds.
        length: words in the run, at most `MAX_RUN_WORDS`.
        kinds: indices of the words of at most four kinds.

    Returns:
        One (len(at),) per kind; 0 before the first word of the kind.
    """
    steps = np.zeros(length, np.int64)
    for field, places in enumerate(kinds):
        steps[places] = 1 << 15 * field
    np.add.accumulate(steps, out=steps)
    found = steps[at]
    return [(found >> 15 * field) & MAX_RUN_WORDS for field in range(len(kinds))]


def hold_table(carried: int, values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """(1 + n,) table to index by rank: the value carried over from the previous run, then the values of this run."""
    table = np.empty(len(values) + 1, dtype)
    table[0] = carried
    table[1:] = values
    return table


def expand_vectors(
    decoded: Decoded, vector: npt.NDArray[np.bool_], masks: Words, axis: int
) -> tuple[Decoded, npt.NDArray[np.uint8]]:
    """Expand vector words to one event per set bit of their masks.

    Args:
        decoded: one entry per event word; for a vector, its first pixel.
        vector: (n,) whether an entry is a vector.
        masks: masks of the vectors.
        axis: 0 if a vector's pixels lie along x, 1 along y.

    Returns:
        The events, and the number of events of each word.
    """
    counts = np.ones(len(vector), np.uint8)
    counts[vector] = BIT_COUNTS[masks]
    x, y, t, polarity = decoded
    x, y, t, polarity = x.repeat(counts), y.repeat(counts), t.repeat(counts), polarity.repeat(counts)
    (x, y)[axis][vector.repeat(counts)] += np.nonzero(BITS[masks])[1].astype(np.uint16)
    return (x, y, t, polarity), counts


def skip_first(decoded: Decoded, count: int) -> Decoded:
    """Drop the first `count` events."""
    x, y, t, polarity = decoded
    return (x[count:], y[count:], t[count:], polarity[count:]) if count else decoded


def clip_to_sensor(decoded: Decoded, size: tuple[int, int]) -> tuple[Decoded, int]:
    """The events within a sensor of (height, width), and the number of events outside it."""
    x, y, t, polarity = decoded
    if not len(x) or (x.max() < size[1] and y.max() < size[0]):
        return decoded, 0
    keep = (x < size[1]) & (y < size[0])
    return (x[keep], y[keep], t[keep], polarity[keep]), int(len(x) - np.count_nonzero(keep))


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


_EVENT = np.dtype([("data", "<u4"), ("time", "<u4")])
_WRAP_US = 1 << 31
"""Microseconds after which an event's time wraps; the driver then advances the packet's time base."""


def decode_libcaer(data: npt.NDArray[np.uint8]) -> Decoded:
    """Decode a packet, which is always little-endian.

    The first 32 bits of an event hold x in bits 17-31, y in 2-16 and polarity in 1; the second 32 bits microseconds.

    Args:
        data: (8 * n,) uint8.

    Returns:
        x, y uint16 pixels; t int64 nanoseconds since the packet's time base, unwrapped within the packet; polarity
        bool.

    Raises:
        PacketError: the packet is not a whole number of events.
    """
    if len(data) % _EVENT.itemsize:
        raise PacketError(f"libcaer packet has {len(data)} bytes; it must be a whole number of 64-bit events.")
    events = np.ascontiguousarray(data).view(_EVENT)
    fields = events["data"]
    time = (events["time"] & (_WRAP_US - 1)).astype(np.int64)
    back = np.diff(time, prepend=time[:1]) < -_WRAP_US // 2
    if back.any():
        time += np.cumsum(back) * _WRAP_US
    x, y = (fields >> 17).astype(np.uint16), (fields >> 2 & 0x7FFF).astype(np.uint16)
    return x, y, time * 1000, (fields & 2) != 0


_TIME_HIGH, _TIME_LOW, _X, _Y, _BASE, _VECTOR = range(6)
_COORDINATE, _POLARITY, _EIGHT, _TWELVE = np.uint16(0x7FF), np.uint16(0x800), np.uint16(0xFF), np.uint16(0xFFF)
_OUTSIDE = 0x7FF0
"""A coordinate beyond every sensor."""


class LibcaerCmpDecoder:
    """Decodes the packets of one sensor, in order.

    Attributes:
        counters: words of `unknown` kind, which are ignored.
    """

    def __init__(self) -> None:
        self.counters = {"unknown": 0}
        self.reset()

    def reset(self) -> None:
        """Reset column and vector base after lost packets; the counters are kept."""
        self._column = self._base = _OUTSIDE
        self._base_sign = False
        self._start_packet()

    def _start_packet(self) -> None:
        self._low = self._high = self._wraps = 0

    def decode(self, data: npt.NDArray[np.uint8], is_bigendian: bool = False) -> Decoded:
        """Decode the next packet.

        Args:
            data: (2 * words,) uint8.
            is_bigendian: byte order of the words.

        Returns:
            x, y (n,) uint16 pixels; t (n,) int64 nanoseconds since the packet's time base; polarity (n,) bool. An event
            before the first column lies outside every sensor.

        Raises:
            PacketError: the packet is not a whole number of words; the decoder's state is then unchanged.
        """
        words = as_words(data, "libcaer_cmp", ">" if is_bigendian else "<")
        self._start_packet()
        return joined([self._decode(run) for run in chunks(words)])

    def _decode(self, words: Words) -> Decoded:
        kinds = by_kind(words)
        self.counters["unknown"] += sum([len(places) for places in kinds[_VECTOR + 1 :]])
        source = merge_sorted(kinds[_Y], kinds[_VECTOR])
        at_column, at_low, at_high = running_ranks(source, len(words), (kinds[_X], kinds[_TIME_LOW], kinds[_TIME_HIGH]))
        columns = hold_table(self._column, words[kinds[_X]] & _COORDINATE, np.uint16)
        lows = hold_table(self._low, words[kinds[_TIME_LOW]] & _TWELVE, np.int64)
        ticks = self._ticks(words[kinds[_TIME_HIGH]] & _TWELVE)
        self._column, self._low = int(columns[-1]), int(lows[-1])
        times = ((ticks << 12)[at_high] | lows[at_low]) * 1000
        singles = words[source]
        decoded = columns[at_column], singles & _COORDINATE, times, (singles & _POLARITY) != 0
        if not len(kinds[_VECTOR]) and not len(kinds[_BASE]):
            return decoded
        return self._with_vectors(decoded, singles >> 12 == _VECTOR, words, kinds)

    def _ticks(self, values: Words) -> npt.NDArray[np.int64]:
        """(1 + n,) counts of 4096 µs since the packet's time base: the value carried over, then one per TIME_HIGH.

        Time never decreases within a packet, so a smaller value is a wrap. The driver keeps 16 bits of the time and
        therefore writes values below 16; a driver that fills the word's twelve bits wraps at 4096.
        """
        chain = hold_table(self._high, values, np.int64)
        back = np.diff(chain) < 0
        period = 16 if chain.max() < 16 else 4096
        wraps = hold_table(self._wraps, self._wraps + period * np.cumsum(back), np.int64)
        self._high, self._wraps = int(chain[-1]), int(wraps[-1])
        return chain + wraps

    def _with_vectors(
        self, decoded: Decoded, vector: npt.NDArray[np.bool_], words: Words, kinds: list[Places]
    ) -> Decoded:
        """Expand the vectors to one event per set bit of their masks; `vector` marks the entries that are vectors."""
        base, vectors = kinds[_BASE], kinds[_VECTOR]
        rows = hold_table(self._base, words[base] & _COORDINATE, np.int64)
        signs = hold_table(self._base_sign, (words[base] & _POLARITY) != 0, np.bool_)
        origins = hold_table(0, vectors.searchsorted(base), np.int64)  # number of vectors before each base
        current = base.searchsorted(vectors)
        since = np.arange(len(vectors)) - origins[current]
        decoded[1][vector] = np.minimum(rows[current] + 8 * since, _OUTSIDE)
        decoded[3][vector] = signs[current]
        self._base = int(min(rows[-1] + 8 * (len(vectors) - origins[-1]), _OUTSIDE))
        self._base_sign = bool(signs[-1])
        return expand_vectors(decoded, vector, words[vectors] & _EIGHT, axis=1)[0]


_ENCAPSULATION = 4
_ORDERS = {b"\x00\x00": ">", b"\x00\x01": "<"}
_STRIDE = 16
_MAX_PADDING = 3
"""Most bytes that a middleware adds to pad the last word."""


@dataclass(frozen=True)
class EventArray:
    """Fields of an `EventArray` message.

    Attributes:
        stamp: stamp of the header in nanoseconds.
        frame_id: frame_id of the header.
        height, width: size of the sensor in pixels.
        events: (n,) structured array, a view of the message: `sec`, `nanosec`, `polarity`, `x` and `y`. The x and y of
            the first event lie two bytes later in the message and are in `first`.
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
        """Copies of x, y uint16; t int64 nanoseconds on the driver's clock; polarity bool."""
        x, y = self.events["x"].astype(np.uint16), self.events["y"].astype(np.uint16)
        x[:1], y[:1] = self.first
        t = self.events["sec"].astype(np.int64)
        t *= NANOSECONDS
        t += self.events["nanosec"]
        return x, y, t, self.events["polarity"] != 0


def read_event_array(raw: bytes | bytearray | memoryview) -> EventArray:
    """Parse a serialized `EventArray` into its fields and a view of its events.

    Args:
        raw: the serialized message with its encapsulation, in either byte order.

    Raises:
        PacketError: the message is truncated, longer than its events, or not plain CDR.
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
        raise PacketError(f"event array has {len(raw)} bytes; {what} end at byte {at + needed}: it is truncated.")
    return struct.unpack_from(layout, raw, at)


def _events(
    raw: bytes | bytearray | memoryview, order: str, at: int, count: int
) -> tuple[npt.NDArray[np.void], tuple[int, int]]:
    """The events, and x and y of the first one.

    The count ends on a multiple of four bytes. After it, x, y, sec, nanosec and polarity of the first event take 13
    bytes without gaps. Every other event starts two bytes after a multiple of four and has two padding bytes before
    its sec. From sec on, events are 16 bytes apart.
    """
    end = at + count * _STRIDE - 3 if count else at
    if not end <= len(raw) <= end + _MAX_PADDING:
        raise PacketError(
            f"event array declares {count} events, which end at byte {end}, but has {len(raw)} bytes; "
            "it is truncated or damaged."
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
