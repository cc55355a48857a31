"""Counters, rates, latencies and recent errors of the pipeline since activation."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from statistics import median

from mlesam_ros.errors import Problem
from mlesam_ros.sync import Account
from mlesam_ros.types import NANOSECONDS, FrameSet, Modality, Segmentation

_RECENT = 32  # masks in the window of rates, latencies and skews
_FEW = 8  # masks in the window of the longest interval
_FRESH = 1.5  # s for which an error of one mask is reported
_NONE = Problem("")


class PipelineStatistics:
    """Counters and recent latencies of the pipeline since activation. Written by the worker, read by the reports.

    Args:
        log: called with an error of the pipeline when it begins.

    Attributes:
        sequence: number of masks since activation.
        used: sensors of the newest mask.
        account: frames of sets that were not used for a mask.
        blocked: modality → frames that were not used without a reason of their own, because no mask could be made.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._started = time.monotonic()
        self._masks: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._skews: dict[Modality, deque[int]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self._troubles: dict[Modality | None, tuple[float, Problem]] = {}
        self._notes: Mapping[Modality, str] = {}
        self.sequence = 0
        self.used: tuple[Modality, ...] = ()
        self.account = Account()
        self.blocked: Counter[Modality] = Counter()

    def enter(self, segmentation: Segmentation, latency: float, notes: Mapping[Modality, str]) -> None:
        """Record a published mask.

        Args:
            segmentation: the mask.
            latency: seconds from stamp to mask.
            notes: modality → input that its image was made without.
        """
        self.sequence += 1
        self.used, self._notes = segmentation.used, notes
        self._masks.append((time.monotonic(), latency))
        for modality in segmentation.used:
            self._skews[modality].append(abs(segmentation.skews.get(modality, 0)))

    def judge(
        self, frame_set: FrameSet, used: Collection[Modality], refusals: Mapping[Modality, Problem], failure: Problem
    ) -> None:
        """Count the frames of a set that were not used for its mask, and record their problems; see `Account.judge`."""
        self.account.judge(frame_set, used, refusals, failure)
        for modality, problem in refusals.items():
            self.note(modality, problem)
        self.blocked.update({*frame_set.frames} - {*used} - {*refusals})

    def note(self, modality: Modality | None, problem: Problem) -> None:
        """Record an error of a sensor or, for None, of the pipeline, which is also logged when it begins."""
        if modality is None and not self.recent_error(None):
            self._log(f"pipeline: {problem}")
        self._troubles[modality] = (time.monotonic(), problem)

    def recent_error(self, modality: Modality | None) -> Problem:
        """Return the error of the last `_FRESH` seconds; empty for none."""
        when, problem = self._troubles.get(modality, (0.0, _NONE))
        return problem if time.monotonic() - when < _FRESH else _NONE

    def without(self, modality: Modality) -> str:
        """Return the input that the newest image of a sensor was made without; empty for none."""
        return self._notes.get(modality, "") if modality in self.used else ""

    def skew(self, modality: Modality) -> float | None:
        """Return the median of a sensor's last skews against the masks' stamps in s; None before the first."""
        skews = list(self._skews[modality])
        return median(skews) / NANOSECONDS if skews else None

    @property
    def age(self) -> float:
        """Seconds since activation."""
        return time.monotonic() - self._started

    @property
    def silence(self) -> float:
        """Seconds since the newest mask, or since activation."""
        return time.monotonic() - (self._masks[-1][0] if self._masks else self._started)

    @property
    def gap(self) -> float:
        """Longest interval between the last few masks in s, which follows a lower rate; 0 before the second."""
        times = [time for time, _ in list(self._masks)[-_FEW:]]
        return max((later - time for time, later in pairwise(times)), default=0.0)

    @property
    def rate(self) -> float:
        """Masks per second; 0 before the second."""
        masks = list(self._masks)
        span = masks[-1][0] - masks[0][0] if len(masks) > 1 else 0.0
        return (len(masks) - 1) / span if span else 0.0

    @property
    def latencies(self) -> list[float]:
        """Seconds from stamp to mask of the last few masks."""
        return [latency for _, latency in list(self._masks)]
