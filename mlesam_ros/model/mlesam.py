# SPDX-License-Identifier: Apache-2.0
"""MLE-SAM network: images of any subset of the modalities in, one set of class logits out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlesam_ros.errors import ImageError
from mlesam_ros.model.backbones import LEVELS, STRIDE, Pyramid, backbone_size, build_backbone
from mlesam_ros.model.decoder import AuxiliaryHead, MaskDecoder, level_channels
from mlesam_ros.model.lora import ExpertBank
from mlesam_ros.model.model_config import MLESAMConfig, subset_name
from mlesam_ros.types import Modality


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
        self.scores = nn.ModuleDict({level: _scorer(c, width) for level, c in channels.items()} if routed else {})
        self.mixes = nn.ModuleDict({level: _mixer(c) for level, c in channels.items()} if concat else {})

    def forward(self, level: str, features: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse one level.

        Args:
            level: its name.
            features: (M, B, C, h, w).

        Returns:
            (B, C, h, w) fused features, and (B, M) router weights: uniform when nothing is routed.
        """
        ones = features.new_ones(features.shape[1], features.shape[0])
        uniform = ones / ones.sum(-1, keepdim=True)  # (B, M)
        if self.config.features == "average":
            return features.mean(0), uniform
        weights = self.gate(self.scores[level](features.mean((-2, -1)))[..., 0].T)  # (M, B, C) -> (B, M)
        if level in self.mixes:
            routed = _weighted_sum(weights, features)
            return self.mixes[level](torch.cat((features.mean(0), routed), 1)), weights  # (B, 2C, h, w) -> (B, C, h, w)
        share = weights
        if self.config.features == "both":
            share = uniform + weights
            share = share / 2 if self.config.combine == "mean" else share
        return _weighted_sum(share, features), weights

    def gate(self, scores: Tensor) -> Tensor:
        """Scores (B, M) to weights (B, M)."""
        scores = scores.sigmoid() if self.config.gate == "sigmoid" else scores
        weights = F.pad(scores.softmax(-1), (0, self.config.top_k))  # zeros, so that there are always k to select
        best, index = weights.topk(self.config.top_k)  # (B, k)
        best = best / best.sum(-1, keepdim=True) if self.config.renormalize else best
        return torch.zeros_like(weights).scatter(-1, index, best)[:, : scores.shape[-1]]


def _weighted_sum(weights: Tensor, features: Tensor) -> Tensor:
    """Weights (B, M) and features (M, B, C, h, w) to their sums (B, C, h, w), as matrix products."""
    rows = features.transpose(0, 1).flatten(2)  # (B, M, C h w)
    return (weights[:, None] @ rows).view(features.shape[1:])


def _scorer(channels: int, width: int) -> nn.Module:
    """(…, C) pooled features to (…, 1) scores."""
    if not width:
        return nn.Linear(channels, 1)
    return nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, 1))


def _mixer(channels: int) -> nn.Conv2d:
    """(B, 2C, h, w) average and routed features to (B, C, h, w); initialized as their mean."""
    layer = nn.Conv2d(2 * channels, channels, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels).repeat(1, 2)[..., None, None] / 2)
        nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


@dataclass(frozen=True)
class Features:
    """Features of the experts' images before fusion.

    Attributes:
        modalities: those that are present, in the experts' order.
        pyramid: level → (M, B, C, h, w).
    """

    modalities: tuple[Modality, ...]
    pyramid: Mapping[str, Tensor]

    def select(self, chosen: Collection[Modality]) -> Features:
        """Features of a subset of the modalities, as if the other sensors were missing."""
        rows = [i for i, m in enumerate(self.modalities) if m in chosen]
        return Features(tuple(self.modalities[i] for i in rows), {k: f[rows] for k, f in self.pyramid.items()})

    def replace(self, other: Features, chosen: Collection[Modality]) -> Features:
        """Features in which the chosen modalities are replaced by those of `other`, which has the same modalities."""
        mine = torch.tensor([m not in chosen for m in self.modalities])[:, None, None, None, None]
        pairs = {k: (mine.to(f.device), f, other.pyramid[k]) for k, f in self.pyramid.items()}
        return Features(self.modalities, {level: torch.where(*pair) for level, pair in pairs.items()})


@dataclass(frozen=True)
class Output:
    """Output of the network.

    Attributes:
        logits: (B, C, H/4, W/4) of the mask decoder.
        aux_logits: (B, C, H/4, W/4) of the auxiliary head; None without one.
        weights: level → (B, M) router weights, in the order of `modalities`.
        modalities: those that took part.
        fuse: combination of the two heads in `fused`, see `MLESAMConfig.fuse`.
        temperature: divisor of `fused`, see `MLESAMConfig.temperatures`.
    """

    logits: Tensor
    aux_logits: Tensor | None
    weights: dict[str, Tensor]
    modalities: tuple[Modality, ...]
    fuse: str
    temperature: float = 1.0

    def weight(self, level: str, modality: Modality) -> Tensor:
        """(B,) weight of a modality at a level: zero for one that took no part."""
        if modality not in self.modalities:
            return torch.zeros_like(self.weights[level][:, 0])
        return self.weights[level][:, self.modalities.index(modality)]

    @property
    def fused(self) -> Tensor:
        """(B, C, H/4, W/4) calibrated logits of both heads together."""
        if self.aux_logits is None or self.fuse == "main":
            return self.logits / self.temperature
        if self.fuse == "mean":
            return (self.logits + self.aux_logits) / (2 * self.temperature)
        main, aux = (x.softmax(1).amax(1, keepdim=True) for x in (self.logits, self.aux_logits))  # (B, 1, h, w)
        return torch.where(main >= aux, self.logits, self.aux_logits) / self.temperature


class MLESAM(nn.Module):
    """A frozen backbone, one expert per modality, a router and two heads."""

    def __init__(self, config: MLESAMConfig) -> None:
        """Build with random weights; `checkpoint.load_checkpoint` loads trained ones."""
        super().__init__()
        self.config = config
        self.base_sha256: str | None = None  # of the base weights as loaded, before any change of precision
        self.base_weights: Path | None = None  # their file
        size, classes = backbone_size(config.backbone), len(config.label_space)
        channels = level_channels(size.neck)
        self.backbone = build_backbone(config.backbone).requires_grad_(False)
        self.experts = ExpertBank(self.backbone.blocks, config.modalities, config.rank)
        self.router = Router(config, channels)
        self.decoder = MaskDecoder(size, classes)
        self.auxiliary = AuxiliaryHead(channels, classes) if config.auxiliary else None
        self.train(self.training)

    def forward(self, images: Mapping[Modality, Tensor]) -> Output:
        """Segment.

        Args:
            images: modality → (B, 3, H, W) normalized image in the camera's image plane; all of one shape, H and W
                multiples of 32. Any non-empty subset of the experts; a missing sensor is left out.

        Raises:
            ImageError: no image, a modality without an expert, unequal shapes, sides that are not multiples of 32, or,
                on the CPU, values that are not finite. On a GPU this check would synchronize once per frame; the caller
                checks there before the upload, with `check_finite`.
        """
        return self.decode_heads(self.features(images))

    def features(self, images: Mapping[Modality, Tensor]) -> Features:
        """Encode each image with the frozen backbone and its modality's expert, independently of the other images.

        Args:
            images: as for `forward`.

        Raises:
            ImageError: as for `forward`.
        """
        present = self.check(images)
        batch = torch.cat([images[m] for m in present])  # (M B, 3, H, W), modality-major
        with self.experts.active(present):
            pyramid = self.encode(batch)  # level -> (M B, C, h, w)
        return Features(present, {level: pyramid[level].unflatten(0, (len(present), -1)) for level in LEVELS})

    def decode_heads(self, features: Features) -> Output:
        """Fuse the features and decode them with both heads."""
        fused, weights = self.fuse(features.pyramid)
        logits, auxiliary = self.decode(fused)
        temperature = self.config.temperatures.get(subset_name(features.modalities), 1.0)
        return Output(logits, auxiliary, weights, features.modalities, self.config.fuse, temperature)

    def encode(self, batch: Tensor) -> Pyramid:
        """(M B, 3, H, W) to level → (M B, C, h, w), with the active experts."""
        return self.decoder.project_high_res(self.backbone(batch))

    def fuse(self, pyramid: Mapping[str, Tensor]) -> tuple[Pyramid, Pyramid]:
        """Level → (M, B, C, h, w) to fused level → (B, C, h, w), and router weights level → (B, M)."""
        found = {level: self.router(level, pyramid[level]) for level in LEVELS}
        return {level: pair[0] for level, pair in found.items()}, {level: pair[1] for level, pair in found.items()}

    def decode(self, fused: Pyramid) -> tuple[Tensor, Tensor | None]:
        """(B, C, H/4, W/4) logits of both heads; None for a missing auxiliary head."""
        return self.decoder(fused), None if self.auxiliary is None else self.auxiliary(fused)

    def check(self, images: Mapping[Modality, Tensor]) -> tuple[Modality, ...]:
        """Validate the images and return their modalities, in the experts' order.

        Raises:
            ImageError: as for `forward`.
        """
        return check_images(images, self.experts.modalities)

    def train(self, mode: bool = True) -> MLESAM:
        """Set the training mode of everything except the backbone, which stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self


def check_images(images: Mapping[Modality, Tensor], known: Sequence[Modality]) -> tuple[Modality, ...]:
    """Validate the images of a network with experts for `known`, and return their modalities in that order.

    Raises:
        ImageError: see `MLESAM.forward`.
    """
    foreign = [m for m in images if m not in known]
    if foreign or not images:
        raise ImageError(
            f"images are given for {', '.join(images) or 'no modality'}; "
            f"this model takes one or more of {', '.join(known)}."
        )
    if integer := [m for m, image in images.items() if not image.is_floating_point()]:
        raise ImageError(f"the {integer[0]} image is {images[integer[0]].dtype}; it must be normalized floating point.")
    shapes = {m: tuple(image.shape) for m, image in images.items()}
    shape = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1:
        raise ImageError(f"images have the shapes {shapes}; all modalities of a call must have the same.")
    if len(shape) != 4 or shape[1] != 3 or 0 in shape or shape[2] % STRIDE or shape[3] % STRIDE:
        raise ImageError(f"images have the shape {shape}; it must be (B, 3, H, W), H and W multiples of {STRIDE}.")
    if next(iter(images.values())).device.type == "cpu":
        check_finite(images)
    return tuple(m for m in known if m in images)


def check_finite(images: Mapping[Modality, Tensor]) -> None:
    """Require finite values.

    Through attention and the router's mean, one NaN pixel turns the whole mask into one class without an error.

    Raises:
        ImageError: names the modality and the number of NaN or infinite values.
    """
    for modality, image in images.items():
        # A non-finite value makes the sum non-finite, and a sum is thirty times as fast as a check of each value.
        if not image.sum(dtype=torch.float32).isfinite() and (bad := int((~image.isfinite()).sum())):
            raise ImageError(
                f"the {modality} image has {bad} NaN or infinite values of {image.numel()}.", "Fill them before."
            )
