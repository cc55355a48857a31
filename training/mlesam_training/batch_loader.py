# SPDX-License-Identifier: Apache-2.0
"""Batch loading in background threads, with a seeded generator per sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mlesam_ros.errors import ConfigError
from mlesam_ros.types import Modality
from mlesam_training.distributed import local_slice, world_size
from mlesam_training.labeled_dataset import LabeledDataset
from mlesam_training.recipe import Recipe

_MAX_SEEDS_PER_STEP = 65_537  # largest batch, plus one for the step itself


def sample_generator(seed: int, step: int, position: int | None = None) -> torch.Generator:
    """Create the generator of a step or, with `place`, of one sample of its batch."""
    number = (seed * 1_000_003 + step) * _MAX_SEEDS_PER_STEP + (0 if position is None else 1 + position)
    return torch.Generator().manual_seed(number % 2**63)


class SeededDropout2d(TorchFunctionMode):
    """Context in which `F.dropout2d` draws the channels of each sample from the generator of that sample."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """Set one generator per sample of the batch."""
        super().__init__()
        self._generators = generators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace `F.dropout2d`."""
        if func is F.dropout2d:
            return self._drop(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _drop(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return x
        keep = torch.stack([torch.rand(x.shape[1], generator=each) >= p for each in self._generators])
        return x * (keep.to(x) / (1 - p))[:, :, None, None]


Images = dict[str, Tensor]
AugmentBatch = Callable[[Images, Tensor, torch.Generator, float], tuple[Images, Tensor]]
"""Takes (B, 3, H, W) images by modality, (B, H, W) labels, the generator of a sample and a random number in [0, 1) that
all samples of a step share; returns augmented ones of a size that may depend on this number only."""
ModalityPlan = Callable[[torch.Generator, Sequence[torch.Generator]], Sequence[tuple[Modality, ...]]]
"""Takes the generators of a step and of each of its samples; returns the modalities of each sample."""


@dataclass(frozen=True)
class Batch:
    """The samples of one forward pass: a whole step or one accumulated part of it.

    Attributes:
        step: number of the step.
        rows: rows of the data set.
        samples: per row, modality → (3, H, W) float32.
        labels: (B, h, w) uint8, every n-th row and column of the image pixels, n being the recipe's `label_stride`.
        generators: one per sample, for the dropout of the model.
        first: row and column of the first label, drawn per step, so that all pixels are used over time without a
            constant offset.
    """

    step: int
    rows: tuple[int, ...]
    samples: tuple[Images, ...]
    labels: Tensor
    generators: tuple[torch.Generator, ...]
    first: tuple[int, int] = (0, 0)

    def stacked(self) -> Images:
        """Modality → (B, 3, H, W). Requires the same modalities in all samples."""
        return {name: torch.stack([sample[name] for sample in self.samples]) for name in self.samples[0]}


class BatchLoader:
    """Loads the share of this process in every batch."""

    def __init__(
        self, recipe: Recipe, dataset: LabeledDataset, augment: AugmentBatch, plan: ModalityPlan, device: torch.device
    ) -> None:
        """Set the data set, augmentation and modality plan.

        Raises:
            ConfigError: a part of the batch has fewer samples than there are processes, or the data set has fewer rows
                than the batch.
        """
        self._recipe, self._dataset, self._augment, self._plan, self._device = recipe, dataset, augment, plan, device
        part = recipe.batch // recipe.accumulate
        if part < world_size():
            raise ConfigError(
                f"batch {recipe.batch} in {recipe.accumulate} parts has {part} samples per part for {world_size()} "
                "processes; every process needs at least one."
            )
        if len(dataset) < recipe.batch:
            raise ConfigError(f"batch is {recipe.batch}, but the data set has {len(dataset)} samples.", "Reduce batch.")

    def steps(self, first: int) -> Iterator[list[Batch]]:
        """Yield the batches of every step from `first` to the last, loaded by `recipe.workers` threads if any."""
        numbers = range(first, self._recipe.steps)
        if not self._recipe.workers:
            yield from map(self.step, numbers)
            return
        with ThreadPoolExecutor(self._recipe.workers) as pool:
            waiting: deque[Future[list[Batch]]] = deque()
            try:
                for number in numbers:
                    waiting.append(pool.submit(self.step, number))
                    if len(waiting) > self._recipe.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def step(self, step: int) -> list[Batch]:
        """Load the parts of the batch of one step."""
        recipe = self._recipe
        rows = epoch_rows(recipe.seed, len(self._dataset), recipe.batch, step)
        generators = [sample_generator(recipe.seed, step, position) for position in range(recipe.batch)]
        plan = self._plan(sample_generator(recipe.seed, step), generators)
        size = recipe.batch // recipe.accumulate
        return [
            self._batch(step, rows, plan, generators, [first + position for position in local_slice(size)])
            for first in range(0, recipe.batch, size)
        ]

    def _batch(
        self, step: int, rows: Sequence[int], plan: Sequence[tuple[Modality, ...]],
        generators: Sequence[torch.Generator], positions: Sequence[int],
    ) -> Batch:  # fmt: skip
        found: dict[int, tuple[Images, Tensor]] = {}
        common = sample_generator(self._recipe.seed + 2, step)
        first = torch.randint(self._recipe.label_stride, (2,), generator=common).tolist()
        shared = float(torch.rand((), generator=common))
        for names in dict.fromkeys(plan[position] for position in positions):
            alike = [p for p in positions if plan[p] == names]  # one read, so that files decode in parallel
            read = self._dataset.samples([rows[position] for position in alike], names)
            for position, (images, labels) in zip(alike, read, strict=True):
                augmented, ground_truth = self._augment(images, labels, generators[position], shared)
                found[position] = {name: image[0] for name, image in augmented.items()}, ground_truth[0]
        stride, labels = self._recipe.label_stride, torch.stack([found[position][1] for position in positions])
        labels = labels[:, first[0] :: stride, first[1] :: stride]
        samples = tuple({name: self._upload(p) for name, p in found[position][0].items()} for position in positions)
        taken, drawn = tuple(rows[p] for p in positions), tuple(generators[p] for p in positions)
        return Batch(step, taken, samples, self._upload(labels), drawn, (first[0], first[1]))

    def _upload(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def epoch_rows(seed: int, count: int, batch: int, step: int) -> list[int]:
    """Rows of a step. Every epoch is one random permutation of all rows without its incomplete last batch."""
    epoch, position = divmod(step, count // batch)
    order = torch.randperm(count, generator=sample_generator(seed + 1, epoch))
    return order[position * batch : (position + 1) * batch].tolist()
