"""A tiny model of random weights, in files."""

from __future__ import annotations

from pathlib import Path

import torch

from mlesam_ros.encoding.encoders import DEFAULT_ENCODERS, ENCODERS
from mlesam_ros.model.checkpoint import save_checkpoint
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import build_mlesam
from mlesam_ros.model.weights import save_backbone


def write_tiny_model(folder: Path) -> dict[str, str | int]:
    """Write it; the node's parameters that name it."""
    torch.manual_seed(0)
    statistics = {m: ENCODERS[name]().statistics for m, name in DEFAULT_ENCODERS.items()}
    model = build_mlesam(MLESAMConfig(rank=2, image_size=64, encoders=DEFAULT_ENCODERS, statistics=statistics))
    save_backbone(folder / "base.safetensors", model.backbone)
    save_checkpoint(folder / "experts.safetensors", model)
    return {
        "checkpoint": str(folder / "experts.safetensors"),
        "base_weights": str(folder / "base.safetensors"),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    }
