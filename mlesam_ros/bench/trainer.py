"""Training worker on random images: `python -m mlesam_ros.bench.trainer '{"threads": 1}'` prints its step durations."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlesam_ros.bench.memory import peak_bytes
from mlesam_ros.files import end_with_named_parent
from mlesam_ros.labels import load_label_space
from mlesam_ros.model.checkpoint import describe_checkpoint
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.resources import resource_path
from mlesam_training.batch_loader import Batch, sample_generator
from mlesam_training.distributed import local_slice as part
from mlesam_training.distributed import pick_device, processes, world_size
from mlesam_training.loss import batch_loss, pixel_losses
from mlesam_training.recipe import BLOCKS, NONE, Recipe, Split, StreetData
from mlesam_training.stages import ExpertStage
from mlesam_training.state import TrainState
from mlesam_training.trainer import checkpoint_blocks, train_step

_RATE, _CLIP, _DECAY = 1e-4, 1.0, 0.01
_STRIDE = 2
"""Stride in rows and columns of the label grid."""


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration of a training worker.

    Attributes:
        side: height and width of the images.
        moments: samples per step over all processes; each has an image of every modality.
        precision, checkpointing: as in a recipe.
        threads: CPU threads per process.
        steps: number of timed steps, after an untimed one.
        device: as in a recipe.
    """

    side: int = 256
    moments: int = 2
    precision: str = "bf16"
    checkpointing: str = NONE
    threads: int = 1
    steps: int = 4
    device: str = "auto"


class Trainer:
    """Trainer of stage `experts` with the shipped backbone, using the step of the training loop.

    Attributes:
        images: images per step over all processes.
    """

    def __init__(self, work: WorkerConfig) -> None:
        """Create the model and this process's part of a batch."""
        torch.manual_seed(0)
        self._recipe = _recipe(work)
        self._device = pick_device(work.device)
        self.config = MLESAMConfig.from_dict(describe_checkpoint(resource_path("weights/street.safetensors"))["config"])
        stage = ExpertStage(self.config, str(resource_path("weights/hiera_nano.safetensors")), 1.0, None)
        if work.checkpointing == BLOCKS:
            checkpoint_blocks(stage.model.backbone.blocks)
        stage.model.train().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._stage, self._learner = stage, TrainState(self._recipe, stage.model)
        self._batch = _batch(work, self.config.modalities, len(load_label_space("deliver")), self._device)
        self._number = 0
        self.images = work.moments * len(self.config.modalities)

    def step(self) -> None:
        """Run forward, backward, gradient reduction over the processes and the optimizer step."""
        train_step(self._recipe, self._stage, self._learner, [self._batch], _RATE, Path(tempfile.gettempdir()))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class PlainTrainer:
    """Baseline of the same step: float32, one modality after another, PyTorch's defaults."""

    def __init__(self, work: WorkerConfig) -> None:
        """Create the model and a batch."""
        torch.manual_seed(0)
        device = pick_device(work.device)
        config = MLESAMConfig.from_dict(describe_checkpoint(resource_path("weights/street.safetensors"))["config"])
        self._model = ExpertStage(config, str(resource_path("weights/hiera_nano.safetensors")), 1.0, None).model
        self._model.train().to(device)
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=_RATE, weight_decay=_DECAY)
        self._batch = _batch(work, config.modalities, len(load_label_space("deliver")), device)
        self._device = device

    def step(self) -> None:
        """Run forward, backward and the optimizer step."""
        self._optimizer.zero_grad()
        images = self._batch.stacked()
        pyramids = [self._encode(modality, images[modality]) for modality in images]
        pyramid = {level: torch.stack([each[level] for each in pyramids]) for level in pyramids[0]}
        fused, _ = self._model.fuse(pyramid)
        size = next(iter(images.values())).shape[-2:]
        heads = [
            F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[..., ::_STRIDE, ::_STRIDE]
            for logits in self._model.decode(fused)
            if logits is not None
        ]
        labels = self._batch.labels
        batch_loss([pixel_losses(logits, labels) for logits in heads], labels).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP)
        self._optimizer.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _encode(self, modality: str, images: Tensor) -> dict[str, Tensor]:
        with self._model.experts.active((modality,)):
            return self._model.encode(images)


def _recipe(work: WorkerConfig) -> Recipe:
    """Recipe whose data section is unused."""
    data = StreetData(folder="", train=Split(0, 1, 1), held_out=Split(1, 1, 1))
    return Recipe(
        stage="experts", data=data, model={}, backbone="hiera_nano.safetensors", steps=1, batch=work.moments,
        lr=_RATE, clip=_CLIP, weight_decay=_DECAY, precision=work.precision, checkpointing=work.checkpointing,
        label_stride=_STRIDE,
    )  # fmt: skip


def _batch(work: WorkerConfig, modalities: tuple[str, ...], classes: int, device: torch.device) -> Batch:
    """This process's part of a batch: noise images, and random labels with a stride of `_STRIDE`."""
    mine = part(work.moments)
    rows = len(range(0, work.side, _STRIDE))
    samples = tuple({m: torch.randn(3, work.side, work.side).to(device) for m in modalities} for _ in mine)
    labels = torch.randint(0, classes, (len(mine), rows, rows), dtype=torch.uint8).to(device)
    return Batch(0, tuple(mine), samples, labels, tuple(sample_generator(0, 0, place) for place in mine))


def main() -> None:
    """Run the steps of the `WorkerConfig` given as JSON; the first process prints seconds per step and peak bytes."""
    work = WorkerConfig(**json.loads(sys.argv[1]))
    torch.set_num_threads(work.threads)
    with processes(pick_device(work.device)):
        trainer = Trainer(work)
        seconds: list[float] = []

        def steps() -> None:
            for _ in range(1 + work.steps):
                start = time.perf_counter()
                trainer.step()
                seconds.append(time.perf_counter() - start)

        found: dict[str, Any] = {
            "bytes": peak_bytes(steps),
            "seconds": seconds[1:],
            "processes": world_size(),
            **asdict(work),
        }
        if part(2).start == 0:
            print(json.dumps(found))


if __name__ == "__main__":
    end_with_named_parent()
    main()
