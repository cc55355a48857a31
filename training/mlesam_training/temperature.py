# SPDX-License-Identifier: Apache-2.0
"""Temperature scaling (arXiv 1706.04599): one divisor of the logits per subset of the sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.labels import IGNORE
from mlesam_ros.types import Modality
from mlesam_training.dataset_evaluation import EvalConfig, K, Predict
from mlesam_training.labeled_dataset import LabeledDataset
from mlesam_training.trainer import autocast

_PIXELS_PER_ROW = 400
_RANGE = (0.1, 10.0)
_HALVINGS = 40


def fit_temperatures(
    predict: Predict[K], dataset: LabeledDataset, modalities: Sequence[Modality], cases: Sequence[K], how: EvalConfig
) -> dict[K, float]:
    """Fit the temperature of each case on random labeled pixels.

    Args:
        predict: yields logits for every one of `cases`, without temperatures.
        dataset: held-out rows.
        modalities: modalities to read from every row.
        cases: such as the subsets of the sensors.
        how: options of the evaluation; `fitted` are the rows to fit on.

    Returns:
        case → temperature; none without labeled pixels.
    """
    logits: Mapping[K, list[Tensor]] = {case: [] for case in cases}
    labels, generator, rows = [], torch.Generator().manual_seed(0), list(how.fitted)
    for first in range(0, len(rows), how.batch):
        some = rows[first : first + how.batch]
        images, truth = dataset.batch(some, modalities)
        if how.fit:
            images, truth = how.fit(images, truth)
        flat, size = truth.flatten(), truth.shape[-2:]
        labeled = (flat != IGNORE).nonzero()[:, 0]
        chosen = labeled[torch.randperm(len(labeled), generator=generator)[: _PIXELS_PER_ROW * len(some)]]
        labels.append(flat[chosen].long())
        chosen = chosen.to(how.device)
        images = {name: image.to(how.device) for name, image in images.items()}
        with torch.inference_mode(), autocast(how.precision, how.device):
            for case, found in predict(images, some):
                large = F.interpolate(found.float(), size, mode="bilinear", align_corners=False)
                logits[case].append(large.movedim(1, -1).flatten(0, -2)[chosen].cpu())
    truth = torch.cat(labels) if labels else torch.zeros(0, dtype=torch.long)
    return {case: temperature(torch.cat(parts), truth) for case, parts in logits.items()} if len(truth) else {}


def temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature of the highest likelihood, within 0.1 … 10.

    The likelihood is concave in the inverse temperature β. Its derivative, the mean of z_y - Σ_c softmax(β z)_c z_c, is
    bisected.

    Args:
        logits: (N, C) z.
        labels: (N,) class ids y.
    """
    logits, own = logits.double(), logits.double().gather(1, labels[:, None])[:, 0]
    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slope = (own - ((middle * logits).softmax(1) * logits).sum(1)).mean()
        low, high = (middle, high) if slope >= 0 else (low, middle)
    return 2 / (low + high)
