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
from mlesam_ros.errors import Problem
from mlesam_ros.findings import Finding
from mlesam_ros.sync import ReplayClock, SyncConfig, Synchronizer, judge_clocks, ready_sets
from mlesam_ros.types import NANOSECONDS, FrameSet, Modality, RawImage, SensorFrame

DUPLICATE = "duplicate stamp"
_EMPTY = RawImage(0, 0, "", 0, np.zeros(0, np.uint8))


@dataclass(frozen=True)
class Rehearsal:
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


def simulate_sync(records: Mapping[Modality, TopicStats], config: SyncConfig) -> Rehearsal:
    """Push every message at its arrival and take every set when it is ready, as a network without latency would.

    If the stamps of all sensors are from another clock than the arrivals, the stamps are the clock, as in
    `mlesam evaluate`.
    """
    synchronizer, found, arrived = Synchronizer(config), list[tuple[int, FrameSet]](), dict[tuple[Modality, int], int]()
    rows = _rows(records, config)
    for now, modality, moment in rows:
        found += ready_sets(synchronizer, now)
        offset = records[modality].offset
        synchronizer.push(SensorFrame(modality, moment + offset, "", _EMPTY, offset), now)
        arrived.setdefault((modality, moment + offset), now)
        if (frame_set := synchronizer.take(now)) is not None:
            found.append((now, frame_set))
    found += ready_sets(synchronizer)
    synchronizer.flush()
    last = rows[-1][0] if rows else 0
    waits = [min(now, last) - arrived[s.primary, s.frames[s.primary].stamp] for now, s in found]
    return Rehearsal(
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
        (int(arrival), m, int(moment), int(stamp))
        for m in config.modalities
        for arrival, moment, stamp in zip(records[m].arrivals, records[m].moments, records[m].stamps, strict=True)
    ]
    rows.sort(key=lambda row: row[0])
    offsets = {m: records[m].offset for m in config.modalities}
    pairs = {m: [(stamp, arrival) for arrival, other, _, stamp in rows if other == m] for m in config.modalities}
    clock = ReplayClock(judge_clocks(pairs, offsets, config))
    return [(clock.advance(arrival, m, stamp - offsets[m]), m, moment) for arrival, m, moment, stamp in rows]


def sync_findings(rehearsal: Rehearsal, faulty: Collection[Modality] = ()) -> Iterator[Finding]:
    """Report refused frames, and the absence of sets.

    Args:
        rehearsal: with the current settings.
        faulty: modalities with errors, which explain their refused frames.
    """
    for modality, reasons in rehearsal.refusals.items():
        for reason, count in reasons.items():
            if modality not in faulty and reason != DUPLICATE:  # duplicates are reported with the stamps
                total = rehearsal.counters[modality]["received"]
                problem = reason if isinstance(reason, Problem) else Problem(reason, "See the errors above.")
                told = {"reason": problem.message, "remedy": problem.remedy}
                yield finding("frames_refused", modality, count=count, total=total, **told)
    if not rehearsal.sets:
        yield finding("no_sets", "sets")


Seconds = npt.NDArray[np.float64]

_LACK = 0.1
"""Share of the sets that a sensor may be missing from, below the share that its rate allows."""
_GAIN = 0.05
"""Minimum gain of a change, as share of the sets."""
_ROUND = 0.005
"""Seconds to whose multiples proposals are rounded up."""
_MOST_PATIENCE = 0.5
"""Maximum proposed max_wait in seconds; a mask with a longer delay is of no use."""


@dataclass
class TuningResult:
    """Proposed parameters.

    Attributes:
        rehearsal: simulation with all of them.
        parameters: the node's parameter → value.
        findings: reasons for the proposals, and faults that no parameter mends.
    """

    rehearsal: Rehearsal
    parameters: dict[str, float | list[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def tune_sync(
    records: Mapping[Modality, TopicStats],
    plain: Rehearsal,
    offsets: Mapping[Modality, float],
    faulty: Collection[Modality] = (),
) -> TuningResult:
    """Find settings with which more sensors are part of more sets, by simulating each change.

    Args:
        records: of the sensors.
        plain: simulation with the current settings.
        offsets: seconds by which stamps are late according to other findings, beyond the configured offsets.
        faulty: modalities with errors, which explain their absence from sets.
    """
    advice = TuningResult(plain)
    if offsets:
        totals = {m: value + records[m].offset / NANOSECONDS for m, value in offsets.items()}
        advice.rehearsal = simulate_sync(records, replace(plain.config, offset=totals))
        advice.parameters.update({f"{m}.offset": round(value, 3) for m, value in totals.items()})
    for modality in plain.config.modalities:
        if modality not in faulty or modality in offsets:
            _help(modality, records, advice)
    if not faulty:
        _reorder(records, advice)
    return advice


def _help(modality: Modality, records: Mapping[Modality, TopicStats], advice: TuningResult) -> None:
    """Raise tolerance or max_wait of a sensor that is missing from sets that it could be part of."""
    now = advice.rehearsal
    possible = _possible(modality, records, now)
    share = now.parts[modality] / now.sets if now.sets else 0.0
    if not now.sets or possible - share < _LACK:
        return
    why, remedy = _fates(modality, now), "Mend what else is said about it."
    for change, reason in _changes(modality, records, now):
        then = simulate_sync(records, replace(now.config, **change))
        if then.sets and then.parts[modality] / then.sets - share >= _GAIN:
            parameters = _parameters(modality, change)
            advice.rehearsal = then
            advice.parameters.update(parameters)
            told = ", ".join(f"{name}: {value:g}" for name, value in parameters.items())
            gained = 100 * then.parts[modality] / then.sets
            why, remedy = reason, f"Set {told}; then it is part of {gained:.0f} %."
            break
    values = {"share": 100 * share, "possible": 100 * possible, "why": why, "remedy": remedy}
    advice.findings.append(finding("few_partners", modality, **values))


def _possible(modality: Modality, records: Mapping[Modality, TopicStats], rehearsal: Rehearsal) -> float:
    """Share of the sets that a sensor could be part of, if each of its messages is used once."""
    return min(1.0, len(records[modality].moments) / rehearsal.sets) if rehearsal.sets else 0.0


def _changes(
    modality: Modality, records: Mapping[Modality, TopicStats], rehearsal: Rehearsal
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (changes of the configuration, reason), the smallest change first."""
    config, primary = rehearsal.config, rehearsal.config.order[0]
    if primary == modality or not len(records[primary].moments):
        return
    skews, lags = _nearest(records[primary], records[modality], config)
    tolerance, max_wait = _ceil(np.percentile(skews, 95)), _ceil(np.percentile(lags, 95))
    wider: dict[str, Any] = {"tolerance": {**_by_modality(config, "tolerance"), modality: tolerance}}
    longer: dict[str, Any] = {"max_wait": {**_by_modality(config, "max_wait"), modality: max_wait}}
    apart = f"its nearest message lies up to {1e3 * np.percentile(skews, 95):.0f} ms from the primary's"
    behind = f"it arrives up to {1e3 * np.percentile(lags, 95):.0f} ms after the primary"
    if tolerance > config.nanoseconds("tolerance", modality) / NANOSECONDS:
        yield wider, apart
    if config.nanoseconds("max_wait", modality) / NANOSECONDS < max_wait <= _MOST_PATIENCE:
        yield longer, behind
        if tolerance > config.nanoseconds("tolerance", modality) / NANOSECONDS:
            yield {**wider, **longer}, f"{apart}, and {behind}"


def _nearest(primary: TopicStats, other: TopicStats, config: SyncConfig) -> tuple[Seconds, Seconds]:
    """Distance in time, and lag of arrival, of the nearest `other` message to each primary message, in seconds."""
    order, references = np.argsort(other.moments), _times(primary, config)
    moments, arrivals = _times(other, config)[order], other.arrivals[order]
    after = np.searchsorted(moments, references).clip(1, max(len(moments) - 1, 1))
    before = (after - 1).clip(0)
    after = after.clip(0, len(moments) - 1)
    nearer = np.abs(moments[before] - references) <= np.abs(moments[after] - references)
    at = np.where(nearer, before, after)
    return np.abs(moments[at] - references) / NANOSECONDS, (arrivals[at] - primary.arrivals) / NANOSECONDS


def _times(record: TopicStats, config: SyncConfig) -> Nanoseconds:
    """(N,) nanoseconds, the frames' times, with the configuration's offset if it sets one."""
    offset = config.offset_of(record.modality)
    return record.moments if offset is None else record.moments + record.offset - offset


def _fates(modality: Modality, rehearsal: Rehearsal) -> str:
    counts = rehearsal.counters[modality]
    told = [f"{counts[fate]} {fate}" for fate in ("superseded", "late", "unmatched", "refused") if counts[fate]]
    return f"of {counts['received']} messages {', '.join(told) or 'all are used'}"


def _reorder(records: Mapping[Modality, TopicStats], advice: TuningResult) -> None:
    """Propose another primary if it gives clearly more complete sets."""
    now = advice.rehearsal
    best, order = now, now.config.order
    for first in now.config.order[1:]:
        tried = (first, *(m for m in now.config.order if m != first))
        then = simulate_sync(records, replace(now.config, primary_order=tried))
        if then.complete > best.complete:
            best, order = then, tried
    if now.sets and best.complete >= now.complete * (1 + 2 * _GAIN) and best.complete - now.complete > now.sets * _GAIN:
        values = {"now": now.complete / now.seconds, "then": best.complete / best.seconds, "other": order[0]}
        advice.findings.append(finding("primary_poor", now.config.order[0], **values, order=", ".join(order)))
        advice.parameters["primary_order"] = list(order)
        advice.rehearsal = best


def _by_modality(config: SyncConfig, name: str) -> dict[Modality, float]:
    return {m: config.nanoseconds(name, m) / NANOSECONDS for m in config.modalities}


def _parameters(modality: Modality, change: Mapping[str, Any]) -> dict[str, float]:
    """Convert a change of the configuration to the node's parameters."""
    return {f"{modality}.{name}": float(values[modality]) for name, values in change.items()}


def _ceil(seconds: float) -> float:
    """Add 10 % and round up to a multiple of `_ROUND`."""
    return round(math.ceil(1.1 * seconds / _ROUND) * _ROUND, 3)
