# SPDX-License-Identifier: Apache-2.0
"""Statistics of a topic's timestamps, and the findings that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.recovery import pluralize
from mlesam_ros.config import NodeParameters
from mlesam_ros.doctor.rules import finding
from mlesam_ros.errors import Finding, Problem, format_error
from mlesam_ros.evaluation.bag_sensors import TopicSource
from mlesam_ros.messages import FrameReader, stamp_ns
from mlesam_ros.parameter_groups import SensorParameters, frame_reader
from mlesam_ros.sync import ForeignClock, SyncConfig, foreign_clock
from mlesam_ros.types import (
    EVENT,
    NANOSECONDS,
    DetectedProperty,
    EventWindow,
    Modality,
    PointCloud,
    RawImage,
    SensorFrame,
)

Nanoseconds = npt.NDArray[np.int64]


class TopicStats:
    """Statistics of a sensor's messages in the order of arrival, without their payloads.

    Attributes:
        modality: of the sensor.
        source: its topic and type.
        offset: configured delay of its stamps, in nanoseconds.
        received: number of messages, including unreadable ones.
        refusals: reason why a message cannot be read → messages.
        frame_ids: frame → messages.
        sizes: (height, width) → messages; empty for compressed images.
        sweep_sizes: messages per sweep of a LiDAR → sweeps.
        found: detected properties of its data; see `FrameReader.found`.
    """

    def __init__(
        self,
        modality: Modality,
        source: TopicSource,
        sensor: SensorParameters | None = None,
        bind: Callable[[SensorFrame], SensorFrame] = lambda frame: frame,
    ) -> None:
        """Start without messages; `sensor` defaults to the default parameters, `bind` is that of the `RigBuilder`."""
        self.modality, self.source, self._sensor = modality, source, sensor or NodeParameters().sensor(modality)
        self.offset = round(self._sensor.offset * NANOSECONDS)
        self.bind = bind
        self.received = 0
        self.refusals: Counter[Problem] = Counter()
        self.frame_ids: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.sweep_sizes: Counter[int] = Counter()
        self.found: dict[str, DetectedProperty] = {}
        self._reader = self.reader()
        self._rows: list[tuple[int, int, int]] = []

    def reader(self) -> FrameReader:
        """Create a new reader of its messages."""
        return frame_reader(self._sensor, self.modality, self.source.type)

    def read(self, message: Any, arrival: int) -> SensorFrame | None:
        """Parse and add a message.

        Args:
            message: as for `FrameReader.read`.
            arrival: nanoseconds at which it was recorded or received.

        Returns:
            Its frame; None if it cannot be read.
        """
        self.received += 1
        try:
            frame = self.bind(self._reader.read(message))
        except Exception as error:  # as in the node, an invalid message is skipped, whatever it raises
            self.refusals[format_error(error)] += 1
            return None
        self.found = self._reader.found
        self.add(stamp_ns(message.header), frame.time, arrival, frame.frame_id)
        if isinstance(frame.payload, PointCloud):
            self.sweep_sizes[1 + len(frame.payload.earlier)] += 1
        if isinstance(frame.payload, RawImage | EventWindow):
            self.sizes[frame.payload.height, frame.payload.width] += 1
        return frame

    def add(self, stamp: int, time: int, arrival: int, frame_id: str) -> None:
        """Add a readable message: its header's stamp, its frame's `time` and its arrival, all in nanoseconds."""
        self._rows.append((stamp, time, arrival))
        self.frame_ids[frame_id] += 1

    @property
    def stamps(self) -> Nanoseconds:
        """(N,) nanoseconds, the header stamps of readable messages."""
        return self._column(0)

    @property
    def times(self) -> Nanoseconds:
        """(N,) nanoseconds, the `time` of the frames; for events the end of the window."""
        return self._column(1)

    @property
    def arrivals(self) -> Nanoseconds:
        """(N,) nanoseconds of recording or reception."""
        return self._column(2)

    @property
    def delays(self) -> npt.NDArray[np.float64]:
        """(N,) seconds from a header's stamp, without the offset, to the message's arrival."""
        return np.asarray((self.arrivals - self.stamps + self.offset) / NANOSECONDS)

    @property
    def counters(self) -> dict[str, int]:
        """Counters of an event camera's packets; see `FrameReader.counters`."""
        return self._reader.counters

    @property
    def messages_per_sweep(self) -> int:
        """Most frequent number of messages per sweep of a LiDAR; 1 for other sensors."""
        return self.sweep_sizes.most_common(1)[0][0] if self.sweep_sizes else 1

    @property
    def frame_id(self) -> str:
        """Most frequent frame_id; empty without messages."""
        return self.frame_ids.most_common(1)[0][0] if self.frame_ids else ""

    def _column(self, column: int) -> Nanoseconds:
        return np.fromiter((row[column] for row in self._rows), np.int64, len(self._rows))


_MIN_MESSAGES = 5
"""Minimum messages for a check of the period."""
_MIN_GAP_S = 0.25
"""Minimum duration of a gap; it also exceeds three periods."""
_MAX_LOST_SHARE = 0.02
"""Share of missing messages above which they are reported."""
_MAX_JITTER_PERIODS = 0.3
"""Jitter, in periods, above which it is reported."""
_MAX_CLOCK_OFFSET_S = 0.020
"""Maximum difference of clocks that NTP synchronizes within a robot."""
_MIN_DRIFT_RATE, _MIN_DRIFT_S = 2e-4, 0.010
"""Minimum slope and minimum total of a reported clock drift; the slope is twice the limit of quartz clocks."""
_MAX_REPEATED_SHARE = 0.01
"""Share of repeated stamps above which they are reported; not for events, whose packets often share a stamp."""


@dataclass(frozen=True, slots=True)
class RateStats:
    """Rate and regularity of a sensor's stamps; times in seconds.

    Attributes:
        period: median time from one message to the next; NaN below three messages.
        jitter: 95th percentile of the intervals' deviation from a multiple of the period, without gaps.
        rate: messages per second from the first to the last.
        delay: median time from stamp to arrival.
    """

    period: float
    jitter: float
    rate: float
    delay: float


def rate_stats(record: TopicStats) -> RateStats:
    """Measure period, jitter, rate and delay of a sensor's stamps."""
    stamps, delay = np.unique(record.stamps[record.stamps > 0]), _median_delay(record)
    if len(stamps) < 3:
        return RateStats(float("nan"), float("nan"), 0.0, delay)
    steps = np.diff(stamps) / NANOSECONDS
    period = float(np.median((stamps[2:] - stamps[:-2]) / (2 * NANOSECONDS)))  # over two, as exposure may alternate
    near = steps[steps < 3.5 * period]
    off = np.abs(near - np.maximum(np.round(near / period), 1) * period)
    jitter = float(np.percentile(off, 95)) if len(off) else float("nan")
    return RateStats(period, jitter, float((len(stamps) - 1) / steps.sum()), delay)


def timing_findings(record: TopicStats, begin: int, config: SyncConfig, lead: float = 0.0) -> Iterator[Finding]:
    """Report faults of a sensor's stamps, clock and period.

    Args:
        record: of the sensor.
        begin: nanoseconds of 0 s in the findings.
        config: the node's.
        lead: seconds by which the stamps of all sensors are ahead; subtracted, since it is no fault of this sensor.
    """
    stamps = record.stamps
    if not len(stamps):
        return
    yield from _stamp_faults(record, stamps)
    timed = stamps > 0
    if not timed.any():
        return
    clock = _foreign_clock(record, config)
    if clock is not None:
        remedy = clock.remedy(record.modality, record.offset / NANOSECONDS)
        yield finding("foreign_clock", record.modality, distance=clock.distance, cause=clock.cause, remedy=remedy)
    else:
        yield from _clock_faults(record, timed, lead)
    if timed.sum() >= _MIN_MESSAGES:
        yield from _gaps(record, begin)
        yield from _period_faults(record)


def _foreign_clock(record: TopicStats, config: SyncConfig) -> ForeignClock | None:
    """Identify the clock of stamps that a node would refuse as too far from the arrivals; None for valid stamps."""
    timed = np.flatnonzero(record.stamps > 0)
    if not len(timed):
        return None
    first = int(record.stamps[timed[0]]) - record.offset
    return foreign_clock(-_median_delay(record), first / NANOSECONDS, config)


def common_lead(records: Mapping[Modality, TopicStats], config: SyncConfig) -> float:
    """Seconds by which the stamps of all sensors, at least two, are ahead of their arrival; 0 unless all are."""
    own = [record for record in records.values() if len(record.stamps) and _foreign_clock(record, config) is None]
    leads = [-_median_delay(record) for record in own]
    return min(leads) if len(leads) > 1 and min(leads) > _MAX_CLOCK_OFFSET_S else 0.0


def ahead_of_arrival(records: Mapping[Modality, TopicStats], config: SyncConfig) -> dict[Modality, float]:
    """Modality → seconds by which its stamps exceed the common lead of all sensors, if more than NTP explains."""
    common = common_lead(records, config)
    ahead = {m: -_median_delay(r) - common for m, r in records.items() if _foreign_clock(r, config) is None}
    return {modality: seconds for modality, seconds in ahead.items() if seconds > _MAX_CLOCK_OFFSET_S}


def _median_delay(record: TopicStats) -> float:
    timed = record.stamps > 0
    return float(np.median(record.delays[timed])) if timed.any() else float("nan")


def _stamp_faults(record: TopicStats, stamps: Nanoseconds) -> Iterator[Finding]:
    total, topic = len(stamps), record.source.topic
    if zeros := int((stamps <= 0).sum()):
        yield finding("stamp_zero", record.modality, count=zeros, total=total)
    steps = np.diff(stamps[stamps > 0])
    if backward := int((steps < 0).sum()):
        yield finding("stamp_backward", record.modality, count=backward, total=total, topic=topic)
    repeated = int((steps == 0).sum())
    if repeated > _MAX_REPEATED_SHARE * total and record.modality != EVENT:
        yield finding("stamp_repeated", record.modality, count=repeated, total=total, topic=topic)


def _clock_faults(record: TopicStats, timed: np.ndarray, lead: float) -> Iterator[Finding]:
    delays = record.delays[timed]
    ahead = -float(np.median(delays)) - lead
    if ahead > _MAX_CLOCK_OFFSET_S:
        yield finding(
            "stamp_ahead",
            record.modality,
            ahead=1e3 * ahead,
            offset=ahead + record.offset / NANOSECONDS,
            modality=record.modality,
        )
    seconds = (record.arrivals[timed] - record.arrivals[timed][0]) / NANOSECONDS
    if len(delays) < 10 * _MIN_MESSAGES or seconds[-1] < _MIN_MESSAGES:
        return
    # The least delay shows the clock without the transport delay: fit a line to the minimum of each tenth.
    tenths = np.array_split(np.arange(len(delays)), 10)
    least = np.array([delays[part].min() for part in tenths])
    middle = np.array([seconds[part].mean() for part in tenths])
    slope, _ = np.polyfit(middle, least, 1)
    straight = np.abs(least - np.polyval(np.polyfit(middle, least, 1), middle)).max() < abs(slope) * seconds[-1] / 4
    if abs(slope) > _MIN_DRIFT_RATE and abs(slope) * seconds[-1] > _MIN_DRIFT_S and straight:
        yield finding("clock_drift", record.modality, drift=60e3 * abs(slope))


def _gaps(record: TopicStats, begin: int) -> Iterator[Finding]:
    """Report gaps between arrivals; stamps may be wrong."""
    arrivals = np.sort(record.arrivals)
    steps = np.diff(arrivals) / NANOSECONDS
    limit = max(3 * float(np.median(steps)), _MIN_GAP_S)
    gaps = np.flatnonzero(steps > limit)
    if not len(gaps):
        return
    longest = gaps[steps[gaps].argmax()]
    kind = "event_gaps" if record.modality == EVENT else "gaps"
    values = {"longest": steps[longest], "at": (arrivals[longest] - begin) / NANOSECONDS, "limit": limit}
    yield finding(kind, record.modality, gaps=pluralize(len(gaps), "gap"), **values)


def _period_faults(record: TopicStats) -> Iterator[Finding]:
    """Report missing messages and jitter.

    Skip events, whose packets have no period, and stamps that run back, which have a finding of their own.
    """
    if record.modality == EVENT or (np.diff(record.stamps[record.stamps > 0]) < 0).any():
        return
    measured = rate_stats(record)
    if measured.jitter > _MAX_JITTER_PERIODS * measured.period:
        yield finding("jitter", record.modality, jitter=1e3 * measured.jitter, period=1e3 * measured.period)
        return
    stamps = np.unique(record.stamps[record.stamps > 0])
    steps: npt.NDArray[np.float64] = np.diff(stamps).astype(np.float64) / (NANOSECONDS * measured.period)
    within = steps[steps * measured.period <= max(3 * measured.period, _MIN_GAP_S)]  # longer ones are reported as gaps
    lost = int((np.round(within) - 1).clip(0).sum())
    total = lost + len(record.stamps)
    if lost >= 3 and lost > _MAX_LOST_SHARE * total:
        yield finding("messages_lost", record.modality, lost=lost, total=total, period=1e3 * measured.period)
