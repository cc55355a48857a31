"""Which clock a sensor stamps by: one criterion and one name for it, live, in recordings and in the doctor.

A sensor's clock is foreign when its times lie farther from the time of arrival than `max_age` and `max_future` allow.
Constant distances: TAI - UTC = 37 s and GPS - UTC = 18 s since 2017 (IERS Bulletin C), GPS epoch 1980-01-06.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mlesam_ros.sync.sync_config import SyncConfig
from mlesam_ros.types import NANOSECONDS, Modality

_CONSTANTS = {
    "TAI instead of UTC, as of PTP without its UTC offset": 37.0,
    "GPS time instead of UTC": 18.0,
    "UTC where the host's clock is TAI": -37.0,
    "UTC where the host's clock is GPS time": -18.0,
    "seconds since 1980, the epoch of GPS": 18.0 - 315_964_800.0,
}
"""Clock → seconds that it lies ahead of the host's."""
_BOOT = 10 * 365.25 * 86400
"""Seconds. No host's clock stands before 1980; a stamp that does counts from the start of something."""
_LATE = 1.5
"""Seconds that an arrival may be late against a constant distance."""
_EARLY = 0.2
"""Seconds that an unsynchronized clock may be ahead besides."""
_QUARTER = 900.0
"""Seconds; time zones differ by multiples."""
_ZONES = 14 * 3600.0
"""Seconds; the farthest time zone."""
GLANCE = 50
"""Messages of a sensor of a recording by which its clock is judged."""


@dataclass(frozen=True, slots=True)
class ForeignClock:
    """A clock that is not the host's.

    Attributes:
        ahead: seconds that its times lie ahead of the host's.
        cause: what clock it is, as a noun phrase.
        offset: seconds by which its stamps are late where that is a constant of the clock; None where it is not.
        mend: an imperative sentence for a clock without a constant.
    """

    ahead: float
    cause: str
    offset: float | None = None
    mend: str = ""

    @property
    def distance(self) -> str:
        """Where its times lie, such as `37.0 s ahead of` or `3 days behind`."""
        seconds, side = abs(self.ahead), "ahead of" if self.ahead > 0 else "behind"
        for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
            if seconds >= 2 * size:
                return f"{seconds / size:,.0f} {unit} {side}"
        return f"{seconds:.1f} s {side}"

    def remedy(self, modality: Modality, known: float = 0.0) -> str:
        """One imperative sentence that makes the sensor usable.

        Args:
            modality: the sensor's.
            known: seconds of its `offset` as it is set.
        """
        if self.offset is None:
            return self.mend
        total = known + self.offset
        return f"Set {modality}.offset to {total:.1f} (-p {modality}.offset:={total:.1f}), or mend the driver's clock."


def foreign_clock(ahead: float, time: float, config: SyncConfig) -> ForeignClock | None:
    """Name the clock of times that lie too far from their arrival; None where they do not.

    Args:
        ahead: seconds that a sensor's time, without its offset, lies ahead of the host's clock at its arrival.
        time: the sensor's time in seconds.
        config: `max_age` and `max_future` count.
    """
    if -config.oldest <= ahead <= config.max_future:
        return None
    for cause, offset in _CONSTANTS.items():
        if _is(offset, ahead):
            return ForeignClock(ahead, cause, offset)
    zone = round((ahead + _LATE / 2) / _QUARTER) * _QUARTER
    if zone and abs(zone) <= _ZONES and _is(zone, ahead):
        return ForeignClock(ahead, "the local time of a time zone instead of UTC", zone)
    if time < _BOOT < time - ahead:
        cause, mend = (
            "time since the start of the sensor or of a simulation",
            "let the driver stamp by the host's clock",
        )
        return ForeignClock(ahead, cause, mend=f"Set use_sim_time where the stamps are simulated, else {mend}.")
    if time > _BOOT > time - ahead:
        mend = "Unset use_sim_time, or let the driver stamp by /clock."
        return ForeignClock(ahead, "the wall clock where the host's time is simulated", mend=mend)
    mend = "Synchronise the sensor's clock with the host's by PTP, NTP or GPS."
    return ForeignClock(ahead, "a clock that is not synchronised with the host's", mend=mend)


def _is(constant: float, ahead: float) -> bool:
    """Whether a distance, less a delay of the transport, is a constant."""
    return constant - _LATE <= ahead <= constant + _EARLY


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks of the sensors of a recording.

    Attributes:
        leaders: the sensors whose times are the clock of the replay; empty where the time of recording is.
        ahead: seconds by which the leaders' times lie ahead of the time of recording, in the middle.
        foreign: modality → its clock, of those that the replay refuses.
    """

    leaders: frozenset[Modality]
    ahead: float
    foreign: Mapping[Modality, ForeignClock]


def judge_clocks(
    pairs: Mapping[Modality, Sequence[tuple[int, int]]], offsets: Mapping[Modality, int], config: SyncConfig
) -> Clocks:
    """Judge each sensor of a recording by itself.

    Where the times of no sensor go with the time of recording, those of the most sensors that go with each other are
    the clock.

    Args:
        pairs: modality → stamp and time of recording of its first messages, nanoseconds; `GLANCE` of them count.
        offsets: modality → nanoseconds by which its stamps are late.
        config: `max_age`, `max_future` and `primary_order` count.
    """
    timed = {m: [(stamp - offsets[m], at) for stamp, at in some[:GLANCE] if stamp > 0] for m, some in pairs.items()}
    ahead = {m: median(time - at for time, at in some) / NANOSECONDS for m, some in timed.items() if some}
    times = {m: timed[m][0][0] / NANOSECONDS for m in ahead}
    found = {m: foreign_clock(value, times[m], config) for m, value in ahead.items()}
    foreign = {m: clock for m, clock in found.items() if clock is not None}
    if len(foreign) < len(ahead) or not ahead:
        return Clocks(frozenset(), 0.0, foreign)
    order = [*(m for m in config.order if m in ahead), *(m for m in ahead if m not in config.order)]
    groups = [[m for m in order if _together(ahead[m] - ahead[first], config)] for first in order]
    leaders = max(groups, key=len)  # of equally large ones that of the first in the order
    lead = max(ahead[m] for m in leaders)
    rest = {m: foreign_clock(ahead[m] - lead, times[m], config) for m in order if m not in leaders}
    return Clocks(frozenset(leaders), lead, {m: clock for m, clock in rest.items() if clock is not None})


def _together(apart: float, config: SyncConfig) -> bool:
    return abs(apart) <= min(config.oldest, config.max_future)


class ReplayClock:
    """The time at which the messages of a recording are taken to arrive.

    It is the time of recording, or where the stamps of all sensors are of another clock that of the leaders' times.
    """

    def __init__(self, clocks: Clocks) -> None:
        """Start before the first message."""
        self._leaders, self._lead = clocks.leaders, round(clocks.ahead * NANOSECONDS)
        self._now = 0

    def advance(self, recorded: int, modality: Modality | None = None, time: int = 0) -> int:
        """Now in nanoseconds, as the next message is heard.

        Args:
            recorded: nanoseconds.
            modality: the sensor's that sent it; None for what is no sensor's.
            time: nanoseconds, its stamp without the offset.
        """
        if not self._leaders:
            self._now = recorded
        elif modality in self._leaders:
            self._now = max(self._now, time)
        else:
            self._now = self._now or recorded + self._lead
        return self._now
