"""Router: weight of each modality per image and pyramid level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mlesam_ros.model.model_config import MLESAMConfig


class Router(nn.Module):
    """Weighted sum of the features of the present modalities.

    With f^m the spatial mean of modality m's features, w, b one linear layer per level that all modalities share, and S
    the k modalities of highest score in that image:

        s^m = w · f^m + b        r^m = softmax(s)^m for m in S, else 0        Y = Σ_m (1/M + r^m) / 2 · Y^m

    Sharing w makes the router equivariant: permuting the modalities permutes the weights and changes nothing else. An
    absent modality is not part of the sums.
    """

    def __init__(self, config: MLESAMConfig, channels: Mapping[str, int]) -> None:
        """Build one scoring layer per level.

        Args:
            config: `gate`, `router_width`, `top_k`, `renormalize`, `features`, `combine`.
            channels: level → channels of its features.
        """
        super().__init__()
        self.config = config
        width = config.router_width
        routed, concat = config.features != "average", (config.features, config.combine) == ("both", "concat")
        self.scores = nn.ModuleDict({level: _score(c, width) for level, c in channels.items()} if routed else {})
        self.mixes = nn.ModuleDict({level: _mix(c) for level, c in channels.items()} if concat else {})

    def forward(self, level: str, features: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse one level.

        Args:
            level: its name.
            features: (M, B, C, h, w).

        Returns:
            (B, C, h, w) fused features, and (B, M) router weights: uniform when nothing is routed.
        """
        count = len(features)
        uniform = features.new_full((features.shape[1], count), 1 / count)  # (B, M)
        if self.config.features == "average":
            return features.mean(0), uniform
        weights = self.gate(self.scores[level](features.mean((-2, -1)))[..., 0].T)  # (M, B, C) -> (B, M)
        if level in self.mixes:
            routed = torch.einsum("bm,mbchw->bchw", weights, features)
            return self.mixes[level](torch.cat((features.mean(0), routed), 1)), weights  # (B, 2C, h, w) -> (B, C, h, w)
        share = weights
        if self.config.features == "both":
            share = uniform + weights
            share = share / 2 if self.config.combine == "mean" else share
        return torch.einsum("bm,mbchw->bchw", share, features), weights

    def gate(self, scores: Tensor) -> Tensor:
        """Scores (B, M) to weights (B, M)."""
        scores = scores.sigmoid() if self.config.gate == "sigmoid" else scores
        weights = scores.softmax(-1)
        best, index = weights.topk(min(self.config.top_k, weights.shape[-1]))  # (B, k)
        best = best / best.sum(-1, keepdim=True) if self.config.renormalize else best
        return torch.zeros_like(weights).scatter(-1, index, best)


def _score(channels: int, width: int) -> nn.Module:
    """(…, C) pooled features to (…, 1) scores."""
    if not width:
        return nn.Linear(channels, 1)
    return nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, 1))


def _mix(channels: int) -> nn.Conv2d:
    """(B, 2C, h, w) average and routed features to (B, C, h, w); initialized as their mean."""
    layer = nn.Conv2d(2 * channels, channels, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels).repeat(1, 2)[..., None, None] / 2)
        nn.init.zeros_(cast(Tensor, layer.bias))
    return layer
