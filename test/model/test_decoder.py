# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest
import torch
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam2_utils import MLP
from torch.nn import functional as F

from mlesam_ros.model.backbones import BACKBONES
from mlesam_ros.model.decoder import AuxiliaryHead, ClassMLPs, MaskDecoder, level_channels

NANO = BACKBONES["hiera_nano"]


def pyramid(width=96, batch=2, h=4, w=6):
    return {
        "semantic": torch.randn(batch, width, h, w),
        "high_res_1": torch.randn(batch, width // 4, 2 * h, 2 * w),
        "high_res_0": torch.randn(batch, width // 8, 4 * h, 4 * w),
    }


def test_project_high_res_gives_the_channels_of_each_level():
    full = {name: torch.randn(1, 96, s, s) for name, s in (("semantic", 2), ("high_res_1", 4), ("high_res_0", 8))}
    narrowed = MaskDecoder(NANO, 3).project_high_res(full)
    assert {name: x.shape[1] for name, x in narrowed.items()} == level_channels(96)


def test_the_stacked_mlps_are_sams_mlps():
    stacked = ClassMLPs(5, (24, 24, 24, 6))
    tokens = torch.randn(3, 5, 24)
    for c in range(5):
        mlp = MLP(24, 24, 6, 3)
        for layer, weight, bias in zip(mlp.layers, stacked.weights, stacked.biases, strict=True):
            layer.weight.data, layer.bias.data = weight[c].T, bias[c, 0]
        torch.testing.assert_close(stacked(tokens)[:, c], mlp(tokens[:, c]))


class TestOnSam1:
    """Fine levels of SAM 1 come from maps at stride 16, and its decoder has no skips."""

    @pytest.fixture
    def decoder(self, shrunk_size):
        return MaskDecoder(shrunk_size, 3)

    @pytest.fixture
    def maps(self):
        early = {level: torch.randn(2, 64, 4, 6) for level in ("high_res_1", "high_res_0")}
        return {"semantic": torch.randn(2, 256, 4, 6), **early}

    def test_project_high_res_of_sam1_gives_the_same_pyramid(self, decoder, maps):
        shapes = {level: tuple(x.shape) for level, x in decoder.project_high_res(maps).items()}
        assert shapes == {"semantic": (2, 256, 4, 6), "high_res_1": (2, 64, 8, 12), "high_res_0": (2, 32, 16, 24)}

    def test_skips_start_at_zero_and_are_trained(self, decoder, maps):
        shut = decoder.project_high_res(maps)
        assert not shut["high_res_1"].any()
        assert not shut["high_res_0"].any()
        optimizer = torch.optim.SGD(decoder.parameters(), lr=1e-3)
        decoder(shut).square().mean().backward()
        optimizer.step()
        opened = decoder.project_high_res(maps)
        assert opened["high_res_1"].any()
        assert opened["high_res_0"].any()
        assert not torch.equal(decoder(opened), decoder({**opened, "high_res_0": shut["high_res_0"]}))


@pytest.mark.parametrize("size", [(4, 4), (3, 7)])
def test_positional_encoding_equals_sams(size):
    decoder, theirs = MaskDecoder(NANO, 2), PositionEmbeddingRandom(48)
    theirs.positional_encoding_gaussian_matrix = decoder.frequencies
    torch.testing.assert_close(decoder.position(*size)[0], theirs(size))


def test_parts_for_prompts_are_not_built():
    names = {name.split(".")[0] for name, _ in MaskDecoder(NANO, 25).named_parameters()}
    assert names == {
        "transformer",
        "output_upscaling",
        "conv_s0",
        "conv_s1",
        "class_tokens",
        "hypernetworks",
        "no_mask",
    }


@pytest.mark.parametrize("classes", [1, 4])
def test_the_same_in_training_and_evaluation(classes):
    # SAM's stability fall-back acts in evaluation only, and only on a single mask; ours has none.
    decoder, x = MaskDecoder(NANO, classes), pyramid()
    assert torch.equal(decoder.train()(x), decoder.eval()(x))


def test_every_class_reads_its_own_token():
    # SAM's tokens are [object, quality, masks…]: an offset there would give class c the mask of its neighbor.
    decoder, x = MaskDecoder(NANO, 4), pyramid()
    before = decoder(x)
    with torch.no_grad():
        decoder.hypernetworks.biases[2][2] += 1
    assert [torch.equal(a, b) for a, b in zip(decoder(x).unbind(1), before.unbind(1), strict=True)] == [
        True,
        True,
        False,
        True,
    ]


def test_negative_evidence_is_not_replaced_by_a_constant():
    # SAM's object score would write -1024 where it sees no object.
    decoder, x = MaskDecoder(NANO, 4), pyramid()
    with torch.no_grad():
        for bias in decoder.hypernetworks.biases:
            bias.fill_(-5)
    logits = decoder(x)
    assert logits.std((2, 3)).min() > 0


def test_the_auxiliary_head_by_hand():
    head, x = AuxiliaryHead(level_channels(96), 5).eval(), pyramid(batch=1)
    grown = []
    for level, mlp in head.mlps.items():
        tokens = x[level][0].flatten(1).T  # (h w, C): three layers per pixel, ReLU between
        for layer, conv in enumerate((mlp[0], mlp[2], mlp[4])):
            tokens = F.linear(tokens.relu() if layer else tokens, conv.weight[:, :, 0, 0], conv.bias)
        planes = tokens.T.unflatten(1, x[level].shape[-2:]).detach().numpy()  # (32, h, w)
        grown += [cv2.resize(plane, (24, 16), interpolation=cv2.INTER_LINEAR) for plane in planes]
    weight, bias = head.classify.weight[:, :, 0, 0].detach().numpy(), head.classify.bias.detach().numpy()
    by_hand = np.einsum("ck,khw->chw", weight, np.stack(grown)) + bias[:, None, None]
    np.testing.assert_allclose(head(x)[0].detach().numpy(), by_hand, atol=1e-5)


def test_the_auxiliary_head_of_the_papers_size():
    # 256, 64 and 32 channels to 32, three layers each, and 96 to the classes.
    first, rest = (256 + 64 + 32) * 32 + 3 * 32, 3 * 2 * (32 * 32 + 32)
    assert sum(p.numel() for p in AuxiliaryHead(level_channels(256), 25).parameters()) == first + rest + 96 * 25 + 25


def test_dropout_only_in_training():
    head, x = AuxiliaryHead(level_channels(96), 3), pyramid()
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))
