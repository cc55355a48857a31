"""Assembly of LiDAR sweeps that a driver publishes in pieces: each piece is joined with the earlier ones of its turn.

Some drivers publish a turn as segments (SICK), partial azimuths (Isaac Sim) or packets. Pieces are detected by their
azimuths: a piece does not overlap the previous one, and a later piece overlaps an earlier one again. Messages with
whole sweeps, of a full turn or of a narrow field of view, overlap the previous message and are not changed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlesam_ros.types import NANOSECONDS, Piece, PointCloud, SensorFrame

Arc = tuple[float, float]
"""Start and width of an interval of azimuths in radians."""

GATHER_AUTO = -1.0
_SAMPLE = 1024
"""Points of a message that are sampled."""
_FEW = 8
"""Fewest returns in a message to determine its azimuths."""
_LONGEST = NANOSECONDS
"""Longest turn in nanoseconds."""
_MOST = 4000
"""Most pieces of a turn; a packet of a spinning LiDAR covers a fifth of a degree."""
_LOST = 8
"""Consecutive pieces that may be missing."""
_SAME = 0.5
"""Overlap, as a share of the narrower arc, above which two arcs count as the same azimuths."""
_LEAST = math.radians(90)
"""Radians. Smallest total width of the pieces of a sweep."""


@dataclass(frozen=True, slots=True)
class _Message:
    stamp: int
    points: npt.NDArray[np.void]
    arc: Arc | None


class SweepGatherer:
    """Joins the messages of one LiDAR, in order, into sweeps.

    Attributes:
        pieces: messages in the newest sweep; 1 for whole sweeps.
    """

    def __init__(self, seconds: float = GATHER_AUTO) -> None:
        """Start without messages.

        Args:
            seconds: duration of the messages of a sweep; 0 to leave messages unchanged, negative to detect it.
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
            The frame itself, or the frame with the earlier pieces of its turn, newest first, and the middle of the turn
            as its time. Frames with equal stamps get times one nanosecond apart.
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
        """Drop the messages that a new one replaces."""
        self._drop_before(message.stamp - (self._period * 5 // 4 if self._period else _LONGEST))
        if message.arc is None:
            return
        before = next((m.arc for m in reversed(self._messages) if m.arc is not None), None)
        if before is not None and _overlap(before, message.arc) > _SAME:
            self._messages.clear()  # the message is a whole sweep
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
        """Whether the kept messages and the new one form a sweep: the period is known and the arcs are wide enough."""
        widths = [m.arc[1] for m in self._messages if m.arc is not None]
        return self._period > 0 and sum(widths) + (arc[1] if arc else 0.0) >= _LEAST

    def _drop_before(self, stamp: int) -> None:
        while self._messages and (self._messages[0].stamp <= stamp or len(self._messages) >= _MOST):
            self._messages.popleft()


def _arc(points: npt.NDArray[np.void]) -> Arc | None:
    """The azimuths of a message: all but the widest gap between its returns; None with too few returns."""
    some = points
    for axis, size in enumerate(points.shape):
        step = max(1, math.ceil(size / (_SAMPLE if points.ndim == 1 else math.isqrt(_SAMPLE) * (1 + 3 * axis))))
        some = some[(slice(None),) * axis + (slice(None, None, step),)]
    with np.errstate(invalid="ignore"):  # signaling NaNs
        x, y = (some[axis].ravel().astype(np.float64) for axis in "xy")
    seen = np.isfinite(x) & np.isfinite(y) & ((x != 0) | (y != 0))
    if seen.sum() < _FEW:
        return None
    azimuths = np.sort(np.arctan2(y[seen], x[seen]))
    gaps = np.diff(azimuths, append=azimuths[0] + 2 * np.pi)
    widest = int(gaps.argmax())
    return float(azimuths[(widest + 1) % len(azimuths)]), float(2 * np.pi - gaps[widest])


def _overlap(a: Arc, b: Arc) -> float:
    """Overlap of two arcs as a share of the narrower one."""
    apart = (b[0] - a[0]) % (2 * math.pi)
    common = max(0.0, min(a[1] - apart, b[1])) + max(0.0, min(b[1] - (2 * math.pi - apart), a[1]))
    return min(common / max(min(a[1], b[1]), 1e-6), 1.0)
