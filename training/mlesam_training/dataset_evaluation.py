# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint on a data set: every subset of modalities, and the EMM, RMM and NM protocols.

Includes the tables and the content of `evaluation.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from mlesam_ros.corruptions import (
    ANY,
    EMM,
    NM,
    RMM,
    Corruption,
    Subset,
    all_corruptions,
    corrupted_features,
    protocol_scores,
    subsets,
)
from mlesam_ros.errors import CheckpointError, ConfigError
from mlesam_ros.label_map import LabelMap, RawLabels, make_label_map
from mlesam_ros.labels import LabelSpace
from mlesam_ros.metrics import Confusion, Reliability
from mlesam_ros.model.checkpoint import describe_checkpoint, load_checkpoint
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.pipeline import pick_precision
from mlesam_ros.preprocessing.preprocessors import image_settings, make_preprocessors
from mlesam_ros.strict_yaml import check_choice
from mlesam_ros.types import Modality
from mlesam_training.augmentation import ResizeForEval
from mlesam_training.datasets import find_dataset, open_dataset
from mlesam_training.distributed import all_reduce_sum, pick_device, processes, rank, world_size
from mlesam_training.labeled_dataset import FileDataset, LabeledDataset
from mlesam_training.trainer import autocast

K = TypeVar("K", bound=Hashable)
Predict = Callable[[dict[Modality, Tensor], Sequence[int]], Iterator[tuple[K, Tensor]]]
"""Takes (B, 3, H, W) images by modality and their rows; yields (case, (B, C, h, w) logits) for every case."""
Fit = Callable[[dict[Modality, Tensor], Tensor], tuple[dict[Modality, Tensor], Tensor]]
"""Resizes full images and their labels to the input size of the network."""


@dataclass
class Score:
    """Confusion matrices and calibration of one evaluated case, such as a subset of the sensors.

    Attributes:
        whole: over all rows.
        rows: (rows,) mean IoU of each row over its classes in the ground truth, 0 to 1; NaN for a row without labels.
        reliability: of the confidence, over the rows that no temperature was fitted on.
        uncalibrated: the same of the logits as predicted, where `EvalConfig.temperatures` has another temperature.
        conditions: kind → name, such as weather → fog → over the rows of that condition.
    """

    whole: Confusion
    rows: npt.NDArray[np.float64]
    reliability: Reliability = field(default_factory=Reliability)
    uncalibrated: Reliability = field(default_factory=Reliability)
    conditions: dict[str, dict[str, Confusion]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalConfig:
    """Options of an evaluation. Only `precision` and `fit` affect the masks.

    Attributes:
        batch: rows per batch.
        precision: `fp32` or `bf16` (autocast).
        device: device of the model.
        fit: resizes images and labels; None for images that already have the input size of the network.
        report: called with (batches done, batches in total) of this process.
        temperatures: case → further divisor of its logits for the confidence; 1 where an entry is missing.
        fitted: rows that temperatures were fitted on, which the calibration leaves out.
        label_map: map of the ground truth, which merges classes of the masks; None to merge none.
    """

    batch: int = 8
    precision: str = "fp32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    fit: Fit | None = None
    report: Callable[[int, int], None] | None = None
    temperatures: Mapping[Any, float] = field(default_factory=dict)
    fitted: Collection[int] = ()
    label_map: LabelMap | None = None


def evaluate(
    predict: Predict[K], dataset: LabeledDataset, modalities: Sequence[Modality], cases: Sequence[K], how: EvalConfig
) -> dict[K, Score]:
    """Compare predictions with the labels at the size of the labels.

    Args:
        predict: yields logits for every one of `cases`.
        dataset: held-out rows.
        modalities: modalities to read from every row.
        cases: cases to evaluate, such as the subsets of the sensors.
        how: see `EvalConfig`.

    Returns:
        case → score, in the order of `cases`.

    Raises:
        DatasetError, LabelError: a row cannot be read.
    """
    kinds = _kinds(dataset)
    scores = {each: _empty(len(dataset.space), len(dataset), kinds) for each in cases}
    firsts = range(0, len(dataset), how.batch)[rank() :: world_size()]
    for number, first in enumerate(firsts):
        rows = list(range(first, min(first + how.batch, len(dataset))))
        images, ground_truth = dataset.batch(rows, modalities)
        if how.fit:
            images, ground_truth = how.fit(images, ground_truth)
        images = {name: image.to(how.device) for name, image in images.items()}
        new = [place for place, row in enumerate(rows) if row not in how.fitted]
        with torch.inference_mode(), autocast(how.precision, how.device):
            for each, logits in predict(images, rows):
                score, size = scores[each], ground_truth.shape[-2:]
                predicted, *sure = most_likely(logits, size, (how.temperatures.get(each, 1.0), 1.0))
                predicted = how.label_map.merge(predicted) if how.label_map else predicted
                _count(score, dataset, rows, ground_truth.numpy(), predicted)
                for histogram, confidence in zip((score.reliability, score.uncalibrated), sure, strict=True):
                    histogram.add(ground_truth.numpy()[new], predicted[new], confidence[new])
        if how.report:
            how.report(number + 1, len(firsts))
    for score in scores.values():
        _add_up(score, how.device)
    return scores


def subset_predictor(model: MLESAM, chosen: Sequence[Subset]) -> Predict[Subset]:
    """Predictor of the any-modal protocol. The image encoder of the model runs once for all subsets."""

    def predict(images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Subset, Tensor]]:
        features = model.features(images)
        for subset in chosen:
            yield subset, model.decode_heads(features.select(subset)).fused

    return predict


def most_likely(
    logits: Tensor, size: tuple[int, ...], temperatures: Sequence[float] = ()
) -> tuple[npt.NDArray[Any], ...]:
    """Classes of logits, and their probabilities.

    Args:
        logits: (B, C, h, w), interpolated bilinearly to `size`.
        size: (H, W).
        temperatures: divisors of the logits.

    Returns:
        (B, H, W) uint8 class ids, and per temperature (B, H, W) float32 probabilities.
    """
    large = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    best = large.max(1)  # on a CPU six times as fast as argmax
    sure = {t: (best.values / t - (large / t).logsumexp(1)).exp().cpu().numpy() for t in dict.fromkeys(temperatures)}
    return best.indices.to(torch.uint8).cpu().numpy(), *(sure[t] for t in temperatures)


def _kinds(dataset: LabeledDataset) -> dict[str, list[str]]:
    """Kind of condition → its names, in alphabetical order."""
    kinds = dict.fromkeys(kind for conditions in dataset.conditions for kind in conditions)
    return {kind: sorted({c[kind] for c in dataset.conditions if kind in c}) for kind in kinds}


def _empty(classes: int, rows: int, kinds: Mapping[str, Sequence[str]]) -> Score:
    conditions = {kind: {name: Confusion(classes) for name in names} for kind, names in kinds.items()}
    return Score(Confusion(classes), np.zeros(rows), conditions=conditions)


def _count(
    score: Score, dataset: LabeledDataset, rows: Sequence[int], ground_truth: npt.NDArray[np.uint8],
    predicted: npt.NDArray[np.uint8],
) -> None:  # fmt: skip
    for row, labels, mask in zip(rows, ground_truth, predicted, strict=True):
        one = Confusion(score.whole.classes)
        one.add(labels, mask)
        score.whole.merge(one)
        score.rows[row] = one.miou_present
        for kind, name in dataset.conditions[row].items():
            score.conditions[kind][name].merge(one)


def _add_up(score: Score, device: torch.device) -> None:
    parts = [score.whole, *(part for names in score.conditions.values() for part in names.values())]
    for part in parts:
        part.counts = all_reduce_sum(torch.from_numpy(part.counts).to(device)).cpu().numpy()
    score.rows = all_reduce_sum(torch.from_numpy(score.rows).to(device)).cpu().numpy()  # 0 in all processes but one
    for histogram in (score.reliability, score.uncalibrated):
        for name, values in vars(histogram).items():
            setattr(histogram, name, all_reduce_sum(torch.from_numpy(values).to(device)).cpu().numpy())


FORMAT = 2
"""Format version of `evaluation.json`."""
Scores = Mapping[Subset, Score]


def to_json(scores: Scores, space: LabelSpace, data: str) -> dict[str, Any]:
    """Scores of all subsets in percent, as plain JSON types; `docs/results.md` documents the keys.

    Args:
        scores: subset → score.
        space: label space.
        data: description of the held-out rows.
    """
    entries = [_entry(subset, score, space.names) for subset, score in scores.items()]
    out = {
        "format": FORMAT, "data": data, "label_space": space.name, "classes_present": _present(scores, space),
        "subsets": entries,
    }  # fmt: skip
    means = {key: _mean([entry[key] for entry in entries]) for key in ("miou", "miou_all")}
    out["mean_of_subsets"] = means
    if _complete(scores):
        found = {Corruption(ANY, subset): score.whole.miou_present for subset, score in scores.items()}
        out[ANY] = protocol_scores(found, max(scores, key=len))[ANY]
    return out


def tables(scores: Scores, title: str) -> list[Table]:
    """Terminal tables in percent: scores per subset of the sensors, and mIoU per condition if there are any."""
    found, columns = [_table(title, "sensors", _SCORES, _subset_rows(scores))], _columns(scores)
    if rows := _condition_rows(scores, columns):
        found.append(_table("mIoU by condition", "condition", list(columns), rows))
    return found


def condition_table(scores: Scores) -> list[list[str]] | None:
    """Rows of the table of mIoU by condition, its header first; None without conditions."""
    columns = _columns(scores)
    rows = _condition_rows(scores, columns)
    return [["mIoU, %", *columns], *rows] if rows else None


def robustness_table(summary: Mapping[str, Any]) -> Table:
    """Terminal table of EMM, RMM and NM in the layout of the benchmark: mIoU in percent."""
    table = Table(title="failing sensors, mIoU", title_justify="left")
    for heading in ("protocol", "average", *(f"E(p={p})" for p in summary["emm"]["expected"])):
        table.add_column(heading, justify="left" if heading == "protocol" else "right")
    rows = {"EMM": summary["emm"], **{f"RMM r={share}": each for share, each in summary["rmm"].items()}}
    for name, row in rows.items():
        table.add_row(name, f"{row['average']:.2f}", *(f"{value:.2f}" for value in row["expected"].values()))
    for level, miou in summary["nm"].items():
        table.add_row(f"NM {level}", f"{miou:.2f}")
    return table


def _entry(subset: Subset, score: Score, names: Sequence[str]) -> dict[str, Any]:
    kinds = {
        kind: {name: _summary(part, names) for name, part in parts.items()} for kind, parts in score.conditions.items()
    }
    calibration = score.reliability.summary()
    return {"sensors": list(subset), **_summary(score.whole, names), **calibration, "conditions": kinds}


def _summary(matrix: Confusion, names: Sequence[str]) -> dict[str, Any]:
    """Scores of a matrix: `miou` over the classes in the ground truth, `miou_predicted` also over predicted classes."""
    found = matrix.summary(names)
    return {"miou": found["miou_present"], "miou_predicted": found["miou"], **{
        key: found[key] for key in ("miou_all", "macc", "fwiou", "pixel_accuracy", "per_class")
    }}  # fmt: skip


def _present(scores: Scores, space: LabelSpace) -> int:
    return int((next(iter(scores.values())).whole.pixels > 0).sum())


def _complete(scores: Scores) -> bool:
    return len(scores) == 2 ** max(map(len, scores)) - 1


_SCORES = ["mIoU", "over all classes", "mAcc", "fwIoU", "pixel accuracy"]


def _subset_rows(scores: Scores) -> list[list[str]]:
    values = {" + ".join(subset): _values(score.whole) for subset, score in scores.items()}
    mean = [float(value) for value in np.mean(list(values.values()), 0)]
    every = {**values, f"mean of the {len(scores)}": mean}
    return [[name, *map(_percent, row)] for name, row in every.items()]


def _values(matrix: Confusion) -> list[float]:
    return [matrix.miou_present, matrix.miou_all, matrix.mean_accuracy, matrix.fwiou, matrix.pixel_accuracy]


def _condition_rows(scores: Scores, columns: Mapping[str, Subset]) -> list[list[str]]:
    """One row per condition. Kinds of conditions with a single value are left out."""
    kinds = next(iter(scores.values())).conditions
    names = [(kind, name) for kind, parts in kinds.items() if len(parts) > 1 for name in parts]
    return [
        [f"{kind}: {name}", *(_percent(scores[s].conditions[kind][name].miou_present) for s in columns.values())]
        for kind, name in names
    ]


def _columns(scores: Scores) -> dict[str, Subset]:
    """Heading → subset: all sensors, and each single sensor."""
    full = max(scores, key=len)
    out = {"all": full} if len(full) > 1 else {}
    out |= {name: (name,) for name in dict.fromkeys(m for subset in scores for m in subset)}
    return {heading: subset for heading, subset in out.items() if subset in scores}


def _table(title: str, first: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 2) if known else None


def robustness(model: MLESAM, dataset: LabeledDataset, how: EvalConfig) -> dict[Corruption, Score]:
    """Evaluate every corruption of the EMM, RMM and NM protocols.

    Args:
        model: model in evaluation mode.
        dataset: held-out rows.
        how: see `EvalConfig`.
    """
    modalities = tuple(m for m in model.config.modalities if m in dataset.modalities)
    return evaluate(corruption_predictor(model), dataset, modalities, all_corruptions(modalities), how)


def summary(scores: Mapping[Corruption, Score]) -> dict[str, Any]:
    """Results of the protocols: mIoU in percent over the classes in the ground truth.

    Returns:
        `emm`, `rmm` and `nm` of `protocol_scores`; and `over_all_classes`: the same three over the whole label space
        with absent classes as 0, as in the published figures.
    """
    sensors = max((corruption.intact for corruption in scores), key=len)
    present = protocol_scores({corruption: score.whole.miou_present for corruption, score in scores.items()}, sensors)
    every = protocol_scores({corruption: score.whole.miou_all for corruption, score in scores.items()}, sensors)
    names = (EMM, RMM, NM)
    return {**{n: present[n] for n in names}, "over_all_classes": {n: every[n] for n in names}}


def corruption_predictor(model: MLESAM) -> Predict[Corruption]:
    """Predictor of all corruptions. The row number seeds random ones."""

    def predict(images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Corruption, Tensor]]:
        for corruption, features in corrupted_features(model.features, images, rows, model.features(images)):
            yield corruption, model.decode_heads(features).fused

    return predict


Track = Callable[[int], AbstractContextManager[Callable[[int, int], None]]]
"""Takes the number of batches; the context manager yields a callback (batches done, batches in total)."""


@dataclass(frozen=True)
class DatasetEvalConfig:
    """Data set and options of the evaluation of a checkpoint.

    Attributes:
        name: one of `datasets.dataset_names`, or a data file, see `recipe.load_data`.
        root: folder of the data set.
        split: name of the split in the data set.
        options: further arguments of the data set's class, such as weather or protocol.
        robustness: whether to evaluate the EMM, RMM and NM protocols as well.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32`, `bf16` (autocast), or `auto` for bf16 if the hardware multiplies in bf16.
        raw_labels: description of ground truth that is not in the label space of the checkpoint: its `raw_space` is by
            default the label space of the data set.
    """

    name: str
    root: Path
    split: str = "val"
    options: Mapping[str, Any] = field(default_factory=dict)
    robustness: bool = False
    device: str = "auto"
    precision: str = "auto"
    raw_labels: RawLabels = field(default_factory=RawLabels)


def evaluate_checkpoint(
    checkpoint: Path, base_weights: Path | None, request: DatasetEvalConfig, track: Track
) -> tuple[dict[str, Any], list[Table]]:
    """Score every subset of the checkpoint's sensors. Under `torchrun` the processes share the rows exactly.

    Images are resized to the input size of the model.

    Args:
        checkpoint: file written by `mlesam train`.
        base_weights: path or name of the checkpoint's frozen backbone; None for the one shipped with this package.
        request: data set and options.
        track: progress display.

    Returns:
        The content of `evaluation.json`, and the same as tables.

    Raises:
        CheckpointError: the files do not belong together, or the data set holds images from other preprocessors.
        ConfigError, DatasetError, LabelError: see `open_dataset`; or a row cannot be read.
    """
    device = pick_device(request.device)
    precision = pick_precision(request.precision, str(device))
    check_choice("precision", precision, ("fp32", "bf16"))
    config = MLESAMConfig.from_dict(describe_checkpoint(checkpoint)["config"])
    available = find_dataset(request.name).available(request.options)
    modalities = tuple(m for m in config.modalities if available is None or m in available)
    if not modalities:
        raise CheckpointError(f"{checkpoint} is of {', '.join(config.modalities)}, of which the data set has none.")
    dataset = open_dataset(
        request.name, request.split, {**request.options, "root": request.root, "modalities": modalities}
    )
    check_encoding(config, dataset)
    label_map = _map_labels(dataset, config.label_space, request.raw_labels)
    dataset.survey()
    model = load_checkpoint(checkpoint, base_weights, label_space=dataset.space).to(device)
    chosen = subsets(modalities)
    words = describe_options(request.name, request.split, request.options)
    with processes(device), track(len(dataset)) as report:
        fit = ResizeForEval(dataset, config.image_size)
        how = EvalConfig(1, precision, device, fit, report, label_map=label_map)
        scores = evaluate(subset_predictor(model, chosen), dataset, modalities, chosen, how)
        content, shown = to_json(scores, dataset.space, words), tables(scores, words)
        if request.robustness:
            found = summary(robustness(model, dataset, how))
            content, shown = content | found, [*shown, robustness_table(found)]
    return content, shown


def describe_options(name: str, split: str, options: Mapping[str, Any]) -> str:
    """Description of the rows of a split: its data set and the options that are words or numbers, but no patterns."""
    words = {key: str(value) for key, value in sorted(options.items()) if isinstance(value, str | int | float)}
    return " ".join([name, split, *(f"{key}={value}" for key, value in words.items() if "{" not in value)])


def _map_labels(dataset: FileDataset, space: LabelSpace, raw: RawLabels) -> LabelMap | None:
    """Map the labels of a data set to a label space; None without a description of raw labels."""
    if not raw:
        return None
    if raw.palette is not None:
        raise ConfigError("palette is for images of bags and folders; a data set has decoded its labels.", "Omit it.")
    label_map = make_label_map(space, replace(raw, raw_space=raw.raw_space or dataset.space.to_dict()), merge=True)
    dataset.relabel(label_map)
    return label_map


def check_encoding(config: MLESAMConfig, dataset: FileDataset) -> None:
    """Check that the data set has the preprocessors, settings and statistics that the experts were trained with.

    A difference would degrade the masks without an error.

    Raises:
        CheckpointError: names the modality, both values and the remedy.
    """
    for modality in dataset.modalities:
        ours, theirs = config.preprocessors.get(modality), dataset.preprocessors.get(modality)
        if ours != theirs:
            raise CheckpointError(
                f"the {modality} expert was trained on images of {ours or 'no preprocessor'}, but those of the data "
                f"set are of {theirs or 'no preprocessor'}.",
                "Use a checkpoint that was trained on this data set.",
            )
        ours_made, theirs_made = (own.get(modality, {}) for own in (_settings(config), _settings(dataset)))
        if ours_made != theirs_made:
            raise CheckpointError(
                f"the {modality} expert was trained on images made with {ours_made}, but those of the data set are "
                f"made with {theirs_made}.",
                "Use a checkpoint that was trained on this data set.",
            )
        wanted, there = config.normalization.get(modality), dataset.normalization[modality]
        if wanted is not None and not np.allclose(wanted, there):
            raise CheckpointError(
                f"the {modality} expert was trained on images normalized with {wanted}, but those of the data set "
                f"are normalized with {there}.",
                "Use a checkpoint that was trained on this data set with these options.",
            )


def _settings(source: MLESAMConfig | FileDataset) -> dict[Modality, dict[str, Any]]:
    """Modality → every image setting of its preprocessor; data sets use the defaults."""
    return image_settings(make_preprocessors(source.preprocessors, getattr(source, "settings", {})))
