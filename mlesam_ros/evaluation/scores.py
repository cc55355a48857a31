"""Scores of masks: against ground truth and against the mask before, as listeners of an evaluation."""

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
from mlesam_ros.preprocessing.settings import Found
from mlesam_ros.types import NANOSECONDS, FrameSet, Modality, Segmentation

Labels = npt.NDArray[np.uint8]
Subset = tuple[Modality, ...]
on_match = Callable[[int, Labels, Labels], None]

SLACK = 5_000_000
"""Nanoseconds by which the stamp of true labels may miss that of the picture which they label."""
_WAITING = 30
"""Masks, and true labels, that wait for their partner."""


@dataclass
class MaskMetrics:
    """One line per mask: small enough to keep for hours.

    Attributes:
        stamp: nanoseconds.
        used: modalities that took part.
        skews: modality → seconds.
        weights: level → modality → router weight.
        confidence: mean over the picture, 0 to 1.
        consistency: share of pixels with the label of the mask before; None for the first.
        timings: stage → seconds.
        miou: against the truth, over the classes present in it, 0 to 1; None without truth.
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
    """Takes masks and truths in any order and counts.

    Attributes:
        classes: size of the label space.
        traces: one per mask, in order.
        confusion: masks against truths of the same stamp.
        compared: masks that met their truth.
        shares: (C + 1,) pixels per predicted class, the unlabeled last.
        trials: what other masks of the same sets were worth; filled with `robustness`.
        warnings: why true labels were not compared, each sentence once.
    """

    def __init__(self, classes: int, met: Sequence[on_match] = ()) -> None:
        """Nothing yet.

        Args:
            classes: size of the label space.
            met: told (stamp, labels, truth) of every mask that meets its truth.
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
        """A mask was made.

        Args:
            frame_set: what from.
            mask: by all sensors of the set.
            others: of `Ablation`.
            camera: (H, W) of the camera's images; None where the mask has its size.
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
        """Compare the mask of the set of this time with its truth, if that came before it."""
        self._compare(time, _nearest(self._truths, time))

    def take_truth(self, truth: Truth) -> None:
        """True labels came; the mask that they belong to may have come before or comes later, see `match`."""
        _keep(self._truths, truth.time, truth.labels)
        self._compare(_nearest(self._masks, truth.time), truth.time)

    def merge(self, other: Scores) -> None:
        """Add what was counted over another bag; its masks come after ours."""
        self.traces += other.traces
        self.confusion.merge(other.confusion)
        self.compared += other.compared
        self.shares += other.shares
        self.trials.merge(other.trials)
        self.warnings |= other.warnings

    def finish(self) -> None:
        """No mask and no truth will come any more: let go of what waits and of those who were told."""
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
    """Labels on the truth's pixels, so that no true pixel is invented or lost."""
    if labels.shape == shape:
        return labels
    return resize_nearest(labels, (shape[0], shape[1]))


def percentiles_ms(seconds: Iterable[float]) -> dict[str, float | None]:
    """The 50th, 95th and 99th percentile in milliseconds; None without any."""
    values = list(seconds)
    names: Sequence[str] = ("p50", "p95", "p99")
    if not values:
        return dict.fromkeys(names, None)
    return {n: round(float(v) * 1e3, 2) for n, v in zip(names, np.percentile(values, (50, 95, 99)), strict=True)}


@dataclass(frozen=True)
class MaskRecord:
    """One mask.

    Attributes:
        frame_set: what it was made from, frames that could not be used left out.
        images: modality → (3, h, w) float32, the pictures that the network read.
        mask: the mask.
        rig: as it is known by now.
        trace: its figures; a truth that comes later is added to it.
        counters: modality → fate → messages so far.
        sequence: 1 for the first mask.
        found: modality → what its data turned out to be; see `FrameReader.found`.
    """

    frame_set: FrameSet
    images: Mapping[Modality, npt.NDArray[np.float32]]
    mask: Segmentation
    rig: Rig
    trace: MaskMetrics
    counters: Mapping[Modality, Mapping[str, int]]
    sequence: int
    found: Mapping[Modality, Mapping[str, Found]] = field(default_factory=dict)

    def picture(self) -> npt.NDArray[np.uint8] | None:
        """(H, W, 3) RGB of the camera's frame in the set; None where there is none."""
        return camera_rgb(self.frame_set)


class MaskListener:
    """Whoever wants to see masks as they are made: the result bag, the report, the clouds."""

    def take(self, made: MaskRecord) -> None:
        """A mask was made."""

    def compare(self, stamp: int, labels: Labels, truth: Labels) -> None:
        """A mask met its truth, at once or some masks later.

        Args:
            stamp: nanoseconds, the mask's.
            labels: (H, W) uint8, the mask's.
            truth: (h, w) uint8.
        """
