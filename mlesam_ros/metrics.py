"""How good a segmentation is: one confusion matrix, and every number that follows from it.

What a class that does not occur does to a mean is where toolkits differ. Per class a ratio without a denominator is
NaN. Three means of the IoU follow, each with its name: `miou_present` over the classes that are true somewhere, which
is what this package prints as mIoU; `miou` over those that are true or predicted, as torchmetrics has it; `miou_all`
over the whole label space with NaN as 0, as DELIVER's scripts have it. `mean_accuracy` is the mean recall of the
classes that are true; what the BDD100K toolkit prints as mAcc is the mean of `precision`.
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
    """Counts of pixels by true and predicted class.

    Attributes:
        counts: (C, C + 1) int64, row = truth, column = prediction. The last column holds labeled pixels to which the
            prediction gave no class of the space; they are misses of their true class and a false alarm of none.
    """

    def __init__(self, classes: int) -> None:
        """An empty matrix for the classes 0 … classes - 1."""
        self.classes = classes
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]]) -> None:
        """Count a pair of label images.

        Args:
            truth: ids of any shape; pixels with the ignore id (255) do not count.
            prediction: ids of the same shape; ids outside the space count as no prediction.

        Raises:
            LabelError: the shapes differ, or the truth holds an id that is neither a class nor 255.
        """
        if truth.shape != prediction.shape:
            raise LabelError(
                f"truth is {truth.shape} and prediction is {prediction.shape}.", "Bring both to the same size first."
            )
        labeled = truth != IGNORE
        rows = truth[labeled].astype(np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.classes:
            foreign = np.unique(rows[(rows < 0) | (rows >= self.classes)]).tolist()
            raise LabelError(f"truth holds the ids {foreign}; accepted are 0 to {self.classes - 1} and {IGNORE}.")
        columns = prediction[labeled].astype(np.int64)
        columns[(columns < 0) | (columns >= self.classes)] = self.classes
        flat = np.bincount(rows * (self.classes + 1) + columns, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def merge(self, other: Confusion) -> None:
        """Add the counts of another part of the data."""
        self.counts += other.counts

    @property
    def pixels(self) -> Floats:
        """(C,) labeled pixels per true class."""
        return self.counts.sum(1).astype(np.float64)

    @property
    def hits(self) -> Floats:
        """(C,) pixels per class on which both agree."""
        return np.diagonal(self.counts).astype(np.float64)

    @property
    def iou(self) -> Floats:
        """(C,) intersection over union in [0, 1]; NaN for a class that is neither true nor predicted anywhere."""
        predicted = self.counts[:, : self.classes].sum(0)
        return _ratio(self.hits, self.pixels + predicted - self.hits)

    @property
    def accuracy(self) -> Floats:
        """(C,) share of the true pixels that were found, in [0, 1]; NaN for a class without true pixels."""
        return _ratio(self.hits, self.pixels)

    @property
    def precision(self) -> Floats:
        """(C,) share of the pixels given to a class that are right, in [0, 1]; NaN for a class never predicted.

        The mean of this, not of `accuracy`, is what the BDD100K toolkit prints as mAcc.
        """
        return _ratio(self.hits, self.counts[:, : self.classes].sum(0))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that are true or predicted somewhere, in [0, 1]; NaN when nothing was counted."""
        return _mean(self.iou)

    @property
    def miou_all(self) -> float:
        """Mean IoU over all C classes, absent ones counted as 0, the convention of DELIVER's evaluation script."""
        return float(np.nan_to_num(self.iou).mean())

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes with true pixels, in [0, 1]; NaN when nothing was counted."""
        return _mean(self.iou[self.pixels > 0])

    @property
    def mean_accuracy(self) -> float:
        """Mean of `accuracy` over the classes with true pixels; NaN when nothing was counted."""
        return _mean(self.accuracy)

    @property
    def fwiou(self) -> float:
        """IoU weighted by how often a class is true (Long et al., CVPR 2015); NaN when nothing was counted."""
        return float(_ratio((np.nan_to_num(self.iou) * self.pixels).sum(), self.pixels.sum()))

    @property
    def pixel_accuracy(self) -> float:
        """Share of all labeled pixels that are right; NaN when nothing was counted."""
        return float(_ratio(self.hits.sum(), self.pixels.sum()))

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """Everything as percentages with JSON types; a class without a value is None."""
        scores = {
            "miou": self.miou, "miou_present": self.miou_present, "miou_all": self.miou_all, "macc": self.mean_accuracy,
            "fwiou": self.fwiou, "pixel_accuracy": self.pixel_accuracy,
        }  # fmt: skip
        per_class = dict(zip(names, map(_percent, self.iou), strict=True))
        return {**{key: _percent(value) for key, value in scores.items()}, "per_class": per_class}


def _ratio(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(part, whole)


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * float(value), 2)
