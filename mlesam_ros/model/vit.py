# SPDX-License-Identifier: Apache-2.0
"""SAM 1's ViT image encoder with LoRA-ready attention and an option to fuse the relative positions into it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlesam_ros.model.hiera import cached_in_inference
from mlesam_ros.model.sam1 import image_encoder


class ViT(image_encoder.ImageEncoderViT):  # type: ignore[misc]  # Meta's package is untyped
    """Meta's encoder with two intermediate maps as further outputs, and for images of any size.

    Both positional embeddings are interpolated to the image: the absolute one here, the relative ones of the attention
    by Meta's code. At the reference size, 1024 pixels, neither changes and the output equals Meta's bit for bit.
    """

    def __init__(self, width: int, depth: int, heads: int, globals: tuple[int, ...], neck: int, position: int) -> None:
        """Build with random weights and the parameter names of Meta's checkpoints.

        Args:
            width: C, of the tokens.
            depth: blocks.
            heads: of the attention.
            globals: the blocks whose attention spans the image rather than a window of 14 x 14 tokens.
            neck: D, the width of the output.
            position: side in tokens of the learned positional grid: 64 for images of 1024 pixels.
        """
        super().__init__(
            img_size=16 * position,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            out_chans=neck,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=globals,
        )
        self.early = globals[:2]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode.

        Args:
            images: (B, 3, H, W) normalized; H and W multiples of 16.

        Returns:
            the outputs of the first and the second global block, (B, C, H/16, W/16) each, and the neck's output
            (B, D, H/16, W/16).
        """
        x = self.patch_embed(images)  # (B, h, w, C)
        x = x + self.position(*x.shape[1:3])
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.early:
                maps.append(x.permute(0, 3, 1, 2))  # (B, C, h, w)
        first, second = maps
        return first, second, self.neck(x.permute(0, 3, 1, 2))

    def position(self, h: int, w: int) -> Tensor:
        """The absolute positional embedding for a grid: (1, h, w, C)."""
        if (h, w) == self.pos_embed.shape[1:3]:
            return self.pos_embed
        grid = self.pos_embed.permute(0, 3, 1, 2)  # (1, C, 64, 64)
        return F.interpolate(grid, (h, w), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)


_MULTIPLE = 8  # fused kernels require vectors of a multiple of this length


class FusedRelPosAttention(image_encoder.Attention):  # type: ignore[misc]
    """Meta's attention with an alternative implementation that computes relative positions inside a fused kernel.

    Attributes:
        fused: whether the alternative is used.
    """

    fused = False

    @classmethod
    def from_linear(cls, plain: Any) -> FusedRelPosAttention:
        """Share the weights of Meta's layer."""
        with torch.device("meta"):
            layer = cls(plain.qkv.in_features, plain.num_heads, use_rel_pos=True, input_size=(1, 1))
        layer.qkv, layer.proj = plain.qkv, plain.proj
        layer.rel_pos_h, layer.rel_pos_w = plain.rel_pos_h, plain.rel_pos_w
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) tokens to (B, H, W, C)."""
        if not self.fused:
            plain: Tensor = super().forward(x)
            return plain
        batch, height, width, _ = x.shape
        q, k, v = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, n, HW, d)
        rows, columns, codes = self._tables(height, width)
        grid = q.unflatten(2, (height, width))
        up = torch.einsum("bnhwd,hkd->bnhwk", grid, rows).flatten(2, 3)  # (B, n, HW, H)
        along = torch.einsum("bnhwd,wkd->bnhwk", grid, columns).flatten(2, 3)  # (B, n, HW, W)
        depth, length = q.shape[-1], q.shape[-1] + codes.shape[-1]
        q = F.pad(torch.cat((q * self.scale, up, along), -1), (0, length - depth - height - width))
        k = torch.cat((k, codes.expand(*k.shape[:-1], -1)), -1)
        out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, length - depth)), scale=1.0)[..., :depth]
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(batch, height, width, -1))
        return projected

    def _tables(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """R (H, H, d), C (W, W, d), and the keys' unit vectors (HW, H + W, zero-padded); cached in inference mode."""
        tables = self.rel_pos_h, self.rel_pos_w
        return cached_in_inference(self, tables, (height, width), lambda: self._make_tables(height, width))

    def _make_tables(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = image_encoder.get_rel_pos(height, height, self.rel_pos_h)
        columns = image_encoder.get_rel_pos(width, width, self.rel_pos_w)
        row, column = (torch.eye(n, dtype=rows.dtype, device=rows.device) for n in (height, width))
        codes = torch.cat((row.repeat_interleave(width, 0), column.repeat(height, 1)), 1)
        padding = -(rows.shape[-1] + height + width) % _MULTIPLE
        return rows, columns, F.pad(codes, (0, padding))
