# SPDX-License-Identifier: Apache-2.0
"""Checks before the first step: memory estimate, data files, augmentation of a sample, evaluation of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.mlesam import MLESAM, Features
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_training.data_config import DataSplits, verify_files
from mlesam_training.dataset_evaluation import most_likely
from mlesam_training.distributed import is_first, pick_device, world_size
from mlesam_training.recipe import BLOCKS, NONE, Recipe
from mlesam_training.stages import ExpertStage, PretrainStage
from mlesam_training.trainer import autocast

_WEIGHT, _TRAINED = 4, 16
"""Bytes per frozen parameter, and per trained parameter with its gradient and the two moments of AdamW."""


def estimate_training_memory(
    config: MLESAMConfig, side: int, samples: int, precision: str, checkpointing: str = NONE
) -> int:
    """Estimate the memory of one step of stage `experts` in bytes.

    Args:
        config: model configuration.
        side: height and width in pixels of the network input.
        samples: samples in memory at a time.
        precision: `fp32` or `bf16`.
        checkpointing: as in the recipe; of recomputed blocks only the largest counts in full.
    """
    with torch.device("meta"):
        model = MLESAM(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # autocast supports the device cpu, not meta
        kept = {p.untyped_storage()._cdata: p.numel() * _cost(p) for p in (*model.parameters(), *model.buffers())}
        count = len(config.modalities)
        batch = torch.zeros(count * samples, 3, side, side)
        labels = torch.zeros(samples, side, side, dtype=torch.long)

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept.setdefault(storage._cdata, storage.nbytes())
            return tensor

        largest = _Largest(kept, keep)
        if checkpointing == BLOCKS:
            for block in model.backbone.blocks:
                block.forward = partial(largest.run, block.forward)
        with saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                with model.experts.active(config.modalities):
                    pyramid = {level: p.unflatten(0, (count, -1)) for level, p in model.encode(batch).items()}
                output = model.decode_heads(Features(config.modalities, pyramid))
            graph = [_loss(logits, labels) for logits in (output.logits, output.aux_logits) if logits is not None]
        del graph  # alive until here, so that no two saved tensors share an address
    return sum(kept.values()) + largest.bytes


class _Largest:
    """Bytes of saved tensors of the largest checkpointed block, without its input."""

    def __init__(self, kept: Mapping[int, int], keep: Callable[[Tensor], Tensor]) -> None:
        self.bytes = 0
        self._kept, self._keep, self._graphs = kept, keep, []  # type: ignore[var-annotated]

    def run(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run a block. Its input is kept."""
        inside: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._kept:
                inside[storage._cdata] = storage.nbytes()
            return tensor

        self._keep(x)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            result = forward(x)
        self.bytes = max(self.bytes, sum(inside.values()))
        self._graphs.append(result)  # alive, so that no two tensors share an address
        return result


def _cost(parameter: Tensor) -> int:
    return _TRAINED if parameter.requires_grad else _WEIGHT


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    large = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(large, labels)


class _Fused(torch.autograd.Function):
    """Saves the tensors of a fused attention kernel: inputs and output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out


class _FusedAttention(TorchFunctionMode):
    """Replaces attention by `_Fused`, without the attention matrix of the CPU kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Fused.apply(*args[:3])
        return func(*args, **(kwargs or {}))


_GIB = 2**30


def preflight(recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits) -> None:
    """Print length and memory of the run, check every file, and augment a sample.

    Args:
        recipe: recipe with its length in steps.
        stage: stage to check; its model is moved to the device.
        source: splits of a data set in files.

    Raises:
        ConfigError: the GPU has too little memory for a step.
        DatasetError, LabelError: see `data_config.verify_files`; or a row cannot be read.
    """
    device = pick_device(recipe.device)
    needed = needed_bytes(recipe, stage, source)
    if is_first():
        Console(stderr=True, highlight=False).print(summary(recipe, source, needed), soft_wrap=True)
    if needed and device.type == "cuda":
        check_gpu_memory(needed, torch.cuda.get_device_properties(device).total_memory)
    verify_files(source)
    source.augment(*source.train.batch([0], stage.inputs), torch.Generator().manual_seed(recipe.seed), 0.0)


def evaluation_seconds(recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits) -> float:
    """Evaluate one batch of held-out rows.

    Args:
        recipe, stage, source: as for `preflight`; of any data.

    Returns:
        Seconds that all held-out rows will take, about.

    Raises:
        DatasetError, LabelError: a row cannot be read.
    """
    begun, device = time.monotonic(), pick_device(recipe.device)
    torch.set_num_threads(recipe.threads)
    rows = range(min(evaluation_batch(recipe, source), len(source.held_out)))
    images, ground_truth = source.held_out.batch(rows, stage.inputs)
    images, ground_truth = source.fit(images, ground_truth) if source.fit else (images, ground_truth)
    stage.model.eval().to(device)
    with torch.inference_mode(), autocast(recipe.precision, device):
        for _, logits in stage.predict({name: image.to(device) for name, image in images.items()}, rows):
            most_likely(logits, ground_truth.shape[-2:], (1.0,))
    return (time.monotonic() - begun) * len(source.held_out) / len(rows) / world_size()


def evaluation_batch(recipe: Recipe, source: DataSplits) -> int:
    """Held-out rows per batch of an evaluation: one where they differ in size."""
    return recipe.batch // recipe.accumulate if source.held_out.one_size else 1


def needed_bytes(recipe: Recipe, stage: PretrainStage | ExpertStage, source: DataSplits) -> int:
    """Memory of a step in one process in bytes; 0 if unknown, such as in stage `pretrain`."""
    side = getattr(getattr(source.augment, "recipe", None), "crop", 0)
    if not side or not isinstance(stage, ExpertStage):
        return 0
    samples = -(-recipe.batch // recipe.accumulate // world_size())
    teacher = sum(_WEIGHT * p.numel() for p in stage.teacher.parameters()) if stage.teacher else 0
    step = estimate_training_memory(stage.model.config, side, samples, recipe.precision, recipe.checkpointing)
    return step + teacher


def summary(recipe: Recipe, source: DataSplits, needed: int) -> str:
    """Describe length and memory of a run in one line."""
    each = len(source.train) // recipe.batch
    length = f"{len(source.train)} training samples, {each} steps of {recipe.batch} per epoch, {recipe.steps} steps; "
    memory = f"; a step takes at least {needed / _GIB:.1f} GiB" if needed else ""
    return f"{length}{len(source.held_out)} held-out samples ({source.description}){memory}"


_USABLE = 0.85
"""Part of the memory of a GPU that the estimate of a step may take."""


def fit_memory(recipe: Recipe, needed: Callable[[Recipe], int], there: int) -> Recipe:
    """Cut the batch into parts, and checkpoint blocks after that, until a step fits into the memory of a GPU.

    Args:
        recipe: a recipe.
        needed: estimates the bytes of a step of a recipe; 0 for unknown.
        there: bytes of the GPU.
    """
    while needed(recipe) > _USABLE * there:
        parts = next((n for n in range(recipe.accumulate + 1, recipe.batch + 1) if recipe.batch % n == 0), None)
        if parts is None:
            return replace(recipe, checkpointing=BLOCKS)
        recipe = replace(recipe, accumulate=parts)
    return recipe


def check_gpu_memory(needed: int, there: int) -> None:
    """Check that a step fits into the memory of the GPU.

    Raises:
        ConfigError: names both sizes and the remedy.
    """
    if needed > there:
        raise ConfigError(
            f"a step takes at least {needed / _GIB:.1f} GiB and the GPU has {there / _GIB:.1f} GiB.",
            "Raise accumulate, which cuts the batch into parts, or set checkpointing to blocks.",
        )
