# SPDX-License-Identifier: Apache-2.0
"""What a step will keep in memory, against what a real step keeps."""

import pytest
import torch
import torch.nn.functional as F

from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_training.preflight import estimate_training_memory

CONFIG = MLESAMConfig(rank=4, modalities=("camera", "lidar"))
SIDE, MOMENTS = 64, 3


def kept_by_a_real_step():
    """Bytes of the tensors that the backward pass of a real step holds on to, weights aside."""
    model = MLESAM(CONFIG)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = {m: torch.randn(MOMENTS, 3, SIDE, SIDE) for m in CONFIG.modalities}
    labels = torch.zeros(MOMENTS, SIDE, SIDE, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(images)
        heads = [F.interpolate(x, (SIDE, SIDE), mode="bilinear") for x in (output.logits, output.aux_logits)]
        loss = sum(F.cross_entropy(logits, labels) for logits in heads)
    assert loss.requires_grad
    return sum(size for place, size in kept.items() if place not in own)


def activations(precision):
    return estimate_training_memory(CONFIG, SIDE, 2 * MOMENTS, precision) - estimate_training_memory(
        CONFIG, SIDE, MOMENTS, precision
    )


def test_activations_are_those_of_a_real_step():
    assert activations("fp32") == pytest.approx(kept_by_a_real_step(), rel=0.1)


def test_bf16_takes_less_memory():
    assert activations("bf16") < 0.8 * activations("fp32")


def test_trained_weights_cost_more_than_frozen_ones():
    weights = estimate_training_memory(CONFIG, SIDE, MOMENTS, "fp32") - activations("fp32")
    model = MLESAM(CONFIG)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    assert weights == pytest.approx(16 * trained + 4 * frozen, rel=0.05)
