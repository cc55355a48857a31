# SPDX-License-Identifier: Apache-2.0
"""Offline side: `mlesam evaluate` and training from bags with the same recording and parameter file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from parity_outcome import OUTPUTS, Outcome, outcome
from parity_scene import HEIGHT, START, WIDTH

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import load_parameters
from mlesam_ros.errors import DatasetError
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, NoMasksError
from mlesam_ros.evaluation.bag_outputs import RESULT_BAG, Outputs, evaluate_to_folder
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import NODE
from mlesam_training.labeled_bags import BagOptions, prepare_bags


def evaluated(bag: Path, pipeline: Pipeline, parameters: Path, folder: Path) -> Outcome:
    """Masks of `mlesam evaluate --params` from its result bag; empty if it makes none."""
    folder.mkdir()
    try:
        evaluate_to_folder(folder, bag, pipeline, EvaluationOptions(load_parameters(parameters)), Outputs(report=False))
    except NoMasksError:
        return {}
    with BagReader(folder / RESULT_BAG) as reader:
        entries = [(entry.topic.removeprefix(f"{NODE}/"), entry.message) for entry in reader]
    return outcome((name, message) for name, message in entries if name in OUTPUTS)


def training_options(bag: Path, parameters: Path, preprocessors: Mapping[str, str], folder: Path) -> BagOptions:
    """How training encodes a bag, at the scene's own size."""
    described = load_parameters(parameters)
    return BagOptions((str(bag),), str(folder), (HEIGHT, WIDTH), preprocessors=preprocessors, parameters=described)


def encoded(options: BagOptions) -> dict[int, dict[str, np.ndarray]]:
    """Milliseconds from START → modality → (3, H, W) float32 that training reads; empty where no set is complete."""
    try:
        made = prepare_bags(options)
    except DatasetError:
        return {}
    stamps = [int(name.rpartition("/")[2]) for name in made.names]
    return {
        round((stamp - START) / 1e6): {m: made.images[m][row].astype(np.float32) for m in made.modalities}
        for row, stamp in enumerate(stamps)
    }
