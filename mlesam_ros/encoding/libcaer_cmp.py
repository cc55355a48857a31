"""The `libcaer_cmp` encoding of `event_camera_msgs/EventPacket`: iniVation's cameras in 16-bit words, much like EVT3.

An event is a row with polarity meeting the column and the time that came last; a vector is eight rows at once. Times
count from the packet's own time base. Format: ros-event-camera/event_camera_codecs, and what the driver
(ros-event-camera/libcaer_driver) writes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.words import (
    Decoded,
    Places,
    Words,
    as_words,
    by_kind,
    chunks,
    expand_vectors,
    hold_table,
    joined,
    merge_sorted,
    running_ranks,
)

_TIME_HIGH, _TIME_LOW, _X, _Y, _BASE, _VECTOR = range(6)
_COORDINATE, _POLARITY, _EIGHT, _TWELVE = np.uint16(0x7FF), np.uint16(0x800), np.uint16(0xFF), np.uint16(0xFFF)
_OUTSIDE = 0x7FF0
"""A coordinate beyond every sensor."""


class LibcaerCmpDecoder:
    """Decodes the packets of one sensor, in order.

    Attributes:
        counters: words of `unknown` kind, which gave no event.
    """

    def __init__(self) -> None:
        self.counters = {"unknown": 0}
        self.reset()

    def reset(self) -> None:
        """Forget column and vector base, as after packets were lost; the counters stay."""
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
        """(1 + n,) counts of 4096 µs since the packet's time base: the one carried over, then one per TIME_HIGH.

        Time never runs back within a packet, so a smaller value is a wrap. The driver keeps but 16 bits of the time and
        so writes values below 16 only; a driver that fills the word's twelve bits wraps at 4096.
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
        """The events with each vector spread over its mask's bits; `vector` tells which of them are vectors."""
        base, vectors = kinds[_BASE], kinds[_VECTOR]
        rows = hold_table(self._base, words[base] & _COORDINATE, np.int64)
        signs = hold_table(self._base_sign, (words[base] & _POLARITY) != 0, np.bool_)
        origins = hold_table(0, vectors.searchsorted(base), np.int64)  # how many vectors came before each base
        current = base.searchsorted(vectors)
        since = np.arange(len(vectors)) - origins[current]
        decoded[1][vector] = np.minimum(rows[current] + 8 * since, _OUTSIDE)
        decoded[3][vector] = signs[current]
        self._base = int(min(rows[-1] + 8 * (len(vectors) - origins[-1]), _OUTSIDE))
        self._base_sign = bool(signs[-1])
        return expand_vectors(decoded, vector, words[vectors] & _EIGHT, axis=1)[0]
