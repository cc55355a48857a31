"""Message counters from topic to mask, shared by the node, evaluation and the doctor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from mlesam_ros.errors import Problem
from mlesam_ros.sync.synchronizer import OUTCOMES, REFUSED, SUPERSEDED, USED
from mlesam_ros.types import FrameSet, Modality

COUNTERS = ("received", *OUTCOMES)
_REASONS = 16  # most reasons counted separately; a reason may contain numbers that never repeat
_OTHER = "other reasons"


class BoundedCounter(Counter[str]):
    """Reason of refusal → messages, with a bounded number of reasons."""

    def count(self, words: str, times: int = 1) -> None:
        """Count a reason; as `other reasons` once the bound is reached."""
        self[words if words in self or len(self) < _REASONS else _OTHER] += times

    def add(self, *others: Mapping[str, int]) -> BoundedCounter:
        """Add the counts of other counters."""
        for other in others:
            for words, times in dict(other).items():
                if times:
                    self.count(words, times)
        return self


class Account:
    """Extends the synchronizer's counters to the stages before and after it.

    The synchronizer counts each frame of a set as used. Here a frame is `used` only if it contributed to a mask.

    Attributes:
        rejected: modality → frames of sets that did not contribute to a mask.
        reasons: modality → reason → rejected frames.
        skipped: modality → frames of sets that were passed over for a later one.
    """

    def __init__(self) -> None:
        self.rejected: Counter[Modality] = Counter()
        self.reasons: dict[Modality, BoundedCounter] = defaultdict(BoundedCounter)
        self.skipped: Counter[Modality] = Counter()

    def judge(
        self, frame_set: FrameSet, used: Collection[Modality], refusals: Mapping[Modality, Problem], failure: Problem
    ) -> None:
        """Count the frames of a set that did not contribute to its mask.

        Args:
            frame_set: the set.
            used: the modalities of its mask; empty without a mask.
            refusals: modality → reason why its frame was not used; see `Pipeline.refusals`.
            failure: reason why there is no mask, for the frames that `refusals` does not list.
        """
        for modality in frame_set.frames:
            if modality not in used:
                self.rejected[modality] += 1
                self.reasons[modality].count(refusals.get(modality, failure))

    def skip(self, frame_set: FrameSet) -> None:
        """Count the frames of a set that is passed over for a later one."""
        self.skipped.update(frame_set.frames.keys())

    def counters(
        self, synchronized: Mapping[Modality, Mapping[str, int]], unreadable: Mapping[Modality, int]
    ) -> dict[Modality, dict[str, int]]:
        """Modality → each of `COUNTERS` → messages; received is the sum of the others and of the waiting frames.

        Args:
            synchronized: `Synchronizer.counters`.
            unreadable: modality → messages refused for their content before the synchronizer.
        """
        found = {modality: dict(counts) for modality, counts in synchronized.items()}
        for modality, counts in found.items():
            before, after, skipped = unreadable.get(modality, 0), self.rejected[modality], self.skipped[modality]
            counts["received"] += before
            counts[REFUSED] += before + after
            counts[SUPERSEDED] += skipped
            counts[USED] -= after + skipped
        return found
