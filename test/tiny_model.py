"""A tiny model of random weights, in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mlesam_ros.encoding.encoders import DEFAULT_ENCODERS, ENCODERS
from mlesam_ros.model.checkpoint import save_checkpoint
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import build_mlesam
from mlesam_ros.model.weights import load_base, save_backbone


def write_tiny_model(folder: Path, base: Any = None, seed: int = 0) -> dict[str, str | int]:
    """Write it; the node's parameters that name it.

    Args:
        folder: for the files.
        base: base weights that it shall be made for; None for weights of its own.
        seed: of its randomness.
    """
    torch.manual_seed(seed)
    statistics = {m: ENCODERS[name]().statistics for m, name in DEFAULT_ENCODERS.items()}
    model = build_mlesam(MLESAMConfig(rank=2, image_size=64, encoders=DEFAULT_ENCODERS, statistics=statistics))
    if base is None:
        base = str(folder / "base.safetensors")
        save_backbone(base, model.backbone)
    else:
        load_base(model, base)
    save_checkpoint(folder / "experts.safetensors", model)
    return {
        "checkpoint": str(folder / "experts.safetensors"),
        "base_weights": base,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    }
