"""What became of the sets since activation: written by the worker, read by the reports."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from statistics import median

from mlesam_ros.errors import Problem
from mlesam_ros.sync import Account
from mlesam_ros.types import NANOSECONDS, FrameSet, Modality, Segmentation

_RECENT = 32  # masks that rates, latencies and skews are taken over
_FEW = 8  # masks whose longest distance is the usual one
_FRESH = 1.5  # s for which a trouble with one mask is still news
_NONE = Problem("")


class PipelineStatistics:
    """Counts and remembers.

    Args:
        log: told of the pipeline's troubles when they begin.

    Attributes:
        sequence: masks so far.
        used: the sensors of the newest mask.
        account: the frames of sets that had no part in a mask.
        hindered: modality → those of them that had no reason of their own: no mask could be made at all.
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
        """A mask was published.

        Args:
            segmentation: the mask.
            latency: seconds from stamp to mask.
            notes: modality → what its picture had to be made without.
        """
        self.sequence += 1
        self.used, self._notes = segmentation.used, notes
        self._masks.append((time.monotonic(), latency))
        for modality in segmentation.used:
            self._skews[modality].append(abs(segmentation.skews.get(modality, 0)))

    def judge(
        self, frame_set: FrameSet, used: Collection[Modality], refusals: Mapping[Modality, Problem], failure: Problem
    ) -> None:
        """Count and note the frames of a set that had no part in its mask; see `Account.judge`."""
        self.account.judge(frame_set, used, refusals, failure)
        for modality, problem in refusals.items():
            self.note(modality, problem)
        self.blocked.update({*frame_set.frames} - {*used} - {*refusals})

    def note(self, modality: Modality | None, problem: Problem) -> None:
        """Remember what went wrong for the next report. None is the pipeline itself, of which the log is told, too."""
        if modality is None and not self.recent_error(None):
            self._log(f"pipeline: {problem}")
        self._troubles[modality] = (time.monotonic(), problem)

    def recent_error(self, modality: Modality | None) -> Problem:
        """What went wrong just now; empty when nothing did."""
        when, problem = self._troubles.get(modality, (0.0, _NONE))
        return problem if time.monotonic() - when < _FRESH else _NONE

    def without(self, modality: Modality) -> str:
        """What its newest picture had to be made without."""
        return self._notes.get(modality, "") if modality in self.used else ""

    def skew(self, modality: Modality) -> float | None:
        """Seconds between its stamps and the masks', median of the last few; None before the first."""
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
        """Longest distance of the last few masks in seconds, which follows a slower rhythm at once; 0 before two."""
        times = [time for time, _ in list(self._masks)[-_FEW:]]
        return max((later - time for time, later in pairwise(times)), default=0.0)

    @property
    def rate(self) -> float:
        """Masks per second; 0 before the second one."""
        masks = list(self._masks)
        span = masks[-1][0] - masks[0][0] if len(masks) > 1 else 0.0
        return (len(masks) - 1) / span if span else 0.0

    @property
    def latencies(self) -> list[float]:
        """Seconds from stamp to mask of the last few masks."""
        return [latency for _, latency in list(self._masks)]
