# SPDX-License-Identifier: Apache-2.0
"""Simulate the synchronizer on recorded timestamps, and propose better parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.doctor.rules import finding
from mlesam_ros.doctor.timing import Nanoseconds, TopicStats
from mlesam_ros.errors import Finding, Problem
from mlesam_ros.sync import OUTCOMES, ReplayClock, SyncConfig, Synchronizer, judge_clocks, ready_sets
from mlesam_ros.types import NANOSECONDS, FrameSet, Modality, RawImage, SensorFrame

DUPLICATE = "duplicate stamp"
_EMPTY = RawImage(0, 0, "", 0, np.zeros(0, np.uint8))


@dataclass(frozen=True)
class SyncSimulation:
    """Result of a simulated synchronization.

    Attributes:
        config: of the synchronizer.
        sets: number of sets.
        parts: modality → sets that it is part of.
        complete: sets with every modality.
        seconds: from the first arrival to the last.
        wait: median seconds from a primary's arrival to its set.
        counters, refusals: those of the synchronizer.
        skews: modality → (N,) nanoseconds of its skews in the sets.
    """

    config: SyncConfig
    sets: int
    parts: dict[Modality, int]
    complete: int
    seconds: float
    wait: float
    counters: dict[Modality, dict[str, int]]
    refusals: dict[Modality, dict[str, int]]
    skews: dict[Modality, Nanoseconds]

    @property
    def rate(self) -> float:
        """Sets per second."""
        return self.sets / self.seconds if self.seconds else 0.0

    def share(self, modality: Modality) -> float:
        """Share of the sets that a sensor is part of; 0 without sets."""
        return self.parts[modality] / self.sets if self.sets else 0.0


def simulate_sync(records: Mapping[Modality, TopicStats], config: SyncConfig) -> SyncSimulation:
    """Push every message at its arrival and take every set when it is ready, as a network without latency would.

    If the stamps of all sensors are from another clock than the arrivals, the stamps are the clock, as in
    `mlesam evaluate`.
    """
    synchronizer, found, arrived = Synchronizer(config), list[tuple[int, FrameSet]](), dict[tuple[Modality, int], int]()
    rows = _rows(records, config)
    for now, modality, time in rows:
        found += ready_sets(synchronizer, now)
        offset = records[modality].offset
        synchronizer.push(SensorFrame(modality, time + offset, "", _EMPTY, offset), now)
        arrived.setdefault((modality, time + offset), now)
        if (frame_set := synchronizer.take(now)) is not None:
            found.append((now, frame_set))
    found += ready_sets(synchronizer)
    synchronizer.flush()
    last = rows[-1][0] if rows else 0
    waits = [min(now, last) - arrived[s.primary, s.frames[s.primary].stamp] for now, s in found]
    return SyncSimulation(
        config,
        sets=len(found),
        parts={m: sum(m in s.frames for _, s in found) for m in config.modalities},
        complete=sum(len(s.frames) == len(config.modalities) for _, s in found),
        seconds=(last - rows[0][0]) / NANOSECONDS if rows else 0.0,
        wait=float(np.median(waits)) / NANOSECONDS if waits else 0.0,
        counters=synchronizer.counters,
        refusals=synchronizer.refusals,
        skews={m: np.array([s.skews[m] for _, s in found if m in s.skews], np.int64) for m in config.modalities},
    )


def _rows(records: Mapping[Modality, TopicStats], config: SyncConfig) -> list[tuple[int, Modality, int]]:
    """(arrival, modality, frame time) in nanoseconds, in the order of arrival."""
    rows = [
        (int(arrival), m, int(time), int(stamp))
        for m in config.modalities
        for arrival, time, stamp in zip(records[m].arrivals, records[m].times, records[m].stamps, strict=True)
    ]
    rows.sort(key=lambda row: row[0])
    offsets = {m: records[m].offset for m in config.modalities}
    pairs = {m: [(stamp, arrival) for arrival, other, _, stamp in rows if other == m] for m in config.modalities}
    clock = ReplayClock(judge_clocks(pairs, offsets, config))
    return [(clock.advance(arrival, m, stamp - offsets[m]), m, time) for arrival, m, time, stamp in rows]


def sync_findings(simulation: SyncSimulation, faulty: Collection[Modality] = ()) -> Iterator[Finding]:
    """Report refused frames, and the absence of sets.

    Args:
        simulation: with the current settings.
        faulty: modalities with errors, which explain their refused frames.
    """
    for modality, reasons in simulation.refusals.items():
        for reason, count in reasons.items():
            if modality not in faulty and reason != DUPLICATE:  # duplicates are reported with the stamps
                total = simulation.counters[modality]["received"]
                problem = reason if isinstance(reason, Problem) else Problem(reason, "See the errors above.")
                values = {"reason": problem.message, "remedy": problem.remedy}
                yield finding("frames_refused", modality, count=count, total=total, **values)
    if not simulation.sets:
        yield finding("no_sets", "sets")


Seconds = npt.NDArray[np.float64]

_MIN_MISSING_SHARE = 0.1
"""Share of the sets that a sensor may be missing from, below the share that its rate allows."""
_MIN_GAIN = 0.05
"""Minimum gain of a change, as share of the sets."""
_STEP_S = 0.005
"""Seconds to whose multiples proposals are rounded up."""
_MAX_PROPOSED_WAIT_S = 0.5
"""Maximum proposed max_wait in seconds; a mask with a longer delay is of no use."""


@dataclass
class TuningResult:
    """Proposed parameters.

    Attributes:
        simulation: simulation with all of them.
        parameters: the node's parameter → value.
        findings: reasons for the proposals, and faults that no parameter mends.
    """

    simulation: SyncSimulation
    parameters: dict[str, float | list[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def tune_sync(
    records: Mapping[Modality, TopicStats],
    current: SyncSimulation,
    offsets: Mapping[Modality, float],
    faulty: Collection[Modality] = (),
) -> TuningResult:
    """Find settings with which more sensors are part of more sets, by simulating each change.

    Args:
        records: of the sensors.
        current: simulation with the current settings.
        offsets: seconds by which stamps are late according to other findings, beyond the configured offsets.
        faulty: modalities with errors, which explain their absence from sets.
    """
    tuning = TuningResult(current)
    if offsets:
        totals = {m: value + records[m].offset / NANOSECONDS for m, value in offsets.items()}
        tuning.simulation = simulate_sync(records, replace(current.config, offset=totals))
        tuning.parameters.update({f"{m}.offset": round(value, 3) for m, value in totals.items()})
    for modality in current.config.modalities:
        if modality not in faulty or modality in offsets:
            _tune_sensor(modality, records, tuning)
    if not faulty:
        _tune_primary(records, tuning)
    return tuning


def _tune_sensor(modality: Modality, records: Mapping[Modality, TopicStats], tuning: TuningResult) -> None:
    """Raise tolerance or max_wait of a sensor that is missing from sets that it could be part of."""
    now = tuning.simulation
    share, possible = now.share(modality), _possible_share(modality, records, now)
    if not now.sets or possible - share < _MIN_MISSING_SHARE:
        return
    reason, remedy = _format_counters(modality, now), "Fix the other findings of this sensor."
    for change, why in _changes(modality, records, now):
        then = simulate_sync(records, replace(now.config, **change))
        if then.sets and then.share(modality) - share >= _MIN_GAIN:
            parameters = {f"{modality}.{name}": float(values[modality]) for name, values in change.items()}
            tuning.simulation = then
            tuning.parameters.update(parameters)
            settings = ", ".join(f"{name}: {value:g}" for name, value in parameters.items())
            reason, remedy = why, f"Set {settings}; then it is part of {100 * then.share(modality):.0f} %."
            break
    values = {"share": 100 * share, "possible": 100 * possible, "reason": reason, "remedy": remedy}
    tuning.findings.append(finding("few_sets", modality, **values))


def _possible_share(modality: Modality, records: Mapping[Modality, TopicStats], simulation: SyncSimulation) -> float:
    """Share of the sets that a sensor could be part of, if each of its messages is used once."""
    return min(1.0, len(records[modality].times) / simulation.sets) if simulation.sets else 0.0


def _changes(
    modality: Modality, records: Mapping[Modality, TopicStats], simulation: SyncSimulation
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (changes of the configuration, reason), the smallest change first."""
    config, primary = simulation.config, simulation.config.order[0]
    if primary == modality or not len(records[primary].times):
        return
    skews, lags = _nearest(records[primary], records[modality], config)
    tolerance, max_wait = _ceil(np.percentile(skews, 95)), _ceil(np.percentile(lags, 95))
    wider: dict[str, Any] = {"tolerance": {**_by_modality(config, "tolerance"), modality: tolerance}}
    longer: dict[str, Any] = {"max_wait": {**_by_modality(config, "max_wait"), modality: max_wait}}
    distance = f"its nearest message is up to {1e3 * np.percentile(skews, 95):.0f} ms from the primary's"
    delay = f"it arrives up to {1e3 * np.percentile(lags, 95):.0f} ms after the primary"
    if tolerance > config.nanoseconds("tolerance", modality) / NANOSECONDS:
        yield wider, distance
    if config.nanoseconds("max_wait", modality) / NANOSECONDS < max_wait <= _MAX_PROPOSED_WAIT_S:
        yield longer, delay
        if tolerance > config.nanoseconds("tolerance", modality) / NANOSECONDS:
            yield {**wider, **longer}, f"{distance}, and {delay}"


def _nearest(primary: TopicStats, other: TopicStats, config: SyncConfig) -> tuple[Seconds, Seconds]:
    """Distance in time, and lag of arrival, of the nearest `other` message to each primary message, in seconds."""
    order, references = np.argsort(other.times), _times(primary, config)
    times, arrivals = _times(other, config)[order], other.arrivals[order]
    after = np.searchsorted(times, references).clip(1, max(len(times) - 1, 1))
    before = (after - 1).clip(0)
    after = after.clip(0, len(times) - 1)
    nearer = np.abs(times[before] - references) <= np.abs(times[after] - references)
    at = np.where(nearer, before, after)
    return np.abs(times[at] - references) / NANOSECONDS, (arrivals[at] - primary.arrivals) / NANOSECONDS


def _times(record: TopicStats, config: SyncConfig) -> Nanoseconds:
    """(N,) nanoseconds, the frames' times, with the configuration's offset if it sets one."""
    offset = config.offset_of(record.modality)
    return record.times if offset is None else record.times + record.offset - offset


def _format_counters(modality: Modality, simulation: SyncSimulation) -> str:
    counts = simulation.counters[modality]
    unused = [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if outcome != "used" and counts[outcome]]
    return f"of {counts['received']} messages {', '.join(unused) or 'all are used'}"


def _tune_primary(records: Mapping[Modality, TopicStats], tuning: TuningResult) -> None:
    """Propose another primary if it gives clearly more complete sets."""
    now = tuning.simulation
    best, order = now, now.config.order
    for first in now.config.order[1:]:
        tried = (first, *(m for m in now.config.order if m != first))
        then = simulate_sync(records, replace(now.config, primary_order=tried))
        if then.complete > best.complete:
            best, order = then, tried
    is_better = best.complete >= now.complete * (1 + 2 * _MIN_GAIN)
    if now.sets and is_better and best.complete - now.complete > now.sets * _MIN_GAIN:
        values = {"now": now.complete / now.seconds, "then": best.complete / best.seconds, "other": order[0]}
        tuning.findings.append(finding("poor_primary", now.config.order[0], **values, order=", ".join(order)))
        tuning.parameters["primary_order"] = list(order)
        tuning.simulation = best


def _by_modality(config: SyncConfig, name: str) -> dict[Modality, float]:
    return {m: config.nanoseconds(name, m) / NANOSECONDS for m in config.modalities}


def _ceil(seconds: float) -> float:
    """Add 10 % and round up to a multiple of `_STEP_S`."""
    return round(math.ceil(1.1 * seconds / _STEP_S) * _STEP_S, 3)
