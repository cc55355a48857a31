"""The stage that makes experts, router and heads on a frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mlesam_ros.frame import Modality
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import build_mlesam
from mlesam_ros.model.weights import base_sha256, load_base
from mlesam_ros.robustness import Subset, subsets
from mlesam_ros.training.evaluate import subset_predictor
from mlesam_ros.training.feed import Batch


class ExpertStage:
    """Modality dropout: some steps see every sensor, the others a random subset, all of a batch the same.

    Attributes:
        origin: the frozen base weights, which a resumed run must have too; see `loop.Stage`.
    """

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
        self.origin = {"base weights with SHA-256": base_sha256(self.model.backbone)}

    def plan(self, step: torch.Generator, samples: Sequence[torch.Generator]) -> Sequence[tuple[Modality, ...]]:
        """One subset for all samples of this step."""
        return [draw_subset(self.model.config.modalities, self.full_share, step)] * len(samples)

    def heads(self, batch: Batch) -> list[Tensor]:
        """Logits of the decoder and, where there is one, of the auxiliary head."""
        output = self.model(batch.stacked())
        return [logits for logits in (output.logits, output.aux_logits) if logits is not None]

    @property
    def subsets(self) -> list[Subset]:
        """What the evaluation tries: every non-empty subset of the modalities."""
        return subsets(self.model.config.modalities)

    @property
    def inputs(self) -> tuple[Modality, ...]:
        """What the evaluation reads of every row."""
        return self.model.config.modalities

    def predict(self, images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Subset, Tensor]]:
        """See `evaluate.Predict`."""
        return subset_predictor(self.model, self.subsets)(images, rows)


def draw_subset(names: Sequence[Modality], full_share: float, generator: torch.Generator) -> tuple[Modality, ...]:
    """All names with probability `full_share`, else any non-empty subset, each as likely as the next."""
    if torch.rand((), generator=generator).item() < full_share:
        return tuple(names)
    bits = int(torch.randint(1, 2 ** len(names), (), generator=generator))
    return tuple(name for place, name in enumerate(names) if bits >> place & 1)
