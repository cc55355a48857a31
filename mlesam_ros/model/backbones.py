"""The frozen encoders: SAM 2's Hiera in Meta's four sizes, and hiera_nano, the same classes at a size for laptops.

Every backbone turns a picture into the same pyramid, in this order:

    semantic     (B, D, H/16, W/16)     high_res_1  (B, D, H/8, W/8)     high_res_0  (B, D, H/4, W/4)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from torch import Tensor, nn

from mlesam_ros.errors import ConfigError

SEMANTIC, HIGH_RES_1, HIGH_RES_0 = "semantic", "high_res_1", "high_res_0"
LEVELS = (SEMANTIC, HIGH_RES_1, HIGH_RES_0)
"""The pyramid's levels, coarse to fine."""

STRIDE = 32
"""Pixels per cell of the trunk's last stage: the sides of an image must be multiples of it."""

Pyramid = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """One row of the size table.

    Attributes:
        width, heads: of the first stage; each of the three others doubles both.
        stages: blocks per stage.
        globals: the blocks whose attention spans the picture rather than a window.
        windows: side of the attention windows per stage, in tokens.
        position: side of the learned positional grid, which is interpolated to the picture.
        neck: D, the width of the pyramid and of the decoder.
        decoder_heads, decoder_mlp: of the decoder's transformer.
        shipped: the weights are ours and come with this package.
    """

    width: int
    heads: int
    stages: tuple[int, int, int, int]
    globals: tuple[int, ...]
    windows: tuple[int, int, int, int]
    position: int
    neck: int = 256
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    shipped: bool = False


# Meta's rows: facebookresearch/sam2, sam2/configs/sam2/*.yaml and the defaults of Hiera.__init__.
# fmt: off
BACKBONES: dict[str, Size] = {
    "hiera_nano":      Size( 32, 1, (1, 2,  4, 1), (5,),         (8, 4, 16, 8),  7, 96, 4, 384, shipped=True),
    "hiera_tiny":      Size( 96, 1, (1, 2,  7, 2), (5, 7, 9),    (8, 4, 14, 7),  7),
    "hiera_small":     Size( 96, 1, (1, 2, 11, 2), (7, 10, 13),  (8, 4, 14, 7),  7),
    "hiera_base_plus": Size(112, 2, (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), 14),
    "hiera_large":     Size(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8),  7),
}
# fmt: on
"""Name → size. Meta publishes the weights of all but ours as `sam2.1_<name>.pt` and `sam2_<name>.pt`."""


def backbone_size(name: str) -> Size:
    """The row of a backbone.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in BACKBONES:
        raise ConfigError(f"no backbone called {name!r}; there are {', '.join(BACKBONES)}.")
    return BACKBONES[name]


class Trunk(Hiera):
    """Hiera that in inference keeps its interpolated positional code, one twentieth of hiera_nano's time on a CPU."""

    _kept: tuple[Any, Tensor] | None = None

    def _get_pos_embed(self, hw: tuple[int, int]) -> Tensor:
        grid, window = self.pos_embed, self.pos_embed_window
        if not torch.is_inference_mode_enabled() or grid.is_inference() or window.is_inference():
            return super()._get_pos_embed(hw)
        key = (hw, grid.dtype, grid.device, grid._version, window._version)  # the version counts changes in place
        if self._kept is None or self._kept[0] != key:
            self._kept = key, super()._get_pos_embed(hw)
        return self._kept[1]


class Backbone(ImageEncoder):
    """SAM 2's image encoder: Hiera and its FPN neck, with the parameter names of Meta's checkpoints."""

    trunk: Trunk

    def __init__(self, name: str) -> None:
        """Build it with random weights.

        Args:
            name: a key of `BACKBONES`.

        Raises:
            ConfigError: there is none of that name.
        """
        size = backbone_size(name)
        trunk = Trunk(
            embed_dim=size.width,
            num_heads=size.heads,
            stages=size.stages,
            global_att_blocks=size.globals,
            window_spec=size.windows,
            window_pos_embed_bkg_spatial_size=(size.position, size.position),
        )
        # The neck's position code has no weights and feeds SAM 2's video memory, which is not built here.
        neck = FpnNeck(
            nn.Identity(), size.neck, trunk.channel_list, fpn_interp_model="nearest", fpn_top_down_levels=[2, 3]
        )
        super().__init__(trunk, neck, scalp=1)  # the neck's stride-32 level has reached stride 16; drop it
        self.name = name

    def forward(self, images: Tensor) -> Pyramid:
        """Encode.

        Args:
            images: (B, 3, H, W) normalised; H and W multiples of 32.

        Returns:
            level → (B, D, h, w), in the dtype of the images.
        """
        fine_to_coarse = super().forward(images)["backbone_fpn"]
        # The neck interpolates in float32, whatever comes in.
        return {level: f.to(images.dtype) for level, f in zip(LEVELS, fine_to_coarse[::-1], strict=True)}
