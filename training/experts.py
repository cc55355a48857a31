"""The stage that makes experts, router and heads on a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlesam_ros.frame import Modality
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import build_mlesam
from mlesam_ros.model.weights import load_base
from mlesam_ros.training.loss import two_head_loss
from mlesam_ros.training.transforms import Images


class ExpertStage:
    """Modality dropout: some steps see every sensor, the others a random subset, all of a batch the same."""

    def __init__(self, config: MLESAMConfig, backbone: str, full_share: float, weights: Tensor | None) -> None:
        """A new model on existing base weights.

        Args:
            config: of the model.
            backbone: file of the base weights.
            full_share: share of the steps with all modalities.
            weights: (C,) of the loss, None for equal ones.

        Raises:
            CheckpointError: the base weights are missing or of another architecture.
        """
        self.model = build_mlesam(config)
        load_base(self.model, backbone)
        self.full_share = full_share
        self.weights = weights

    def modalities(self, generator: torch.Generator) -> tuple[Modality, ...]:
        """A subset for this step."""
        return draw_subset(self.model.config.modalities, self.full_share, generator)

    def loss(self, images: Images, labels: Tensor, generator: torch.Generator) -> Tensor:
        """OHEM cross-entropy of both heads."""
        output = self.model(images)
        return two_head_loss(output.logits, output.aux_logits, labels, self.weights)


def draw_subset(names: Sequence[Modality], full_share: float, generator: torch.Generator) -> tuple[Modality, ...]:
    """All names with probability `full_share`, else any non-empty subset, each as likely as the next."""
    if torch.rand((), generator=generator).item() < full_share:
        return tuple(names)
    bits = int(torch.randint(1, 2 ** len(names), (), generator=generator))
    return tuple(name for place, name in enumerate(names) if bits >> place & 1)
