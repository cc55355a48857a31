"""Sweeps that a driver sends in pieces: each piece is handed on together with those that complete it to a turn.

Some drivers send a turn as segments (SICK), partial azimuths (Isaac Sim) or packets. Such pieces are recognized by
their azimuths: one piece does not overlap the one before it, and a later one returns to where an earlier one was. A
LiDAR whose messages are whole sweeps, of a full turn or of a narrow field of view, overlaps itself at every message and
is untouched.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlesam_ros.types import NANOSECONDS, Piece, PointCloud, SensorFrame

Arc = tuple[float, float]
"""Start and width of an interval of azimuths, radians."""

GATHER_AUTO = -1.0
_SAMPLE = 1024
"""Points of a message that are looked at."""
_FEW = 8
"""Returns below which a message has no azimuths of its own."""
_LONGEST = NANOSECONDS
"""Nanoseconds of a turn at most."""
_MOST = 4000
"""Pieces of a turn at most; a packet of a spinning LiDAR covers a fifth of a degree."""
_LOST = 8
"""Pieces that may be missing in a row."""
_SAME = 0.5
"""Share of the narrower of two arcs from which on they are of the same place."""
_LEAST = math.radians(90)
"""Azimuths that pieces cover at least all together."""


@dataclass(frozen=True, slots=True)
class _Message:
    stamp: int
    points: npt.NDArray[np.void]
    arc: Arc | None


class SweepGatherer:
    """Gathers the messages of one LiDAR, in order.

    Attributes:
        pieces: messages in the newest sweep; 1 for whole sweeps.
    """

    def __init__(self, seconds: float = GATHER_AUTO) -> None:
        """Start without messages.

        Args:
            seconds: how long the messages of a sweep take; 0 leaves messages as they are, negative finds it out.
        """
        self._seconds = seconds
        self.pieces = 1
        self._forget()

    def _forget(self) -> None:
        self._messages: deque[_Message] = deque()
        self._frame_id, self._period, self._same = "", 0, 0

    def gather(self, frame: SensorFrame) -> SensorFrame:
        """Add a message.

        Returns:
            The frame itself, or with the earlier pieces of its turn, the newest first; its time is the turn's middle.
            Pieces with one stamp are told apart by a nanosecond of their time.
        """
        cloud = frame.payload
        if self._seconds == 0 or not isinstance(cloud, PointCloud):
            return frame
        last = self._messages[-1].stamp if self._messages else frame.stamp
        if frame.frame_id != self._frame_id or not 0 <= frame.stamp - last <= _LONGEST:
            self._forget()
            self._frame_id = frame.frame_id
        arc = _arc(cloud.points) if self._seconds < 0 else None
        message = _Message(frame.stamp, cloud.points, arc)
        if self._seconds > 0:
            self._drop_before(frame.stamp - round(self._seconds * NANOSECONDS))
        else:
            self._place(message)
        self._same = self._same + 1 if self._messages and frame.stamp == last else 0
        complete = self._seconds > 0 or self._is_sweep(arc)
        earlier = tuple(Piece(m.points, frame.stamp - m.stamp) for m in reversed(self._messages)) if complete else ()
        self._messages.append(message)
        self.pieces = 1 + len(earlier)
        if not earlier:
            return frame
        middle = earlier[-1].lag // 2
        return replace(frame, payload=replace(cloud, earlier=earlier), lag=middle - self._same)

    def _place(self, message: _Message) -> None:
        """Let go of the messages that a new one replaces."""
        self._drop_before(message.stamp - (self._period * 5 // 4 if self._period else _LONGEST))
        if message.arc is None:
            return
        before = next((m.arc for m in reversed(self._messages) if m.arc is not None), None)
        if before is not None and _overlap(before, message.arc) > _SAME:
            self._messages.clear()  # it is a sweep of its own
            self._period = 0
            return
        replaced = 0
        for index in range(min(len(self._messages), _LOST)):
            old = self._messages[index]
            if old.arc is not None and _overlap(old.arc, message.arc) > _SAME:
                self._period, replaced = message.stamp - old.stamp, index + 1
        for _ in range(replaced):
            self._messages.popleft()

    def _is_sweep(self, arc: Arc | None) -> bool:
        """Whether what waits and the new message make a sweep: something has come round, and it is wide enough."""
        widths = [m.arc[1] for m in self._messages if m.arc is not None]
        return self._period > 0 and sum(widths) + (arc[1] if arc else 0.0) >= _LEAST

    def _drop_before(self, stamp: int) -> None:
        while self._messages and (self._messages[0].stamp <= stamp or len(self._messages) >= _MOST):
            self._messages.popleft()


def _arc(points: npt.NDArray[np.void]) -> Arc | None:
    """The azimuths of a message: all but the widest gap between its returns; None with too few of them."""
    some = points
    for axis, size in enumerate(points.shape):
        step = max(1, math.ceil(size / (_SAMPLE if points.ndim == 1 else math.isqrt(_SAMPLE) * (1 + 3 * axis))))
        some = some[(slice(None),) * axis + (slice(None, None, step),)]
    with np.errstate(invalid="ignore"):  # signalling NaNs
        x, y = (some[axis].ravel().astype(np.float64) for axis in "xy")
    seen = np.isfinite(x) & np.isfinite(y) & ((x != 0) | (y != 0))
    if seen.sum() < _FEW:
        return None
    azimuths = np.sort(np.arctan2(y[seen], x[seen]))
    gaps = np.diff(azimuths, append=azimuths[0] + 2 * np.pi)
    widest = int(gaps.argmax())
    return float(azimuths[(widest + 1) % len(azimuths)]), float(2 * np.pi - gaps[widest])


def _overlap(a: Arc, b: Arc) -> float:
    """Share of the narrower of two arcs that the other covers."""
    apart = (b[0] - a[0]) % (2 * math.pi)
    common = max(0.0, min(a[1] - apart, b[1])) + max(0.0, min(b[1] - (2 * math.pi - apart), a[1]))
    return min(common / max(min(a[1], b[1]), 1e-6), 1.0)
