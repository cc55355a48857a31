# SPDX-License-Identifier: Apache-2.0
"""The synchronizer: one frame of each modality per set, with bounded waiting, and the counters of all frames."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter

from mlesam_ros.errors import ConfigError, Problem
from mlesam_ros.sync.clocks import foreign_clock
from mlesam_ros.sync.sync_config import DELAY_MARGIN_S, SyncConfig
from mlesam_ros.types import NANOSECONDS, FrameSet, Modality, SensorFrame

USED = "used"
SUPERSEDED = "superseded"
LATE = "late"
UNMATCHED = "unmatched"
REFUSED = "refused"
OUTCOMES = (USED, SUPERSEDED, LATE, UNMATCHED, REFUSED)
"""Outcomes of a frame. Used: part of a set. Superseded: replaced by a newer frame before a set needed it. Late: a newer
set had already been taken. Unmatched: without a set within its tolerance. Refused: not acceptable at all."""

_by_reference = attrgetter("reference")


@dataclass(frozen=True, slots=True)
class BufferedFrame:
    """A frame in a buffer; `reference` is its time, `arrived` the time of its push, in nanoseconds."""

    frame: SensorFrame
    reference: int
    arrived: int


class ModalityBuffer:
    """Waiting frames of one modality, period and delay of their stream, and counters of the outcomes.

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
        self.last_arrival = 0  # arrival of the newest frame, or the first call
        self.reset()

    def reset(self) -> None:
        """Reset the buffer and the stream statistics; the counters stay."""
        self.waiting: list[BufferedFrame] = []  # ascending by reference
        self.newest: int | None = None  # highest reference so far
        self.used: int | None = None  # highest reference in a set
        self.offset = 0  # stamp minus reference of the newest frame
        self.period: int | None = None  # usual distance between references
        self.delay = 0  # usual time from reference to arrival

    @property
    def longest_silence(self) -> int:
        """Silence after which it counts as dead: the time-out, or one and a half periods if that is longer."""
        return max(self.timeout, (self.period or 0) * 3 // 2)

    @property
    def expires(self) -> int:
        """Latest time at which it still counts as alive."""
        return self.last_arrival + self.longest_silence

    def insert(self, item: BufferedFrame) -> None:
        """Add a frame to the buffer."""
        self.waiting.insert(self.index_of(item.reference), item)

    def update_statistics(self, item: BufferedFrame) -> None:
        """Update the stream's period and delay from a frame."""
        self.last_arrival, self.offset = item.arrived, item.frame.stamp - item.reference
        delay = item.arrived - item.reference
        if self.newest is None:
            self.newest, self.delay = item.reference, delay
        elif item.reference > self.newest:
            step, usual = item.reference - self.newest, self.period or self.timeout // 2
            # A gap counts as two periods at most: usually frames were lost, and the stream did not become slower.
            step = min(step, 2 * usual)
            self.period = step if self.period is None else (3 * self.period + step) // 4
            self.newest = item.reference
            # After a clock step or cleared congestion, adopt the new delay instead of averaging.
            self.delay = delay if delay < self.delay - self.timeout else (3 * self.delay + delay) // 4

    def index_of(self, reference: int) -> int:
        """Index of the first waiting frame that is not before a reference."""
        return bisect_left(self.waiting, reference, key=_by_reference)

    def nearest(self, reference: int, next_reference: int | None) -> BufferedFrame | None:
        """The nearest waiting frame within tolerance of a reference; None without one.

        Args:
            reference: the reference of the set.
            next_reference: the reference of the next open set, which keeps the frames nearer to it.
        """
        after = self.index_of(reference)
        candidates = [
            w for w in self.waiting[max(after - 1, 0) : after + 1] if self.fits(w.reference, reference, next_reference)
        ]
        return min(candidates, key=lambda w: abs(w.reference - reference), default=None)

    def fits(self, candidate: int, reference: int, next_reference: int | None) -> bool:
        """Whether a frame at `candidate` is within tolerance of a set and not nearer to the next one."""
        gap = abs(candidate - reference)
        return gap <= self.tolerance and (next_reference is None or gap <= abs(candidate - next_reference))

    def is_final(self, reference: int, next_reference: int | None, until: int, now: int) -> bool:
        """Whether no frame still to arrive could be a nearer partner and arrive in time.

        Args:
            reference: the reference of the set.
            next_reference: the reference of the next open set.
            until: end of the set's `max_wait` for this modality, nanoseconds.
            now: nanoseconds.
        """
        if now >= min(until, self.expires + 1):
            return True
        if self.newest is not None and self.newest >= reference:
            return True
        if self.newest is None or self.period is None:
            return False
        # The delay varies: give up only frames that would be late by another whole max_wait.
        latest = until + self.max_wait - self.delay
        expected = self._expected(reference, self.newest, self.period)
        coming = [abs(e - reference) for e in expected if e <= latest and self.fits(e, reference, next_reference)]
        if not coming:
            return True
        partner = self.nearest(reference, next_reference)
        return partner is not None and abs(partner.reference - reference) <= min(coming)

    @staticmethod
    def _expected(reference: int, newest: int, period: int) -> tuple[int, int]:
        """The next references around another. Of two that are half a period away, only the earlier may be in time."""
        before = newest + max(1, (reference - newest) // period) * period
        return before, before + period

    def discard(self, count: int, outcome: str) -> None:
        """Remove the oldest frames and count their outcome."""
        self.counts[outcome] += count
        del self.waiting[:count]

    def consume(self, item: BufferedFrame) -> None:
        """Move a waiting frame into a set; older waiting frames are superseded."""
        self.discard(self.index_of(item.reference), SUPERSEDED)
        self.discard(1, USED)
        self.used = item.reference


PENDING = "pending"

_RESTART_NS = NANOSECONDS  # a stamp that far behind the stream's newest is a restart, not a late frame
_MAX_STEP_BACK_NS = NANOSECONDS // 10  # `now` may step back this far when push and take are called from two threads


class Synchronizer:
    """Groups the frames of several modalities into sets.

    Args:
        config: see `SyncConfig`.

    Attributes:
        primary: the modality that currently opens the sets.
        jumps: number of backward clock jumps, each of which cleared the state.
    """

    def __init__(self, config: SyncConfig | None = None) -> None:
        self.config = config = config or SyncConfig()
        self._streams = {m: _stream(m, config) for m in config.modalities}
        self._offsets = {m: offset for m in config.modalities if (offset := config.offset_of(m)) is not None}
        self._order = [self._streams[m] for m in config.order]
        history = max(config.history, config.longest_wait + DELAY_MARGIN_S)
        self._history = round(history * NANOSECONDS)
        self._capacity = math.ceil(config.capacity * max(history, 1.0))
        self._max_age = round(config.oldest * NANOSECONDS)
        self._max_future = round(config.max_future * NANOSECONDS)
        self._now: int | None = None
        self._last: tuple[int, int] | None = None  # stamp and reference of the newest set handed out
        self.primary: Modality = config.order[0]
        self.jumps = 0

    # Input and output

    def push(self, frame: SensorFrame, now: int) -> str:
        """Add a frame on its arrival.

        Args:
            frame: a frame of one of the configured modalities.
            now: nanoseconds.

        Returns:
            `pending`, or its outcome if it is already decided: `late` or `refused` (`refusals` counts the reasons).

        Raises:
            ConfigError: the modality is not synchronized.
        """
        stream = self._streams.get(frame.modality)
        if stream is None:
            raise ConfigError(
                f"a frame of {frame.modality!r} is not synchronized; the modalities are {', '.join(self._streams)}."
            )
        stream.counts["received"] += 1
        offset = self._offsets.get(frame.modality, frame.offset)
        if offset != frame.offset:
            frame = replace(frame, offset=offset)
        item = BufferedFrame(frame, frame.time, now)
        reason = self._reject_reason(frame, now)
        if not reason:
            self._advance(now)
            if stream.newest is not None and item.reference < stream.newest - _RESTART_NS:
                self._on_stamp_jump(stream, now)
            reason = self._duplicate(stream, item)
        if reason:
            stream.refusals[reason] += 1
            stream.counts[REFUSED] += 1
            return REFUSED
        last_arrival = stream.last_arrival
        stream.update_statistics(item)
        if self._too_late(stream, item, now):
            if self._is_stale(stream, item):
                stream.last_arrival = last_arrival
            stream.counts[LATE] += 1
            return LATE
        stream.insert(item)
        stream.discard(max(len(stream.waiting) - self._capacity, 0), SUPERSEDED)
        return PENDING

    def take(self, now: int) -> FrameSet | None:
        """Take the newest ready set, if any; it supersedes the older ones.

        Call it after each push and at `next_deadline`, as soon as the consumer is free.

        Args:
            now: nanoseconds.
        """
        self._advance(now)
        primary = self._select_primary(now)
        for index in reversed(self._open_sets(primary)):
            item, next_reference = primary.waiting[index], self._next_reference(primary, index)
            if not all(
                s.is_final(item.reference, next_reference, item.arrived + s.max_wait, now)
                for s in self._others(primary)
            ):
                continue
            partners = {s.modality: s.nearest(item.reference, next_reference) for s in self._others(primary)}
            if all(m == primary.modality or partners[m] for m in self.config.required):
                return self._emit(primary, item, {m: p for m, p in partners.items() if p})
            del primary.waiting[index]
            primary.counts[UNMATCHED] += 1
        return None

    def flush(self) -> None:
        """End the stream: count all waiting frames as unmatched."""
        for stream in self._streams.values():
            stream.discard(len(stream.waiting), UNMATCHED)

    # State

    def next_deadline(self) -> int | None:
        """Time in nanoseconds at which `take` may return another result without a push; None if never."""
        if self._now is None:
            return None
        primary = self._select_primary(self._now)
        times = [self._ready_at(primary, index) for index in self._open_sets(primary)]
        if primary.expires >= self._now and any(s.waiting for s in self._order if s is not primary):
            times.append(primary.expires + 1)
        return min(times, default=None)

    def alive(self, modality: Modality, now: int) -> bool:
        """Whether a frame of a modality arrived within its time-out."""
        stream = self._streams[modality]
        return stream.newest is not None and now <= stream.expires

    @property
    def counters(self) -> dict[Modality, dict[str, int]]:
        """Modality → received and each of `OUTCOMES` → frames. Received is the sum of the outcomes and `waiting`."""
        return {m: {name: s.counts[name] for name in ("received", *OUTCOMES)} for m, s in self._streams.items()}

    @property
    def refusals(self) -> dict[Modality, dict[str, int]]:
        """Modality → reason → frames."""
        return {m: dict(s.refusals) for m, s in self._streams.items()}

    @property
    def waiting(self) -> dict[Modality, int]:
        """Modality → frames without an outcome yet."""
        return {m: len(s.waiting) for m, s in self._streams.items()}

    # Admission

    def _reject_reason(self, frame: SensorFrame, now: int) -> str:
        """Reason of a frame's refusal, with times to one digit so that reasons stay few; empty if it is accepted."""
        if now <= 0:
            return "the clock is zero: is /clock published?"
        if frame.stamp <= 0:
            return "stamp is zero"
        if now - self._max_age <= frame.time <= now + self._max_future:
            return ""
        return self._foreign_clock(frame, now)

    def _foreign_clock(self, frame: SensorFrame, now: int) -> str:
        """Reason of the refusal of a frame with a foreign clock, with the clock's name and a remedy."""
        ahead = frame.time - now
        clock = foreign_clock(ahead / NANOSECONDS, frame.time / NANOSECONDS, self.config)
        where = f"stamp {_round_duration(abs(ahead))} {'in the future' if ahead > 0 else 'old'}"
        if clock is None:
            return where
        return Problem(f"{where}: {clock.cause}", clock.remedy(frame.modality, frame.offset / NANOSECONDS))

    def _duplicate(self, stream: ModalityBuffer, item: BufferedFrame) -> str:
        """Reason of the refusal of a repeated stamp; empty if new. A stream that repeats its stamp counts as silent."""
        if item.reference == stream.newest:
            return "duplicate stamp"
        index = stream.index_of(item.reference)
        same = index < len(stream.waiting) and stream.waiting[index].reference == item.reference
        return "duplicate stamp" if same else ""

    def _too_late(self, stream: ModalityBuffer, item: BufferedFrame, now: int) -> bool:
        """Whether no later set can contain the frame."""
        if self._last is None:
            return False
        earliest = self._earliest(stream) if stream is self._select_primary(now) else self._last[1] - stream.tolerance
        return item.reference < earliest or (stream.used is not None and item.reference <= stream.used)

    def _is_stale(self, stream: ModalityBuffer, item: BufferedFrame) -> bool:
        """Whether a late frame does not count as a sign of life.

        A primary that returns has to catch up with the sets made without it, and no sets are made meanwhile. If it is
        further behind than its longest silence, it would leave a longer gap than a dead primary, unless `max_wait`
        accepts that delay.
        """
        accepted = max(stream.longest_silence, stream.max_wait)
        return self._last is not None and item.reference < self._last[1] - accepted

    # Time

    def _advance(self, now: int) -> None:
        """Detect backward clock jumps, and drop frames that have waited longer than `history`."""
        if self._now is None:
            for stream in self._streams.values():
                stream.last_arrival = now
        elif now < self._now - _MAX_STEP_BACK_NS:
            self._jump_back(now)
        self._now = max(now, self._now or now)
        behind = bool(self._streams[self.primary].waiting)  # there are sets not yet taken
        for stream in self._streams.values():
            while stream.waiting and stream.waiting[0].arrived < self._now - self._history:
                stream.discard(1, SUPERSEDED if behind else UNMATCHED)

    def _on_stamp_jump(self, stream: ModalityBuffer, now: int) -> None:
        """Handle a restart or clock step of a stream: for the primary clear the whole state, else only the stream."""
        if stream is self._select_primary(now):
            self._jump_back(now)
        else:
            stream.discard(len(stream.waiting), UNMATCHED)
            stream.reset()

    def _jump_back(self, now: int) -> None:
        """Clear the state; living modalities get a new time-out, dead ones stay dead."""
        for stream in self._streams.values():
            alive = self._now is not None and self._now <= stream.expires
            stream.discard(len(stream.waiting), UNMATCHED)
            stream.reset()
            stream.last_arrival = now if alive else now - stream.timeout - 1
        self._now, self._last = now, None
        self.jumps += 1

    # Sets

    def _select_primary(self, now: int) -> ModalityBuffer:
        """Select the first living modality in the order; keep the current one if none is alive."""
        selected = next((s for s in self._order if now <= s.expires), self._streams[self.primary])
        self.primary = selected.modality
        return selected

    def _others(self, primary: ModalityBuffer) -> list[ModalityBuffer]:
        return [s for s in self._streams.values() if s is not primary]

    def _earliest(self, primary: ModalityBuffer) -> int:
        """Smallest reference of a primary's frame after the newest set handed out.

        Published stamps rise as well, unless the primary's offset is so much smaller than the previous primary's that
        all its frames would be late until it counts as dead.
        """
        stamp, reference = self._last or (0, 0)
        by_stamp = stamp - primary.offset
        return (reference if by_stamp > reference + primary.longest_silence else max(by_stamp, reference)) + 1

    def _open_sets(self, primary: ModalityBuffer) -> range:
        """Indices of the primary's frames that are open sets."""
        return range(primary.index_of(self._earliest(primary)), len(primary.waiting))

    def _next_reference(self, primary: ModalityBuffer, index: int) -> int | None:
        return primary.waiting[index + 1].reference if index + 1 < len(primary.waiting) else None

    def _ready_at(self, primary: ModalityBuffer, index: int) -> int:
        item, next_reference = primary.waiting[index], self._next_reference(primary, index)
        now = self._now or 0
        until = [
            min(item.arrived + s.max_wait, s.expires + 1)
            for s in self._others(primary)
            if not s.is_final(item.reference, next_reference, item.arrived + s.max_wait, now)
        ]
        return max(until, default=now)

    def _emit(self, primary: ModalityBuffer, item: BufferedFrame, partners: dict[Modality, BufferedFrame]) -> FrameSet:
        chosen = {m: item if m == primary.modality else partners.get(m) for m in self._streams}
        members = {m: w for m, w in chosen.items() if w is not None}
        for modality, member in members.items():
            self._streams[modality].consume(member)
        for stream in self._streams.values():
            stream.discard(stream.index_of(item.reference - stream.tolerance), UNMATCHED)
        self._last = item.frame.stamp, item.reference
        frames = {m: w.frame for m, w in members.items()}
        skews = {m: w.reference - item.reference for m, w in members.items()}
        return FrameSet(item.frame.stamp, primary.modality, frames, skews, item.frame.stamp - item.reference)


def ready_sets(
    synchronizer: Synchronizer, until: int | None = None, free: Callable[[], int] = lambda: 0
) -> Iterator[tuple[int, FrameSet]]:
    """Take the sets that become ready without a push, each at its own time.

    Args:
        synchronizer: the synchronizer after its newest push.
        until: nanoseconds, inclusive; unlimited by default.
        free: returns the nanoseconds before which the consumer takes no set; called again after each set.

    Yields:
        Time of the take in nanoseconds, and the set.
    """

    def next_take() -> int | None:
        deadline = synchronizer.next_deadline()
        return None if deadline is None else max(deadline, free())

    while (now := next_take()) is not None and (until is None or now <= until):
        if (found := synchronizer.take(now)) is not None:
            yield now, found
        elif next_take() == now:
            return


def _stream(modality: Modality, config: SyncConfig) -> ModalityBuffer:
    return ModalityBuffer(
        modality,
        tolerance=config.nanoseconds("tolerance", modality),
        max_wait=config.nanoseconds("max_wait", modality),
        timeout=round(config.primary_timeout * NANOSECONDS),
    )


def _round_duration(nanoseconds: int) -> str:
    """A time to one significant digit: 0.6 s, 3 s, 50 s, 2e+09 s."""
    return f"{float(f'{nanoseconds / NANOSECONDS:.0e}'):g} s"


COUNTERS = ("received", *OUTCOMES)
_MAX_REASONS = 16  # most reasons counted separately; a reason may contain numbers that never repeat
_OTHER_REASONS = "other reasons"


class BoundedCounter(Counter[str]):
    """Reason of refusal → messages, with a bounded number of reasons."""

    def count(self, words: str, times: int = 1) -> None:
        """Count a reason; as `other reasons` once the bound is reached."""
        self[words if words in self or len(self) < _MAX_REASONS else _OTHER_REASONS] += times

    def add(self, *others: Mapping[str, int]) -> BoundedCounter:
        """Add the counts of other counters."""
        for other in others:
            for words, times in dict(other).items():
                if times:
                    self.count(words, times)
        return self


class Account:
    """Extends the synchronizer's counters to the stages before and after it.

    The synchronizer counts each frame of a set as used. Here a frame is `used` only if it contributed to a mask.

    Attributes:
        rejected: modality → frames of sets that did not contribute to a mask.
        reasons: modality → reason → rejected frames.
        skipped: modality → frames of sets that were passed over for a later one.
    """

    def __init__(self) -> None:
        self.rejected: Counter[Modality] = Counter()
        self.reasons: dict[Modality, BoundedCounter] = defaultdict(BoundedCounter)
        self.skipped: Counter[Modality] = Counter()

    def judge(
        self, frame_set: FrameSet, used: Collection[Modality], refusals: Mapping[Modality, Problem], failure: Problem
    ) -> None:
        """Count the frames of a set that did not contribute to its mask.

        Args:
            frame_set: the set.
            used: the modalities of its mask; empty without a mask.
            refusals: modality → reason why its frame was not used; see `Pipeline.refusals`.
            failure: reason why there is no mask, for the frames that `refusals` does not list.
        """
        for modality in frame_set.frames:
            if modality not in used:
                self.rejected[modality] += 1
                self.reasons[modality].count(refusals.get(modality, failure))

    def skip(self, frame_set: FrameSet) -> None:
        """Count the frames of a set that is passed over for a later one."""
        self.skipped.update(frame_set.frames.keys())

    def counters(
        self, synchronized: Mapping[Modality, Mapping[str, int]], unreadable: Mapping[Modality, int]
    ) -> dict[Modality, dict[str, int]]:
        """Modality → each of `COUNTERS` → messages; received is the sum of the others and of the waiting frames.

        Args:
            synchronized: `Synchronizer.counters`.
            unreadable: modality → messages refused for their content before the synchronizer.
        """
        found = {modality: dict(counts) for modality, counts in synchronized.items()}
        for modality, counts in found.items():
            before, after, skipped = unreadable.get(modality, 0), self.rejected[modality], self.skipped[modality]
            counts["received"] += before
            counts[REFUSED] += before + after
            counts[SUPERSEDED] += skipped
            counts[USED] -= after + skipped
        return found
