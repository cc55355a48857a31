"""The entry: a recipe in, weights out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from mlesam_ros.encoding.encoders import DEFAULT_ENCODERS, make_encoders
from mlesam_ros.frame import CAMERA
from mlesam_ros.labels import LabelSpace
from mlesam_ros.model.checkpoint import load_trained, save_checkpoint
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.weights import load_backbone, save_backbone
from mlesam_ros.training.dataset import Report, StreetDataset, prepare
from mlesam_ros.training.evaluate import Result, Subset, evaluate, subsets, to_json
from mlesam_ros.training.experts import ExpertStage
from mlesam_ros.training.loop import run
from mlesam_ros.training.pretrain import PretrainStage
from mlesam_ros.training.recipe import Recipe, load_recipe
from mlesam_ros.training.transforms import Augment

EVALUATION = "evaluation.json"
_CAP = 4.0


def train(recipe_path: str | Path, out: str | Path, resume: bool = True) -> Path:
    """Render what is missing of the data, train, measure on the held-out streets, write the weights.

    Args:
        recipe_path: a file like those in `config/training`.
        out: folder for the training state, `log.jsonl`, `evaluation.json` and the weights; it is made.
        resume: go on with a run that was killed in that folder.

    Returns:
        Path of the weights: `<out>/<backbone>.safetensors` of stage `pretrain`, `<out>/experts.safetensors` of stage
        `experts`.

    Raises:
        MlesamError: a recipe, data folder, state or weights file that does not fit; before the first step.
    """
    recipe, out = load_recipe(recipe_path), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    config = model_config(recipe)
    with _rendering() as report:
        dataset = prepare(recipe.data, "train", config.encoders, report("train"))
        held_out = prepare(recipe.data, "held_out", config.encoders, report("held out"))
    torch.manual_seed(recipe.seed)
    weights = class_weights(dataset, len(config.label_space), recipe.balance)
    augment = Augment(recipe.augmentation, _camera_statistics(config))
    if recipe.stage == "pretrain":
        pretraining = PretrainStage(config.backbone, len(config.label_space), recipe.mixture, weights)
        if recipe.start:
            load_backbone(pretraining.model.backbone, recipe.start)
        run(recipe, pretraining, dataset, augment, out, resume)
        path = out / f"{config.backbone}.safetensors"
        save_backbone(path, pretraining.model.backbone)
        alone: list[Subset] = [(name,) for name in recipe.mixture]
        model = pretraining.model.eval()
        _measure(lambda images: model(next(iter(images.values()))), held_out, alone, config.label_space, recipe, out)
        return path
    experts = ExpertStage(config, str(recipe.backbone), recipe.full_share, weights)
    if recipe.start:
        load_trained(recipe.start, experts.model)
    run(recipe, experts, dataset, augment, out, resume)
    network = experts.model.eval()
    chosen = subsets(config.modalities)
    results = _measure(lambda images: network(images).fused, held_out, chosen, config.label_space, recipe, out)
    path = out / "experts.safetensors"
    save_checkpoint(path, network, headline(results, chosen[0]))
    return path


def model_config(recipe: Recipe) -> MLESAMConfig:
    """The recipe's model, its encoders named and their statistics written down.

    Raises:
        ConfigError: an unknown key, backbone, modality or encoder.
    """
    config = MLESAMConfig.from_dict(recipe.model)
    encoders = {m: config.encoders.get(m, DEFAULT_ENCODERS[m]) for m in config.modalities}
    statistics = {modality: encoder.statistics for modality, encoder in make_encoders(encoders).items()}
    return replace(config, encoders=encoders, statistics=statistics, image_size=recipe.data.size)


def class_weights(dataset: StreetDataset, classes: int, balance: float) -> Tensor | None:
    """(classes,) weights (median / frequency) ** balance, between 1/4 and 4; 1 for a class that never occurs."""
    if not balance:
        return None
    counts = torch.from_numpy(dataset.class_counts(classes)).double()
    present = counts > 0
    weights = torch.ones(classes, dtype=torch.float64)
    weights[present] = (counts[present].median() / counts[present]) ** balance
    return weights.clamp(1 / _CAP, _CAP).float()


def headline(results: Result, full: Subset) -> dict[str, Any]:
    """What a checkpoint says about itself: percentages on held-out streets."""
    mean = sum(parts["all"].miou_present for parts in results.values()) / len(results)
    scores = {f"miou_{part}": matrix.miou_present for part, matrix in results[full].items()}
    scores["miou_mean_over_subsets"] = mean
    return {"data": "held-out simulated streets", **{key: round(100 * value, 2) for key, value in scores.items()}}


def _measure(
    predict: Callable[[dict[str, Tensor]], Tensor], held_out: StreetDataset, chosen: list[Subset], space: LabelSpace,
    recipe: Recipe, out: Path,
) -> Result:  # fmt: skip
    results = evaluate(predict, len(space), held_out, chosen, recipe.batch, recipe.precision)
    temporary = out / f"{EVALUATION}.tmp"
    temporary.write_text(json.dumps(to_json(results, space.names), indent=1), encoding="utf-8")
    os.replace(temporary, out / EVALUATION)
    return results


def _camera_statistics(config: MLESAMConfig) -> tuple[Tensor, Tensor]:
    mean, std = config.statistics.get(CAMERA, ((0.0,) * 3, (1.0,) * 3))
    return torch.tensor(mean), torch.tensor(std)


@contextmanager
def _rendering() -> Iterator[Callable[[str], Report]]:
    """Progress bars, made when the first street of a part is done."""
    with Progress(transient=True) as progress:

        def report(part: str) -> Report:
            tasks: list[Any] = []

            def told(done: int, count: int) -> None:
                if not tasks:
                    tasks.append(progress.add_task(f"rendering streets ({part})", total=count))
                progress.update(tasks[0], completed=done)

            return told

        yield report
