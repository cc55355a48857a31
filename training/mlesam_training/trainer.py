# SPDX-License-Identifier: Apache-2.0
"""The training loop: learning rate schedule, log, optimizer steps, activation checkpointing and checkpoints on disk."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from mlesam_ros.errors import MlesamError
from mlesam_ros.extras import require_extra
from mlesam_ros.files import atomic_write, write_error
from mlesam_ros.model.lora import LoRALinear
from mlesam_ros.progress import ProgressCallback, track
from mlesam_ros.types import Modality
from mlesam_training.batch_loader import AugmentBatch, Batch, BatchLoader, SeededDropout2d
from mlesam_training.distributed import all_reduce_gradients, all_reduce_sum, is_first, pick_device, rank
from mlesam_training.labeled_dataset import LabeledDataset
from mlesam_training.loss import Grid, batch_loss, pixel_losses, select
from mlesam_training.recipe import Recipe, recipe_dict
from mlesam_training.state import TrainState, serialize, trainable_parameters


def poly(step: int, steps: int, warmup: int, power: float = 0.9, start: float = 0.1) -> float:
    """Factor on the base learning rate: linear warm-up, then polynomial decay to nearly zero.

    Args:
        step: 0 … steps - 1.
        steps: length of the run, including warm-up.
        warmup: steps over which the factor grows from `start` to 1.
        power: exponent of the decay (1 - progress) ** power.
        start: factor of step 0, if there is a warm-up.

    Returns:
        A factor in (0, 1].
    """
    if step < warmup:
        return start + (1 - start) * step / warmup
    return float((1 - (step - warmup) / max(1, steps - warmup)) ** power)


Log = Callable[[int, float, float, float], None]
"""Takes (step, loss, gradient norm, learning rate) after every step."""
LOG = "log.jsonl"
_TIMED = 4
"""Steps after the first, which is slower, from which the time of the run is estimated."""
TENSORBOARD = "tensorboard"


def check_tensorboard(recipe: Recipe) -> None:
    """Check that the optional package `tensorboard` is installed if the recipe asks for it.

    Raises:
        PackageError: it is not installed.
    """
    if recipe.tensorboard:
        require_extra("tensorboard", "tensorboard: true in the recipe")


@contextmanager
def training_log(out: Path, first: int, recipe: Recipe, seconds: float = 0.0) -> Iterator[Log]:
    """Show a progress bar and log every `recipe.log_every` steps. Only the first process logs.

    Args:
        out: folder of `log.jsonl` and, with `recipe.tensorboard`, of `tensorboard/`. Entries of steps that a resumed
            run repeats are dropped.
        first: first step of the run.
        recipe: recipe of the run.
        seconds: that validations and evaluation will take, about; for the estimate after `_TIMED` steps.

    Raises:
        FileError: the disk is full.
    """
    if not is_first():
        yield lambda *_: None
        return
    try:
        with track(recipe.stage, recipe.steps, "steps", lines=False) as show, _scalars(out, first, recipe) as scalars:
            yield _Writer(out, first, recipe, show, scalars, seconds)
    except OSError as error:
        raise write_error(out / LOG, error, 0) from error


@contextmanager
def _scalars(out: Path, first: int, recipe: Recipe) -> Iterator[Any]:
    """Context with a TensorBoard `SummaryWriter`; None unless the recipe asks for one."""
    if not recipe.tensorboard:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # an optional package

    with SummaryWriter(str(out / TENSORBOARD), purge_step=first) as writer:
        yield writer


class _Writer:
    """Writes the mean loss since the last log entry."""

    def __init__(
        self, out: Path, first: int, recipe: Recipe, show: ProgressCallback, scalars: Any, seconds: float
    ) -> None:
        self._recipe, self._first, self._show, self._seconds = recipe, first, show, seconds
        self._path = out / LOG
        _drop_entries_from(self._path, first)
        self._scalars = scalars
        self._begun = self._warm = self._since = time.monotonic()
        self._losses: list[float] = []

    def __call__(self, step: int, loss: float, norm: float, rate: float) -> None:
        recipe, now = self._recipe, time.monotonic()
        self._losses.append(loss)
        if step == self._first:
            self._warm = now
        if step == self._first + _TIMED:
            self._estimate(now)
        speed = recipe.batch * len(self._losses) / max(now - self._since, 1e-9)
        note = f"loss {loss:.3f}  lr {rate:.1e}  {speed:.1f} samples/s"
        self._show(step + 1, recipe.steps, note)
        if (step + 1) % recipe.log_every and step + 1 != recipe.steps:
            return
        mean = sum(self._losses) / len(self._losses)
        entry = {"step": step, "loss": mean, "gradient_norm": norm, "lr": rate, "moments_per_s": speed}
        if self._scalars is not None:
            for tag in ("loss", "gradient_norm", "lr", "moments_per_s"):
                self._scalars.add_scalar(tag, entry[tag], step)
            self._scalars.flush()
        entry["elapsed_s"] = now - self._begun
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 7) for k, v in entry.items()}) + "\n")
        if not sys.stderr.isatty():
            left = (now - self._begun) / (step + 1 - self._first) * (recipe.steps - step - 1) / 60
            line = f"{recipe.stage} {step + 1}/{recipe.steps}: {note}, {left:.1f} min left"
            print(line, file=sys.stderr, flush=True)  # standard output is for results
        self._losses, self._since = [], now

    def _estimate(self, now: float) -> None:
        each, steps = (now - self._warm) / _TIMED, self._recipe.steps - self._first
        minutes = (each * steps + self._seconds) / 60
        line = f"about {minutes:.1f} min: {steps} steps of {each:.2f} s, {self._seconds / 60:.1f} min of evaluation"
        print(line, file=sys.stderr, flush=True)


def _drop_entries_from(path: Path, first: int) -> None:
    """Drop truncated lines and the lines of steps from `first`, which are repeated."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] < first:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


STATE = "state.pt"
BAD_BATCH = "bad_batch.pt"


class Stage(Protocol):
    """Interface of a training stage: a model, its inputs and its heads.

    Attributes:
        weights: (C,) class weights of the loss; None for equal weights.
    """

    weights: Tensor | None

    @property
    def origin(self) -> Mapping[str, str]:
        """Fixed inputs outside the recipe: name → value or SHA-256."""

    @property
    def model(self) -> nn.Module:
        """Model to train; parameters without `requires_grad` are frozen."""

    def plan(self, step: torch.Generator, samples: Sequence[torch.Generator]) -> Sequence[tuple[Modality, ...]]:
        """Choose the modalities of each sample of a batch."""

    def heads(self, batch: Batch) -> Sequence[Tensor]:
        """(B, C, h, w) logits of every head."""

    def distillation_loss(self, batch: Batch) -> Tensor | None:
        """Loss besides that of the labels, a mean over the samples; None for none."""


def run(
    recipe: Recipe, stage: Stage, dataset: LabeledDataset, augment: AugmentBatch, out: Path, resume: bool = True,
    validate: Callable[[int], None] | None = None, seconds: float = 0.0,
) -> None:  # fmt: skip
    """Train to the last step of the recipe.

    Args:
        recipe: recipe of the run.
        stage: stage to train; the trainable parameters of its model are changed in place.
        dataset: training rows.
        augment: augmentation.
        out: folder of `state.pt`, `log.jsonl` and `tensorboard/`, see `training_log`.
        resume: continue from `out/state.pt` if it exists.
        validate: called after every `recipe.validate_every` steps with their number, while the model has its average
            weights; None for no validation.
        seconds: that validations and evaluation will take, about.

    Raises:
        CheckpointError: the state belongs to another recipe or is damaged.
        ConfigError: the batch does not fit the processes or the data, or the device is not available.
        FileError: the state or the log cannot be written.
        MlesamError: the loss or its gradient norm is not finite; the batch is saved in `out/bad_batch.pt`.
    """
    torch.set_num_threads(recipe.threads)
    device = pick_device(recipe.device)
    stage.model.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state, origin = TrainState(recipe, stage.model), run_origin(stage, dataset)
    first = state.restore(out / STATE, origin) if resume else 0
    loader = BatchLoader(recipe, dataset, augment, stage.plan, device)
    saved = time.monotonic()
    with training_log(out, first, recipe, seconds) as log:
        for step, batches in enumerate(loader.steps(first), first):
            rate = recipe.lr * poly(step, recipe.steps, recipe.warmup, recipe.power)
            loss, norm = train_step(recipe, stage, state, batches, rate, out)
            log(step, loss, norm, rate)
            last = step + 1 == recipe.steps
            if validate and recipe.validate_every and not (step + 1) % recipe.validate_every and not last:
                with state.averaged():
                    validate(step + 1)
            if is_first() and (last or time.monotonic() - saved > 60 * recipe.checkpoint_minutes):
                state.save(out / STATE, step + 1, origin)
                saved = time.monotonic()
    state.finish()


def run_origin(stage: Stage, dataset: LabeledDataset) -> dict[str, str]:
    """Inputs of a run besides its recipe, identified by file content instead of path: name → value."""
    encoding = {m: [dataset.preprocessors.get(m), dataset.normalization.get(m)] for m in dataset.modalities}
    return {
        "data set": dataset.fingerprint,
        "label space": f"{dataset.space.name} ({', '.join(dataset.space.names)})",
        "preprocessors": json.dumps(encoding),
        **stage.origin,
    }


def train_step(
    recipe: Recipe, stage: Stage, state: TrainState, batches: Sequence[Batch], rate: float, out: Path
) -> tuple[float, float]:
    """Run one optimizer step.

    Returns:
        The loss, and the gradient norm before clipping.

    Raises:
        MlesamError: one of them is not finite.
    """
    stage.model.zero_grad(set_to_none=True)
    losses = _backward(recipe, stage, batches)
    parameters = list(trainable_parameters(stage.model).values())
    all_reduce_gradients(parameters)
    norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
    whole = all_reduce_sum(torch.stack(losses).sum())
    if not bool(torch.isfinite(whole) & torch.isfinite(norm)):
        _raise_nonfinite(recipe, batches, losses, float(norm), out)
    state.step(batches[0].step, rate)
    return float(whole), float(norm)


def _backward(recipe: Recipe, stage: Stage, batches: Sequence[Batch]) -> list[Tensor]:
    """Accumulate gradients over the parts of a batch.

    Pixels and total weight are selected over all parts, so that the gradients equal those of an undivided batch. All
    parts but the last therefore need an additional forward pass without gradients.

    Returns:
        Share of each part in the loss; their sum is the loss of the batch.
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
        with autocast(recipe.precision, loss.device), SeededDropout2d(batch.generators):
            extra = stage.distillation_loss(batch)
        if extra is None:
            return loss.detach()
        extra = extra * recipe.distillation_weight * len(batch.rows) / recipe.batch
        extra.backward()
        return (loss + extra).detach()

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


def _raise_nonfinite(
    recipe: Recipe, batches: Sequence[Batch], losses: Sequence[Tensor], norm: float, out: Path
) -> None:
    """Save the batch with the non-finite loss and raise `MlesamError`."""
    path = out / (BAD_BATCH if is_first() else f"{rank()}_{BAD_BATCH}")
    worst = next((i for i, loss in enumerate(losses) if not torch.isfinite(loss)), 0)
    batch, loss = batches[worst], float(losses[worst])
    content = {
        "step": batch.step, "loss": loss, "gradient_norm": norm, "rows": list(batch.rows),
        "samples": [{name: p.cpu() for name, p in sample.items()} for sample in batch.samples],
        "labels": batch.labels.cpu(), "recipe": recipe_dict(recipe),
    }  # fmt: skip
    atomic_write(path, serialize(content))
    raise MlesamError(
        f"the loss of step {batch.step} is {loss:g} and the norm of its gradient {norm:g}; its batch is saved in "
        f"{path}, and the last state precedes it.",
        "Lower lr or clip, or train in fp32.",
    )


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Enable autocast if `precision` is `bf16`, and on a CPU `CpuAttention`, which has a faster backward pass."""
    with ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(CpuAttention())
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"))
        yield


class CpuAttention(TorchFunctionMode):
    """Context in which `F.scaled_dot_product_attention` without dropout computes softmax(q kᵀ / √d + mask) v."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace this function; call all others unchanged."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and set(kwargs) <= {"attn_mask"}:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def _attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Attention of (..., L, d), (..., S, d) and (..., S, e), with result (..., L, e) and float mask (..., L, S)."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    scores = scores if attn_mask is None else scores + attn_mask
    with torch.autocast("cpu", enabled=False):  # autocast would output float32; the kernel accumulates in float32
        shares = scores.softmax(-1)
    return shares @ value


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Enable activation checkpointing of backbone blocks while gradients are enabled; inference is unchanged.

    Args:
        blocks: blocks of Hiera or ViT, with or without experts; changed in place.
    """
    for block in blocks:
        layers = [layer for layer in block.modules() if isinstance(layer, LoRALinear)]
        block.forward = _Block(block.forward, layers)


class _Block:
    """Checkpointed forward pass of a block."""

    def __init__(self, forward: Callable[[Tensor], Tensor], layers: list[LoRALinear]) -> None:
        self._forward = forward
        self._layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self._forward(x)
        both = _attention(x), self._as_now(x)
        result: Tensor = checkpoint(self._forward, x, use_reentrant=False, context_fn=lambda: both)
        return result

    def _as_now(self, x: Tensor) -> AbstractContextManager[None]:
        """Context that restores the active experts and the attention mode for recomputation in the backward pass."""
        active = [(layer, layer.a, layer.b) for layer in self._layers]

        @contextmanager
        def restored() -> Iterator[None]:
            with ExitStack() as stack:
                stack.enter_context(_attention(x))
                for layer, a, b in active:
                    stack.callback(_set, layer, layer.a, layer.b)
                    _set(layer, a, b)
                yield

        return restored()


def _attention(x: Tensor) -> AbstractContextManager[Any]:
    """Attention mode by device, identical in the forward pass and the recomputation."""
    return CpuAttention() if x.device.type == "cpu" else nullcontext()


def _set(layer: LoRALinear, a: Any, b: Any) -> None:
    layer.a, layer.b = a, b
