"""The training loop.

Everything by chance in a step follows from the seed and the step's number, so that a run that was killed goes on
exactly as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mlesam_ros.errors import MlesamError
from mlesam_ros.frame import Modality
from mlesam_ros.training.dataset import StreetDataset
from mlesam_ros.training.log import logging
from mlesam_ros.training.recipe import Recipe
from mlesam_ros.training.schedule import poly
from mlesam_ros.training.state import restore_state, save_state, trained
from mlesam_ros.training.transforms import Augment, Images

STATE = "state.pt"
LOG = "log.jsonl"


class Stage(Protocol):
    """What is trained: a model, and the loss of a batch."""

    @property
    def model(self) -> nn.Module:
        """What learns; parameters that need no gradient stay as they are."""

    def modalities(self, generator: torch.Generator) -> tuple[Modality, ...]:
        """The modalities that this step's batch shall hold."""

    def loss(self, images: Images, labels: Tensor, generator: torch.Generator) -> Tensor:
        """A scalar."""


def run(recipe: Recipe, stage: Stage, dataset: StreetDataset, augment: Augment, out: Path, resume: bool = True) -> None:
    """Train to the last step of the recipe.

    Args:
        recipe: how.
        stage: what; its model's parameters that require a gradient are changed in place.
        dataset: on what.
        augment: varies the batches.
        out: folder of `state.pt` and `log.jsonl`.
        resume: go on from `out/state.pt` where there is one.

    Raises:
        CheckpointError: the state belongs to another recipe, or is damaged.
        MlesamError: the loss is not a number.
    """
    torch.set_num_threads(recipe.threads)
    stage.model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(recipe, stage.model)
    first = restore_state(out / STATE, recipe, stage.model, optimiser) if resume else 0
    saved = time.monotonic()
    with logging(out / LOG, first, recipe) as log:
        for step in range(first, recipe.steps):
            generator = torch.Generator().manual_seed(_step_seed(recipe.seed, step))
            torch.manual_seed(_step_seed(recipe.seed, step))
            images, labels = dataset.batch(_rows(recipe, len(dataset), step), stage.modalities(generator))
            images, labels = augment(images, labels, generator)
            middle = slice(recipe.label_stride // 2, None, recipe.label_stride)
            labels = labels[:, middle, middle]

            rate = recipe.lr * poly(step, recipe.steps, recipe.warmup, recipe.power)
            for group in optimiser.param_groups:
                group["lr"] = rate
            with _fast(recipe.precision):
                loss = stage.loss(images, labels, generator)
            if not bool(torch.isfinite(loss)):
                raise MlesamError(f"the loss of step {step} is {loss.item()}; lower lr or clip, or train in fp32.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained(stage.model).values(), recipe.clip)
            optimiser.step()

            log(step, loss.item(), float(norm), rate)
            if time.monotonic() - saved > 60 * recipe.checkpoint_minutes or step + 1 == recipe.steps:
                save_state(out / STATE, recipe, stage.model, optimiser, step + 1)
                saved = time.monotonic()


def _optimiser(recipe: Recipe, model: nn.Module) -> torch.optim.AdamW:
    """AdamW without weight decay on biases and norms."""
    parameters = list(trained(model).values())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr)


@contextmanager
def _fast(precision: str) -> Iterator[None]:
    """Autocast where the recipe wants it; attention as plain products, whose backward pass is the faster on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        yield


def _step_seed(seed: int, step: int) -> int:
    return seed * 1_000_003 + step


def _rows(recipe: Recipe, count: int, step: int) -> list[int]:
    """The moments of a step: every epoch is one random order of all, its incomplete last batch left out."""
    per_epoch = max(1, count // recipe.batch)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_step_seed(recipe.seed + 1, epoch)))
    return order[place * recipe.batch : (place + 1) * recipe.batch].tolist()
