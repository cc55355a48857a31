# SPDX-License-Identifier: Apache-2.0
"""Detection of foreign sensor clocks, live, in recordings and in the doctor, and the replay clock of a recording.

A sensor's clock is foreign if its times lie farther from their arrival than `max_age` and `max_future` allow.
Constant distances: TAI - UTC = 37 s and GPS - UTC = 18 s since 2017 (IERS Bulletin C), GPS epoch 1980-01-06.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mlesam_ros.sync.sync_config import SyncConfig
from mlesam_ros.types import NANOSECONDS, Modality

_KNOWN_OFFSETS = {
    "TAI instead of UTC, as of PTP without its UTC offset": 37.0,
    "GPS time instead of UTC": 18.0,
    "UTC where the host's clock is TAI": -37.0,
    "UTC where the host's clock is GPS time": -18.0,
    "seconds since 1980, the epoch of GPS": 18.0 - 315_964_800.0,
}
"""Clock → seconds by which it lies ahead of the host clock."""
_MIN_EPOCH_S = 10 * 365.25 * 86400
"""Seconds since 1970. No host clock is earlier; an earlier stamp counts from the start of the sensor or simulation."""
_MAX_DELAY_S = 1.5
"""Seconds of transport delay accepted in the comparison with a constant distance."""
_MAX_LEAD_S = 0.2
"""Seconds by which an unsynchronized clock may be ahead of a constant distance."""
_ZONE_STEP_S = 900.0
"""Seconds; time zones differ by multiples of it."""
_MAX_ZONE_S = 14 * 3600.0
"""Seconds; the farthest time zone."""
CLOCK_SAMPLES = 50
"""Messages of a sensor that determine its clock in a recording."""


@dataclass(frozen=True, slots=True)
class ForeignClock:
    """A sensor clock that differs from the host clock.

    Attributes:
        ahead: seconds by which its times lie ahead of the host's.
        cause: description of the clock, as a noun phrase.
        offset: seconds by which its stamps are late, if they are a constant of the clock; None otherwise.
        fix: remedy in the imperative for a clock without a constant.
    """

    ahead: float
    cause: str
    offset: float | None = None
    fix: str = ""

    @property
    def distance(self) -> str:
        """Position of its times, such as `37.0 s ahead of` or `3 days behind`."""
        seconds, side = abs(self.ahead), "ahead of" if self.ahead > 0 else "behind"
        for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
            if seconds >= 2 * size:
                return f"{seconds / size:,.0f} {unit} {side}"
        return f"{seconds:.1f} s {side}"

    def remedy(self, modality: Modality, known: float = 0.0) -> str:
        """Remedy that makes the sensor usable, one sentence in the imperative.

        Args:
            modality: the sensor's.
            known: the `offset` parameter of the sensor as it is set, in seconds.
        """
        if self.offset is None:
            return self.fix
        total = known + self.offset
        return (
            f"Set {modality}.offset to {total:.1f} (-p {modality}.offset:={total:.1f}), or correct the driver's clock."
        )


def foreign_clock(ahead: float, time: float, config: SyncConfig) -> ForeignClock | None:
    """Identify the clock of a time that lies too far from its arrival; None if it does not.

    Args:
        ahead: seconds by which a sensor's time, without its offset, lies ahead of the host clock at arrival.
        time: the sensor's time in seconds.
        config: source of `max_age` and `max_future`.
    """
    if -config.oldest <= ahead <= config.max_future:
        return None
    for cause, offset in _KNOWN_OFFSETS.items():
        if _matches(offset, ahead):
            return ForeignClock(ahead, cause, offset)
    zone = round((ahead + _MAX_DELAY_S / 2) / _ZONE_STEP_S) * _ZONE_STEP_S
    if zone and abs(zone) <= _MAX_ZONE_S and _matches(zone, ahead):
        return ForeignClock(ahead, "the local time of a time zone instead of UTC", zone)
    if time < _MIN_EPOCH_S < time - ahead:
        cause, fix = (
            "time since the start of the sensor or of a simulation",
            "let the driver stamp by the host's clock",
        )
        return ForeignClock(ahead, cause, fix=f"Set use_sim_time where the stamps are simulated, else {fix}.")
    if time > _MIN_EPOCH_S > time - ahead:
        fix = "Unset use_sim_time, or let the driver stamp by /clock."
        return ForeignClock(ahead, "the wall clock where the host's time is simulated", fix=fix)
    fix = "Synchronize the sensor's clock with the host's by PTP, NTP or GPS."
    return ForeignClock(ahead, "a clock that is not synchronized with the host's", fix=fix)


def _matches(constant: float, ahead: float) -> bool:
    """Whether a distance equals a constant, up to the transport delay."""
    return constant - _MAX_DELAY_S <= ahead <= constant + _MAX_LEAD_S


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks of the sensors of a recording.

    Attributes:
        leaders: the sensors that drive the replay clock; empty if the time of recording drives it.
        ahead: seconds by which the leaders' times lie ahead of the time of recording: the largest of their medians.
        foreign: modality → its clock, for the sensors that the replay refuses.
    """

    leaders: frozenset[Modality]
    ahead: float
    foreign: Mapping[Modality, ForeignClock]


def judge_clocks(
    pairs: Mapping[Modality, Sequence[tuple[int, int]]], offsets: Mapping[Modality, int], config: SyncConfig
) -> Clocks:
    """Compare the times of each sensor of a recording with the time of recording.

    If no sensor agrees with the time of recording, the largest group of sensors that agree with each other drives the
    replay clock.

    Args:
        pairs: modality → stamp and time of recording of its first messages, nanoseconds; `CLOCK_SAMPLES` are used.
        offsets: modality → nanoseconds by which its stamps are late.
        config: source of `max_age`, `max_future` and `primary_order`.
    """
    timed = {
        m: [(stamp - offsets[m], at) for stamp, at in some[:CLOCK_SAMPLES] if stamp > 0] for m, some in pairs.items()
    }
    ahead = {m: median(time - at for time, at in some) / NANOSECONDS for m, some in timed.items() if some}
    times = {m: timed[m][0][0] / NANOSECONDS for m in ahead}
    found = {m: foreign_clock(value, times[m], config) for m, value in ahead.items()}
    foreign = {m: clock for m, clock in found.items() if clock is not None}
    if len(foreign) < len(ahead) or not ahead:
        return Clocks(frozenset(), 0.0, foreign)
    order = [*(m for m in config.order if m in ahead), *(m for m in ahead if m not in config.order)]
    groups = [[m for m in order if _agree(ahead[m] - ahead[first], config)] for first in order]
    leaders = max(groups, key=len)  # among equally large groups, the first in the order
    lead = max(ahead[m] for m in leaders)
    rest = {m: foreign_clock(ahead[m] - lead, times[m], config) for m in order if m not in leaders}
    return Clocks(frozenset(leaders), lead, {m: clock for m, clock in rest.items() if clock is not None})


def _agree(apart: float, config: SyncConfig) -> bool:
    return abs(apart) <= min(config.oldest, config.max_future)


class ReplayClock:
    """Arrival times for the messages of a recording.

    The time of recording, or the leaders' times if the stamps of all sensors belong to another clock.
    """

    def __init__(self, clocks: Clocks) -> None:
        """Initialize the clock before the first message."""
        self._leaders, self._lead = clocks.leaders, round(clocks.ahead * NANOSECONDS)
        self._now = 0

    def advance(self, recorded: int, modality: Modality | None = None, time: int = 0) -> int:
        """Advance to the next message and return its arrival time in nanoseconds.

        Args:
            recorded: its time of recording, nanoseconds.
            modality: the modality of its sensor; None for other messages.
            time: its stamp without the offset, nanoseconds.
        """
        if not self._leaders:
            self._now = recorded
        elif modality in self._leaders:
            self._now = max(self._now, time)
        else:
            self._now = self._now or recorded + self._lead
        return self._now
