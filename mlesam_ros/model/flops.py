# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulate and parameter counts of the backbones, on the meta device, which holds shapes without values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mlesam_ros.model.backbones import BACKBONES, build_backbone
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig

SIDES = (1024, 512)
"""Sides in pixels of the counted square images."""

# All other counted operators are products inside an attention.
_PROJECTIONS = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)


@dataclass(frozen=True)
class MacCount:
    """Multiply-accumulates of one image through the frozen encoder.

    Attributes:
        projections: linear layers and convolutions, window padding included.
        attention: queries by keys and weights by values; with SAM 1 also queries by relative positions.
    """

    projections: int
    attention: int

    @property
    def total(self) -> int:
        """Sum of both."""
        return self.projections + self.attention


@dataclass(frozen=True)
class BackboneCost:
    """Cost of one backbone in the paper's configuration.

    Attributes:
        name: of the backbone.
        encoder: number of its parameters, all frozen.
        macs: side of the image → multiply-accumulates.
        expert: number of parameters of one modality's expert.
        trained: number of trained parameters: experts, router, decoder, auxiliary head.
    """

    name: str
    encoder: int
    macs: dict[int, MacCount]
    expert: int
    trained: int


def backbone_cost(name: str) -> BackboneCost:
    """Count one backbone, a key of `BACKBONES`."""
    config = MLESAMConfig.paper(backbone=name)
    with torch.device("meta"):
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
    """Count all backbones, in the table's order."""
    return [backbone_cost(name) for name in BACKBONES]


def count_macs(name: str, side: int) -> MacCount:
    """Multiply-accumulates of a (1, 3, side, side) image through a frozen encoder."""
    with torch.device("meta"), torch.no_grad():
        backbone = build_backbone(name)
        with FlopCounterMode(display=False) as counter:
            backbone(torch.empty(1, 3, side, side))
    counts = {op: flops // 2 for op, flops in counter.get_flop_counts()["Global"].items()}
    projections = sum(macs for op, macs in counts.items() if op in _PROJECTIONS)
    return MacCount(projections, sum(counts.values()) - projections)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
