"""EMM, RMM and NM (arXiv 2503.18445) on a data set; see `mlesam_ros.robustness`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from mlesam_ros.frame import Modality
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.robustness import EMM, NM, RMM, Corruption, damaged_features, damages, figures
from mlesam_ros.training.datasets.frames import LabeledDataset
from mlesam_ros.training.evaluate import EvalConfig, Predict, Score, evaluate


def robustness(model: MLESAM, dataset: LabeledDataset, how: EvalConfig) -> dict[Corruption, Score]:
    """Try everything that the three protocols ask for.

    Args:
        model: in evaluation mode.
        dataset: rows that the model was not trained on.
        how: see `evaluate.EvalConfig`.
    """
    modalities = model.config.modalities
    return evaluate(damage_predictor(model), dataset, modalities, damages(modalities), how)


def summary(scores: Mapping[Corruption, Score]) -> dict[str, Any]:
    """The protocols' figures, mIoU in percent over the classes present in the truth.

    Returns:
        `emm`, `rmm` and `nm` of `figures`; and `over_all_classes`: the same three over all of the label space with
        absent classes as 0, as the published figures are.
    """
    sensors = max((damage.intact for damage in scores), key=len)
    present = figures({damage: score.whole.miou_present for damage, score in scores.items()}, sensors)
    every = figures({damage: score.whole.miou_all for damage, score in scores.items()}, sensors)
    names = (EMM, RMM, NM)
    return {**{n: present[n] for n in names}, "over_all_classes": {n: every[n] for n in names}}


def damage_predictor(model: MLESAM) -> Predict[Corruption]:
    """Random damage follows from the row."""

    def predict(images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Corruption, Tensor]]:
        for damage, features in damaged_features(model.features, images, rows, model.features(images)):
            yield damage, model.heads(features).fused

    return predict
