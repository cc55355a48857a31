"""What became of each message from its topic to the mask: one account for the node, evaluation and the doctor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from mlesam_ros.errors import Problem
from mlesam_ros.sync.synchronizer import OUTCOMES, REFUSED, SUPERSEDED, USED
from mlesam_ros.types import FrameSet, Modality

COUNTERS = ("received", *OUTCOMES)
_REASONS = 16  # kinds of reasons that are counted apart; words may hold numbers that never repeat
_OTHER = "other reasons"


class BoundedCounter(Counter[str]):
    """Reason of refusal → messages. Bounded, whatever is in the words."""

    def count(self, words: str, times: int = 1) -> None:
        """Count a reason; under a common name once there are too many kinds."""
        self[words if words in self or len(self) < _REASONS else _OTHER] += times

    def add(self, *others: Mapping[str, int]) -> BoundedCounter:
        """Count what others counted, too."""
        for other in others:
            for words, times in dict(other).items():
                if times:
                    self.count(words, times)
        return self


class Account:
    """Adds to the synchronizer's counters what happens before and after it.

    The synchronizer counts each frame of a set as used. Here a frame is `used` only when a mask was made of it.

    Attributes:
        rejected: modality → frames of sets that had no part in a mask.
        reasons: modality → why.
        skipped: modality → frames of sets of which no mask was wanted.
    """

    def __init__(self) -> None:
        self.rejected: Counter[Modality] = Counter()
        self.reasons: dict[Modality, BoundedCounter] = defaultdict(BoundedCounter)
        self.skipped: Counter[Modality] = Counter()

    def judge(
        self, frame_set: FrameSet, used: Collection[Modality], refusals: Mapping[Modality, Problem], failure: Problem
    ) -> None:
        """Count the frames of a set that had no part in its mask.

        Args:
            frame_set: the set.
            used: the modalities of its mask; empty when none was made.
            refusals: modality → why its frame could not be used; see `Pipeline.refusals`.
            failure: why there is no mask, for the frames that have no reason of their own.
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
        """Modality → each of `COUNTERS` → messages; received is the sum of the others and of those that still wait.

        Args:
            synchronized: `Synchronizer.counters`.
            unreadable: modality → messages whose content was refused before the synchronizer.
        """
        found = {modality: dict(counts) for modality, counts in synchronized.items()}
        for modality, counts in found.items():
            before, after, skipped = unreadable.get(modality, 0), self.rejected[modality], self.skipped[modality]
            counts["received"] += before
            counts[REFUSED] += before + after
            counts[SUPERSEDED] += skipped
            counts[USED] -= after + skipped
        return found
