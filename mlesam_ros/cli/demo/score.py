"""The demo's figures, kept up to date with every mask."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.cli.demo.script import PERIOD, Phase, phase_at
from mlesam_ros.frame import NANOSECONDS
from mlesam_ros.metrics import Confusion

Labels = npt.NDArray[np.uint8]

_WAITING = 30  # label images of either kind that wait for their partner
_SLACK = PERIOD // 20  # ns by which a stamp may miss its moment's exact time


@dataclass
class PhaseScore:
    """One phase's figures.

    Attributes:
        phase: which.
        confusion: masks against the truth of the same stamp.
        arrivals: host times in nanoseconds at which its masks arrived.
        latencies: nanoseconds from a mask's stamp to its arrival.
        offered: moments that the player offered.
    """

    phase: Phase
    confusion: Confusion
    arrivals: list[int] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)
    offered: int = 0

    @property
    def miou(self) -> float | None:
        """Mean IoU in percent over the classes present in the truth; None before anything was compared."""
        return _percent(self.confusion)


class Score:
    """Counts, times and compares.

    Attributes:
        start: ROS time in nanoseconds at which the playback began, 0 before.
        phases: the script's phases with their figures.
        published: moments that the player says it offered; None until it has said so.
    """

    def __init__(self, phases: Sequence[Phase], classes: int) -> None:
        """Nothing yet.

        Args:
            phases: the script.
            classes: size of the label space.
        """
        self.start = 0
        self.published: int | None = None
        self.phases = [PhaseScore(phase, Confusion(classes)) for phase in phases]
        self._classes = classes
        self._masks: OrderedDict[int, Labels] = OrderedDict()
        self._truths: OrderedDict[int, Labels] = OrderedDict()
        self._early: list[tuple[int, Labels]] = []

    def begin(self, start: int) -> None:
        """The player began at this ROS time in nanoseconds; the news comes late, so truths may have come already."""
        self.start = start
        early, self._early = self._early, []
        for stamp, labels in early:
            self.take_truth(stamp, labels)

    def phase_of(self, stamp: int) -> PhaseScore | None:
        """Where a stamp belongs, if the script covers it."""
        phase = phase_at([score.phase for score in self.phases], stamp - self.start + _SLACK) if self.start else None
        return next((score for score in self.phases if score.phase is phase), None)

    def take_mask(self, stamp: int, arrival: int, labels: Labels) -> None:
        """A mask has arrived."""
        score = self.phase_of(stamp)
        if score is None:
            return
        score.arrivals.append(arrival)
        score.latencies.append(arrival - stamp)
        _keep(self._masks, stamp, labels)
        self._compare(stamp, score)

    def take_truth(self, stamp: int, labels: Labels) -> None:
        """The truth of a moment has arrived, which is also how moments on offer are counted."""
        if not self.start:
            self._early.append((stamp, labels))
            return
        score = self.phase_of(stamp)
        if score is None:
            return
        score.offered += 1
        _keep(self._truths, stamp, labels)
        self._compare(stamp, score)

    def longest_gap(self, score: PhaseScore) -> float:
        """Seconds without a mask, at most, in a phase; the silence that its beginning caused included."""
        end = self.start + score.phase.end
        before = [time for other in self.phases for time in other.arrivals if other.phase.start < score.phase.start]
        times = [*before[-1:], *score.arrivals]
        if not score.arrivals:
            return (end - (times[-1] if times else self.start + score.phase.start)) / NANOSECONDS
        return max((b - a for a, b in pairwise(times)), default=0) / NANOSECONDS

    @property
    def miou(self) -> float | None:
        """Mean IoU in percent over the whole demo."""
        total = Confusion(self._classes)
        for score in self.phases:
            total.merge(score.confusion)
        return _percent(total)

    def summary(self) -> dict[str, Any]:
        """The results with the keys that `docs/results.md` documents."""
        arrivals = [time for score in self.phases for time in score.arrivals]
        seconds = (max(arrivals) - min(arrivals)) / NANOSECONDS if len(arrivals) > 1 else 0.0
        return {
            "sets_offered": self.published or sum(score.offered for score in self.phases),
            "masks": len(arrivals),
            "rate_hz": round((len(arrivals) - 1) / seconds, 2) if seconds else 0.0,
            "latency_ms": latency_ms([value for score in self.phases for value in score.latencies]),
            "miou": self.miou,
            "phases": [self._phase_summary(score) for score in self.phases],
        }

    def _phase_summary(self, score: PhaseScore) -> dict[str, Any]:
        return {
            "name": score.phase.name,
            "sensors": score.phase.sensors,
            "miou": score.miou,
            "longest_gap_s": round(self.longest_gap(score), 3),
            "sets_offered": score.offered,
            "masks": len(score.arrivals),
            "latency_ms": latency_ms(score.latencies),
        }

    def _compare(self, stamp: int, score: PhaseScore) -> None:
        if stamp in self._masks and stamp in self._truths:
            score.confusion.add(self._truths.pop(stamp), self._masks.pop(stamp))


def latency_ms(latencies: Sequence[int]) -> dict[str, float | None]:
    """Percentiles in milliseconds of latencies in nanoseconds; None without any."""
    if not latencies:
        return {"p50": None, "p95": None, "p99": None}
    values = np.percentile(latencies, (50, 95, 99)) / 1e6
    return {name: round(float(value), 1) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}


def _keep(waiting: OrderedDict[int, Labels], stamp: int, labels: Labels) -> None:
    waiting[stamp] = labels
    while len(waiting) > _WAITING:
        waiting.popitem(last=False)


def _percent(confusion: Confusion) -> float | None:
    return None if np.isnan(confusion.miou_present) else round(100 * confusion.miou_present, 2)
