# SPDX-License-Identifier: Apache-2.0
"""Oracle: Meta's own Hiera and neck (the package sam2), with the same weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from meta_encoder import build_meta_encoder

from mlesam_ros.model.backbones import BACKBONES, HieraSpec, build_backbone
from mlesam_ros.model.hiera import merge_windows, split_windows
from mlesam_ros.model.lora import ExpertBank

SIZES = [name for name, size in BACKBONES.items() if isinstance(size, HieraSpec)]
SHAPES = [(64, 64), (64, 96), (224, 224), (96, 320), (160, 256)]
"""Square and wide images: grids that windows divide, grids within one window, and grids of several padded windows."""


def assert_levels_equal(ours, theirs):
    """Equal to 1e-5 of the largest value of each level."""
    for level, expected in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(level, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", SIZES)
def test_pyramid_equals_metas_on_square_and_wide_images(name):
    theirs, ours = build_meta_encoder(name), build_backbone(name).eval()
    ours.load_state_dict(theirs.state_dict())  # strictly
    for shape in SHAPES[:3] if name == "hiera_large" else SHAPES:
        images = torch.randn(2, 3, *shape)
        with torch.inference_mode():
            assert_levels_equal(ours(images), theirs(images)["backbone_fpn"][::-1])


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("shape", [(64, 64), (64, 96)])
def test_gradients_of_the_experts_equal_those_on_metas_trunk(name, shape):
    theirs, ours = build_meta_encoder(name), build_backbone(name).eval()
    ours.load_state_dict(theirs.state_dict())
    banks = [ExpertBank(blocks, ("camera", "lidar"), 4) for blocks in (theirs.trunk.blocks, ours.blocks)]
    for parameter in banks[0].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    banks[1].load_state_dict(banks[0].state_dict())
    images, weight = torch.randn(4, 3, *shape), torch.randn(1)
    with banks[0].active(("camera", "lidar")):
        expected = theirs(images)["backbone_fpn"][::-1]
    with banks[1].active(("camera", "lidar")):
        found = ours(images)
    assert_levels_equal(found, expected)
    sum((weight * x).square().mean() for x in expected).backward()
    sum((weight * x).square().mean() for x in found.values()).backward()
    for mine, reference in zip(banks[1].parameters(), banks[0].parameters(), strict=True):
        assert reference.grad.abs().max() > 0
        torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-5 * reference.grad.abs().max().item())


@given(batch=st.integers(1, 3), rows=st.integers(1, 4), columns=st.integers(1, 4), window=st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_merged_windows_are_the_image_and_windows_of_an_image_are_consecutive(batch, rows, columns, window):
    image = torch.arange(batch * rows * columns * window**2 * 2).reshape(batch, rows * window, columns * window, 2)
    windows = split_windows(image, window)
    assert torch.equal(merge_windows(windows, image.shape[1:3]), image)
    assert torch.equal(windows[columns * rows * (batch - 1)], image[-1, :window, :window])
    # The equal runs of the experts depend on this order.
    assert torch.equal(windows.unflatten(0, (batch, -1)).sum((1, 2, 3)), image.sum((1, 2)))


@pytest.mark.parametrize("shape", [(64, 96), (160, 256)])
def test_error_in_bfloat16_is_that_of_metas(shape):
    theirs, ours = build_meta_encoder("hiera_nano"), build_backbone("hiera_nano").eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, *shape)
    with torch.inference_mode():
        exact = ours(images).values()
        rounded = [m.bfloat16()(images.bfloat16()) for m in (ours, theirs)]
    for reference, found, meta in zip(exact, rounded[0].values(), rounded[1]["backbone_fpn"][::-1], strict=True):
        own, floor = (float((x.float() - reference).norm() / reference.norm()) for x in (found, meta))
        assert own < 1.2 * floor < 0.1


@pytest.mark.parametrize("name", ["hiera_nano", "hiera_tiny"])
@pytest.mark.parametrize("merged", [False, True])
def test_exported_program_equals_the_module(name, merged):
    encoder = build_backbone(name).eval()
    bank = ExpertBank(encoder.blocks, ("camera", "lidar"), 4)
    for parameter in bank.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if merged:
        bank.merge()
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad(), bank.active(("camera", "lidar")):
        program = torch.export.export(encoder, (images,)).module()
        for exported, eager in zip(program(images).values(), encoder(images).values(), strict=True):
            torch.testing.assert_close(exported, eager)
