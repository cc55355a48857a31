# SPDX-License-Identifier: Apache-2.0
"""A tiny model of random weights, in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from mlesam_ros.model.checkpoint import load_base, save_backbone, save_checkpoint
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, PREPROCESSORS


def write_tiny_model(
    folder: Path,
    base: Any = None,
    seed: int = 0,
    image_size: int = 64,
    sharpness: float = 0.0,
    preprocessors: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str | int]:
    """Write it; the node's parameters that name it.

    Args:
        folder: for the files.
        base: base weights that it shall be made for; None for weights of its own.
        seed: of its randomness.
        image_size: long side of the images it reads.
        sharpness: deviation of the auxiliary head's logits between the pixels of noise; 0 for fresh weights, whose
            labels hardly depend on what is seen.
        preprocessors: modality → encoder, where it is not the default one.
    """
    torch.manual_seed(seed)
    names = DEFAULT_PREPROCESSORS | dict(preprocessors)
    normalization = {m: PREPROCESSORS[name]().normalization for m, name in names.items()}
    model = MLESAM(MLESAMConfig(rank=2, image_size=image_size, preprocessors=names, normalization=normalization))
    if sharpness:
        _sharpen(model, sharpness)
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


def _sharpen(model: MLESAM, sharpness: float) -> None:
    """Spread the auxiliary head's logits, and take their means away."""
    noise = {m: torch.randn(1, 3, 64, 96) for m in model.config.modalities}
    seen: list[torch.Tensor] = []
    classify = model.auxiliary.classify
    hook = classify.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model.eval()(noise)
        hook.remove()
        classify.weight.mul_(sharpness / classify(seen[0]).std((2, 3)).mean())
        classify.bias.copy_(-(classify.weight[:, :, 0, 0] @ seen[0].mean((2, 3))[0]))
