"""What a backbone costs, counted on the meta device: shapes without numbers, so that the largest takes a second."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mlesam_ros.model.backbones import BACKBONES, build_backbone, on_meta_device
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig

SIDES = (1024, 512)
"""Sides in pixels of the square pictures that are counted."""

# Everything else that the counter knows is a product inside an attention.
_PROJECTIONS = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of one picture through the frozen encoder.

    Attributes:
        projections: linear layers and convolutions, padding of the windows included.
        attention: queries by keys and weights by values; with SAM 1 also queries by relative positions.
    """

    projections: int
    attention: int

    @property
    def total(self) -> int:
        """Both."""
        return self.projections + self.attention


@dataclass(frozen=True)
class BackboneCost:
    """What one backbone costs in the paper's configuration.

    Attributes:
        name: of the backbone.
        encoder: its parameters, all frozen.
        macs: side of the picture → multiply-accumulates.
        expert: parameters of one modality's expert.
        trained: parameters of everything that is trained: experts, router, decoder, auxiliary head.
    """

    name: str
    encoder: int
    macs: dict[int, MacCount]
    expert: int
    trained: int


def backbone_cost(name: str, config: MLESAMConfig | None = None) -> BackboneCost:
    """Count one backbone.

    Args:
        name: a key of `BACKBONES`.
        config: rank, modalities, label space and heads; the paper's by default.
    """
    config = config or MLESAMConfig.paper(backbone=name)
    with on_meta_device():
        model = MLESAM(config)
    experts = [_parameters(model.experts.expert(m)) for m in config.modalities]
    return BackboneCost(
        name=name,
        encoder=_parameters(model.backbone),
        macs={side: count_macs(name, side) for side in SIDES},
        expert=experts[0],
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def backbone_costs() -> list[BackboneCost]:
    """All of them, in the table's order."""
    return [backbone_cost(name) for name in BACKBONES]


def count_macs(name: str, side: int) -> MacCount:
    """Multiply-accumulates of a (1, 3, side, side) picture through a frozen encoder."""
    with on_meta_device(), torch.no_grad():
        backbone = build_backbone(name)
        with FlopCounterMode(display=False) as counter:
            backbone(torch.empty(1, 3, side, side))
    counts = {op: flops // 2 for op, flops in counter.get_flop_counts()["Global"].items()}
    projections = sum(macs for op, macs in counts.items() if op in _PROJECTIONS)
    return MacCount(projections, sum(counts.values()) - projections)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
