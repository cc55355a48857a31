"""Evaluate masks with failed sensors: every subset of them, and images that are empty, partly zeroed or noisy.

`ANY` runs the network without the missing sensors, as on a robot that detects the failure. EMM, RMM and NM are the
protocols of arXiv 2503.18445, see `mlesam_ros.corruptions`: the network reads the corrupted images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mlesam_ros.corruptions import ANY, Corruption, Subset, damaged_features, figures, subsets
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.metrics import Confusion
from mlesam_ros.model.mlesam import Features
from mlesam_ros.pipeline import Image, Pipeline
from mlesam_ros.types import DEPTH, LIDAR, FrameSet, Modality

Labels = npt.NDArray[np.uint8]

_RANGING = (DEPTH, LIDAR)
"""Sensors whose distances may be used to register another sensor's image."""


class RobustnessResults:
    """Accumulates the scores of corrupted sets, separately for each combination of sensors before the corruption."""

    def __init__(self, classes: int) -> None:
        """Start with empty counters for a label space of `classes`."""
        self._classes = classes
        self._confusions: dict[tuple[Subset, Corruption], Confusion] = {}
        self._agreements: dict[tuple[Subset, Corruption], npt.NDArray[np.int64]] = defaultdict(_no_counts)

    def agree(self, used: Subset, found: Mapping[Corruption, Labels]) -> None:
        """Count the pixels on which the corrupted forms of a set agree with the intact set.

        Args:
            used: its sensors.
            found: labels as `RobustnessEvaluator` returns them.
        """
        whole = found[Corruption(ANY, used)]
        for damage, labels in found.items():
            self._agreements[used, damage] += np.array((1, (labels == whole).sum(), labels.size))

    def compare(self, used: Subset, damage: Corruption, truth: Labels, labels: Labels) -> None:
        """Compare the labels of a corrupted set with ground truth."""
        self._confusions.setdefault((used, damage), Confusion(self._classes)).add(truth, labels)

    def merge(self, other: RobustnessResults) -> None:
        """Add the counts of another bag."""
        for key, confusion in other._confusions.items():
            self._confusions.setdefault(key, Confusion(self._classes)).merge(confusion)
        for key, counts in other._agreements.items():
            self._agreements[key] += counts

    @property
    def sensors(self) -> Subset:
        """Sensors of the sets that are scored: the largest combination, of equal sizes the most frequent one.

        Empty without any set. Scoring one combination only keeps the rows comparable.
        """
        seen = {used: int(counts[0]) for (used, _), counts in self._agreements.items()}
        return max(seen, key=lambda used: (len(used), seen[used]), default=())

    def rows(self) -> list[dict[str, Any]]:
        """One row per subset of the sensors: `sensors`, `masks`, and `miou` and `agreement` in percent."""
        sensors, rows = self.sensors, []
        for subset in subsets(sensors):
            damage = Corruption(ANY, subset)
            masks, equal, pixels = map(int, self._agreements[sensors, damage])
            agreement = round(100 * equal / pixels, 2)
            rows.append({"sensors": list(subset), "miou": self._miou(damage), "agreement": agreement, "masks": masks})
        return rows

    def summary(self) -> dict[str, Any]:
        """Averages over the sets with `sensors`; see `corruptions.figures`."""
        sensors = self.sensors
        found = {damage: c.miou_present for (used, damage), c in self._confusions.items() if used == sensors}
        return figures(found, sensors)

    def _miou(self, damage: Corruption) -> float | None:
        confusion = self._confusions.get((self.sensors, damage))
        miou = np.nan if confusion is None else confusion.miou_present
        return None if np.isnan(miou) else round(100 * float(miou), 2)


class RobustnessEvaluator:
    """Segments the corrupted forms of a set; the backbone encodes each image once per kind of corruption."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Evaluate with `pipeline`."""
        self._pipeline = pipeline

    def __call__(self, frame_set: FrameSet, used: Subset, rig: Rig) -> dict[Corruption, Labels]:
        """Segment all corrupted forms of one set.

        Args:
            frame_set: the set that the pipeline has just segmented, without unusable frames.
            used: its sensors, in the model's order.
            rig: the rig that the pipeline used.

        Returns:
            Corruption → (h, w) uint8 labels of the network's size; the intact set is `Corruption(ANY, used)`.
        """
        images = dict(self._pipeline.images)
        intact = self._pipeline.features(images)
        whole = self._pipeline.labels(intact, rig)
        found = {Corruption(ANY, used): whole}
        for ranging, features in self._without_ranging(frame_set, used, rig, images, intact):
            for subset in subsets(used)[1:]:
                if tuple(m for m in subset if m in _RANGING) == ranging:
                    found[Corruption(ANY, subset)] = self._pipeline.labels(features.only(subset), rig)
        batch = {m: torch.from_numpy(image)[None] for m, image in images.items()}
        for damage, damaged in damaged_features(self._encode, batch, [frame_set.stamp], intact):
            found[damage] = self._pipeline.labels(damaged, rig)
        return found

    def _encode(self, images: Mapping[Modality, torch.Tensor]) -> Features:
        return self._pipeline.features({m: batch[0].numpy() for m, batch in images.items()})

    def _without_ranging(
        self, frame_set: FrameSet, used: Subset, rig: Rig, images: Mapping[Modality, Image], intact: Features
    ) -> Iterator[tuple[Subset, Features]]:
        """Yield the features for each subset of the ranging sensors.

        An image that is registered with another sensor's distances changes without that sensor.
        """
        ranging = tuple(m for m in used if m in _RANGING)
        yield ranging, intact
        for chosen in [*subsets(ranging)[1:], ()] if ranging else []:
            kept = [m for m in used if m not in ranging or m in chosen]
            if kept:
                alone = replace(frame_set, frames={m: frame_set.frames[m] for m in kept})
                drawn = self._pipeline.encode(alone, rig)
                same = all(np.array_equal(drawn[m], images[m]) for m in kept)
                yield chosen, intact if same else self._pipeline.features(drawn)


def _no_counts() -> npt.NDArray[np.int64]:
    """Zeros for (masks, equal pixels, all pixels)."""
    return np.zeros(3, np.int64)
