"""Score masks against ground truth and against the previous mask, and define the listener interface for masks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.corruptions import Corruption
from mlesam_ros.errors import LabelError
from mlesam_ros.evaluation.ground_truth import Truth, check_aspect
from mlesam_ros.evaluation.robustness import RobustnessResults
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.mask_messages import camera_rgb
from mlesam_ros.metrics import Confusion
from mlesam_ros.types import NANOSECONDS, DetectedProperty, FrameSet, Modality, Segmentation

Labels = npt.NDArray[np.uint8]
Subset = tuple[Modality, ...]
on_match = Callable[[int, Labels, Labels], None]

SLACK = 5_000_000
"""Largest difference, in nanoseconds, between the stamps of ground-truth labels and of the image that they label."""
_WAITING = 30
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
        traces: one per mask, in order.
        confusion: confusion matrix of masks and ground truth with the same stamp.
        compared: number of masks that were compared with ground truth.
        shares: (C + 1,) pixels per predicted class, unlabeled pixels last.
        trials: scores of masks from degraded sets; filled if the option `robustness` is set.
        warnings: reasons why ground-truth labels were not compared, each sentence once.
    """

    def __init__(self, classes: int, met: Sequence[on_match] = ()) -> None:
        """Start with empty counters.

        Args:
            classes: size of the label space.
            met: called with (stamp, labels, ground-truth labels) for every mask that is compared.
        """
        self.classes = classes
        self.traces: list[MaskMetrics] = []
        self.confusion = Confusion(classes)
        self.compared = 0
        self.shares = np.zeros(classes + 1, np.int64)
        self.trials = RobustnessResults(classes)
        self.warnings: dict[str, None] = {}
        self._met = tuple(met)
        self._masks: OrderedDict[int, _Waiting] = OrderedDict()
        self._truths: OrderedDict[int, Labels] = OrderedDict()
        self._previous: Labels | None = None

    def take_mask(
        self,
        frame_set: FrameSet,
        mask: Segmentation,
        others: Mapping[Corruption, Labels] | None = None,
        camera: tuple[int, int] | None = None,
    ) -> MaskMetrics:
        """Add a mask.

        Args:
            frame_set: the set that the mask was made from.
            mask: from all sensors of the set.
            others: labels from degraded sets, as `RobustnessEvaluator` returns them.
            camera: (H, W) of the camera's images; None if the mask has the same size.
        """
        skews = {m: frame_set.skews[m] / NANOSECONDS for m in mask.used}
        consistency = None
        if self._previous is not None and self._previous.shape == mask.labels.shape:
            consistency = float((self._previous == mask.labels).mean())
        confidence = float(mask.confidence.mean()) / 255
        trace = MaskMetrics(mask.stamp, mask.used, skews, mask.weights, confidence, consistency, mask.timings)
        self.traces.append(trace)
        self._previous = mask.labels
        counts = np.bincount(mask.labels.ravel(), minlength=256)
        self.shares += np.append(counts[: self.classes], counts[self.classes :].sum())
        if others is not None:
            self.trials.agree(mask.used, others)
        _keep(
            self._masks, frame_set.time, _Waiting(trace, mask.labels, camera or mask.labels.shape, dict(others or {}))
        )
        return trace

    def match(self, time: int) -> None:
        """Compare the mask of the set at `time` with ground-truth labels that were received before it."""
        self._compare(time, _nearest(self._truths, time))

    def take_truth(self, truth: Truth) -> None:
        """Add ground-truth labels; compare them with their mask now, or in `match` if the mask follows later."""
        _keep(self._truths, truth.time, truth.labels)
        self._compare(_nearest(self._masks, truth.time), truth.time)

    def merge(self, other: Scores) -> None:
        """Add the scores of another bag; its masks are appended."""
        self.traces += other.traces
        self.confusion.merge(other.confusion)
        self.compared += other.compared
        self.shares += other.shares
        self.trials.merge(other.trials)
        self.warnings |= other.warnings

    def finish(self) -> None:
        """End the evaluation: release unmatched masks, unmatched ground truth, and callbacks."""
        self._masks.clear()
        self._truths.clear()
        self._previous, self._met = None, ()

    def _compare(self, time: int | None, true_time: int | None) -> None:
        if time is None or true_time is None:
            return
        waiting, truth = self._masks.pop(time), self._truths.pop(true_time)
        try:
            check_aspect(truth.shape, waiting.camera)
        except LabelError as error:
            self.warnings.setdefault(str(error))
            return
        alone = Confusion(self.classes)
        alone.add(truth, resized(waiting.labels, truth.shape))
        waiting.trace.miou = None if np.isnan(alone.miou_present) else alone.miou_present
        self.confusion.merge(alone)
        self.compared += 1
        for damage, labels in waiting.others.items():
            self.trials.compare(waiting.trace.used, damage, truth, resized(labels, truth.shape))
        for tell in self._met:
            tell(waiting.trace.stamp, waiting.labels, truth)


@dataclass
class _Waiting:
    trace: MaskMetrics
    labels: Labels
    camera: tuple[int, ...]
    others: dict[Corruption, Labels] = field(default_factory=dict)


def _keep(waiting: OrderedDict[int, Any], time: int, item: Any) -> None:
    waiting[time] = item
    while len(waiting) > _WAITING:
        waiting.popitem(last=False)


def _nearest(waiting: Iterable[int], time: int) -> int | None:
    found = min(waiting, key=lambda other: abs(other - time), default=None)
    return None if found is None or abs(found - time) > SLACK else found


def resized(labels: Labels, shape: tuple[int, ...]) -> Labels:
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
        trace: metrics of the mask; `miou` is set later if the ground truth follows the mask.
        counters: modality → outcome → messages so far.
        sequence: 1 for the first mask.
        found: modality → detected properties of its data; see `FrameReader.found`.
    """

    frame_set: FrameSet
    images: Mapping[Modality, npt.NDArray[np.float32]]
    mask: Segmentation
    rig: Rig
    trace: MaskMetrics
    counters: Mapping[Modality, Mapping[str, int]]
    sequence: int
    found: Mapping[Modality, Mapping[str, DetectedProperty]] = field(default_factory=dict)

    def picture(self) -> npt.NDArray[np.uint8] | None:
        """(H, W, 3) RGB image of the camera in the set; None without a camera frame."""
        return camera_rgb(self.frame_set)


class MaskListener:
    """Callback interface for finished masks, implemented by the result bag, the report and the point-cloud files."""

    def take(self, made: MaskRecord) -> None:
        """Handle a finished mask."""

    def compare(self, stamp: int, labels: Labels, truth: Labels) -> None:
        """Handle a mask that was compared with ground truth, possibly after `take` of later masks.

        Args:
            stamp: nanoseconds, of the mask.
            labels: (H, W) uint8, of the mask.
            truth: (h, w) uint8, ground-truth labels.
        """
