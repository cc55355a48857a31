"""How good a model is on rows it has never seen, with every subset of its sensors and under every condition.

One function for every data set that is a `LabeledDataset`: streets, published sets, labeled bags. Under `torchrun`
every process takes every n-th batch and the counts are added up: integers, so the sums are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.frame import Modality
from mlesam_ros.metrics import Confusion
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.robustness import Subset
from mlesam_ros.training.datasets.frames import LabeledDataset
from mlesam_ros.training.distributed import all_reduce_sum, rank, world_size
from mlesam_ros.training.loop import autocast

K = TypeVar("K", bound=Hashable)
Predict = Callable[[dict[Modality, Tensor], Sequence[int]], Iterator[tuple[K, Tensor]]]
"""Takes (B, 3, H, W) pictures by modality and their rows; gives (what was tried, (B, C, h, w) logits) for every try."""
Fit = Callable[[dict[Modality, Tensor], Tensor], tuple[dict[Modality, Tensor], Tensor]]
"""Brings whole pictures and their labels to the size that the network sees."""


@dataclass
class Score:
    """What was counted of one try.

    Attributes:
        whole: over all rows.
        conditions: kind → name → over the rows of that condition, such as weather → fog.
    """

    whole: Confusion
    conditions: dict[str, dict[str, Confusion]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalConfig:
    """How an evaluation runs; of these only `precision` and `fit` change what comes out.

    Attributes:
        batch: rows at a time.
        precision: `fp32` or `bf16` (autocast).
        device: where the model is.
        fit: None for pictures that are as the network sees them.
        report: told (rows done, rows in all); of many processes' own shares.
    """

    batch: int = 8
    precision: str = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    fit: Fit | None = None
    report: Callable[[int, int], None] | None = None


def evaluate(
    predict: Predict[K], dataset: LabeledDataset, modalities: Sequence[Modality], tries: Sequence[K], how: EvalConfig
) -> dict[K, Score]:
    """Compare predictions with the labels at the size of the labels.

    Args:
        predict: gives logits for every one of `tries`.
        dataset: rows that the model was not trained on.
        modalities: that are read of every row.
        tries: such as the subsets of the sensors.
        how: see `EvalConfig`.

    Returns:
        try → what was counted, in the order of `tries`.

    Raises:
        DatasetError, LabelError: a row cannot be read.
    """
    kinds = _kinds(dataset)
    scores = {each: _empty(len(dataset.space), kinds) for each in tries}
    firsts = range(0, len(dataset), how.batch)[rank() :: world_size()]
    for number, first in enumerate(firsts):
        rows = list(range(first, min(first + how.batch, len(dataset))))
        images, truth = dataset.batch(rows, modalities)
        if how.fit:
            images, truth = how.fit(images, truth)
        images = {name: picture.to(how.device) for name, picture in images.items()}
        with torch.inference_mode(), autocast(how.precision, how.device):
            for each, logits in predict(images, rows):
                _count(scores[each], dataset, rows, truth.numpy(), most_likely(logits, truth.shape[-2:]))
        if how.report:
            how.report(number + 1, len(firsts))
    for score in scores.values():
        _add_up(score, how.device)
    return scores


def subset_predictor(model: MLESAM, chosen: Sequence[Subset]) -> Predict[Subset]:
    """The any-modal protocol: only what is there runs. The encoder runs once for all subsets."""

    def predict(images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Subset, Tensor]]:
        features = model.features(images)
        for subset in chosen:
            yield subset, model.heads(features.only(subset)).fused

    return predict


def most_likely(logits: Tensor, size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """(B, H, W) ids of the best class of (B, C, h, w) logits, interpolated bilinearly to the (H, W) of `size`."""
    large = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return large.max(1).indices.to(torch.uint8).cpu().numpy()  # on a CPU six times as fast as argmax


def _kinds(dataset: LabeledDataset) -> dict[str, list[str]]:
    """Kind of condition → its names, in alphabetical order."""
    kinds = dict.fromkeys(kind for conditions in dataset.conditions for kind in conditions)
    return {kind: sorted({c[kind] for c in dataset.conditions if kind in c}) for kind in kinds}


def _empty(classes: int, kinds: Mapping[str, Sequence[str]]) -> Score:
    conditions = {kind: {name: Confusion(classes) for name in names} for kind, names in kinds.items()}
    return Score(Confusion(classes), conditions)


def _count(
    score: Score, dataset: LabeledDataset, rows: Sequence[int], truth: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.uint8],
) -> None:  # fmt: skip
    for row, labels, mask in zip(rows, truth, predicted, strict=True):
        one = Confusion(score.whole.classes)
        one.add(labels, mask)
        score.whole.merge(one)
        for kind, name in dataset.conditions[row].items():
            score.conditions[kind][name].merge(one)


def _add_up(score: Score, device: torch.device) -> None:
    parts = [score.whole, *(part for names in score.conditions.values() for part in names.values())]
    for part in parts:
        part.counts = all_reduce_sum(torch.from_numpy(part.counts).to(device)).cpu().numpy()
