# SPDX-License-Identifier: Apache-2.0
"""Training stages: pretraining of the backbone on single sensors, and training of the experts on subsets of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mlesam_ros.corruptions import Subset, subsets
from mlesam_ros.model.checkpoint import check_fields, load_base, weights_sha256
from mlesam_ros.model.mlesam import MLESAM, Output
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import Modality
from mlesam_training.batch_loader import Batch
from mlesam_training.dataset_evaluation import subset_predictor
from mlesam_training.labeled_dataset import Blank
from mlesam_training.sensor_corruption import corrupted


class PretrainStage:
    """Training of backbone and heads without experts: each sample has one modality, unknown to the network.

    The heads are those of the experts' stage, which can start from them.
    """

    def __init__(self, config: MLESAMConfig, mixture: dict[Modality, float], weights: Tensor | None) -> None:
        """Build a new model.

        Args:
            config: model configuration; its experts stay the identity and its router is not used.
            mixture: modality → share of the images.
            weights: (C,) class weights of the loss; None for equal weights.
        """
        self.model = MLESAM(config)
        self.model.backbone.requires_grad_(True)
        for unused in (self.model.experts, self.model.router):
            unused.requires_grad_(False)
        self.names = tuple(mixture)
        self.shares = torch.tensor([mixture[modality] for modality in self.names])
        self.weights = weights
        self.origin: dict[str, str] = {}  # no frozen weights

    def plan(self, step: torch.Generator, samples: Sequence[torch.Generator]) -> Sequence[tuple[Modality, ...]]:
        """Draw one modality per sample; the others are not read."""
        return [(self.names[int(torch.multinomial(self.shares, 1, generator=each))],) for each in samples]

    def heads(self, batch: Batch) -> list[Tensor]:
        """Logits of the decoder and of the auxiliary head, if any."""
        output = self._decode(torch.stack([image for sample in batch.samples for image in sample.values()]))
        return [logits for logits in (output.logits, output.aux_logits) if logits is not None]

    def _decode(self, images: Tensor) -> Output:
        """Segment (B, 3, H, W) images of any modality."""
        logits, auxiliary = self.model.decode(self.model.encode(images))
        return Output(logits, auxiliary, {}, (), self.model.config.fuse)

    def distillation_loss(self, batch: Batch) -> None:
        """No teacher."""

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
            yield subset, self._decode(images[subset[0]]).fused


class ExpertStage:
    """Expert training with modality dropout: all modalities, or one random subset for the whole batch of a step.

    Beside others, a modality learns little of what they show better (Du et al., "On Uni-Modal Feature Learning in
    Supervised Multi-Modal Learning", ICML 2023); those in `alone` are therefore also decoded on their own.

    Attributes:
        origin: SHA-256 of the base weights, which must match in a resumed run; see `trainer.Stage`.
        teacher: frozen model, which a second pass over each step with all modalities imitates on corrupted images; None
            without that pass.
        blanks: modality → normalized value per channel of an empty pixel, for that pass.
    """

    teacher: MLESAM | None = None
    blanks: Mapping[Modality, Blank]

    def __init__(
        self, config: MLESAMConfig, backbone: str, full_share: float, weights: Tensor | None,
        train_backbone: bool = False, alone: Sequence[Modality] = (),
    ) -> None:  # fmt: skip
        """Build a new model on existing base weights.

        Args:
            config: model configuration.
            backbone: file of the base weights.
            full_share: share of the steps with all modalities.
            weights: (C,) class weights of the loss; None for equal weights.
            train_backbone: whether the base weights are trained too, instead of frozen.
            alone: modalities whose features are decoded a second time, without the others of the step.

        Raises:
            CheckpointError: the base weights are missing or of another architecture.
        """
        self.model = MLESAM(config)
        load_base(self.model, backbone)
        self.model.backbone.requires_grad_(train_backbone)
        self.full_share, self.alone = full_share, alone
        self.weights = weights
        self.origin = {"base weights with SHA-256": weights_sha256(self.model.backbone)}

    def distill(self, teacher: MLESAM, path: str) -> None:
        """Set the teacher.

        Args:
            teacher: model with the same modalities and classes.
            path: its file.

        Raises:
            CheckpointError: it has other modalities, or images of other preprocessors, settings or statistics.
        """
        fields = ("modalities", "preprocessors", "normalization", "settings")
        check_fields(path, teacher.config, self.model.config, fields)
        self.teacher = teacher.eval().requires_grad_(False)
        self.origin |= {"teacher with SHA-256": weights_sha256(teacher)}

    def plan(self, step: torch.Generator, samples: Sequence[torch.Generator]) -> Sequence[tuple[Modality, ...]]:
        """Draw one subset for all samples of a step."""
        return [draw_subset(self.model.config.modalities, self.full_share, step)] * len(samples)

    def heads(self, batch: Batch) -> list[Tensor]:
        """Logits of the decoder and of the auxiliary head, if any: of the step's subset, then of those in `alone`."""
        features = self.model.features(batch.stacked())
        alone = [features.select([name]) for name in self.alone if {name} < set(features.modalities)]
        outputs = [self.model.decode_heads(each) for each in (features, *alone)]
        return [logits for each in outputs for logits in (each.logits, each.aux_logits) if logits is not None]

    def distillation_loss(self, batch: Batch) -> Tensor | None:
        """Kullback-Leibler divergence between the teacher on the images and the model on the same images, corrupted.

        Returns:
            Mean over heads, samples and pixels of the logits; None without a teacher or without all modalities.
        """
        if self.teacher is None or set(batch.samples[0]) != set(self.model.config.modalities):
            return None
        with torch.no_grad():
            target = self.teacher(batch.stacked()).fused.float().log_softmax(1)
        pairs = zip(batch.samples, batch.generators, strict=True)
        worse = replace(batch, samples=tuple(corrupted(sample, self.blanks, generator) for sample, generator in pairs))
        found = [F.kl_div(each.float().log_softmax(1), target, log_target=True, reduction="none").sum(1).mean()
                 for each in self.heads(worse)]  # fmt: skip
        return torch.stack(found).mean()

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
