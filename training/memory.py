"""How much of a GPU's memory a step will take, counted without a GPU: tensors that have a shape and no numbers.

Counted is what the backward pass keeps, with attention as PyTorch's fused kernels do it, and what the weights and the
optimizer take. What a kernel needs meanwhile and what the allocator leaves unused comes on top.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from mlesam_ros.model.backbones import on_meta_device
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import MLESAM, Features
from mlesam_ros.training.checkpointing import BLOCKS, NONE

_WEIGHT, _TRAINED = 4, 16
"""Bytes per frozen parameter; and per trained one, with its gradient and AdamW's two averages."""


def estimate_training_memory(
    config: MLESAMConfig, side: int, moments: int, precision: str, checkpointing: str = NONE
) -> int:
    """Bytes of one step of stage `experts`.

    Args:
        config: of the model.
        side: height and width in pixels of what the network sees.
        moments: that are in memory at once.
        precision: `fp32` or `bf16`.
        checkpointing: as in the recipe; of blocks that are done twice only the largest is there as a whole.
    """
    with on_meta_device():
        model = MLESAM(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # autocast knows this device, not the one without numbers
        kept = {p.untyped_storage()._cdata: p.numel() * _cost(p) for p in (*model.parameters(), *model.buffers())}
        count = len(config.modalities)
        batch = torch.zeros(count * moments, 3, side, side)
        labels = torch.zeros(moments, side, side, dtype=torch.long)

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
                output = model.heads(Features(config.modalities, pyramid))
            graph = [_loss(logits, labels) for logits in (output.logits, output.aux_logits) if logits is not None]
        del graph  # what is kept stays alive until here, so that no two of them have one address
    return sum(kept.values()) + largest.bytes


class _Largest:
    """What the most costly of some blocks keeps beyond what it reads."""

    def __init__(self, kept: Mapping[int, int], keep: Callable[[Tensor], Tensor]) -> None:
        self.bytes = 0
        self._kept, self._keep, self._graphs = kept, keep, []  # type: ignore[var-annotated]

    def run(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The block on what it reads, which stays."""
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
        self._graphs.append(result)  # alive, so that no two tensors have one address
        return result


def _cost(parameter: Tensor) -> int:
    return _TRAINED if parameter.requires_grad else _WEIGHT


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    large = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(large, labels)


class _Fused(torch.autograd.Function):
    """Keeps what a fused kernel keeps: its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out


class _FusedAttention(TorchFunctionMode):
    """Attention without the table of weights that it has on a CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Fused.apply(*args[:3])
        return func(*args, **(kwargs or {}))
