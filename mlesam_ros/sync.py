"""The synchroniser: which readings belong to one moment, when some come late, twice, or not at all.

    push(frame) ──▶ one sorted buffer per modality ──▶ take() ──▶ FrameSet
                                       │
                                       └──▶ superseded, late, unmatched, refused

The state is the buffers and nothing else. One modality is *primary*: each of its waiting frames is an open set, and the
others' frames nearest to it are its partners, chosen when the set is taken. A set is *ready* as soon as no frame still
to come could be a nearer partner, and at the latest when its patience runs out.

Whether something is still to come is judged from each stream itself: a modality that has been silent longer than the
time-out is not waited for (or every set would cost the whole patience), nor is one whose next frame, going by its usual
period and delay, would be too far off, belong to the next set, or come too late. So a dead sensor costs nothing, and a
slow one costs nothing in the sets between its frames.

When it falls silent the primary fails over to the next living modality of `primary_order`, and back with its first new
frame. The waiting frames of the new primary are open sets from that instant: nothing is lost in the change.

`now` and the stamps are nanoseconds of the same clock. Not safe for threads: the caller holds one lock around it all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, NANOSECONDS, FrameSet, Modality, SensorFrame
from mlesam_ros.sync_stream import FATES, LATE, REFUSED, SUPERSEDED, UNMATCHED, Stream, Waiting

PENDING = "pending"

_THREADS = NANOSECONDS // 10  # `now` may step back this far when push and take are called from two threads

Seconds = float | Mapping[Modality, float]
"""One number for all modalities, or one for each that differs from the default."""


@dataclass(frozen=True)
class SyncConfig:
    """How frames are brought together. All times in seconds.

    Attributes:
        modalities: those that are synchronised, in the model's order.
        primary_order: who opens the sets, and who when that one is silent; modalities that are not synchronised are
            skipped.
        primary_timeout: silence after which a modality counts as dead: it is not waited for, and the primary fails
            over. One that is slower by nature is given one and a half of its own periods.
        tolerance: farthest a partner may lie from the primary, per modality.
        offset: what a modality's stamps are late by, per modality; it is subtracted before anything is compared.
        patience: longest a set waits for a modality after its primary came, per modality.
        required: modalities without which there is no set; all others are optional.
        history: longest a frame waits for a primary that belongs to it.
        max_age, max_future: stamps farther from now are refused as another clock's.
        capacity: most frames that wait per modality.
    """

    modalities: tuple[Modality, ...] = MODALITIES
    primary_order: tuple[Modality, ...] = (CAMERA, LIDAR, DEPTH, EVENT)
    primary_timeout: float = 0.35
    tolerance: Seconds = 0.06
    offset: Seconds = 0.0
    patience: Seconds = 0.05
    required: tuple[Modality, ...] = ()
    history: float = 1.0
    max_age: float = 5.0
    max_future: float = 0.5
    capacity: int = 256

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: a modality that is not synchronised, or a number out of range.
        """
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ConfigError(f"modalities are {list(self.modalities)}; name at least one, and each once.")
        for modality in self.required:
            self._known(modality, "required")
        for modality in set(self.primary_order) - set(MODALITIES):
            self._known(modality, "primary_order")
        if not self.order:
            raise ConfigError(
                f"primary_order {list(self.primary_order)} names none of the modalities {list(self.modalities)}."
            )
        for name in (
            "primary_timeout",
            "tolerance",
            "patience",
            "history",
            "max_age",
            "max_future",
        ):
            self._check_times(name, least=0.0)
        self._check_times("offset", least=-math.inf)
        if self.capacity < 1:
            raise ConfigError(f"capacity is {self.capacity}; at least 1 frame must be able to wait.")

    @property
    def order(self) -> tuple[Modality, ...]:
        """`primary_order` without the modalities that are not synchronised."""
        return tuple(m for m in self.primary_order if m in self.modalities)

    def nanoseconds(self, name: str, modality: Modality) -> int:
        """The value of `tolerance`, `offset` or `patience` for a modality."""
        value = getattr(self, name)
        if isinstance(value, Mapping):
            value = value.get(modality, getattr(SyncConfig, name))
        return round(value * NANOSECONDS)

    def _check_times(self, name: str, least: float) -> None:
        value = getattr(self, name)
        times = value if isinstance(value, Mapping) else dict.fromkeys(self.modalities, value)
        for modality, time in times.items():
            self._known(modality, name)
            if not (isinstance(time, int | float) and math.isfinite(time) and time >= least):
                accepted = "a finite number" if least < 0 else "a finite number and not negative"
                raise ConfigError(f"{name} is {time!r}; a time in seconds must be {accepted}.")

    def _known(self, modality: Modality, name: str) -> None:
        if modality not in self.modalities:
            raise ConfigError(f"{name} names {modality!r}; the modalities are {', '.join(self.modalities)}.")


class Synchroniser:
    """Brings frames together.

    Args:
        config: see `SyncConfig`.

    Attributes:
        primary: the modality that opens the sets at present.
        jumps: how often the clock jumped back and the state was cleared.
    """

    def __init__(self, config: SyncConfig | None = None) -> None:
        self.config = config = config or SyncConfig()
        self._streams = {m: _stream(m, config) for m in config.modalities}
        self._order = [self._streams[m] for m in config.order]
        self._history = round(config.history * NANOSECONDS)
        self._max_age = round(config.max_age * NANOSECONDS)
        self._max_future = round(config.max_future * NANOSECONDS)
        self._now: int | None = None
        self._last: tuple[int, int] | None = None  # stamp and reference of the newest set handed out
        self.primary: Modality = config.order[0]
        self.jumps = 0

    # The three calls

    def push(self, frame: SensorFrame, now: int) -> str:
        """Hand in a frame as it arrives.

        Args:
            frame: of one of the configured modalities.
            now: nanoseconds.

        Returns:
            `pending`, or at once its fate: `late` or `refused` (`refusals` counts why).

        Raises:
            ConfigError: the modality is not synchronised.
        """
        stream = self._streams.get(frame.modality)
        if stream is None:
            raise ConfigError(f"a {frame.modality!r} frame came; the modalities are {', '.join(self._streams)}.")
        stream.counts["received"] += 1
        item = Waiting(frame, frame.stamp - stream.offset, now)
        reason = self._unacceptable(frame.stamp, now)
        if not reason:
            self._advance(now)
            if stream.newest is not None and item.reference < stream.newest - self._history:
                self._jump_back(now)
            reason = self._duplicate(stream, item)
        if reason:
            stream.refusals[reason] += 1
            stream.counts[REFUSED] += 1
            return REFUSED
        stream.learn(item)
        if self._too_late(stream, item, now):
            stream.counts[LATE] += 1
            return LATE
        stream.insert(item)
        stream.drop(max(len(stream.waiting) - self.config.capacity, 0), SUPERSEDED)
        return PENDING

    def take(self, now: int) -> FrameSet | None:
        """Take the newest set that is ready, if any; older ones are superseded by it.

        Call it after each push and at `next_deadline`, as soon as the consumer is free.

        Args:
            now: nanoseconds.
        """
        self._advance(now)
        primary = self._elect(now)
        for index in reversed(self._open(primary)):
            item, rival = primary.waiting[index], self._rival(primary, index)
            if not all(s.settled(item.reference, rival, item.arrived + s.patience, now) for s in self._others(primary)):
                continue
            partners = {s.modality: s.nearest(item.reference, rival) for s in self._others(primary)}
            if all(m == primary.modality or partners[m] for m in self.config.required):
                return self._emit(primary, item, {m: p for m, p in partners.items() if p})
            primary.waiting.remove(item)
            primary.counts[UNMATCHED] += 1
        return None

    def flush(self) -> None:
        """End of the stream: whatever still waits is unmatched."""
        for stream in self._streams.values():
            stream.drop(len(stream.waiting), UNMATCHED)

    # What can be asked

    def next_deadline(self) -> int | None:
        """When, in nanoseconds, `take` could answer differently although nothing was pushed; None if never."""
        if self._now is None:
            return None
        primary = self._elect(self._now)
        moments = [self._ready_at(primary, index) for index in self._open(primary)]
        if primary.expires >= self._now and any(s.waiting for s in self._order if s is not primary):
            moments.append(primary.expires + 1)
        return min(moments, default=None)

    def alive(self, modality: Modality, now: int) -> bool:
        """Whether a modality spoke within its time-out."""
        stream = self._streams[modality]
        return stream.newest is not None and now <= stream.expires

    @property
    def counters(self) -> dict[Modality, dict[str, int]]:
        """Modality → received and each of `FATES` → frames. Received is the sum of the fates and `waiting`."""
        return {m: {name: s.counts[name] for name in ("received", *FATES)} for m, s in self._streams.items()}

    @property
    def refusals(self) -> dict[Modality, dict[str, int]]:
        """Modality → reason → frames."""
        return {m: dict(s.refusals) for m, s in self._streams.items()}

    @property
    def waiting(self) -> dict[Modality, int]:
        """Modality → frames whose fate is still open."""
        return {m: len(s.waiting) for m, s in self._streams.items()}

    # Admission

    def _unacceptable(self, stamp: int, now: int) -> str:
        """Why a stamp is refused, with times to one digit so that the reasons stay few; empty if it is not."""
        if now <= 0:
            return "the clock stands at zero: is /clock published?"
        if stamp <= 0:
            return "stamp is zero"
        if stamp > now + self._max_future:
            return f"stamp {_about(stamp - now)} in the future"
        if stamp < now - self._max_age:
            return f"stamp {_about(now - stamp)} old: foreign clock, or use_sim_time not set?"
        return ""

    def _duplicate(self, stream: Stream, item: Waiting) -> str:
        at = stream.at(item.reference)
        same = at < len(stream.waiting) and stream.waiting[at].reference == item.reference
        return "duplicate stamp" if same else ""

    def _too_late(self, stream: Stream, item: Waiting, now: int) -> bool:
        """Whether no set that is still to come may hold the frame."""
        if self._last is None:
            return False
        earliest = self._earliest(stream) if stream is self._elect(now) else self._last[1] - stream.tolerance
        return item.reference < earliest or (stream.used is not None and item.reference <= stream.used)

    # Time

    def _advance(self, now: int) -> None:
        """Notice jumps of the clock, and let go of frames that waited for too long."""
        if self._now is None:
            for stream in self._streams.values():
                stream.heard = now
        elif now < self._now - _THREADS:
            self._jump_back(now)
        self._now = max(now, self._now or now)
        behind = bool(self._streams[self.primary].waiting)  # there are sets that nobody took
        for stream in self._streams.values():
            while stream.waiting and stream.waiting[0].arrived < self._now - self._history:
                stream.drop(1, SUPERSEDED if behind else UNMATCHED)

    def _jump_back(self, now: int) -> None:
        """Clear the state; modalities that were alive are given their time-out again, dead ones stay dead."""
        for stream in self._streams.values():
            alive = self._now is not None and self._now <= stream.expires
            stream.drop(len(stream.waiting), UNMATCHED)
            stream.forget()
            stream.heard = now if alive else now - stream.timeout - 1
        self._now, self._last = now, None
        self.jumps += 1

    # Sets

    def _elect(self, now: int) -> Stream:
        """The first living modality in the order; the present one if none lives."""
        elected = next((s for s in self._order if now <= s.expires), self._streams[self.primary])
        self.primary = elected.modality
        return elected

    def _others(self, primary: Stream) -> list[Stream]:
        return [s for s in self._streams.values() if s is not primary]

    def _earliest(self, primary: Stream) -> int:
        """Smallest reference of a frame of the primary that is after the newest set handed out, by either stamp."""
        stamp, reference = self._last or (0, 0)
        return max(stamp - primary.offset, reference) + 1

    def _open(self, primary: Stream) -> range:
        """Indices of the primary's frames that are open sets."""
        return range(primary.at(self._earliest(primary)), len(primary.waiting))

    def _rival(self, primary: Stream, index: int) -> int | None:
        return primary.waiting[index + 1].reference if index + 1 < len(primary.waiting) else None

    def _ready_at(self, primary: Stream, index: int) -> int:
        item, rival = primary.waiting[index], self._rival(primary, index)
        now = self._now or 0
        until = [
            min(item.arrived + s.patience, s.expires + 1)
            for s in self._others(primary)
            if not s.settled(item.reference, rival, item.arrived + s.patience, now)
        ]
        return max(until, default=now)

    def _emit(self, primary: Stream, item: Waiting, partners: dict[Modality, Waiting]) -> FrameSet:
        chosen = {m: item if m == primary.modality else partners.get(m) for m in self._streams}
        members = {m: w for m, w in chosen.items() if w is not None}
        for modality, member in members.items():
            self._streams[modality].use(member)
        for stream in self._streams.values():
            stream.drop(stream.at(item.reference - stream.tolerance), UNMATCHED)
        self._last = item.frame.stamp, item.reference
        frames = {m: w.frame for m, w in members.items()}
        skews = {m: w.reference - item.reference for m, w in members.items()}
        return FrameSet(item.frame.stamp, primary.modality, frames, skews)


def _stream(modality: Modality, config: SyncConfig) -> Stream:
    return Stream(
        modality,
        tolerance=config.nanoseconds("tolerance", modality),
        offset=config.nanoseconds("offset", modality),
        patience=config.nanoseconds("patience", modality),
        timeout=round(config.primary_timeout * NANOSECONDS),
    )


def _about(nanoseconds: int) -> str:
    """A time to one significant digit: 0.6 s, 3 s, 50 s, 2e+09 s."""
    return f"{float(f'{nanoseconds / NANOSECONDS:.0e}'):g} s"
