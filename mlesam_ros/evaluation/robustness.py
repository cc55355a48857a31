"""What a bag's masks are worth when sensors fail: every subset of them, their pictures with holes, or with noise.

The three protocols are those of arXiv 2503.18445: EMM, entire modalities missing; RMM, random regions of them missing;
NM, noise on all of them. A missing sensor is absent here, as it is on a robot; the benchmark's script feeds zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.frame import DEPTH, LIDAR, FrameSet, Modality
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.metrics import Confusion
from mlesam_ros.model.mlesam import Features
from mlesam_ros.pipeline import Pipeline

Labels = npt.NDArray[np.uint8]
Subset = tuple[Modality, ...]

EMM, RMM, NM = "emm", "rmm", "nm"
FAILING = (0.2, 0.1, 0.05)
"""Probabilities with which a single sensor fails, of the expected values."""
_RANGING = (DEPTH, LIDAR)
"""Sensors whose frames other sensors' pictures may lean on."""


@dataclass(frozen=True)
class Damage:
    """One way in which a set is damaged.

    Attributes:
        protocol: EMM, RMM or NM.
        intact: the sensors that are not damaged; the others are missing, or have holes or noise.
        level: of the holes or the noise; empty with EMM.
    """

    protocol: str
    intact: Subset
    level: str = ""


def subsets(sensors: Sequence[Modality]) -> list[Subset]:
    """Every non-empty subset in the given order of names, the largest first."""
    return [chosen for size in range(len(sensors), 0, -1) for chosen in combinations(sensors, size)]


class Trials:
    """Counts what damaged sets were worth, apart for each set of sensors that was there before the damage."""

    def __init__(self, classes: int) -> None:
        """Nothing yet."""
        self._classes = classes
        self._confusions: dict[tuple[Subset, Damage], Confusion] = {}
        self._agreements: dict[tuple[Subset, Damage], tuple[int, int, int]] = {}

    def agree(self, used: Subset, damage: Damage, labels: Labels, whole: Labels) -> None:
        """Compare a damaged set's labels with those of the whole set."""
        masks, equal, pixels = self._agreements.get((used, damage), (0, 0, 0))
        self._agreements[used, damage] = masks + 1, equal + int((labels == whole).sum()), pixels + labels.size

    def compare(self, used: Subset, damage: Damage, truth: Labels, labels: Labels) -> None:
        """Compare a damaged set's labels with the truth."""
        self._confusions.setdefault((used, damage), Confusion(self._classes)).add(truth, labels)

    def merge(self, other: Trials) -> None:
        """Add another bag's."""
        for key, confusion in other._confusions.items():
            self._confusions.setdefault(key, Confusion(self._classes)).merge(confusion)
        for key, counts in other._agreements.items():
            mine = self._agreements.get(key, (0, 0, 0))
            self._agreements[key] = mine[0] + counts[0], mine[1] + counts[1], mine[2] + counts[2]

    @property
    def sensors(self) -> Subset:
        """Of the sets that count: the most that any set had, and of equals the most frequent. Empty without trials.

        Rows that average over different sets could not be compared with each other.
        """
        seen: dict[Subset, int] = {}
        for (used, _), (masks, *_) in self._agreements.items():
            seen[used] = max(masks, seen.get(used, 0))
        return max(seen, key=lambda used: (len(used), seen[used]), default=())

    def rows(self, protocol: str = EMM) -> list[dict[str, Any]]:
        """One row per damage: `sensors` that were intact, `level`, `masks`, and `miou` and `agreement` in percent."""
        rows = []
        for (used, damage), (masks, equal, pixels) in self._agreements.items():
            if used == self.sensors and damage.protocol == protocol:
                miou = self._miou(damage)
                rows.append({
                    "sensors": list(damage.intact), **({"level": damage.level} if damage.level else {}),
                    "miou": miou, "agreement": round(100 * equal / pixels, 2), "masks": masks,
                })  # fmt: skip
        return rows

    def summary(self, protocol: str) -> dict[str, Any]:
        """EMM and RMM: `average` and `expected` {probability: value}, RMM per level; NM: {level: value}. In percent."""
        levels = list(dict.fromkeys(row.get("level", "") for row in self.rows(protocol)))
        if protocol == NM:
            return {level: self._miou(Damage(NM, (), level)) for level in levels}
        if protocol == RMM:
            return {level: self._expectation(RMM, level) for level in levels}
        return self._expectation(EMM, "") if levels else {}

    def _expectation(self, protocol: str, level: str) -> dict[str, Any]:
        scores = {}
        for chosen in subsets(self.sensors):
            whole = len(chosen) == len(self.sensors)
            damage = Damage(EMM, chosen) if whole else Damage(protocol, chosen, level)  # nothing damaged is the same
            scores[chosen] = self._miou(damage)
        known = {chosen: score for chosen, score in scores.items() if score is not None}
        if len(known) < len(scores):
            return {"average": None, "expected": {f"{p:g}": None for p in FAILING}}
        average = round(float(np.mean(list(known.values()))), 2)
        return {"average": average, "expected": {f"{p:g}": round(expected(known, p), 2) for p in FAILING}}

    def _miou(self, damage: Damage) -> float | None:
        confusion = self._confusions.get((self.sensors, damage))
        return None if confusion is None else round(100 * confusion.miou_present, 2)


def expected(scores: Mapping[Subset, float], failing: float) -> float:
    """The score to expect when every sensor fails by itself, given that not all of them do (arXiv 2503.18445).

    Args:
        scores: of every non-empty subset of the sensors.
        failing: probability.
    """
    count = max(map(len, scores))
    weights = {chosen: failing ** (count - len(chosen)) * (1 - failing) ** len(chosen) for chosen in scores}
    return sum(weights[chosen] * score for chosen, score in scores.items()) / sum(weights.values())


class Ablation:
    """Makes the masks of a set's subsets, the encoder run once for all of them."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Use a pipeline."""
        self._pipeline = pipeline

    def __call__(self, frame_set: FrameSet, used: Subset, whole: Labels, rig: Rig) -> dict[Damage, Labels]:
        """What every subset would have given.

        Args:
            frame_set: that the pipeline has just segmented.
            used: its sensors that took part.
            whole: the labels that came of it.
            rig: as the pipeline was told.

        Returns:
            damage → (H, W) uint8 labels, the undamaged set among them.
        """
        found = {Damage(EMM, used): whole}
        for ranging, features in self._variants(frame_set, used, rig):
            for chosen in subsets(used):
                if chosen != used and tuple(m for m in chosen if m in _RANGING) == ranging:
                    found[Damage(EMM, chosen)] = self._pipeline.labels(features.only(chosen), rig)
        return {Damage(EMM, chosen): found[Damage(EMM, chosen)] for chosen in subsets(used)}

    def _variants(self, frame_set: FrameSet, used: Subset, rig: Rig) -> Iterator[tuple[Subset, Features]]:
        """Features for each subset of the ranging sensors.

        A picture may be drawn with the distances that another sensor measured: without that one it is another picture.
        """
        whole = dict(self._pipeline.images)
        features = self._pipeline.features(whole)
        ranging = tuple(m for m in used if m in _RANGING)
        yield ranging, features
        for chosen in (*subsets(ranging)[1:], ()) if ranging else ():
            kept = tuple(m for m in used if m not in ranging or m in chosen)
            if not kept:
                continue
            frames = replace(frame_set, frames={m: frame_set.frames[m] for m in kept})
            images = self._pipeline.encode(frames, rig)
            changed = [m for m in kept if not np.array_equal(images[m], whole[m])]
            yield chosen, self._pipeline.features(images) if changed else features
