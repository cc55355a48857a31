# SPDX-License-Identifier: Apache-2.0
"""Frozen image encoders: SAM 2's Hiera, SAM 1's ViT, and hiera_nano, a small Hiera for laptops.

Every backbone encodes an image into three feature maps, in this order:

                 SAM 2: all levels from its FPN neck           SAM 1: neck, second and first global block
    semantic     (B, D, H/16, W/16)                            (B, D, H/16, W/16)
    high_res_1   (B, D, H/8,  W/8)                             (B, C, H/16, W/16)
    high_res_0   (B, D, H/4,  W/4)                             (B, C, H/16, W/16)

All of it is frozen. The decoder's trained `project_high_res` maps both to the same pyramid: D channels at stride 16,
D/4 at stride 8, D/8 at stride 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor, nn

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.hiera import Hiera, Neck
from mlesam_ros.model.vit import FusedRelPosAttention, ViT

SEMANTIC, HIGH_RES_1, HIGH_RES_0 = "semantic", "high_res_1", "high_res_0"
LEVELS = (SEMANTIC, HIGH_RES_1, HIGH_RES_0)
"""Pyramid levels, coarse to fine."""

STRIDE = 32
"""Divisor of an image's sides: pixels per cell of Hiera's last stage. ViT requires only 16."""

Pyramid = dict[str, Tensor]


@dataclass(frozen=True)
class BackboneSpec:
    """Row of the size table: fields of both families.

    Attributes:
        neck: D, the width of the semantic level and of the decoder.
        decoder_heads, decoder_mlp: of the decoder's transformer.
    """

    neck: int = field(kw_only=True, default=256)
    decoder_heads: int = field(kw_only=True, default=8)
    decoder_mlp: int = field(kw_only=True, default=2048)


@dataclass(frozen=True)
class HieraSpec(BackboneSpec):
    """Row of SAM 2's family.

    Attributes:
        width, heads: of the first stage; each of the three others doubles both.
        stages: blocks per stage.
        globals: the blocks whose attention spans the image rather than a window.
        windows: side of the attention windows per stage, in tokens.
        position: side of the learned positional grid, which is interpolated to the image size.
        two_convs: two convolutions before the first block instead of one.
    """

    width: int
    heads: int
    stages: tuple[int, int, int, int]
    globals: tuple[int, ...]
    windows: tuple[int, int, int, int]
    position: int
    two_convs: bool = False


@dataclass(frozen=True)
class ViTSpec(BackboneSpec):
    """Row of SAM 1's family; the attributes are those of `ViT`."""

    width: int
    depth: int
    heads: int
    globals: tuple[int, ...]
    position: int = 64


# Meta's rows: facebookresearch/sam2, sam2/configs/sam2/*.yaml and the defaults of Hiera.__init__;
# facebookresearch/segment-anything, segment_anything/build_sam.py and README.md.
# fmt: off
BACKBONES: dict[str, HieraSpec | ViTSpec] = {
    "hiera_nano":      HieraSpec( 32, 1, (1, 2,  4, 1), (5,),         (8, 4, 16, 8),  7, True,
                                 neck=96, decoder_heads=4, decoder_mlp=384),
    "hiera_tiny":      HieraSpec( 96, 1, (1, 2,  7, 2), (5, 7, 9),    (8, 4, 14, 7),  7),
    "hiera_small":     HieraSpec( 96, 1, (1, 2, 11, 2), (7, 10, 13),  (8, 4, 14, 7),  7),
    "hiera_base_plus": HieraSpec(112, 2, (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), 14),
    "hiera_large":     HieraSpec(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8),  7),
    "vit_b":           ViTSpec( 768, 12, 12, (2, 5, 8, 11)),
    "vit_l":           ViTSpec(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h":           ViTSpec(1280, 32, 16, (7, 15, 23, 31)),
}
# fmt: on
"""Backbone name → sizes."""


def backbone_size(name: str) -> HieraSpec | ViTSpec:
    """Row of a backbone in the size table.

    Raises:
        ConfigError: no backbone of that name.
    """
    if name not in BACKBONES:
        raise ConfigError(f"no backbone called {name!r}; there are {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def build_backbone(name: str) -> Backbone:
    """Build a backbone with random weights and the parameter names of Meta's checkpoints.

    Args:
        name: a key of `BACKBONES`.

    Raises:
        ConfigError: no backbone of that name.
    """
    size = backbone_size(name)
    return HieraBackbone(name, size) if isinstance(size, HieraSpec) else VitBackbone(name, size)


class HieraBackbone(nn.Module):
    """SAM 2's image encoder: Hiera and its neck."""

    def __init__(self, name: str, size: HieraSpec) -> None:
        """Build with random weights."""
        super().__init__()
        self.name = name
        self.trunk = Hiera(
            size.width, size.heads, size.stages, size.globals, size.windows, size.position, size.two_convs
        )
        self.neck = Neck(self.trunk.widths, size.neck)

    @property
    def blocks(self) -> nn.ModuleList:
        """The trunk's blocks, each with a projection `attn.qkv`."""
        return self.trunk.blocks

    def forward(self, images: Tensor) -> Pyramid:
        """Encode.

        Args:
            images: (B, 3, H, W) normalized; H and W multiples of 32.

        Returns:
            level → (B, D, h, w), in the dtype of the images.
        """
        return dict(zip(LEVELS, self.neck(self.trunk(images)), strict=True))


class VitBackbone(ViT):
    """SAM 1's image encoder."""

    def __init__(self, name: str, size: ViTSpec) -> None:
        """Build with random weights."""
        super().__init__(size.width, size.depth, size.heads, size.globals, size.neck, size.position)
        for block in self.blocks:
            block.attn = FusedRelPosAttention.from_linear(block.attn)
        self.name = name

    def forward(self, images: Tensor) -> Pyramid:  # type: ignore[override]
        """Encode.

        Args:
            images: (B, 3, H, W) normalized; H and W multiples of 16.

        Returns:
            semantic → (B, D, H/16, W/16), the others → (B, C, H/16, W/16).
        """
        return dict(zip(LEVELS, super().forward(images)[::-1], strict=True))


Backbone: TypeAlias = HieraBackbone | VitBackbone
