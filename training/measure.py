"""A finished checkpoint on a split of a published set, as the evaluation after its training was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mlesam_ros.encoding.encoders import image_settings, make_preprocessors
from mlesam_ros.errors import CheckpointError
from mlesam_ros.frame import Modality
from mlesam_ros.model.checkpoint import describe_checkpoint, load_checkpoint
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.pipeline import pick_precision
from mlesam_ros.robustness import subsets
from mlesam_ros.training.crops import ResizeForEval
from mlesam_ros.training.datasets.catalogue import open_dataset
from mlesam_ros.training.datasets.frames import FileDataset
from mlesam_ros.training.distributed import pick_device, processes
from mlesam_ros.training.evaluate import EvalConfig, evaluate, subset_predictor
from mlesam_ros.training.fields import check_choice
from mlesam_ros.training.report import robustness_table, tables, to_json
from mlesam_ros.training.robustness import robustness, summary

Track = Callable[[int], AbstractContextManager[Callable[[int, int], None]]]
"""How many batches there are → within it, told (batches done, batches in all)."""


@dataclass(frozen=True)
class DatasetEvalConfig:
    """What a checkpoint is measured on, and how.

    Attributes:
        name: deliver, muses or mcubes.
        root: the folder in which the set lies.
        split: as the set calls it.
        options: whatever else the set's class takes, such as weather or protocol.
        robustness: whether missing, holed and noisy sensors are tried as well.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32`, `bf16` (autocast), or `auto` for bf16 where the processor multiplies in it.
    """

    name: str
    root: Path
    split: str = "val"
    options: Mapping[str, Any] = field(default_factory=dict)
    robustness: bool = False
    device: str = "auto"
    precision: str = "auto"


def evaluate_checkpoint(
    checkpoint: Path, base_weights: Path | None, exam: DatasetEvalConfig, track: Track
) -> tuple[dict[str, Any], list[Table]]:
    """Score every subset of the checkpoint's sensors. Under `torchrun` the processes share the rows out, exactly.

    Args:
        checkpoint: what `mlesam train` wrote.
        base_weights: the frozen backbone that it was trained on; None for those that ship with this package.
        exam: what to measure on.
        track: shows how far it is.

    Returns:
        the keys of `evaluation.json`, and the same as tables. Pictures are brought to the size of the model's.

    Raises:
        CheckpointError: the files do not belong together, or the experts read other pictures than the set holds.
        ConfigError, DatasetError, LabelError: see `open_dataset`; or a row that cannot be read.
    """
    device = pick_device(exam.device)
    precision = pick_precision(exam.precision, str(device))
    check_choice("precision", precision, ("fp32", "bf16"))
    config = MLESAMConfig.from_dict(describe_checkpoint(checkpoint)["config"])
    dataset = open_dataset(exam.name, exam.split, {**exam.options, "root": exam.root, "modalities": config.modalities})
    refuse_other_pictures(config, dataset)
    dataset.survey()
    model = load_checkpoint(checkpoint, base_weights, label_space=dataset.space).to(device)
    chosen = subsets(config.modalities)
    words = " ".join([exam.name, exam.split, *(f"{key}={value}" for key, value in sorted(exam.options.items()))])
    with processes(device), track(len(dataset)) as report:
        how = EvalConfig(1, precision, device, ResizeForEval(dataset, config.image_size), report)
        scores = evaluate(subset_predictor(model, chosen), dataset, config.modalities, chosen, how)
        content, shown = to_json(scores, dataset.space, words), tables(scores, words)
        if exam.robustness:
            found = summary(robustness(model, dataset, how))
            content, shown = content | found, [*shown, robustness_table(found)]
    return content, shown


def refuse_other_pictures(config: MLESAMConfig, dataset: FileDataset) -> None:
    """Hold what the experts were trained on against what the set holds; a difference would ruin masks silently.

    Raises:
        CheckpointError: names modality, both encoders or both statistics, and what to do.
    """
    for modality in config.modalities:
        ours, theirs = config.encoders.get(modality), dataset.encoders.get(modality)
        if ours != theirs:
            raise CheckpointError(
                f"the {modality} expert reads pictures made by {ours or 'no encoder'}, and those of the data set "
                f"are {theirs or 'of no encoder'}.",
                "Take a checkpoint that was trained on this set.",
            )
        ours_made, theirs_made = (own.get(modality, {}) for own in (_settings(config), _settings(dataset)))
        if ours_made != theirs_made:
            raise CheckpointError(
                f"the {modality} expert was trained on images made with {ours_made}, and those of the data set are "
                f"made with {theirs_made}.",
                "Take a checkpoint that was trained on this set.",
            )
        wanted, there = config.statistics.get(modality), dataset.statistics[modality]
        if wanted is not None and not np.allclose(wanted, there):
            raise CheckpointError(
                f"the {modality} expert was trained on pictures normalised with {wanted}, and those of the data "
                f"set are with {there}.",
                "Take a checkpoint that was trained on this set with these options.",
            )


def _settings(source: MLESAMConfig | FileDataset) -> dict[Modality, dict[str, Any]]:
    """Modality → every setting of its encoder's images; a data set is made with the defaults."""
    return image_settings(make_preprocessors(source.encoders, getattr(source, "settings", {})))
