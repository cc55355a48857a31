"""The training loop.

Everything by chance in a step follows from the seed and the step's number, so that a run that was killed goes on
exactly as if it had not been.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from mlesam_ros.errors import MlesamError
from mlesam_ros.files import atomic_write
from mlesam_ros.frame import Modality
from mlesam_ros.training.attention import CpuAttention
from mlesam_ros.training.chance import SeededDropout2d
from mlesam_ros.training.datasets.frames import LabeledDataset
from mlesam_ros.training.distributed import all_reduce_gradients, all_reduce_sum, is_first, pick_device, rank
from mlesam_ros.training.feed import Augmentation, Batch, BatchLoader
from mlesam_ros.training.log import logging
from mlesam_ros.training.loss import Grid, batch_loss, pixel_losses, select
from mlesam_ros.training.recipe import Recipe, recipe_dict
from mlesam_ros.training.schedule import poly
from mlesam_ros.training.state import TrainState, packed, trained

STATE = "state.pt"
BAD_BATCH = "bad_batch.pt"


class Stage(Protocol):
    """What is trained: a model whose heads are compared with the labels.

    Attributes:
        weights: (C,) of the loss, None for equal ones.
    """

    weights: Tensor | None

    @property
    def origin(self) -> Mapping[str, str]:
        """What does not follow from the recipe and stays as it is: name → value or SHA-256."""

    @property
    def model(self) -> nn.Module:
        """What learns; parameters that need no gradient stay as they are."""

    def plan(self, step: torch.Generator, samples: Sequence[torch.Generator]) -> Sequence[tuple[Modality, ...]]:
        """The modalities that each sample of a step's batch shall hold."""

    def heads(self, batch: Batch) -> Sequence[Tensor]:
        """(B, C, h, w) logits of every head."""


def run(
    recipe: Recipe, stage: Stage, dataset: LabeledDataset, vary: Augmentation, out: Path, resume: bool = True
) -> None:
    """Train to the last step of the recipe.

    Args:
        recipe: how.
        stage: what; its model's parameters that require a gradient are changed in place.
        dataset: on what.
        vary: changes the samples by chance.
        out: folder of `state.pt`, `log.jsonl` and `tensorboard/`.
        resume: go on from `out/state.pt` where there is one.

    Raises:
        CheckpointError: the state belongs to another recipe, or is damaged, or cannot be written.
        ConfigError: the batch does not fit the processes, the data or the device.
        MlesamError: the loss or its gradient is not a number; the batch is in `out/bad_batch.pt`.
    """
    torch.set_num_threads(recipe.threads)
    device = pick_device(recipe.device)
    stage.model.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner, origin = TrainState(recipe, stage.model), run_origin(stage, dataset)
    first = learner.restore(out / STATE, origin) if resume else 0
    feed = BatchLoader(recipe, dataset, vary, stage.plan, device)
    saved = time.monotonic()
    with logging(out, first, recipe) as log:
        for step, batches in enumerate(feed.steps(first), first):
            rate = recipe.lr * poly(step, recipe.steps, recipe.warmup, recipe.power)
            loss, norm = train_step(recipe, stage, learner, batches, rate, out)
            log(step, loss, norm, rate)
            last = step + 1 == recipe.steps
            if is_first() and (last or time.monotonic() - saved > 60 * recipe.checkpoint_minutes):
                learner.save(out / STATE, step + 1, origin)
                saved = time.monotonic()
    learner.finish()


def run_origin(stage: Stage, dataset: LabeledDataset) -> dict[str, str]:
    """What a run begins with besides its recipe, by what files contain rather than where they lie: name → value."""
    encoding = {m: [dataset.encoders.get(m), dataset.statistics.get(m)] for m in dataset.modalities}
    return {
        "data set": dataset.fingerprint,
        "label space": f"{dataset.space.name} ({', '.join(dataset.space.names)})",
        "encoders": json.dumps(encoding),
        **stage.origin,
    }


def train_step(
    recipe: Recipe, stage: Stage, learner: TrainState, batches: Sequence[Batch], rate: float, out: Path
) -> tuple[float, float]:
    """One step; its loss and the norm of its gradient."""
    learner.optimizer.zero_grad(set_to_none=True)
    losses = _backward(recipe, stage, batches)
    parameters = list(trained(stage.model).values())
    all_reduce_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
    whole = all_reduce_sum(torch.stack(losses).sum())
    if not bool(torch.isfinite(whole) & torch.isfinite(norm)):
        _refuse(recipe, batches, losses, float(norm), out)
    learner.step(batches[0].step, rate)
    return float(whole), float(norm)


def _backward(recipe: Recipe, stage: Stage, batches: Sequence[Batch]) -> list[Tensor]:
    """Gradients of the loss of a batch that comes in parts; each part's share of that loss, which is their sum.

    Which pixels count, and what they weigh together, is decided over all parts, so that the gradients are those of the
    batch in one piece. Of all parts but the last that takes a pass without gradients before.
    """
    states = [[each.get_state() for each in batch.generators] for batch in batches]
    with torch.no_grad():
        before = [_pixel_losses(recipe, stage, batch) for batch in batches[:-1]]
    graph = _pixel_losses(recipe, stage, batches[-1])
    labels = [batch.labels for batch in batches]
    heads = zip(*before, [losses.detach() for losses in graph], strict=True)
    chosen = [select(losses, labels, stage.weights) for losses in heads]

    def backward(losses: Sequence[Tensor], batch: Batch) -> Tensor:
        loss = batch_loss(losses, batch.labels, stage.weights, chosen)
        loss.backward()
        return loss.detach()

    last = backward(graph, batches[-1])
    del graph
    shares = []
    for batch, state in zip(batches[:-1], states, strict=False):
        for each, begun in zip(batch.generators, state, strict=True):
            each.set_state(begun)
        shares.append(backward(_pixel_losses(recipe, stage, batch), batch))
    return [*shares, last]


def _pixel_losses(recipe: Recipe, stage: Stage, batch: Batch) -> list[Tensor]:
    with autocast(recipe.precision, batch.labels.device), SeededDropout2d(batch.generators):
        grid = Grid(next(iter(batch.samples[0].values())).shape[-2:], recipe.label_stride, batch.first)
        return [pixel_losses(logits, batch.labels, grid) for logits in stage.heads(batch)]


def _refuse(recipe: Recipe, batches: Sequence[Batch], losses: Sequence[Tensor], norm: float, out: Path) -> None:
    """Keep the batch that spoilt the loss, and stop."""
    path = out / (BAD_BATCH if is_first() else f"{rank()}_{BAD_BATCH}")
    worst = next((i for i, loss in enumerate(losses) if not torch.isfinite(loss)), 0)
    batch, loss = batches[worst], float(losses[worst])
    content = {
        "step": batch.step, "loss": loss, "gradient_norm": norm, "rows": list(batch.rows),
        "samples": [{name: p.cpu() for name, p in sample.items()} for sample in batch.samples],
        "labels": batch.labels.cpu(), "recipe": recipe_dict(recipe),
    }  # fmt: skip
    atomic_write(path, packed(content))
    raise MlesamError(
        f"the loss of step {batch.step} is {loss:g} and the norm of its gradient {norm:g}; its batch is in {path}, the "
        "last state is from before it.",
        "Lower lr or clip, or train in fp32.",
    )


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Autocast where `precision` is `bf16`, and on a CPU attention whose backward pass is fast."""
    with ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(CpuAttention())
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"))
        yield
