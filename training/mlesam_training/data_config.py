# SPDX-License-Identifier: Apache-2.0
"""Opening of the data of a recipe as training and held-out splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.progress import ProgressCallback, track
from mlesam_ros.types import CAMERA
from mlesam_training.augmentation import Augment, RandomCrops, ResizeForEval
from mlesam_training.batch_loader import AugmentBatch
from mlesam_training.dataset_evaluation import Fit, describe_options
from mlesam_training.datasets import find_dataset, open_dataset
from mlesam_training.distributed import barrier, is_first
from mlesam_training.encoded_dataset import EncodedDataset
from mlesam_training.labeled_bags import BagOptions, prepare_bags
from mlesam_training.labeled_dataset import FileDataset, LabeledDataset
from mlesam_training.recipe import BagData, FileData, Recipe, StreetData
from mlesam_training.street_dataset import Report, prepare


@dataclass(frozen=True)
class DataSplits:
    """Data of a run.

    Attributes:
        train, held_out: disjoint splits.
        augment: augmentation.
        fit: resizes held-out images to the network's input size; None if they already have it.
        description: of the held-out rows, for the reported scores.
    """

    train: LabeledDataset
    held_out: LabeledDataset
    augment: AugmentBatch
    fit: Fit | None
    description: str


def open_source(recipe: Recipe, config: MLESAMConfig) -> DataSplits:
    """Render or encode missing rows and open the data. Only the first process does so; the others wait.

    Args:
        recipe: recipe with simulated streets or bags.
        config: model configuration, which names the preprocessors.

    Raises:
        BagError: a bag cannot be read.
        DatasetError: the folder holds other data, or a bag has no labels.
        LabelError: a label outside the label space.
    """
    if is_first():
        what = "rendering streets" if isinstance(recipe.data, StreetData) else "encoding bags"
        with _progress(what) as report:
            for part in ("train", "held_out"):
                _prepare(recipe, config, part, report(part))
    barrier()
    train, held_out = (_prepare(recipe, config, part) for part in ("train", "held_out"))
    if is_first():
        for warning in (*train.warnings, *held_out.warnings):
            Console(stderr=True).print(f"warning: {warning}", markup=False, soft_wrap=True)
    mean, std = config.normalization.get(CAMERA, ((0.0,) * 3, (1.0,) * 3))
    augment = Augment(recipe.augmentation, (torch.tensor(mean), torch.tensor(std)))
    description = "held-out simulated streets" if isinstance(recipe.data, StreetData) else "held-out bags"
    return DataSplits(train, held_out, augment, None, description)


def open_files(data: FileData, model: dict[str, Any]) -> DataSplits:
    """Open both splits of a data set in files and check that every file exists.

    Args:
        data: data set and splits.
        model: model section of the recipe; its modalities are read, or those of the data set if it names none.

    Raises:
        ConfigError: the root folder is missing, or the data set has no such option or modality.
        DatasetError: a file of the expected layout is missing.
    """
    if not data.root:
        raise ConfigError(f"data.root is empty, so the folder of {data.kind} is unknown.", "Give it as --data.")
    if not find_dataset(data.kind).may_recolor(data.options) and (data.crops.jitter or data.crops.blur):
        raise ConfigError(
            f"with these options the images of {data.kind} must not change their colors.",
            "Set jitter and blur of crops to 0.",
        )
    options = {**data.options, "root": data.root}
    options |= {"modalities": tuple(model["modalities"])} if "modalities" in model else {}
    train, held_out = (open_dataset(data.kind, split, options) for split in (data.train, data.held_out))
    size = model.get("image_size", MLESAMConfig.image_size)
    crops = replace(data.crops, crop=data.crops.crop or size)
    description = describe_options(data.kind, data.held_out, data.options)
    return DataSplits(train, held_out, RandomCrops(crops, train, size), ResizeForEval(held_out, size), description)


def verify_files(source: DataSplits) -> None:
    """Check every file of a data set in files, so that a damaged file fails before the first step.

    Prints notes about the files and about classes that never occur.

    Args:
        source: splits of a data set in files.

    Raises:
        DatasetError: a file is damaged, or its image differs in size from the labels.
        LabelError: a label outside the label space.
    """
    notes: list[str] = []
    with _progress("checking every file") as report:
        for part, dataset in (("train", source.train), ("held_out", source.held_out)):
            if isinstance(dataset, FileDataset):
                counts = dataset.survey(report(part) if is_first() else None)
                notes += dataset.notes
                absent = [name for name, pixels in zip(dataset.space.names, counts, strict=True) if not pixels]
                notes += [f"no pixel of {', '.join(absent)} in {part.replace('_', ' ')}."] if absent else []
    for note in notes if is_first() else ():
        Console(stderr=True).print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _prepare(recipe: Recipe, config: MLESAMConfig, part: str, report: Report | None = None) -> EncodedDataset:
    data = recipe.data
    if isinstance(data, StreetData):
        return prepare(data, part, config.preprocessors, report, config.settings)
    assert isinstance(data, BagData)
    return prepare_bags(_bag_options(data, part, config), report)


def _bag_options(data: BagData, part: str, config: MLESAMConfig) -> BagOptions:
    return BagOptions(
        getattr(data, part), str(Path(data.folder) / part), data.size, data.space, config.modalities,
        config.preprocessors, data.truth, data.description(), config.settings, data.labels, part,
    )  # fmt: skip


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str], Report]]:
    """Context with one progress bar per split, created at its first report."""
    with ExitStack() as shown:

        def report(part: str) -> Report:
            shows: list[ProgressCallback] = []

            def show(done: int, count: int) -> None:
                if not shows:
                    shown.close()
                    title = f"{what} ({part.replace('_', ' ')})"
                    shows.append(shown.enter_context(track(title, count, "samples", transient=True)))
                shows[0](done, count)

            return show

        yield report
