"""EVT3 words from events: what the simulated event camera sends, in the format of the real one.

Format: Prophesee "EVT 3.0 Format", 16-bit little-endian words with the type in the top four bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import PacketError

_Y, _X, _TIME_LOW, _TIME_HIGH = 0x0000, 0x2000, 0x6000, 0x8000
_LONGEST_GAP = 16_000_000
"""Microseconds. The 24-bit clock wraps after 16.777 s, so a longer gap between two events would be lost."""


def encode_evt3(
    x: npt.ArrayLike, y: npt.ArrayLike, t_us: npt.ArrayLike, polarity: npt.ArrayLike
) -> npt.NDArray[np.uint8]:
    """One self-contained packet: it starts with its own time and row, whatever packet went before.

    Only single-event words are written. TIME_HIGH comes twice, as sensors repeat it, so that a decoder can tell a
    jump of the clock from a bit error.

    Args:
        x: (n,) columns, 0 to 2047.
        y: (n,) rows, 0 to 2047.
        t_us: (n,) microseconds, not decreasing, not negative; only the lowest 24 bits are transmitted.
        polarity: (n,) true where the light became brighter.

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
    words[:, 0] = words[:, 1] = _TIME_HIGH | ((times >> 12) & 0xFFF)
    words[:, 2] = _TIME_LOW | (times & 0xFFF)
    words[:, 3] = _Y | rows
    words[:, 4] = _X | columns | (signs << 11)
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
    if gaps.max() > _LONGEST_GAP:
        raise PacketError(
            f"two events lie {gaps.max()} µs apart; EVT3's clock holds gaps up to {_LONGEST_GAP} µs.",
            "Split the packet.",
        )
