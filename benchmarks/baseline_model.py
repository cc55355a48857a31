# SPDX-License-Identifier: Apache-2.0
"""Baseline implementation for comparison: one sensor after the other, eager, float32, unmerged LoRA layers.

Public code with a LoRA per modality runs SAM's encoder this way: a wrapper around each Q/K/V projection adds the output
of two small linear layers to the queries and of two more to the values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlesam_ros.model.backbones import LEVELS
from mlesam_ros.model.inference import REFERENCE, prepare
from mlesam_ros.model.lora import LoRAExpert, LoRALinear
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.types import Modality


class PlainLora(nn.Module):
    """A frozen Q/K/V projection with one modality's LoRA on queries and values."""

    a_q: nn.Linear
    b_q: nn.Linear
    a_v: nn.Linear
    b_v: nn.Linear

    def __init__(self, base: LoRALinear, expert: LoRAExpert, block: int) -> None:
        """Copy an expert's matrices into linear layers."""
        super().__init__()
        self.base = base
        for name, part in (("q", 0), ("v", 1)):
            for letter, matrix in (("a", expert.a[block][part]), ("b", expert.b[block][part])):
                layer = nn.Linear(matrix.shape[0], matrix.shape[1], bias=False)
                layer.weight = nn.Parameter(matrix.detach().T.contiguous(), requires_grad=False)
                setattr(self, f"{letter}_{name}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """Project (…, C) tokens to (…, 3D)."""
        qkv: Tensor = self.base(x)
        width = qkv.shape[-1] // 3
        qkv[..., :width] += self.b_q(self.a_q(x))
        qkv[..., -width:] += self.b_v(self.a_v(x))
        return qkv


@dataclass(frozen=True)
class PlainAnswer:
    """Output of `BaselineModel`, on the host.

    Attributes:
        labels: (h, w) int64.
        confidence: (h, w) float32.
        weights: level → M router weights.
    """

    labels: Tensor
    confidence: Tensor
    weights: dict[str, list[float]]


class BaselineModel:
    """A model that runs one modality after another without the inference optimizations."""

    def __init__(self, model: MLESAM, device: str) -> None:
        """Copy a model whose LoRA is not merged; all modalities share the frozen layers."""
        self._model = prepare(copy.deepcopy(model), device, torch.float32, REFERENCE)
        experts = self._model.experts
        self._layers = {
            m: [PlainLora(layer, experts.expert(m), block) for block, layer in enumerate(experts.layers)]
            for m in experts.modalities
        }

    @torch.inference_mode()
    def infer(self, images: Mapping[Modality, Tensor]) -> PlainAnswer:
        """Segment images, (3, h, w) each, on the device."""
        pyramids = [self._encode(modality, image[None]) for modality, image in images.items()]
        stacked = {level: torch.stack([pyramid[level] for pyramid in pyramids]) for level in LEVELS}
        fused, weights = self._model.fuse(stacked)
        logits = torch.stack([head for head in self._model.decode(fused) if head is not None]).mean(0)
        size = next(iter(images.values())).shape[-2:]
        probability = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].softmax(0)
        confidence, labels = probability.max(0)
        return PlainAnswer(labels.cpu(), confidence.cpu(), {level: w[0].tolist() for level, w in weights.items()})

    def _encode(self, modality: Modality, image: Tensor) -> dict[str, Tensor]:
        for block, layer in zip(self._model.backbone.blocks, self._layers[modality], strict=True):
            block.attn.qkv = layer
        return self._model.encode(image)
