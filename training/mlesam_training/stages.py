# SPDX-License-Identifier: Apache-2.0
"""Training stages: pretraining of the backbone, and training of the experts on a frozen one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlesam_ros.corruptions import Subset, subsets
from mlesam_ros.model.backbones import HIGH_RES_0, LEVELS, Pyramid, backbone_size, build_backbone
from mlesam_ros.model.checkpoint import base_sha256, load_base
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import Modality
from mlesam_training.batch_loader import Batch
from mlesam_training.dataset_evaluation import subset_predictor


class LightHead(nn.Module):
    """Class logits from the sum of the pyramid's levels."""

    def __init__(self, width: int, classes: int) -> None:
        """Build the head for a pyramid with `width` channels."""
        super().__init__()
        self.lateral = nn.ModuleDict({level: nn.Conv2d(width, width, 1) for level in LEVELS})
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, pyramid: Pyramid) -> Tensor:
        """(B, classes, H/4, W/4) logits."""
        size = pyramid[HIGH_RES_0].shape[-2:]
        maps = [
            F.interpolate(self.lateral[level](pyramid[level]), size=size, mode="bilinear", align_corners=False)
            for level in LEVELS
        ]
        return self.classify(F.gelu(self.mix(F.gelu(sum(maps, torch.zeros_like(maps[0]))))))


class Pretraining(nn.Module):
    """Backbone and light head."""

    def __init__(self, name: str, classes: int) -> None:
        """Build the named backbone with random weights."""
        super().__init__()
        self.backbone = build_backbone(name)
        self.head = LightHead(backbone_size(name).neck, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, classes, H/4, W/4) logits of (B, 3, H, W) images of any modality."""
        return self.head(self.backbone(images))


class PretrainStage:
    """Backbone pretraining: each sample has one modality, drawn from the mixture and unknown to the backbone."""

    def __init__(self, name: str, classes: int, mixture: dict[Modality, float], weights: Tensor | None) -> None:
        """Build a new model.

        Args:
            name: name of the backbone.
            classes: number of classes of the label space.
            mixture: modality → share of the images.
            weights: (classes,) class weights of the loss; None for equal weights.
        """
        self.model = Pretraining(name, classes)
        self.names = tuple(mixture)
        self.shares = torch.tensor([mixture[modality] for modality in self.names])
        self.weights = weights
        self.origin: dict[str, str] = {}  # no frozen weights

    def plan(self, step: torch.Generator, samples: Sequence[torch.Generator]) -> Sequence[tuple[Modality, ...]]:
        """Draw one modality per sample; the others are not read."""
        return [(self.names[int(torch.multinomial(self.shares, 1, generator=each))],) for each in samples]

    def heads(self, batch: Batch) -> list[Tensor]:
        """Logits of the light head."""
        return [self.model(torch.stack([image for sample in batch.samples for image in sample.values()]))]

    @property
    def subsets(self) -> list[Subset]:
        """Subsets to evaluate: each modality of the mixture alone."""
        return [(name,) for name in self.names]

    @property
    def inputs(self) -> tuple[Modality, ...]:
        """Modalities that the evaluation reads from every row."""
        return self.names

    def predict(self, images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Subset, Tensor]]:
        """See `dataset_evaluation.Predict`."""
        for subset in self.subsets:
            yield subset, self.model(images[subset[0]])


class ExpertStage:
    """Expert training with modality dropout: all modalities, or one random subset for the whole batch of a step.

    Attributes:
        origin: SHA-256 of the frozen base weights, which must match in a resumed run; see `trainer.Stage`.
    """

    def __init__(self, config: MLESAMConfig, backbone: str, full_share: float, weights: Tensor | None) -> None:
        """Build a new model on existing base weights.

        Args:
            config: model configuration.
            backbone: file of the base weights.
            full_share: share of the steps with all modalities.
            weights: (C,) class weights of the loss; None for equal weights.

        Raises:
            CheckpointError: the base weights are missing or of another architecture.
        """
        self.model = MLESAM(config)
        load_base(self.model, backbone)
        self.full_share = full_share
        self.weights = weights
        self.origin = {"base weights with SHA-256": base_sha256(self.model.backbone)}

    def plan(self, step: torch.Generator, samples: Sequence[torch.Generator]) -> Sequence[tuple[Modality, ...]]:
        """Draw one subset for all samples of a step."""
        return [draw_subset(self.model.config.modalities, self.full_share, step)] * len(samples)

    def heads(self, batch: Batch) -> list[Tensor]:
        """Logits of the decoder and of the auxiliary head, if any."""
        output = self.model(batch.stacked())
        return [logits for logits in (output.logits, output.aux_logits) if logits is not None]

    @property
    def subsets(self) -> list[Subset]:
        """Subsets to evaluate: every non-empty subset of the modalities."""
        return subsets(self.model.config.modalities)

    @property
    def inputs(self) -> tuple[Modality, ...]:
        """Modalities that the evaluation reads from every row."""
        return self.model.config.modalities

    def predict(self, images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Subset, Tensor]]:
        """See `dataset_evaluation.Predict`."""
        return subset_predictor(self.model, self.subsets)(images, rows)


def draw_subset(names: Sequence[Modality], full_share: float, generator: torch.Generator) -> tuple[Modality, ...]:
    """Draw all names with probability `full_share`, else a non-empty subset with uniform probability."""
    if torch.rand((), generator=generator).item() < full_share:
        return tuple(names)
    bits = int(torch.randint(1, 2 ** len(names), (), generator=generator))
    return tuple(name for place, name in enumerate(names) if bits >> place & 1)
