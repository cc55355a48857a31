"""What the node's synchronizer would make of the messages, without a network: sets, and what became of each message."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mlesam_ros.doctor.catalogue import finding
from mlesam_ros.doctor.record import Nanoseconds, TopicStats
from mlesam_ros.errors import Problem
from mlesam_ros.findings import Finding
from mlesam_ros.frame import NANOSECONDS, FrameSet, Modality, RawImage, SensorFrame
from mlesam_ros.sync import ReplayClock, SyncConfig, Synchronizer, judge_clocks, ready_sets

DUPLICATE = "duplicate stamp"
_EMPTY = RawImage(0, 0, "", 0, np.zeros(0, np.uint8))


@dataclass(frozen=True)
class Rehearsal:
    """What came of it.

    Attributes:
        config: the synchronizer's.
        sets: how many.
        parts: modality → sets that it is part of.
        complete: sets with every modality.
        seconds: from the first arrival to the last.
        wait: usual seconds from a primary's arrival to its set.
        counters, refusals: as the synchronizer has them.
        skews: modality → (N,) nanoseconds within the sets.
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
    """Push every message when it arrived and take every set when it is ready, as a network without latency would.

    Where the stamps of all are of another clock than the arrivals, they are the clock, as in `mlesam evaluate`.
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
    """(arrival, modality, moment), in the order of arrival."""
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
    """What is wrong whatever the settings.

    Args:
        rehearsal: with the settings as they are.
        ill: modalities with errors, which explain why they are refused.
    """
    for modality, reasons in rehearsal.refusals.items():
        for reason, count in reasons.items():
            if modality not in faulty and reason != DUPLICATE:  # told with the stamps
                total = rehearsal.counters[modality]["received"]
                problem = reason if isinstance(reason, Problem) else Problem(reason, "See the errors above.")
                told = {"reason": problem.message, "remedy": problem.remedy}
                yield finding("frames_refused", modality, count=count, total=total, **told)
    if not rehearsal.sets:
        yield finding("no_sets", "sets")
