# SPDX-License-Identifier: Apache-2.0
"""Benchmark of a training step on random images, with its precision and activation checkpointing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from mlesam_ros.bench.measurement import BenchmarkResult, Work, interleaved, row
from mlesam_ros.bench.model_benchmark import synchronize
from mlesam_ros.labels import load_label_space
from mlesam_ros.model.checkpoint import describe_checkpoint
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.resources import resource_path
from mlesam_ros.types import AUTO
from mlesam_training.batch_loader import Batch, sample_generator
from mlesam_training.distributed import local_slice, pick_device
from mlesam_training.recipe import BLOCKS, NONE, Recipe, Split, StreetData
from mlesam_training.stages import ExpertStage
from mlesam_training.state import TrainState
from mlesam_training.trainer import checkpoint_blocks, train_step

LABEL_STRIDE = 2
LEARNING_RATE, GRADIENT_CLIP, WEIGHT_DECAY = 1e-4, 1.0, 0.01


class TrainingStep:
    """Stage `experts` with the shipped backbone, and this process's part of a batch of noise."""

    def __init__(
        self, precision: str = "bf16", checkpointing: str = NONE, side: int = 256, samples: int = 2, device: str = AUTO
    ) -> None:
        """Create the model and `samples` per step over all processes, with an image of every modality each."""
        torch.manual_seed(0)
        self.device = pick_device(device)
        network = MLESAMConfig.from_dict(describe_checkpoint(resource_path("weights/street.safetensors"))["config"])
        self.stage = ExpertStage(network, str(resource_path("weights/hiera_nano.safetensors")), 1.0, None)
        if checkpointing == BLOCKS:
            checkpoint_blocks(self.stage.model.backbone.blocks)
        self.stage.model.train().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._recipe = Recipe(
            stage="experts", data=StreetData(folder="", train=Split(0, 1, 1), held_out=Split(1, 1, 1)), model={},
            backbone="hiera_nano.safetensors", steps=1, batch=samples, lr=LEARNING_RATE, clip=GRADIENT_CLIP,
            weight_decay=WEIGHT_DECAY, precision=precision, checkpointing=checkpointing, label_stride=LABEL_STRIDE,
        )  # fmt: skip
        self._state = TrainState(self._recipe, self.stage.model)
        mine, rows = local_slice(samples), len(range(0, side, LABEL_STRIDE))
        noise = tuple({m: torch.randn(3, side, side).to(self.device) for m in network.modalities} for _ in mine)
        labels = torch.randint(0, len(load_label_space("deliver")), (len(mine), rows, rows), dtype=torch.uint8)
        generators = tuple(sample_generator(0, 0, place) for place in mine)
        self.batch = Batch(0, tuple(mine), noise, labels.to(self.device), generators)
        self.images = samples * len(network.modalities)

    def __call__(self) -> None:
        """Run forward, backward, gradient reduction over the processes and the optimizer step."""
        folder = Path(tempfile.gettempdir())
        train_step(self._recipe, self.stage, self._state, [self.batch], LEARNING_RATE, folder)
        synchronize(self.device.type)


def run(repeats: int, *alternative: tuple[str, Work], side: int = 256) -> list[BenchmarkResult]:
    """Measure images per second of the step on one thread in bf16, in fp32 and with activation checkpointing.

    Args:
        repeats: twelve times the number of timed steps of each kind; at least two steps are timed.
        alternative: name and step of another trainer, if any.
        side: height and width of the images.
    """
    torch.set_num_threads(1)
    steps = {
        "bf16": TrainingStep(side=side),
        "fp32": TrainingStep("fp32", side=side),
        "bf16, checkpointing of blocks": TrainingStep(checkpointing=BLOCKS, side=side),
    }
    images = steps["bf16"].images
    where = f"hiera_nano, {images} images of {side}x{side}, 1 thread"
    timings = interleaved([*steps.values(), *(step for _, step in alternative)], max(repeats // 12, 2))
    other = (alternative[0][0], timings[-1]) if alternative else None
    return [
        row(f"step, {name}; {where}", "images/s", timing, other, items=images)
        for name, timing in zip(steps, timings, strict=False)
    ]
