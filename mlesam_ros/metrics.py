# SPDX-License-Identifier: Apache-2.0
"""Segmentation metrics from one confusion matrix, and the calibration of the confidence.

Toolkits differ in the treatment of absent classes in a mean. Here a per-class ratio with a zero denominator is NaN.
There are three means of the IoU. `miou_present` averages the classes with ground truth pixels; this package prints it
as mIoU. `miou` averages the classes with ground truth or predicted pixels, as torchmetrics does. `miou_all` averages
the whole label space with NaN as 0, as DELIVER's scripts do. `mean_accuracy` is the mean recall of the classes with
ground truth pixels; the mAcc of the BDD100K toolkit is the mean of `precision`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import LabelError
from mlesam_ros.labels import IGNORE

Floats = npt.NDArray[np.float64]


class Confusion:
    """Confusion matrix: counts of pixels by ground truth and predicted class.

    Attributes:
        counts: (C, C + 1) int64, row = ground truth, column = prediction. The last column counts labeled pixels with a
            prediction outside the label space: false negatives of their class, false positives of none.
    """

    def __init__(self, classes: int) -> None:
        """Create an empty matrix for the classes 0 … classes - 1."""
        self.classes = classes
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, ground_truth: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]]) -> None:
        """Count a pair of label images.

        Args:
            ground_truth: ids of any shape; pixels with the ignore id (255) do not count.
            prediction: ids of the same shape; ids outside the label space count as no prediction.

        Raises:
            LabelError: the shapes differ, or a ground truth id is neither a class nor 255.
        """
        if ground_truth.shape != prediction.shape:
            raise LabelError(
                f"ground truth is {ground_truth.shape} and prediction is {prediction.shape}.",
                "Bring both to the same size first.",
            )
        labeled = ground_truth != IGNORE
        rows = ground_truth[labeled].astype(np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.classes:
            foreign = np.unique(rows[(rows < 0) | (rows >= self.classes)]).tolist()
            raise LabelError(f"ground truth has the ids {foreign}; accepted are 0 to {self.classes - 1} and {IGNORE}.")
        columns = prediction[labeled].astype(np.int64)
        columns[(columns < 0) | (columns >= self.classes)] = self.classes
        flat = np.bincount(rows * (self.classes + 1) + columns, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def merge(self, other: Confusion) -> None:
        """Add the counts of another part of the data."""
        self.counts += other.counts

    @property
    def pixels(self) -> Floats:
        """(C,) labeled pixels per ground truth class."""
        return self.counts.sum(1).astype(np.float64)

    @property
    def hits(self) -> Floats:
        """(C,) true positives per class."""
        return np.diagonal(self.counts).astype(np.float64)

    @property
    def iou(self) -> Floats:
        """(C,) intersection over union in [0, 1]; NaN for a class without ground truth or predicted pixels."""
        predicted = self.counts[:, : self.classes].sum(0)
        return _ratio(self.hits, self.pixels + predicted - self.hits)

    @property
    def accuracy(self) -> Floats:
        """(C,) recall in [0, 1]; NaN for a class without ground truth pixels."""
        return _ratio(self.hits, self.pixels)

    @property
    def precision(self) -> Floats:
        """(C,) precision in [0, 1]; NaN for a class without predicted pixels.

        Its mean, not that of `accuracy`, is the mAcc of the BDD100K toolkit.
        """
        return _ratio(self.hits, self.counts[:, : self.classes].sum(0))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes with ground truth or predicted pixels, in [0, 1]; NaN for an empty matrix."""
        return _mean(self.iou)

    @property
    def miou_all(self) -> float:
        """Mean IoU over all C classes, with 0 for absent ones, the convention of DELIVER's evaluation script."""
        return float(np.nan_to_num(self.iou).mean())

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes with ground truth pixels, in [0, 1]; NaN for an empty matrix."""
        return _mean(self.iou[self.pixels > 0])

    @property
    def mean_accuracy(self) -> float:
        """Mean of `accuracy` over the classes with ground truth pixels; NaN for an empty matrix."""
        return _mean(self.accuracy)

    @property
    def fwiou(self) -> float:
        """IoU weighted by the ground truth pixels of each class (Long et al., CVPR 2015); NaN for an empty matrix."""
        return float(_ratio((np.nan_to_num(self.iou) * self.pixels).sum(), self.pixels.sum()))

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of the labeled pixels with a correct prediction; NaN for an empty matrix."""
        return float(_ratio(self.hits.sum(), self.pixels.sum()))

    @property
    def kappa(self) -> float:
        """Cohen's kappa (Educational and Psychological Measurement 20(1), 1960): agreement beyond that by chance.

        1 for equal label images, 0 for independent ones; NaN for an empty matrix or if both have one class alone.
        """
        total = self.counts.sum()
        chance = _ratio((self.pixels * self.counts[:, : self.classes].sum(0)).sum(), float(total) ** 2)
        return float(_ratio(self.pixel_accuracy - chance, 1 - chance))

    @property
    def renamed(self) -> Confusion:
        """The matrix with each predicted class renamed to the ground truth class that it covers most."""
        counts, other = self.counts[:, : self.classes], Confusion(self.classes)
        np.add.at(other.counts.T, counts.argmax(0), counts.T)
        other.counts[:, -1] = self.counts[:, -1]
        return other

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """All metrics as percentages with JSON types; None for a class without a value."""
        scores = {
            "miou": self.miou, "miou_present": self.miou_present, "miou_all": self.miou_all, "macc": self.mean_accuracy,
            "fwiou": self.fwiou, "pixel_accuracy": self.pixel_accuracy,
        }  # fmt: skip
        per_class = dict(zip(names, map(_percent, self.iou), strict=True))
        return {**{key: _percent(value) for key, value in scores.items()}, "per_class": per_class}


_STEPS = 17  # per bin, since 255 is 15 times 17
_ROUNDING = 1e-9  # of a step; c / 255 * 255 may exceed c


class Reliability:
    """Histogram of the confidence, for its calibration (arXiv 1706.04599) and for the accuracy of confident pixels.

    Pixels without a class, in the ground truth or in the prediction, do not count.

    Attributes:
        pixels: (N, 17) pixels: row k has the confidences in (k / N, (k + 1) / N], in 17 steps of equal width. With N =
            15 a step is one value of a confidence image (uint8).
        correct: (N, 17) those with the class of the ground truth.
        confidence: (N, 17) sums of their confidences.
    """

    def __init__(self, bins: int = 15) -> None:
        """Create an empty histogram."""
        self.pixels, self.correct, self.confidence = np.zeros((3, bins, _STEPS))

    def add(
        self, ground_truth: npt.NDArray[Any], prediction: npt.NDArray[Any], confidence: npt.NDArray[np.number[Any]]
    ) -> None:
        """Count a pair of label images.

        Args:
            ground_truth: ids of any shape; 255 where unlabeled.
            prediction: ids of the same shape; 255 without a class.
            confidence: probabilities of the prediction, of the same shape: 0 to 1, or uint8 in 255ths.
        """
        counted = (ground_truth != IGNORE) & (prediction != IGNORE)
        sure, hit = confidence[counted], (ground_truth == prediction)[counted]
        if sure.dtype == np.uint8:
            pairs = np.bincount(2 * sure.astype(np.intp) + hit, minlength=512).reshape(256, 2)
            sure, hit, each = np.arange(256) / 255, pairs[:, 1], pairs.sum(1)
        else:
            sure, each = sure.astype(np.float64), np.ones(sure.size)
        steps = self.pixels.size
        index = np.clip(np.ceil(sure * steps - _ROUNDING) - 1, 0, steps - 1).astype(np.intp)
        shape = self.pixels.shape
        self.pixels += np.bincount(index, each, steps).reshape(shape)
        self.correct += np.bincount(index, hit, steps).reshape(shape)
        self.confidence += np.bincount(index, sure * each, steps).reshape(shape)

    def merge(self, other: Reliability) -> None:
        """Add the pixels of another part of the data."""
        self.pixels, self.correct = self.pixels + other.pixels, self.correct + other.correct
        self.confidence = self.confidence + other.confidence

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| of the bins, weighted by their pixels."""
        return float(_ratio(np.abs((self.correct - self.confidence).sum(1)).sum(), self.pixels.sum()))

    @property
    def bins(self) -> tuple[Floats, Floats, Floats]:
        """(N,) share of the pixels, mean confidence and accuracy of each bin; NaN without pixels."""
        pixels = self.pixels.sum(1)
        return (
            _ratio(pixels, pixels.sum()),
            _ratio(self.confidence.sum(1), pixels),
            _ratio(self.correct.sum(1), pixels),
        )

    @property
    def coverage(self) -> tuple[Floats, Floats, Floats]:
        """(17 N,) thresholds in ascending order, shares of the pixels with at least this confidence, their accuracies.

        A confidence counts as the upper end of its step. NaN without pixels.
        """
        steps = self.pixels.size
        kept, correct = (np.cumsum(counts.ravel()[::-1])[::-1] for counts in (self.pixels, self.correct))
        thresholds = np.append(0.0, np.arange(2, steps + 1) / steps)  # the first step has the confidence 0, too
        return thresholds, _ratio(kept, kept[0]), _ratio(correct, kept)

    def summary(self) -> dict[str, Any]:
        """Calibration error, bins and coverage from 0 to 1 with JSON types; None for a bin without pixels.

        Of the coverage there is one threshold for each twentieth of the pixels.
        """
        share, confidence, accuracy = self.bins
        threshold, kept, correct = self.coverage
        chosen = sorted({int((kept >= level).sum()) - 1 for level in np.arange(1, 21) / 20}) if kept[0] == 1 else []
        bins = {"share": share, "confidence": confidence, "accuracy": accuracy}
        coverage = {"threshold": threshold[chosen], "share": kept[chosen], "accuracy": correct[chosen]}
        return {
            "pixels": int(self.pixels.sum()),
            "calibration_error": round_or_none(self.error),
            "bins": {key: [*map(round_or_none, values)] for key, values in bins.items()},
            "coverage": {key: [*map(round_or_none, values)] for key, values in coverage.items()},
        }


def _ratio(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(part, whole)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * float(value), 2)


def round_or_none(value: float) -> float | None:
    """Value with four decimals, or None for NaN, which JSON lacks."""
    return None if np.isnan(value) else round(float(value), 4)
