# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlesam_ros.model import sam1
from mlesam_ros.model.backbones import HIGH_RES_0, HIGH_RES_1, SEMANTIC, build_backbone
from mlesam_ros.model.checkpoint import describe_key_mismatch

CHECKOUT = Path(__file__).resolve().parents[2]
SHAPE = {"embed_dim": 64, "depth": 4, "num_heads": 2, "global_attn_indexes": (1, 3), "window_size": 14}


def reference(side):
    """Meta's own encoder, made for pictures of one size, with lively weights."""
    encoder = sam1.image_encoder.ImageEncoderViT(
        img_size=side, use_rel_pos=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), **SHAPE
    ).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.1)
    return encoder


@pytest.fixture
def shrunk(shrunk_vit):
    return build_backbone(shrunk_vit).eval()


def test_vit_equals_metas_exactly_at_1024(shrunk):
    theirs, image = reference(1024), torch.randn(1, 3, 1024, 1024)
    shrunk.load_state_dict(theirs.state_dict())
    early = []
    for block in (theirs.blocks[1], theirs.blocks[3]):
        block.register_forward_hook(lambda _, inputs, output: early.append(output.permute(0, 3, 1, 2)))
    with torch.no_grad():
        semantic, ours = theirs(image), shrunk(image)
    assert torch.equal(ours[SEMANTIC], semantic)
    assert torch.equal(ours[HIGH_RES_0], early[0])
    assert torch.equal(ours[HIGH_RES_1], early[1])


def test_vit_interpolates_positions_at_other_sizes(shrunk):
    theirs, image = reference(1024), torch.randn(2, 3, 256, 256)
    shrunk.load_state_dict(theirs.state_dict())
    state, small = theirs.state_dict(), reference(256)
    grid = state["pos_embed"].permute(0, 3, 1, 2)
    state["pos_embed"] = F.interpolate(grid, (16, 16), mode="bicubic").permute(0, 2, 3, 1)
    for name, table in state.items():
        if "rel_pos" in name and len(table) == 127:  # the global blocks': 2 * 64 - 1 offsets
            state[name] = F.interpolate(table.T[None], 31, mode="linear")[0].T
    small.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(shrunk(image)[SEMANTIC], small(image))


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (224, 160)])
def test_any_multiple_of_32(shrunk, size):
    h, w = size[0] // 16, size[1] // 16
    with torch.no_grad():
        pyramid = shrunk(torch.randn(2, 3, *size))
    shapes = {level: tuple(x.shape) for level, x in pyramid.items()}
    assert shapes == {SEMANTIC: (2, 256, h, w), HIGH_RES_1: (2, 64, h, w), HIGH_RES_0: (2, 64, h, w)}


def test_stays_in_the_precision_of_its_images(shrunk):
    with torch.no_grad():
        pyramid = shrunk.bfloat16()(torch.randn(1, 3, 64, 96).bfloat16())
    assert {x.dtype for x in pyramid.values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_sizes_equal_metas(sam1, name):
    with torch.device("meta"):
        theirs = sam1.sam_model_registry[name]().image_encoder
        ours = build_backbone(name)
    assert not describe_key_mismatch(theirs.state_dict(), ours.state_dict())
    assert [block.window_size for block in ours.blocks] == [block.window_size for block in theirs.blocks]
    assert [block.attn.num_heads for block in ours.blocks] == [block.attn.num_heads for block in theirs.blocks]
    assert ours.blocks[0].norm1.eps == theirs.blocks[0].norm1.eps


class TestWithoutItsParentPackage:
    PROGRAM = (
        "import sys; import mlesam_ros.model.backbones; "
        "print({'torchvision', 'segment_anything'} & {name.split('.')[0] for name in sys.modules})"
    )

    def run(self, path):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
        return subprocess.run(
            [sys.executable, "-c", self.PROGRAM], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def test_broken_torchvision_is_not_imported(self, tmp_path):
        # One that cannot be imported, as beside another build of PyTorch; with it, the first import would fail.
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
        assert self.run([CHECKOUT, tmp_path]) == "set()"

    def test_without_the_package_the_remedy_is_named(self, monkeypatch):
        monkeypatch.setattr(sam1, "find_spec", lambda name: None)
        with pytest.raises(ModuleNotFoundError, match="pip install segment-anything"):
            sam1._import_modeling()
