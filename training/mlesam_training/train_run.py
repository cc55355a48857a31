# SPDX-License-Identifier: Apache-2.0
"""Run a recipe from data to evaluated weights, and the ablation of feature fusion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mlesam_ros.corruptions import Subset
from mlesam_ros.errors import ConfigError, PackageError
from mlesam_ros.extras import require_extra
from mlesam_ros.files import atomic_write, exclusive_folder, expand_path
from mlesam_ros.labels import load_label_space
from mlesam_ros.metrics import round_or_none
from mlesam_ros.model.checkpoint import load_backbone, load_checkpoint, save_backbone, save_checkpoint
from mlesam_ros.model.model_config import MLESAMConfig, subset_name
from mlesam_ros.parameter_groups import EventParameters
from mlesam_ros.preprocessing.base import EVENT_WINDOW
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, image_settings, make_preprocessors
from mlesam_ros.types import AUTO, EVENT
from mlesam_training.data_config import DataSplits, open_files, open_source
from mlesam_training.dataset_evaluation import (
    EvalConfig,
    Score,
    evaluate,
    robustness,
    robustness_table,
    summary,
    tables,
    to_json,
)
from mlesam_training.distributed import barrier, is_first, pick_device, processes
from mlesam_training.labeled_dataset import LabeledDataset
from mlesam_training.preflight import evaluation_batch, evaluation_seconds, fit_memory, needed_bytes, preflight
from mlesam_training.recipe import (
    BLOCKS,
    BagData,
    FileData,
    Recipe,
    StreetData,
    load_recipe,
    recipe_dict,
    scheduled,
)
from mlesam_training.recipe_choice import choose
from mlesam_training.stages import ExpertStage, PretrainStage
from mlesam_training.state import trainable_parameters
from mlesam_training.temperature import fit_temperatures
from mlesam_training.trainer import STATE, check_tensorboard, checkpoint_blocks, run
from mlesam_training.training_report import REPORT, VALIDATION, training_curves, write_report
from mlesam_training.warm_start import WarmStart, start_from

EVALUATION = "evaluation.json"
EXPERTS = "experts.safetensors"
BEST = "best"
_MAX_CLASS_WEIGHT = 4.0


@dataclass(frozen=True)
class Result:
    """Result of a run.

    Attributes:
        weights: `<out>/experts.safetensors` of stage `experts`, which also writes a trained backbone as
            `<backbone>.safetensors`; `<out>/<backbone>.safetensors` of stage `pretrain`, which also writes its heads as
            `experts.safetensors`, for `start` of the next stage.
        evaluation: path of `evaluation.json`.
        scores: subset → score on the held-out rows.
    """

    weights: Path
    evaluation: Path
    scores: Mapping[Subset, Score]


def train(recipe: Recipe | str | Path, out: str | Path, resume: bool = True) -> Result:
    """Prepare missing data, train, evaluate on the held-out split, and write the weights.

    Args:
        recipe: a recipe, or the path of one, such as those in `config/training`.
        out: folder of the training state, `log.jsonl`, `evaluation.json` and the weights; created.
        resume: continue an interrupted run in that folder.

    Raises:
        FileError: another run holds the folder.
        MlesamError: recipe, data folder, state or weights file do not match; raised before the first step.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_tensorboard(recipe)
    data = recipe.data
    files = open_files(data, recipe.model) if isinstance(data, FileData) else None
    config, out = model_config(recipe, files), expand_path(out)
    with exclusive_folder(out, "training") if is_first() else nullcontext(), processes(pick_device(recipe.device)):
        torch.manual_seed(recipe.seed)
        stage = make_stage(recipe, config)  # first: report wrong weights before hours of rendering
        source = files or open_source(recipe, config)
        if isinstance(stage, ExpertStage):
            stage.blanks = source.train.blanks
        recipe = _complete(recipe, stage, source)
        if files:
            preflight(recipe, stage, files)
        stage.weights = class_weights(source.train, len(config.label_space), recipe.balance)
        if is_first() and not (resume and (out / STATE).exists()):
            _remove_validations(out, config)
        validation = Validation(recipe, stage, source, out)
        seconds = evaluation_seconds(recipe, stage, source) * (1 + _validations(recipe))
        run(recipe, stage, source.train, source.augment, out, resume, validation, seconds)
        stage.model.eval()
        scores = _evaluate(recipe, stage, source, out)
        path = out / (EXPERTS if recipe.stage == "experts" else _backbone_file(config))
        if is_first():
            stage.model.to("cpu")
            _write_weights(out, stage, scores, source)
        barrier()
    return Result(path, out / EVALUATION, scores)


def model_config(recipe: Recipe, files: DataSplits | None = None) -> MLESAMConfig:
    """Model configuration of a recipe, with explicit preprocessors, settings and statistics.

    Args:
        recipe: recipe of the run.
        files: data set in files, which sets preprocessors, statistics and label space; None for other data.

    Raises:
        ConfigError: a key, backbone, modality or preprocessor is unknown or contradicts the data set.
    """
    if "temperatures" in recipe.model:
        raise ConfigError("model has temperatures, which training fits.", "Take temperatures out of model.")
    if files is not None:
        return _files_config(recipe, files)
    config = MLESAMConfig.from_dict(recipe.model)
    size = recipe.data.size if isinstance(recipe.data, StreetData) else max(recipe.data.size)  # type: ignore[union-attr]
    if recipe.model.get("image_size", size) != size:
        raise ConfigError(
            f"model.image_size is {recipe.model['image_size']}, but data.size makes images with a long side of {size}.",
            "Leave image_size out of model: it follows from data.size.",
        )
    if isinstance(recipe.data, BagData):
        config = replace(config, label_space=load_label_space(recipe.data.space))
    config = replace(config, image_size=size)
    if foreign := [m for m in config.modalities if m not in {**DEFAULT_PREPROCESSORS, **config.preprocessors}]:
        raise ConfigError(f"no modality is called {foreign[0]!r}; accepted are {', '.join(DEFAULT_PREPROCESSORS)}.")
    if isinstance(recipe.data, BagData):
        config = _with_events(config, recipe.data.description().event)
    preprocessors = {m: config.preprocessors.get(m, DEFAULT_PREPROCESSORS[m]) for m in config.modalities}
    made = make_preprocessors(preprocessors, config.settings)
    if isinstance(recipe.data, StreetData) and getattr(made.get(EVENT), "window", EVENT_WINDOW) != EVENT_WINDOW:
        raise ConfigError(
            f"model.settings.event.window is not {EVENT_WINDOW:g} s, which the simulated street has.",
            "Leave window out, or train on bags.",
        )
    normalization = {modality: preprocessor.normalization for modality, preprocessor in made.items()}
    return replace(config, preprocessors=preprocessors, normalization=normalization, settings=image_settings(made))


def _with_events(config: MLESAMConfig, event: EventParameters) -> MLESAMConfig:
    """Apply the event window and representation of the sensor parameters to the configuration."""
    if EVENT not in config.modalities:
        return config
    settings = dict(config.settings.get(EVENT, {}))
    given = {
        "event.representation": (event.representation, AUTO, config.preprocessors.get(EVENT)),
        "event.window": (event.window, 0.0, settings.get("window")),
    }
    for name, (value, unset, own) in given.items():
        if unset != value != own and own is not None:
            raise ConfigError(f"{name} is {value}, but the recipe's model has {own}.", f"Take {name} out of one.")
    preprocessors = dict(config.preprocessors)
    if event.representation != AUTO:
        preprocessors[EVENT] = event.representation
    if event.window:
        settings["window"] = event.window
    return replace(config, preprocessors=preprocessors, settings={**config.settings, EVENT: settings})


def _files_config(recipe: Recipe, files: DataSplits) -> MLESAMConfig:
    data, dataset = recipe.data, files.train
    assert isinstance(data, FileData)
    for key in ("label_space", "preprocessors", "normalization", "settings"):
        if key in recipe.model:
            raise ConfigError(f"model has {key}; with {data.kind} the data set decides.", f"Take {key} out of model.")
    return replace(
        MLESAMConfig.from_dict({**recipe.model, "modalities": dataset.modalities}),
        label_space=dataset.space, preprocessors=dict(dataset.preprocessors), normalization=dict(dataset.normalization),
        settings=image_settings(make_preprocessors(dataset.preprocessors)),
    )  # fmt: skip


def class_weights(dataset: LabeledDataset, classes: int, balance: float) -> Tensor | None:
    """(classes,) weights (median / frequency) ** balance, between 1/4 and 4; 1 for a class that never occurs.

    Reads every label, also with `balance` 0, to report one outside the label space before the first step.
    """
    counts = torch.from_numpy(dataset.class_counts(classes)).double()
    if not balance:
        return None
    present = counts > 0
    weights = torch.ones(classes, dtype=torch.float64)
    weights[present] = (counts[present].median() / counts[present]) ** balance
    return weights.clamp(1 / _MAX_CLASS_WEIGHT, _MAX_CLASS_WEIGHT).float()


def headline(scores: Mapping[Subset, Score], description: str) -> dict[str, Any]:
    """Scores stored in a checkpoint: mIoU in percent of all sensors, per condition, and averaged over all subsets."""
    full = next(iter(scores.values()))
    parts = {f"miou_{name}": part for names in full.conditions.values() for name, part in names.items()}
    found = {"miou": full.whole.miou_present, **{key: part.miou_present for key, part in parts.items()}}
    found["miou_mean_over_subsets"] = sum(score.whole.miou_present for score in scores.values()) / len(scores)
    return {"data": description, **{key: round(100 * value, 2) for key, value in found.items()}}


def make_stage(recipe: Recipe, config: MLESAMConfig) -> PretrainStage | ExpertStage:
    """Build the stage and load the weights named in the recipe.

    Raises:
        CheckpointError: the weights are missing or belong to another architecture.
    """
    if recipe.stage == "pretrain":
        stage: PretrainStage | ExpertStage = PretrainStage(config, recipe.mixture, None)
        if recipe.start:
            load_backbone(stage.model.backbone, recipe.start)
    else:
        alone = recipe.alone
        stage = ExpertStage(config, str(recipe.backbone), recipe.full_share, None, recipe.train_backbone, alone)
        if recipe.start:
            _show_start(start_from(recipe.start, stage.model))
        if recipe.teacher:
            teacher = load_checkpoint(recipe.teacher, recipe.backbone, config.label_space)
            stage.distill(teacher.to(pick_device(recipe.device)), recipe.teacher)
    if recipe.checkpointing == BLOCKS:
        checkpoint_blocks(stage.model.backbone.blocks)
    return stage


def _show_start(start: WarmStart) -> None:
    if is_first():
        console = Console(stderr=True)
        console.print(start.table())
        if start.note:
            console.print(f"note: {start.note}", markup=False, highlight=False, soft_wrap=True)


def _complete(recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits) -> Recipe:
    """Choose the keys that the recipe leaves open, print them, and convert epochs to steps."""
    device, samples, chosen = pick_device(recipe.device), len(source.train), recipe.chosen
    recipe = choose(recipe, samples, device)
    if "accumulate" in chosen and device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        before, recipe = recipe, fit_memory(recipe, lambda smaller: needed_bytes(smaller, stage, source), memory)
        if recipe.checkpointing != before.checkpointing:
            checkpoint_blocks(stage.model.backbone.blocks)
    if chosen and is_first():
        listed = ", ".join(f"{key} {getattr(recipe, key)}" for key in chosen)
        words = f"chosen for {samples} samples on {device.type}: {listed}"
        Console(stderr=True).print(words, markup=False, highlight=False, soft_wrap=True)
    return scheduled(recipe, samples)


def _validations(recipe: Recipe) -> int:
    return (recipe.steps - 1) // recipe.validate_every if recipe.validate_every else 0


def _evaluate(
    recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits, out: Path
) -> Mapping[Subset, Score]:
    """Evaluate on the held-out rows, write `evaluation.json` and print the tables.

    Experts are calibrated: a temperature per subset is fitted on every second row and set in the model's configuration.
    The calibration error is of the other rows.
    """
    how, data = _how(recipe, source), source.held_out
    if isinstance(stage, ExpertStage):
        how = replace(how, fitted=range(0, len(data), 2))
        how = replace(how, temperatures=fit_temperatures(stage.predict, data, stage.inputs, stage.subsets, how))
    scores = evaluate(stage.predict, data, stage.inputs, stage.subsets, how)
    content, shown = to_json(scores, data.space, source.description), tables(scores, source.description)
    if isinstance(stage, ExpertStage):
        named = {subset_name(subset): round(value, 4) for subset, value in how.temperatures.items()}
        stage.model.config = replace(stage.model.config, temperatures=named)
        for entry, (subset, score) in zip(content["subsets"], scores.items(), strict=True):
            entry["temperature"] = named.get(subset_name(subset))
            entry["calibration_error_before"] = round_or_none(score.uncalibrated.error)
        if recipe.robustness:
            protocols = summary(robustness(stage.model, data, how))
            content, shown = content | protocols, [*shown, robustness_table(protocols)]
    if is_first():
        atomic_write(out / EVALUATION, json.dumps(content, indent=1))
        Console(stderr=True).print(*shown, sep="\n")
        _write_page(recipe, stage, source, out, scores, content, how)
    return scores


def _write_page(
    recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits, out: Path, scores: Mapping[Subset, Score],
    content: Mapping[str, Any], how: EvalConfig,
) -> None:  # fmt: skip
    """Write `report.html`; print a note instead where Jinja2 is not installed."""
    try:
        require_extra("jinja2", REPORT)
    except PackageError as error:
        Console(stderr=True).print(f"note: {error}", markup=False, highlight=False, soft_wrap=True)
        return
    write_report(
        out / REPORT, f"{out.name} – training", content, scores, stage.predict, source.held_out, stage.inputs,
        how, _facts(recipe), "mlesam train", EVALUATION, training_curves(out), _cards(recipe, source),
    )  # fmt: skip


def _facts(recipe: Recipe) -> dict[str, Any]:
    """Keys of the recipe for the report, the nested ones dotted."""
    flat: dict[str, Any] = {}
    for key, value in recipe_dict(recipe).items():
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _cards(recipe: Recipe, source: DataSplits) -> list[tuple[str, str, str]]:
    samples = f"{len(source.train)} + {len(source.held_out)}"
    return [(samples, "samples", "training + held out"), (str(recipe.steps), "steps", f"of {recipe.batch} samples")]


def _how(recipe: Recipe, source: DataSplits) -> EvalConfig:
    return EvalConfig(evaluation_batch(recipe, source), recipe.precision, pick_device(recipe.device), source.fit)


def _write_weights(
    out: Path, stage: PretrainStage | ExpertStage, scores: Mapping[Subset, Score], source: DataSplits
) -> None:
    save_checkpoint(out / EXPERTS, stage.model, headline(scores, source.description))
    if trainable_parameters(stage.model.backbone):
        save_backbone(out / _backbone_file(stage.model.config), stage.model.backbone)


def _backbone_file(config: MLESAMConfig) -> str:
    return f"{config.backbone}.safetensors"


def _remove_validations(out: Path, config: MLESAMConfig) -> None:
    """Remove the validations of an earlier run and their weights; other files in the folder of the best ones stay."""
    for path in (out / VALIDATION, out / BEST / EXPERTS, out / BEST / _backbone_file(config)):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty, or missing
        (out / BEST).rmdir()


class Validation:
    """Evaluates a model during training on the held-out rows, logs the scores, and keeps the best weights.

    The best weights have the highest mIoU, as a mean over the subsets, of those before the last step. The folder `best`
    has the same files as that of the run, without temperatures. Their score is biased, since it chose them.
    """

    def __init__(self, recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits, out: Path) -> None:
        """Set model, rows, and the folder of `validation.jsonl` and `best`."""
        self._recipe, self._stage, self._source, self._out = recipe, stage, source, out

    def __call__(self, step: int) -> None:
        """Evaluate after a number of steps. Entries of steps that a resumed run repeats are replaced."""
        stage, source, path = self._stage, self._source, self._out / VALIDATION
        scores = evaluate(stage.predict, source.held_out, stage.inputs, stage.subsets, _how(self._recipe, source))
        if not is_first():
            return
        found = headline(scores, source.description)
        entry = {"step": step, "miou": found["miou"], "mean_of_subsets": found["miou_mean_over_subsets"]}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        before = [each for each in map(json.loads, lines) if each["step"] < step]
        atomic_write(path, "".join(json.dumps(each) + "\n" for each in (*before, entry)))
        if all(each["mean_of_subsets"] < entry["mean_of_subsets"] for each in before):
            _write_weights(self._out / BEST, stage, scores, source)


ABLATION_ROWS: dict[str, dict[str, Any]] = {
    "average": {"features": "average", "auxiliary": False},
    "routed": {"features": "routed", "auxiliary": False},
    "both": {"features": "both", "auxiliary": False},
    "both_and_auxiliary": {"features": "both", "auxiliary": True},
}
"""Name → changed keys of the recipe's model."""
ABLATION = "ablation.json"


def ablate(recipe: Recipe, out: str | Path, resume: bool = True) -> Path:
    """Train and evaluate the four rows of the ablation, each in its own folder. Finished training is not repeated.

    Args:
        recipe: recipe of stage `experts`.
        out: folder of the four runs and of `ablation.json`.
        resume: continue interrupted rows.

    Returns:
        Path of `ablation.json`.

    Raises:
        ConfigError: the recipe is of another stage.
        MlesamError: see `train`.
    """
    if recipe.stage != "experts":
        raise ConfigError(
            f"stage is {recipe.stage}; an ablation compares fusions, which stage experts trains.",
            "Give a recipe of stage experts.",
        )
    with processes(pick_device(recipe.device)):
        models = {name: {**recipe.model, **change} for name, change in ABLATION_ROWS.items()}
        results = {
            name: train(replace(recipe, model=model), Path(out) / name, resume) for name, model in models.items()
        }
    path, rows = Path(out) / ABLATION, [_row(name, result) for name, result in results.items()]
    if is_first():
        atomic_write(path, json.dumps({"steps": recipe.steps, "epochs": recipe.epochs, "rows": rows}, indent=1))
        Console(stderr=True).print(_table(rows))
    return path


def _row(name: str, result: Result) -> dict[str, Any]:
    full = next(iter(result.scores.values()))
    kinds = full.conditions.values()
    return {
        "name": name,
        "model": ABLATION_ROWS[name],
        "miou": _percent(full.whole.miou_present),
        "conditions": {condition: _percent(part.miou_present) for parts in kinds for condition, part in parts.items()},
        "mean_of_subsets": _percent(sum(s.whole.miou_present for s in result.scores.values()) / len(result.scores)),
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Terminal table without the conditions, which are in `ablation.json` only."""
    made = Table(title="ablation, mIoU", title_justify="left")
    for heading in ("features", "all sensors", "mean of all subsets"):
        made.add_column(heading, justify="left" if heading == "features" else "right")
    for row in rows:
        values = (row["miou"], row["mean_of_subsets"])
        made.add_row(row["name"].replace("_", " "), *(f"{value:.1f}" for value in values))
    return made


def _percent(value: float) -> float:
    return round(100 * value, 2)
