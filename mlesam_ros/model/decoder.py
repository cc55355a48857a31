# SPDX-License-Identifier: Apache-2.0
"""Heads: SAM's mask decoder with one token per class and no prompts, and an auxiliary multi-scale head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlesam_ros.model.backbones import HIGH_RES_0, HIGH_RES_1, LEVELS, SEMANTIC, HieraSpec, Pyramid, ViTSpec
from mlesam_ros.model.hiera import MLP
from mlesam_ros.model.sam1 import Attention, LayerNorm2d, TwoWayTransformer


def level_channels(width: int) -> dict[str, int]:
    """Level → channels of the pyramid that the heads read, for a neck of a width."""
    return {SEMANTIC: width, HIGH_RES_1: width // 4, HIGH_RES_0: width // 8}


class MaskDecoder(nn.Module):
    """SAM's mask decoder, its prompts replaced by one learned token per class.

    SAM 1's and SAM 2's decoders are the same network, except for the skip connections from the fine levels, which only
    SAM 2 has. Here both have them; SAM 1's are initialized to zero, so that with Meta's weights and before training its
    decoder equals Meta's. Parameters shared with SAM 2 keep its names and shapes. Parts for prompts, tracking or mask
    quality (prompt encoder, object score, IoU head, single-mask token) are not built.
    """

    def __init__(self, size: HieraSpec | ViTSpec, classes: int) -> None:
        """Build with random weights.

        Args:
            size: of the backbone: D, the widths of its fine maps, and the transformer's heads and width.
            classes: C.
        """
        super().__init__()
        width = size.neck
        self.transformer = build_transformer(width, size.decoder_heads, size.decoder_mlp)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.conv_s1, self.conv_s0 = build_high_res_convs(size)
        self.class_tokens = nn.Parameter(torch.randn(classes, width))
        self.hypernetworks = ClassMLPs(classes, (width, width, width, width // 8))
        self.no_mask = nn.Parameter(torch.randn(width))  # SAM's "no mask prompt was given"
        self.register_buffer("frequencies", torch.randn(2, width // 2))  # of the positional encoding; never trained
        self.frequencies: Tensor

    def project_high_res(self, pyramid: Pyramid) -> Pyramid:
        """Project the fine levels to their widths and strides.

        Args:
            pyramid: level → the backbone's maps.

        Returns:
            semantic (B, D, H/16, W/16), high_res_1 (B, D/4, H/8, W/8), high_res_0 (B, D/8, H/4, W/4).
        """
        fine = {HIGH_RES_1: self.conv_s1(pyramid[HIGH_RES_1]), HIGH_RES_0: self.conv_s0(pyramid[HIGH_RES_0])}
        return {SEMANTIC: pyramid[SEMANTIC], **fine}

    def forward(self, pyramid: Pyramid) -> Tensor:
        """Decode a projected, fused pyramid.

        Returns:
            (B, C, H/4, W/4) logits.
        """
        semantic = pyramid[SEMANTIC] + self.no_mask[:, None, None]
        batch, _, h, w = semantic.shape
        tokens = self.class_tokens.expand(batch, -1, -1)  # (B, C, D)
        tokens, keys = self.transformer(semantic, self.position(h, w), tokens)  # (B, C, D), (B, h w, D)
        up1, norm, gelu, up2, _ = self.output_upscaling
        x = keys.transpose(1, 2).unflatten(2, (h, w))  # (B, D, h, w)
        x = gelu(norm(up1(x) + pyramid[HIGH_RES_1]))  # (B, D/4, 2h, 2w)
        x = gelu(up2(x) + pyramid[HIGH_RES_0])  # (B, D/8, 4h, 4w)
        return torch.einsum("bnc,bchw->bnhw", self.hypernetworks(tokens), x)

    def position(self, h: int, w: int) -> Tensor:
        """SAM's positional encoding (1, D, h, w): random Fourier features (arXiv 2006.10739) of the cell centers."""
        frequencies = self.frequencies.float()
        y = (torch.arange(h, device=frequencies.device) + 0.5) / h * 2 - 1
        x = (torch.arange(w, device=frequencies.device) + 0.5) / w * 2 - 1
        phase = 2 * math.pi * (y[:, None, None] * frequencies[1] + x[None, :, None] * frequencies[0])  # (h, w, D/2)
        return torch.cat((phase.sin(), phase.cos()), -1).permute(2, 0, 1)[None].to(self.frequencies.dtype)


def build_transformer(width: int, heads: int, hidden: int) -> nn.Module:
    """Build SAM's two-way transformer with SAM 2's parameter names and fused attention.

    Args:
        width: D.
        heads: of the attention.
        hidden: width of the MLPs.
    """
    transformer = TwoWayTransformer(2, width, heads, hidden)
    for block in transformer.layers:
        block.mlp = MLP(width, hidden, nn.ReLU)
    for parent in [*transformer.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, Attention):
                setattr(parent, name, FusedAttention(width, heads, width // child.internal_dim))
    return cast(nn.Module, transformer)


class FusedAttention(Attention):  # type: ignore[misc]  # Meta's package is untyped
    """SAM 1's attention in one kernel, as SAM 2 has it. In half precision its scores stay in float32."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, D) queries, (B, M, D) keys and values to (B, N, D)."""
        pairs = ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        heads = [self._separate_heads(project(x), self.num_heads) for project, x in pairs]  # (B, n, N, d)
        return cast(Tensor, self.out_proj(self._recombine_heads(F.scaled_dot_product_attention(*heads))))


def build_high_res_convs(size: HieraSpec | ViTSpec) -> tuple[nn.Module, nn.Module]:
    """Layers that project the two fine levels, to (B, D/4, H/8, W/8) and (B, D/8, H/4, W/4).

    For SAM 2 its own 1x1 convolutions, in its order: `conv_s1`, `conv_s0`. For SAM 1, whose early maps are at stride
    16, transposed convolutions as in ViTDet's simple pyramid (arXiv 2203.16527), on the maps that carry the edges
    according to HQ-SAM (arXiv 2306.01567); the last one of each is initialized to zero.
    """
    half, fine = size.neck // 4, size.neck // 8
    if isinstance(size, HieraSpec):
        return nn.Conv2d(size.neck, half, 1), nn.Conv2d(size.neck, fine, 1)
    eighth, quarter = nn.ConvTranspose2d(size.width, half, 2, 2), nn.ConvTranspose2d(half, fine, 2, 2)
    for last in (eighth, quarter):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))
    first = nn.ConvTranspose2d(size.width, half, 2, 2)
    return eighth, nn.Sequential(first, LayerNorm2d(half), nn.GELU(), quarter)


class ClassMLPs(nn.Module):
    """One small MLP per class, as batched matrix products. SAM's hypernetworks."""

    def __init__(self, classes: int, widths: tuple[int, ...]) -> None:
        """Build with `nn.Linear`'s initialization.

        Args:
            classes: C, the number of MLPs.
            widths: input, hidden and output widths.
        """
        super().__init__()
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList(torch.empty(classes, read, write) for read, write in pairs)
        self.biases = nn.ParameterList(torch.empty(classes, 1, write) for _, write in pairs)
        for (read, _), weight, bias in zip(pairs, self.weights, self.biases, strict=True):
            nn.init.uniform_(weight, -1 / math.sqrt(read), 1 / math.sqrt(read))
            nn.init.uniform_(bias, -1 / math.sqrt(read), 1 / math.sqrt(read))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, C, D) tokens to (B, C, D/8): token c is the input of MLP c."""
        x = tokens.transpose(0, 1)  # (C, B, D)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, F.relu(x) if layer else x, weight)
        return x.transpose(0, 1)


class AuxiliaryHead(nn.Module):
    """Per-pixel MLPs on every level, concatenated at the finest one, and a linear classifier.

    The layers are those of the published successor of the paper (arXiv 2505.01950), which upsamples the features to the
    full image. This head fuses at stride 4, the finest level, and upsamples the logits: 16 times cheaper.
    """

    def __init__(self, channels: Mapping[str, int], classes: int, hidden: int = 32) -> None:
        """Build with random weights.

        Args:
            channels: level → channels of the projected pyramid.
            classes: C.
            hidden: width of the MLPs.
        """
        super().__init__()
        self.mlps = nn.ModuleDict({level: self._mlp(c, hidden) for level, c in channels.items()})
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(hidden * len(channels), classes, 1)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """(B, C, H/4, W/4) logits of a projected, fused pyramid."""
        size = pyramid[HIGH_RES_0].shape[-2:]
        levels = [self.mlps[level](pyramid[level]) for level in LEVELS]  # (B, 32, h, w) each
        grown = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in levels]
        return self.classify(self.dropout(torch.cat(grown, 1)))

    @staticmethod
    def _mlp(channels: int, hidden: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(channels, hidden, 1)]
        for _ in range(2):
            layers += [nn.ReLU(), nn.Conv2d(hidden, hidden, 1)]
        return nn.Sequential(*layers)
