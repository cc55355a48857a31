"""One modality as the synchronizer sees it: the frames that wait, and the habits of their source."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter

from mlesam_ros.frame import Modality, SensorFrame

USED = "used"
SUPERSEDED = "superseded"
LATE = "late"
UNMATCHED = "unmatched"
REFUSED = "refused"
OUTCOMES = (USED, SUPERSEDED, LATE, UNMATCHED, REFUSED)
"""What becomes of a frame: it went into a set; a newer one was there before it was needed; its moment had already been
segmented; no partner came within its tolerance; it was not acceptable at all."""

_by_reference = attrgetter("reference")


@dataclass(frozen=True, slots=True)
class BufferedFrame:
    """A frame in a buffer; `reference` is its time, `arrived` the time it was pushed."""

    frame: SensorFrame
    reference: int
    arrived: int


class ModalityBuffer:
    """The frames of one modality that wait, the habits of their source, and what became of the others.

    Args:
        modality: its name.
        tolerance, max_wait, timeout: see `SyncConfig`; nanoseconds.
    """

    def __init__(self, modality: Modality, tolerance: int, max_wait: int, timeout: int) -> None:
        self.modality = modality
        self.tolerance = tolerance
        self.max_wait = max_wait
        self.timeout = timeout
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.heard = 0  # when a frame last came, or when listening began
        self.forget()

    def forget(self) -> None:
        """Start afresh, with nothing waiting."""
        self.waiting: list[BufferedFrame] = []  # by reference, rising
        self.newest: int | None = None  # highest reference so far
        self.used: int | None = None  # highest reference that went into a set
        self.offset = 0  # from the reference of its newest frame to its stamp
        self.period: int | None = None  # usual distance of references
        self.delay = 0  # usual time from reference to arrival

    @property
    def longest_silence(self) -> int:
        """How long it may be silent: the time-out, or more where it is slow by nature."""
        return max(self.timeout, (self.period or 0) * 3 // 2)

    @property
    def expires(self) -> int:
        """The last moment at which it still counts as alive."""
        return self.heard + self.longest_silence

    def insert(self, item: BufferedFrame) -> None:
        """Let a frame wait."""
        self.waiting.insert(self.at(item.reference), item)

    def learn(self, item: BufferedFrame) -> None:
        """Learn the stream's habits from a frame."""
        self.heard, self.offset = item.arrived, item.frame.stamp - item.reference
        delay = item.arrived - item.reference
        if self.newest is None:
            self.newest, self.delay = item.reference, delay
        elif item.reference > self.newest:
            step, usual = item.reference - self.newest, self.period or self.timeout // 2
            # A gap counts as two periods at most: mostly frames were lost, it is not a stream that became slow.
            step = min(step, 2 * usual)
            self.period = step if self.period is None else (3 * self.period + step) // 4
            self.newest = item.reference
            # A clock that was set right, or a line that is free again, is no matter of habit.
            self.delay = delay if delay < self.delay - self.timeout else (3 * self.delay + delay) // 4

    def at(self, reference: int) -> int:
        """Index of the first waiting frame that is not before a reference."""
        return bisect_left(self.waiting, reference, key=_by_reference)

    def nearest(self, reference: int, rival: int | None) -> BufferedFrame | None:
        """The waiting frame that belongs to a reference.

        Args:
            reference: that of the set.
            rival: reference of the next open set, which keeps what lies nearer to it.
        """
        after = self.at(reference)
        around = [w for w in self.waiting[max(after - 1, 0) : after + 1] if self.fits(w.reference, reference, rival)]
        return min(around, key=lambda w: abs(w.reference - reference), default=None)

    def fits(self, candidate: int, reference: int, rival: int | None) -> bool:
        """Whether a frame at `candidate` is within tolerance of a set and not nearer to the next one."""
        gap = abs(candidate - reference)
        return gap <= self.tolerance and (rival is None or gap <= abs(candidate - rival))

    def is_final(self, reference: int, rival: int | None, until: int, now: int) -> bool:
        """Whether no frame that is still to come could be a nearer partner and arrive in time.

        Args:
            reference: that of the set.
            rival: that of the next open set.
            until: when the set's max_wait with this modality ends.
            now: the time.
        """
        if now >= min(until, self.expires + 1):
            return True
        if self.newest is not None and self.newest >= reference:
            return True
        if self.newest is None or self.period is None:
            return False
        # The usual delay varies; only what would be late by another whole max_wait is given up.
        latest = until + self.max_wait - self.delay
        expected = self._expected(reference, self.newest, self.period)
        coming = [abs(e - reference) for e in expected if e <= latest and self.fits(e, reference, rival)]
        if not coming:
            return True
        partner = self.nearest(reference, rival)
        return partner is not None and abs(partner.reference - reference) <= min(coming)

    @staticmethod
    def _expected(reference: int, newest: int, period: int) -> tuple[int, int]:
        """The references to come around another; of two half a period away perhaps only the earlier comes in time."""
        before = newest + max(1, (reference - newest) // period) * period
        return before, before + period

    def drop(self, count: int, fate: str) -> None:
        """Take the oldest frames out."""
        self.counts[fate] += count
        del self.waiting[:count]

    def use(self, item: BufferedFrame) -> None:
        """Put a waiting frame into a set; what waited before it is superseded."""
        self.drop(self.at(item.reference), SUPERSEDED)
        self.drop(1, USED)
        self.used = item.reference
