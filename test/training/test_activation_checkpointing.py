# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: the same gradients from less memory."""

from dataclasses import replace

import pytest
import torch

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.backbones import build_backbone
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_training.batch_loader import SeededDropout2d, sample_generator
from mlesam_training.loss import batch_loss, pixel_losses
from mlesam_training.preflight import estimate_training_memory
from mlesam_training.recipe import BLOCKS, NONE
from mlesam_training.train_run import make_stage, model_config
from mlesam_training.trainer import autocast, checkpoint_blocks

CONFIG = MLESAMConfig(rank=4, modalities=("camera", "lidar"))
SIDE = 64


def new_model():
    torch.manual_seed(0)
    model = MLESAM(CONFIG).train()
    with torch.no_grad():
        for modality in CONFIG.modalities:
            for b in model.experts.expert(modality).b:
                b.normal_(std=0.02)
    return model


def step(model, precision):
    """Loss and gradients of a step as the loop takes it: the modes end before the backward pass."""
    torch.manual_seed(1)
    images = {m: torch.randn(2, 3, SIDE, SIDE) for m in CONFIG.modalities}
    labels = torch.randint(0, 5, (2, SIDE, SIDE))
    with (
        autocast(precision, torch.device("cpu")),
        SeededDropout2d([sample_generator(0, 0, place) for place in range(2)]),
    ):
        output = model(images)
        loss = batch_loss([pixel_losses(logits, labels) for logits in (output.logits, output.aux_logits)], labels)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def kept(model):
    """Bytes that the backward pass of a step holds on to."""
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model({m: torch.randn(2, 3, SIDE, SIDE) for m in CONFIG.modalities})
    assert output.logits.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_and_gradients_are_the_same_to_the_last_bit(precision):
    plain, saving = new_model(), new_model()
    checkpoint_blocks(saving.backbone.blocks)
    (loss, gradients), (again, others) = step(plain, precision), step(saving, precision)
    assert torch.equal(loss, again)
    assert gradients.keys() == others.keys() and any("experts" in name for name in gradients)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, others[name]), name


def test_a_backbone_that_learns_gets_the_same_gradients():
    found = []
    for saving in (False, True):
        torch.manual_seed(0)
        backbone = build_backbone("hiera_nano")
        if saving:
            checkpoint_blocks(backbone.blocks)
        torch.manual_seed(1)
        with autocast("fp32", torch.device("cpu")):
            pyramid = backbone(torch.randn(1, 3, SIDE, SIDE))
        sum(level.square().mean() for level in pyramid.values()).backward()
        found.append({name: p.grad for name, p in backbone.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def test_checkpointing_keeps_less_memory():
    plain, saving = new_model(), new_model()
    checkpoint_blocks(saving.backbone.blocks)
    assert kept(saving) < 0.7 * kept(plain)


def test_inference_is_not_checkpointed():
    model = new_model().eval()
    checkpoint_blocks(model.backbone.blocks)
    calls = []
    model.backbone.blocks[0].norm1.register_forward_hook(lambda *_: calls.append(1))
    images = {m: torch.randn(1, 3, SIDE, SIDE) for m in CONFIG.modalities}
    with torch.inference_mode():
        output = model(images)
        expected = new_model().eval()(images)
    assert calls == [1] and torch.equal(output.logits, expected.logits)


def test_experts_are_inactive_after_recomputation():
    model = new_model()
    checkpoint_blocks(model.backbone.blocks)
    step(model, "fp32")
    assert all(layer.a is None and layer.b is None for layer in model.experts.layers)


def test_memory_estimate_accounts_for_checkpointing():
    plain, saving = (estimate_training_memory(CONFIG, 128, 2, "fp32", how) for how in (NONE, BLOCKS))
    weights = sum(p.numel() for p in MLESAM(CONFIG).parameters()) * 4
    assert weights < saving < 0.8 * plain


def test_recipe_enables_checkpointing(smoke):
    recipe = replace(smoke, checkpointing=BLOCKS)
    blocks = make_stage(recipe, model_config(recipe)).model.backbone.blocks
    assert all("forward" in vars(block) for block in blocks)
    blocks = make_stage(smoke, model_config(smoke)).model.backbone.blocks
    assert not any("forward" in vars(block) for block in blocks)
    with pytest.raises(ConfigError, match="checkpointing"):
        replace(smoke, checkpointing="everything")
