# SPDX-License-Identifier: Apache-2.0
"""Page of a training run or of a checkpoint on a data set: curves, scores, confusion, worst and best images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlesam_ros.evaluation.plots import Line, line_plot
from mlesam_ros.evaluation.report import input_to_rgb, make_example, write_dataset_report
from mlesam_ros.types import CAMERA, Modality
from mlesam_training.dataset_evaluation import EvalConfig, Predict, Scores, condition_table, most_likely
from mlesam_training.labeled_dataset import LabeledDataset
from mlesam_training.trainer import LOG, autocast

REPORT = "report.html"
VALIDATION = "validation.jsonl"
_EXAMPLES = 4
"""Number of images of each end."""


def write_report(
    path: Path, title: str, evaluation: Mapping[str, Any], scores: Scores, predict: Predict[Any],
    dataset: LabeledDataset, modalities: Sequence[Modality], how: EvalConfig, facts: Mapping[str, Any], command: str,
    json_name: str, curves: Mapping[str, str] | None = None, cards: Sequence[tuple[str, str, str]] = (),
) -> None:  # fmt: skip
    """Write the page.

    Args:
        path: the file.
        title: of the page.
        evaluation: content of `evaluation.json`.
        scores: from which it was made.
        predict: predictor of the subsets of the sensors.
        dataset: held-out rows.
        modalities: modalities to read from a row.
        how: options of the evaluation.
        facts: configuration, name → value.
        command: that writes the page.
        json_name: name of the file with `evaluation`.
        curves: title → plot of the training.
        cards: (value, name, remark) beside the scores.

    Raises:
        DatasetError, LabelError: a row cannot be read.
        FileError: the file cannot be written.
    """
    full = next(iter(scores))
    ranked = [int(row) for row in np.argsort(scores[full].rows, kind="stable") if not np.isnan(scores[full].rows[row])]
    half = len(ranked) // 2
    ends = {"worst": ranked[: len(ranked) - half], "best": ranked[: -half - 1 : -1]}
    examples = {
        name: [_example(row, full, scores, predict, dataset, modalities, how) for row in rows[:_EXAMPLES]]
        for name, rows in ends.items()
        if rows
    }
    write_dataset_report(
        path, title, {"warnings": [], **evaluation}, scores[full].whole.counts, dataset.space, facts, command,
        json_name, cards=list(cards), curves=curves, examples=examples, conditions=condition_table(scores),
    )  # fmt: skip


def _example(
    row: int, full: Any, scores: Scores, predict: Predict[Any], dataset: LabeledDataset,
    modalities: Sequence[Modality], how: EvalConfig,
) -> dict[str, Any]:  # fmt: skip
    images, ground_truth = dataset.batch([row], modalities)
    if how.fit:
        images, ground_truth = how.fit(images, ground_truth)
    there = {name: image.to(how.device) for name, image in images.items()}
    with torch.inference_mode(), autocast(how.precision, how.device):
        logits = dict(predict(there, [row]))[full]
    (labels,) = most_likely(logits, ground_truth.shape[-2:])
    camera = None
    if CAMERA in images:
        camera = input_to_rgb(images[CAMERA][0].float().numpy(), dataset.normalization.get(CAMERA))
    remark = f"mIoU {100 * scores[full].rows[row]:.1f} %"
    return make_example(dataset.names[row], camera, labels[0], ground_truth[0].numpy(), dataset.space, remark)


def training_curves(out: Path) -> dict[str, str]:
    """Plots of `log.jsonl` and `validation.jsonl` in the folder of a run, over the steps: title → SVG."""
    plots = {}
    if log := _read_lines(out / LOG):
        steps = _values(log, "step") + 1
        plots["Loss"] = line_plot(steps, [Line("", "var(--accent)", _values(log, "loss"))], "loss", x_unit="steps")
        plots["Learning rate"] = line_plot(
            steps, [Line("", "var(--faint)", _values(log, "lr"))], "rate", x_unit="steps"
        )
    if found := _read_lines(out / VALIDATION):
        lines = [
            Line("all sensors", "var(--accent)", _values(found, "miou")),
            Line("mean over the subsets", "var(--event)", _values(found, "mean_of_subsets")),
        ]
        plots["mIoU of the validations"] = line_plot(_values(found, "step"), lines, "%", 0.0, x_unit="steps")
    return plots


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _values(entries: Sequence[Mapping[str, Any]], key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([entry[key] for entry in entries], np.float64)
