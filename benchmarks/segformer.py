# SPDX-License-Identifier: Apache-2.0
"""SegFormer-B0 (arXiv 2105.15203, table 6): a camera-only network of hiera_nano's size class, for timing beside ours.

Written from the paper; its weights are random.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS, DEPTHS, HEADS, REDUCTIONS = (32, 64, 160, 256), (2, 2, 2, 2), (1, 2, 5, 8), (8, 4, 2, 1)
DECODER_WIDTH, EXPANSION = 256, 4


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values are reduced by a strided convolution (section 3.1)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h w, C) to (B, h w, C)."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.reduce is not None:
            x = self.norm(self.reduce(x.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2))
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and Mix-FFN: an MLP with a depthwise 3x3 convolution in place of a positional encoding."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = EfficientAttention(width, heads, reduction)
        hidden = EXPANSION * width
        self.rise, self.fall = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h w, C) to (B, h w, C)."""
        x = x + self.attention(self.norm1(x), grid)
        hidden = self.rise(self.norm2(x)).transpose(1, 2).unflatten(2, grid)
        return x + self.fall(F.gelu(self.mix(hidden)).flatten(2).transpose(1, 2))


class SegFormerB0(nn.Module):
    """Four stages of overlapping patches and blocks, and the all-MLP decoder."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        before = (3, *WIDTHS[:-1])
        self.patches = nn.ModuleList(
            nn.Conv2d(a, b, k, s, k // 2) for a, b, k, s in zip(before, WIDTHS, (7, 3, 3, 3), (4, 2, 2, 2), strict=True)
        )
        self.entry = nn.ModuleList(nn.LayerNorm(width) for width in WIDTHS)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, heads, reduction) for _ in range(depth))
            for width, depth, heads, reduction in zip(WIDTHS, DEPTHS, HEADS, REDUCTIONS, strict=True)
        )
        self.exit = nn.ModuleList(nn.LayerNorm(width) for width in WIDTHS)
        self.levels = nn.ModuleList(nn.Conv2d(width, DECODER_WIDTH, 1) for width in WIDTHS)
        self.fuse = nn.Sequential(
            nn.Conv2d(4 * DECODER_WIDTH, DECODER_WIDTH, 1, bias=False), nn.BatchNorm2d(DECODER_WIDTH), nn.ReLU()
        )
        self.classify = nn.Conv2d(DECODER_WIDTH, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C, H/4, W/4) logits."""
        levels: list[Tensor] = []
        x = image
        for patch, entry, stage, leave, level in zip(
            self.patches, self.entry, self.stages, self.exit, self.levels, strict=True
        ):
            x = patch(x)
            grid = (x.shape[2], x.shape[3])
            tokens = entry(x.flatten(2).transpose(1, 2))
            for block in stage:
                tokens = block(tokens, grid)
            x = leave(tokens).transpose(1, 2).unflatten(2, grid)
            levels.append(level(x))
        size = levels[0].shape[-2:]
        grown = [F.interpolate(level, size, mode="bilinear", align_corners=False) for level in levels]
        return self.classify(self.fuse(torch.cat(grown[::-1], 1)))
