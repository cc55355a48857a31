# SPDX-License-Identifier: Apache-2.0
"""SAM 2's image encoder: the hierarchical vision transformer Hiera (arXiv 2306.00989) and its feature pyramid neck.

Parameters have the names and shapes of Meta's checkpoints (facebookresearch/sam2, Apache-2.0, below `image_encoder.`).

Tokens stay in window order from block to block. An attention window is a group of consecutive tokens, and norms, MLPs
and residual sums act on single tokens, so the order matters to nothing else. Query pooling halves the side of a window
along with the grid, so even the transition to the next stage keeps the order. `_regroup` moves tokens only where the
window changes. A grid that its windows do not divide is padded inside the attention, as by Meta: a padding token is
zero after the norm, so its key and value are the bias of the projection.

Inside a block, tokens have three dimensions, (G, N, C): OpenVINO fuses a linear layer's bias, activation and
quantization into one int8 kernel only there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH_STRIDE = 4
"""Pixels per token of the first stage. Each further stage doubles it."""

_EPSILON = 1e-6  # of the layer norms
_MLP_RATIO = 4


class MLP(nn.Module):
    """Two linear layers with an activation between them, under SAM 2's parameter names."""

    def __init__(self, width: int, hidden: int, activation: type[nn.Module]) -> None:
        """Build with random weights.

        Args:
            width: of input and output.
            hidden: width between the layers.
            activation: class of the activation.
        """
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, hidden), nn.Linear(hidden, width)])
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, C)."""
        first, second = self.layers
        return second(self.activation(first(x)))


class Attention(nn.Module):
    """Multi-head attention within each group of tokens, optionally with 2x2 max-pooled queries."""

    def __init__(self, width: int, out: int, heads: int, pool: bool) -> None:
        """Build with random weights.

        Args:
            width: C, of the tokens.
            out: D, of queries, keys, values and output.
            heads: n.
            pool: whether queries are pooled, which quarters the number of output tokens.
        """
        super().__init__()
        self.heads, self.pool = heads, pool
        self.qkv = nn.Linear(width, 3 * out)
        self.proj = nn.Linear(out, out)

    def forward(self, x: Tensor, size: Sequence[int], padding: int = 0) -> Tensor:
        """Attend.

        Args:
            x: (G, hw, C) tokens of G groups.
            size: (h, w) of a group.
            padding: number of padding tokens that each group has besides. Their keys and values are all equal, so one
                of them stands for all, its score raised by the logarithm of their number (in bfloat16 the number is
                rounded by up to 1.6 %).

        Returns:
            (G, hw, D), or (G, hw/4, D) with pooling.
        """
        qkv = self.qkv(x)  # (G, hw, 3D)
        q, k, v = self._split_heads(qkv)
        scores = None
        if padding:
            _, key, value = self._split_heads(self.qkv(x.new_zeros(x.shape[0], 1, x.shape[-1])))
            k, v = torch.cat((k, key), 2), torch.cat((v, value), 2)
            scores = F.pad(q.new_zeros(1, q.shape[2]), (0, 1), value=math.log(padding))
        if self.pool:
            q = max_pool(qkv[..., : qkv.shape[-1] // 3], size).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=scores)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _split_heads(self, qkv: Tensor) -> Sequence[Tensor]:
        """(G, hw, 3D) to queries, keys and values, (G, n, hw, d) each."""
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def max_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """(G, hw, C) tokens of groups of a size (h, w) to (G, hw/4, C): maximum of each 2x2 cell."""
    return F.max_pool2d(x.unflatten(1, tuple(size)).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).flatten(1, 2)


class Block(nn.Module):
    """Transformer block: attention and MLP, each behind a norm and with a residual connection.

    Attributes:
        window: side of the attention windows in tokens of the block's input; 0 for attention over the whole image.
        pool: whether it is the first block of a later stage, which halves the grid and doubles the width.
    """

    def __init__(self, width: int, out: int, heads: int, window: int) -> None:
        """Build with random weights.

        Args:
            width: C, of the input.
            out: D, of the output.
            heads: of the attention.
            window: see `window`.
        """
        super().__init__()
        self.window, self.pool = window, width != out
        self.norm1 = nn.LayerNorm(width, _EPSILON)
        self.attn = Attention(width, out, heads, self.pool)
        self.norm2 = nn.LayerNorm(out, _EPSILON)
        self.mlp = MLP(out, _MLP_RATIO * out, nn.GELU)
        if self.pool:
            self.proj = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """(G, h, w, C) to (G, h, w, D), or (G, h/2, w/2, D) with pooling.

        A group is an image or a window. Groups larger than a window are split into windows inside the attention.
        """
        h, w = x.shape[1:3]
        x = x.flatten(1, 2)
        normed = self.norm1(x)
        shortcut = max_pool(self.proj(normed), (h, w)) if self.pool else x
        x = shortcut + self._attend(normed, h, w)
        x = x + self.mlp(self.norm2(x))
        return x.unflatten(1, self._pooled(h, w))

    def _attend(self, x: Tensor, h: int, w: int) -> Tensor:
        window = self.window
        if not window or max(h, w) <= window:
            return self.attn(x, (h, w), window**2 - h * w if window else 0)
        padded = F.pad(x.unflatten(1, (h, w)), (0, 0, 0, -w % window, 0, -h % window))
        attended = self.attn(split_windows(padded, window).flatten(1, 2), (window, window))
        windows = attended.unflatten(1, self._pooled(window, window))
        rows, columns = self._pooled(h, w)
        return merge_windows(windows, self._pooled(*padded.shape[1:3]))[:, :rows, :columns].flatten(1, 2)

    def _pooled(self, h: int, w: int) -> tuple[int, int]:
        """Size of the output of a grid."""
        return (h // 2, w // 2) if self.pool else (h, w)


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) images to (B * H/s * W/s, s, s, C) windows, those of an image in sequence."""
    rows, columns = x.shape[1] // window, x.shape[2] // window
    cells = x.unflatten(2, (columns, window)).unflatten(1, (rows, window))  # (B, H/s, s, W/s, s, C)
    return cells.transpose(2, 3).flatten(0, 2)


def merge_windows(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Windows (B * H/s * W/s, s, s, C) to images (B, H, W, C) of a grid (H, W). Inverse of `split_windows`."""
    rows, columns = grid[0] // x.shape[1], grid[1] // x.shape[2]
    cells = x.unflatten(0, (-1, rows, columns))  # (B, H/s, W/s, s, s, C)
    return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class PatchEmbed(nn.Module):
    """Convolution, or two with an activation between them, from an image to tokens at a quarter of its resolution.

    Two convolutions make a small network learn in fewer steps (arXiv 2106.14881).
    """

    def __init__(self, width: int, two_convs: bool = False) -> None:
        """Build with random weights.

        Args:
            width: C, of the tokens.
            two_convs: two convolutions; SAM 2 has one.
        """
        super().__init__()
        self.proj: nn.Module = nn.Conv2d(3, width, kernel_size=7, stride=PATCH_STRIDE, padding=3)
        if two_convs:
            first, second = nn.Conv2d(3, width // 2, 3, 2, 1), nn.Conv2d(width // 2, width, 3, 2, 1)
            self.proj = nn.Sequential(first, nn.GELU(), second)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, H/4, W/4, C)."""
        return self.proj(images).permute(0, 2, 3, 1)


class Hiera(nn.Module):
    """Trunk: four stages of blocks, each at half the resolution and twice the width of the one before.

    Attributes:
        widths: of the stages' outputs.
        cache_pos_embed: whether the interpolated positional embedding is cached in inference mode.
    """

    cache_pos_embed = True

    def __init__(
        self,
        width: int,
        heads: int,
        stages: Sequence[int],
        global_blocks: Sequence[int],
        windows: Sequence[int],
        position: int,
        two_convs: bool = False,
    ) -> None:
        """Build with random weights.

        Args:
            width: C, of the first stage.
            heads: of the first stage's attention.
            stages: blocks per stage.
            global_blocks: the blocks whose attention spans the image.
            windows: side of the attention windows per stage, in tokens. The first block of a stage still reads the grid
                of the stage before and has its window.
            position: side of the learned positional grid, which is interpolated to the image size.
            two_convs: see `PatchEmbed`.
        """
        super().__init__()
        self.patch_embed = PatchEmbed(width, two_convs)
        self.pos_embed = nn.Parameter(torch.zeros(1, width, position, position))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, width, windows[0], windows[0]))
        self.blocks = nn.ModuleList()
        self.widths = [width << stage for stage in range(len(stages))]
        self._last = [sum(stages[: stage + 1]) - 1 for stage in range(len(stages))]
        for stage, count in enumerate(stages):
            for first in [True] + [False] * (count - 1):
                before = max(stage - first, 0)
                window = 0 if len(self.blocks) in global_blocks else windows[before]
                self.blocks.append(Block(self.widths[before], self.widths[stage], heads << stage, window))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode.

        Args:
            images: (B, 3, H, W) normalized; H and W multiples of 32.

        Returns:
            stage outputs (B, C, H/4, W/4), (B, 2C, H/8, W/8), (B, 4C, H/16, W/16), (B, 8C, H/32, W/32).
        """
        x = self.patch_embed(images)
        grid = list(x.shape[1:3])
        x = x + self.position(*grid)
        group = 0  # side of the windows that x is split into; 0 for whole images
        outputs = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x, group = _regroup(x, grid, group, block.window), _group(grid, block.window)
            x = block(x)
            if block.pool:
                grid, group = [side // 2 for side in grid], group // 2
            if index in self._last:
                outputs.append(_regroup(x, grid, group, 0).permute(0, 3, 1, 2))
        return outputs

    def position(self, h: int, w: int) -> Tensor:
        """Positional embedding of a grid, (1, h, w, C): an interpolated global part plus a part tiled per window.

        The global and the windowed part follow arXiv 2311.05613.
        """
        if not self.cache_pos_embed:
            return self._interpolate(h, w)
        parts = self.pos_embed, self.pos_embed_window
        return cached_in_inference(self, parts, (h, w), lambda: self._interpolate(h, w))

    def _interpolate(self, h: int, w: int) -> Tensor:
        tile = self.pos_embed_window
        whole = F.interpolate(self.pos_embed, (h, w), mode="bicubic")
        return (whole + tile.repeat(1, 1, h // tile.shape[2], w // tile.shape[3])).permute(0, 2, 3, 1)


T = TypeVar("T")
_MAX_SHAPES = 8  # more than the cameras of a robot have image sizes; an entry takes up to 30 MB


def cached_in_inference(owner: Any, parts: Sequence[Tensor], shape: tuple[int, ...], make: Callable[[], T]) -> T:
    """Return a value computed from frozen parameters, cached in inference mode for the last few shapes.

    Parameters in training are not cached: a fused optimizer changes them without a new `_version`.

    Args:
        owner: module that keeps the values.
        parts: the parameters.
        shape: shape that the value is computed for.
        make: computes the value.
    """
    if not torch.is_inference_mode_enabled() or any(part.is_inference() or part.requires_grad for part in parts):
        return make()
    key = tuple((id(part), part.dtype, part.device, part._version) for part in parts)  # _version: in-place changes
    cached: dict[tuple[int, ...], Any] = owner.__dict__.setdefault("_cached", {})
    found = cached.pop(shape, (None,))
    if found[0] != key:
        found = key, parts, make()  # while the parts are kept, no other has their id
        if len(cached) == _MAX_SHAPES:
            del cached[next(iter(cached))]
    cached[shape] = found  # last used, last
    value: T = found[2]
    return value


def cached_values(model: nn.Module) -> list[Any]:
    """Values of `cached_in_inference` that the modules of a model used last."""
    caches = (module.__dict__.get("_cached") for module in model.modules())
    return [next(reversed(cached.values()))[2] for cached in caches if cached]


def _group(grid: Sequence[int], window: int) -> int:
    """Side of the groups in which a block receives a grid: its window where that divides the grid, else 0."""
    return window if window and not any(side % window for side in grid) else 0


def _regroup(x: Tensor, grid: Sequence[int], before: int, window: int) -> Tensor:
    """Regroup tokens of a grid from windows of one side to those of a block's window; 0 is the whole image."""
    after = _group(grid, window)
    if before == after:
        return x
    x = merge_windows(x, grid) if before else x
    return split_windows(x, after) if after else x


class Neck(nn.Module):
    """Feature pyramid: a 1x1 convolution per stage, and the stride-32 level added to the stride-16 level."""

    def __init__(self, widths: Sequence[int], out: int) -> None:
        """Build with random weights.

        Args:
            widths: of the trunk's stages, fine to coarse.
            out: D, of every level.
        """
        super().__init__()
        convs = [nn.Conv2d(width, out, 1) for width in reversed(widths)]  # Meta's order: coarse to fine
        self.convs = nn.ModuleList(nn.Sequential(OrderedDict(conv=conv)) for conv in convs)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Stage outputs, fine to coarse, to (B, D, h, w) levels at strides 16, 8, 4."""
        coarsest, *levels = (conv(x) for conv, x in zip(self.convs, reversed(stages), strict=True))
        levels[0] = levels[0] + F.interpolate(coarsest, scale_factor=2.0, mode="nearest")
        return levels
