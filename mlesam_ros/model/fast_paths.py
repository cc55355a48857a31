"""How the network runs in inference: every way that is faster than the plain one, each with a switch of its own.

What each brings is measured by `mlesam bench paths`; docs/performance.md shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.attention import FusedRelPosAttention
from mlesam_ros.model.backbones import HieraBackbone
from mlesam_ros.model.mlesam import MLESAM

COMPILERS = ("", "inductor", "aot_eager")
"""Backends of `torch.compile` that are accepted; none, code generation, and tracing alone, which tests need."""

_SHAPES = 64  # compiled variants of a block: its widths times how many modalities there are


@dataclass(frozen=True)
class InferenceOptions:
    """Switches. Whatever they say, the masks are the same up to rounding.

    Attributes:
        merged: one Q/K/V matrix per modality rather than low-rank products.
        keeps_position: Hiera's interpolated positional code is kept between pictures of one size.
        folded: SAM 1's relative positions are part of a fused attention, see `attention.py`; nothing changes in Hiera,
            whose attention is fused in Meta's code.
        channels_last: the order of a feature map's numbers in memory.
        graphs: on a GPU, a frame is one CUDA graph per subset of the modalities, see `graphs.py`; elsewhere no change.
        compiler: backend of `torch.compile`, one of `COMPILERS`. Every subset of the modalities is a shape of its own,
            which is traced when it is first met: 12 s of one core for the smallest backbone.
    """

    merged: bool = True
    cache_pos_embed: bool = True
    folded: bool = True
    channels_last: bool = True
    graphs: bool = True
    compiler: str = ""

    def __post_init__(self) -> None:
        """Refuse a compiler that there is not.

        Raises:
            ConfigError: names the value and what is accepted.
        """
        if self.compiler not in COMPILERS:
            known = ", ".join(filter(None, COMPILERS))
            raise ConfigError(f"compiler {self.compiler!r} is unknown; accepted are {known}, or nothing for none.")


ALL = InferenceOptions()
"""Those that need no compiler."""
REFERENCE = InferenceOptions(merged=False, cache_pos_embed=False, folded=False, channels_last=False, graphs=False)
"""None of them."""


def prepare(model: MLESAM, device: str, dtype: torch.dtype, paths: InferenceOptions) -> MLESAM:
    """Make a model ready for inference, in place.

    Args:
        model: with float32 weights.
        device: to move it to.
        dtype: to round it to.
        paths: what to use.
    """
    if paths.merged:
        model.experts.merge()  # in float32, before rounding
    model.eval().to(device, dtype)
    if paths.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack it
    if isinstance(model.backbone, HieraBackbone):
        model.backbone.trunk.cache_pos_embed = paths.cache_pos_embed
    for block in model.backbone.blocks:
        if isinstance(block.attn, FusedRelPosAttention):
            block.attn.fused = paths.folded
    if paths.compiler:
        _compile(model, paths.compiler)
    return model


def _compile(model: MLESAM, backend: str) -> None:
    """Block by block: blocks of equal shapes share what is made, and the rest is too little to be worth the wait."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for block in model.backbone.blocks:
        block.compile(backend=backend, dynamic=False)
