"""Activation checkpointing of backbone blocks, and attention for training on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from mlesam_ros.model.lora import LoRALinear


class CpuAttention(TorchFunctionMode):
    """Context in which `F.scaled_dot_product_attention` without mask and dropout computes softmax(q kᵀ / √d) v."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace this function; call all others unchanged."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and not any(kwargs.values()):
            return _attend(*args)
        return func(*args, **kwargs)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (..., L, d), (..., S, d) and (..., S, e), with result (..., L, e)."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    with torch.autocast("cpu", enabled=False):  # autocast would output float32; the kernel accumulates in float32
        shares = scores.softmax(-1)
    return shares @ value


NONE, BLOCKS = "none", "blocks"
CHECKPOINTING = (NONE, BLOCKS)


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
