"""The newest events of a stream, without copying them again and again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.words import Decoded


class EventBuffer:
    """Events in order of time, appended at one end and dropped at the other.

    What has been handed out is never written again: when the arrays are full the live part moves to new ones.

    Attributes:
        newest: time of the event appended last, nanoseconds; far in the past before the first.
    """

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: most events kept, the newest.
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
        """Append events, drop those before `since`.

        Args:
            events: in order of time, none before `newest`.
            since: nanoseconds.

        Returns:
            How many of the rest were dropped because there were too many.
        """
        self._start += int(np.searchsorted(self.columns[2], since))
        fresh = int(np.searchsorted(events[2], since))
        count = len(events[2]) - fresh
        surplus = max(self._stop - self._start + count - self._capacity, 0)
        from_live = min(surplus, self._stop - self._start)
        self._start += from_live
        fresh += surplus - from_live
        x, y, t, polarity = events
        self._append((x[fresh:], y[fresh:], t[fresh:], polarity[fresh:]))
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
