"""What a run of days on published data does once before its first step, so that it does not fail later."""

from __future__ import annotations

import torch
from rich.console import Console

from mlesam_ros.errors import ConfigError
from mlesam_ros.training.distributed import is_first, pick_device, world_size
from mlesam_ros.training.experts import ExpertStage
from mlesam_ros.training.loop import autocast
from mlesam_ros.training.memory import estimate_training_memory
from mlesam_ros.training.pretrain import PretrainStage
from mlesam_ros.training.recipe import Recipe
from mlesam_ros.training.source import DataSplits, verify_files

_GIB = 2**30


def preflight(recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits) -> None:
    """Say what the run will take, look at every file, vary a sample, evaluate a batch.

    Args:
        recipe: its length in steps.
        stage: its model is moved to the device.
        source: pictures of any size.

    Raises:
        ConfigError: the GPU has too little memory for a step.
        DatasetError, LabelError: see `source.verify_files`; or a row that cannot be read.
    """
    device = pick_device(recipe.device)
    needed = needed_bytes(recipe, stage, source)
    if is_first():
        Console(stderr=True, highlight=False).print(summary(recipe, source, needed), soft_wrap=True)
    if needed and device.type == "cuda":
        check_gpu_memory(needed, torch.cuda.get_device_properties(device).total_memory)
    verify_files(source, one_size=recipe.batch > recipe.accumulate)
    source.vary(*source.train.batch([0], stage.inputs), torch.Generator().manual_seed(recipe.seed))
    rows = range(min(recipe.batch // recipe.accumulate, len(source.held_out)))
    images, truth = source.held_out.batch(rows, stage.inputs)
    images = source.fit(images, truth)[0] if source.fit else images
    stage.model.eval().to(device)
    with torch.inference_mode(), autocast(recipe.precision, device):
        for _ in stage.predict({name: picture.to(device) for name, picture in images.items()}, rows):
            continue


def needed_bytes(recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits) -> int:
    """Memory of a step in one process; 0 where it is not known, which is in stage `pretrain`."""
    side = getattr(getattr(source.vary, "recipe", None), "crop", 0)
    if not side or not isinstance(stage, ExpertStage):
        return 0
    moments = -(-recipe.batch // recipe.accumulate // world_size())
    return estimate_training_memory(stage.model.config, side, moments, recipe.precision, recipe.checkpointing)


def summary(recipe: Recipe, source: DataSplits, needed: int) -> str:
    """Length and memory of a run, in words."""
    each = len(source.train) // recipe.batch
    length = (
        f"{len(source.train)} moments to train on, {each} steps of {recipe.batch} per epoch, {recipe.steps} steps; "
    )
    memory = f"; a step takes at least {needed / _GIB:.1f} GiB" if needed else ""
    return f"{length}{len(source.held_out)} moments to measure on ({source.words}){memory}"


def check_gpu_memory(needed: int, there: int) -> None:
    """Refuse a step for which the GPU is too small.

    Raises:
        ConfigError: with both sizes and the remedy.
    """
    if needed > there:
        raise ConfigError(
            f"a step takes at least {needed / _GIB:.1f} GiB and the GPU has {there / _GIB:.1f} GiB.",
            "Raise accumulate, which cuts the batch into parts, or set checkpointing to blocks.",
        )
