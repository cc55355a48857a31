# SPDX-License-Identifier: Apache-2.0
"""Score masks against ground truth and the previous mask, also with failed sensors; listener interface for masks.

Failed sensors: every subset of a set, and images that are empty, partly zeroed or noisy. `ANY` runs the network without
the missing sensors, as on a robot that detects the failure. EMM, RMM and NM are the protocols of arXiv 2503.18445, see
`mlesam_ros.corruptions`: the network reads the corrupted images.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mlesam_ros.corruptions import ANY, Corruption, Subset, corrupted_features, protocol_scores, subsets
from mlesam_ros.errors import LabelError
from mlesam_ros.evaluation.ground_truth import GroundTruth, Labels, check_aspect
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.label_map import LabelMap
from mlesam_ros.metrics import Confusion, Reliability
from mlesam_ros.model.inference import Prediction
from mlesam_ros.model.mlesam import Features
from mlesam_ros.pipeline import Image, Pipeline
from mlesam_ros.types import DEPTH, LIDAR, NANOSECONDS, DetectedProperty, FrameSet, Modality, Segmentation

_RANGING = (DEPTH, LIDAR)
"""Sensors whose distances may be used to register another sensor's image."""


class RobustnessResults:
    """Accumulates the scores of corrupted sets, separately for each combination of sensors before the corruption."""

    def __init__(self, classes: int) -> None:
        """Start with empty counters for a label space of `classes`."""
        self._classes = classes
        self._confusions: dict[tuple[Subset, Corruption], Confusion] = {}
        self._reliabilities: dict[tuple[Subset, Corruption], Reliability] = {}
        # Masks, equal pixels, all pixels.
        self._agreements: dict[tuple[Subset, Corruption], npt.NDArray[np.int64]] = {}

    def agree(self, used: Subset, found: Mapping[Corruption, AnyMask]) -> None:
        """Count the pixels on which the corrupted forms of a set agree with the intact set.

        Args:
            used: its sensors.
            found: masks as `RobustnessEvaluator` returns them.
        """
        whole = found[Corruption(ANY, used)].labels
        for corruption, mask in found.items():
            counts = self._agreements.setdefault((used, corruption), np.zeros(3, np.int64))
            counts += np.array((1, (mask.labels == whole).sum(), whole.size))

    def compare(
        self, used: Subset, corruption: Corruption, ground_truth: Labels, labels: Labels, confidence: Labels
    ) -> None:
        """Compare the mask of a corrupted set with ground truth; without corrupted images its confidence, too."""
        labels = resize_labels(labels, ground_truth.shape)
        self._confusions.setdefault((used, corruption), Confusion(self._classes)).add(ground_truth, labels)
        if corruption.protocol == ANY:
            confidence = resize_labels(confidence, ground_truth.shape)
            self._reliabilities.setdefault((used, corruption), Reliability()).add(ground_truth, labels, confidence)

    def merge(self, other: RobustnessResults) -> None:
        """Add the counts of another bag."""
        for key, confusion in other._confusions.items():
            self._confusions.setdefault(key, Confusion(self._classes)).merge(confusion)
        for key, reliability in other._reliabilities.items():
            self._reliabilities.setdefault(key, Reliability()).merge(reliability)
        for key, counts in other._agreements.items():
            self._agreements[key] = self._agreements.get(key, 0) + counts

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
            corruption = Corruption(ANY, subset)
            masks, equal, pixels = map(int, self._agreements[sensors, corruption])
            agreement = round(100 * equal / pixels, 2)
            rows.append(
                {"sensors": list(subset), "miou": self._miou(corruption), "agreement": agreement, "masks": masks}
            )
        return rows

    @property
    def reliabilities(self) -> dict[Subset, Reliability]:
        """Subset of the sensors → reliability over the sets with `sensors`; empty without ground truth."""
        found = {(used, c.intact): reliability for (used, c), reliability in self._reliabilities.items()}
        keys = [(self.sensors, subset) for subset in subsets(self.sensors)]
        return {key[1]: found[key] for key in keys if key in found}

    def summary(self) -> dict[str, Any]:
        """Averages over the sets with `sensors`; see `corruptions.protocol_scores`."""
        sensors = self.sensors
        found = {corruption: c.miou_present for (used, corruption), c in self._confusions.items() if used == sensors}
        return protocol_scores(found, sensors)

    def _miou(self, corruption: Corruption) -> float | None:
        confusion = self._confusions.get((self.sensors, corruption))
        miou = np.nan if confusion is None else confusion.miou_present
        return None if np.isnan(miou) else round(100 * float(miou), 2)


class RobustnessEvaluator:
    """Segments the corrupted forms of a set; the backbone encodes each image once per kind of corruption."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Evaluate with `pipeline`."""
        self._pipeline = pipeline

    def __call__(self, frame_set: FrameSet, used: Subset, rig: Rig) -> dict[Corruption, Prediction]:
        """Segment all corrupted forms of one set.

        Args:
            frame_set: the set that the pipeline has just segmented, without unusable frames.
            used: its sensors, in the model's order.
            rig: the rig that the pipeline used.

        Returns:
            Corruption → labels and confidence at the network's size; the intact set is `Corruption(ANY, used)`.
        """
        images = dict(self._pipeline.images)
        intact = self._pipeline.features(images)
        whole = self._pipeline.decode(intact, rig)
        found = {Corruption(ANY, used): whole}
        for ranging, features in self._without_ranging(frame_set, used, rig, images, intact):
            for subset in subsets(used)[1:]:
                if tuple(m for m in subset if m in _RANGING) == ranging:
                    found[Corruption(ANY, subset)] = self._pipeline.decode(features.select(subset), rig)
        batch = {m: torch.from_numpy(image)[None] for m, image in images.items()}
        for corruption, features in corrupted_features(self._encode, batch, [frame_set.stamp], intact):
            found[corruption] = self._pipeline.decode(features, rig)
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


OnMatch = Callable[[int, Labels, Labels], None]
AnyMask = Segmentation | Prediction

MAX_LABEL_OFFSET_NS = 5_000_000
"""Largest difference, in nanoseconds, between the stamps of ground-truth labels and of the image that they label."""
_CHANCE, _AGREEMENT = 0.1, 0.4
"""Values of Cohen's kappa; an untrained network has less than 0.1 even after its classes are renamed."""
_MAX_UNMATCHED = 30
"""Capacity of each buffer: masks without ground truth, and ground-truth labels without a mask."""


@dataclass
class MaskMetrics:
    """Metrics of one mask, without its pixels.

    Attributes:
        stamp: nanoseconds.
        used: modalities that the mask was made from.
        skews: modality → seconds.
        weights: level → modality → router weight.
        confidence: mean over the image, 0 to 1.
        consistency: share of pixels with the same label as in the previous mask; None for the first mask.
        timings: stage → seconds.
        miou: mIoU over the classes present in the ground truth, 0 to 1; None without ground truth.
    """

    stamp: int
    used: Subset
    skews: dict[Modality, float]
    weights: dict[str, dict[Modality, float]]
    confidence: float
    consistency: float | None
    timings: dict[str, float]
    miou: float | None = None


class Scores:
    """Pairs masks with ground-truth labels, in any order of arrival, and accumulates their scores.

    Attributes:
        classes: size of the label space.
        masks: metrics of each mask, in order.
        confusion: confusion matrix of masks and ground truth with the same stamp.
        compared: number of masks that were compared with ground truth.
        reliabilities: sensors → reliability of the masks that were made from them and compared.
        shares: (C + 1,) pixels per predicted class, unlabeled pixels last.
        robustness: scores of masks from corrupted sets; filled if the option `robustness` is set.
        warnings: reasons why ground-truth labels were not compared, each sentence once.
    """

    def __init__(self, classes: int, callbacks: Sequence[OnMatch] = (), label_map: LabelMap | None = None) -> None:
        """Start with empty counters.

        Args:
            classes: size of the label space.
            callbacks: called with (stamp, labels, ground-truth labels) for every mask that is compared.
            label_map: map of the ground truth, which merges classes of the masks; None to merge none.
        """
        self.classes, self._map = classes, label_map
        self.masks: list[MaskMetrics] = []
        self.confusion = Confusion(classes)
        self.compared = 0
        self.reliabilities: dict[Subset, Reliability] = {}
        self.shares = np.zeros(classes + 1, np.int64)
        self.robustness = RobustnessResults(classes)
        self.warnings: dict[str, None] = {}
        self._callbacks = tuple(callbacks)
        self._unmatched_masks: OrderedDict[int, _UnmatchedMask] = OrderedDict()
        self._unmatched_labels: OrderedDict[int, Labels] = OrderedDict()
        self._previous: Labels | None = None

    def add_mask(
        self,
        frame_set: FrameSet,
        mask: Segmentation,
        corrupted: Mapping[Corruption, AnyMask] | None = None,
        camera: tuple[int, int] | None = None,
    ) -> MaskMetrics:
        """Add a mask.

        Args:
            frame_set: the set that the mask was made from.
            mask: from all sensors of the set.
            corrupted: masks from corrupted sets, as `RobustnessEvaluator` returns them.
            camera: (H, W) of the camera's images; None if the mask has the same size.
        """
        skews = {m: frame_set.skews[m] / NANOSECONDS for m in mask.used}
        consistency = None
        if self._previous is not None and self._previous.shape == mask.labels.shape:
            consistency = float((self._previous == mask.labels).mean())
        confidence = float(mask.confidence.mean()) / 255
        metrics = MaskMetrics(mask.stamp, mask.used, skews, mask.weights, confidence, consistency, mask.timings)
        self.masks.append(metrics)
        self._previous = mask.labels
        counts = np.bincount(mask.labels.ravel(), minlength=256)
        self.shares += np.append(counts[: self.classes], counts[self.classes :].sum())
        if corrupted is not None:
            self.robustness.agree(mask.used, corrupted)
        unmatched = _UnmatchedMask(
            metrics, mask.labels, mask.confidence, camera or mask.labels.shape, dict(corrupted or {})
        )
        _add_bounded(self._unmatched_masks, frame_set.time, unmatched)
        return metrics

    def match(self, time: int) -> None:
        """Compare the mask of the set at `time` with ground-truth labels that were received before it."""
        self._compare(time, _nearest(self._unmatched_labels, time))

    def add_ground_truth(self, ground_truth: GroundTruth) -> None:
        """Add ground-truth labels; compare them with their mask now, or in `match` if the mask follows later."""
        _add_bounded(self._unmatched_labels, ground_truth.time, ground_truth.labels)
        self._compare(_nearest(self._unmatched_masks, ground_truth.time), ground_truth.time)

    @property
    def has_other_classes(self) -> bool:
        """Whether masks and ground truth agree by chance alone, but well after the classes of the masks are renamed."""
        return bool(self.confusion.kappa < _CHANCE and self.confusion.renamed.kappa > _AGREEMENT)

    def merge(self, other: Scores) -> None:
        """Add the scores of another bag; its masks are appended."""
        self.masks += other.masks
        self.confusion.merge(other.confusion)
        self.compared += other.compared
        for used, reliability in other.reliabilities.items():
            self.reliabilities.setdefault(used, Reliability()).merge(reliability)
        self.shares += other.shares
        self.robustness.merge(other.robustness)
        self.warnings |= other.warnings

    def finish(self) -> None:
        """End the evaluation: release unmatched masks, unmatched ground truth, and callbacks."""
        self._unmatched_masks.clear()
        self._unmatched_labels.clear()
        self._previous, self._callbacks = None, ()

    def _compare(self, time: int | None, labels_time: int | None) -> None:
        if time is None or labels_time is None:
            return
        unmatched, ground_truth = self._unmatched_masks.pop(time), self._unmatched_labels.pop(labels_time)
        try:
            check_aspect(ground_truth.shape, unmatched.camera)
        except LabelError as error:
            self.warnings.setdefault(str(error))
            return
        merge = self._map.merge if self._map is not None else lambda mask: mask
        used, mask = unmatched.metrics.used, merge(unmatched.labels)
        labels, confidence = (resize_labels(image, ground_truth.shape) for image in (mask, unmatched.confidence))
        alone = Confusion(self.classes)
        alone.add(ground_truth, labels)
        unmatched.metrics.miou = None if np.isnan(alone.miou_present) else alone.miou_present
        self.confusion.merge(alone)
        self.compared += 1
        self.reliabilities.setdefault(used, Reliability()).add(ground_truth, labels, confidence)
        for corruption, found in unmatched.corrupted.items():
            self.robustness.compare(used, corruption, ground_truth, merge(found.labels), found.confidence)
        for callback in self._callbacks:
            callback(unmatched.metrics.stamp, mask, ground_truth)


@dataclass
class _UnmatchedMask:
    metrics: MaskMetrics
    labels: Labels
    confidence: Labels
    camera: tuple[int, ...]
    corrupted: dict[Corruption, AnyMask] = field(default_factory=dict)


def _add_bounded(unmatched: OrderedDict[int, Any], time: int, item: Any) -> None:
    unmatched[time] = item
    while len(unmatched) > _MAX_UNMATCHED:
        unmatched.popitem(last=False)


def _nearest(times: Iterable[int], time: int) -> int | None:
    found = min(times, key=lambda other: abs(other - time), default=None)
    return None if found is None or abs(found - time) > MAX_LABEL_OFFSET_NS else found


def resize_labels(labels: Labels, shape: tuple[int, ...]) -> Labels:
    """Resize labels to the shape of the ground truth, by nearest neighbor; the ground truth is never resampled."""
    if labels.shape == shape:
        return labels
    return resize_nearest(labels, (shape[0], shape[1]))


def percentiles_ms(seconds: Iterable[float]) -> dict[str, float | None]:
    """50th, 95th and 99th percentile in milliseconds; None without values."""
    values = list(seconds)
    names: Sequence[str] = ("p50", "p95", "p99")
    if not values:
        return dict.fromkeys(names, None)
    return {n: round(float(v) * 1e3, 2) for n, v in zip(names, np.percentile(values, (50, 95, 99)), strict=True)}


@dataclass(frozen=True)
class MaskRecord:
    """A mask with its inputs and metrics.

    Attributes:
        frame_set: the set that the mask was made from, without unusable frames.
        images: modality → (3, h, w) float32, the network's input images.
        mask: the mask.
        rig: the calibration when the mask was made.
        metrics: metrics of the mask; `miou` is set later if the ground truth follows the mask.
        counters: modality → outcome → messages so far.
        sequence: 1 for the first mask.
        found: modality → detected properties of its data; see `FrameReader.found`.
    """

    frame_set: FrameSet
    images: Mapping[Modality, npt.NDArray[np.float32]]
    mask: Segmentation
    rig: Rig
    metrics: MaskMetrics
    counters: Mapping[Modality, Mapping[str, int]]
    sequence: int
    found: Mapping[Modality, Mapping[str, DetectedProperty]] = field(default_factory=dict)


class MaskListener:
    """Callback interface for finished masks, implemented by the result bag, the report and the point-cloud files."""

    def on_mask(self, record: MaskRecord) -> None:
        """Handle a finished mask."""

    def on_match(self, stamp: int, labels: Labels, ground_truth: Labels) -> None:
        """Handle a mask that was compared with ground truth, possibly after `on_mask` of later masks.

        Args:
            stamp: nanoseconds, of the mask.
            labels: (H, W) uint8, of the mask.
            ground_truth: (h, w) uint8, ground-truth labels.
        """
