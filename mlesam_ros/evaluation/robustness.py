"""What a bag's masks are worth when sensors fail: every subset of them, pictures that are empty, holed or noisy.

`ANY` runs the network on what is there, as a robot does that knows its sensor is dead. EMM, RMM and NM are the
protocols of arXiv 2503.18445, see `mlesam_ros.corruptions`: damaged pictures are shown to the network as they are.
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
"""Sensors whose distances another sensor's picture may be drawn with."""


class RobustnessResults:
    """Counts what damaged sets were worth, apart for each set of sensors that was there before the damage."""

    def __init__(self, classes: int) -> None:
        """Nothing yet."""
        self._classes = classes
        self._confusions: dict[tuple[Subset, Corruption], Confusion] = {}
        self._agreements: dict[tuple[Subset, Corruption], npt.NDArray[np.int64]] = defaultdict(_no_counts)

    def agree(self, used: Subset, found: Mapping[Corruption, Labels]) -> None:
        """Compare one set's damaged forms with its undamaged one.

        Args:
            used: its sensors.
            found: of `RobustnessEvaluator`.
        """
        whole = found[Corruption(ANY, used)]
        for damage, labels in found.items():
            self._agreements[used, damage] += np.array((1, (labels == whole).sum(), labels.size))

    def compare(self, used: Subset, damage: Corruption, truth: Labels, labels: Labels) -> None:
        """Compare a damaged set's labels with the truth."""
        self._confusions.setdefault((used, damage), Confusion(self._classes)).add(truth, labels)

    def merge(self, other: RobustnessResults) -> None:
        """Add another bag's."""
        for key, confusion in other._confusions.items():
            self._confusions.setdefault(key, Confusion(self._classes)).merge(confusion)
        for key, counts in other._agreements.items():
            self._agreements[key] += counts

    @property
    def sensors(self) -> Subset:
        """Of the sets that count: the most that any set had, and of equals the most frequent. Empty without trials.

        Rows that average over different sets could not be compared with each other.
        """
        seen = {used: int(counts[0]) for (used, _), counts in self._agreements.items()}
        return max(seen, key=lambda used: (len(used), seen[used]), default=())

    def rows(self) -> list[dict[str, Any]]:
        """One row per subset that is left: `sensors`, `masks`, and `miou` and `agreement` in percent."""
        sensors, rows = self.sensors, []
        for subset in subsets(sensors):
            damage = Corruption(ANY, subset)
            masks, equal, pixels = map(int, self._agreements[sensors, damage])
            agreement = round(100 * equal / pixels, 2)
            rows.append({"sensors": list(subset), "miou": self._miou(damage), "agreement": agreement, "masks": masks})
        return rows

    def summary(self) -> dict[str, Any]:
        """See `figures`; of the sets that count."""
        sensors = self.sensors
        found = {damage: c.miou_present for (used, damage), c in self._confusions.items() if used == sensors}
        return figures(found, sensors)

    def _miou(self, damage: Corruption) -> float | None:
        confusion = self._confusions.get((self.sensors, damage))
        miou = np.nan if confusion is None else confusion.miou_present
        return None if np.isnan(miou) else round(100 * float(miou), 2)


class RobustnessEvaluator:
    """Makes the masks of a set's damaged forms; the encoder sees each picture once per kind of damage."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Use a pipeline."""
        self._pipeline = pipeline

    def __call__(self, frame_set: FrameSet, used: Subset, rig: Rig) -> dict[Corruption, Labels]:
        """Try everything on one set.

        Args:
            frame_set: that the pipeline has just segmented, without frames that it could not use.
            used: its sensors, in the model's order.
            rig: as the pipeline was told.

        Returns:
            damage → (h, w) uint8 labels of the network's size, the undamaged set as `Corruption(ANY, used)` among them.
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
        """Features for each subset of the ranging sensors.

        A picture may be drawn with the distances that another sensor measured: without that one it is another picture.
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
    """Masks, equal pixels, all pixels."""
    return np.zeros(3, np.int64)
