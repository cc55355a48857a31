# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.backbones import BACKBONES, HIGH_RES_0, HIGH_RES_1, SEMANTIC, build_backbone
from mlesam_ros.model.flops import count_macs
from mlesam_ros.model.hiera import cached_values


@pytest.fixture(scope="module")
def nano():
    return build_backbone("hiera_nano").eval()


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 224), (256, 256)])
def test_three_levels_at_any_multiple_of_32(nano, size):
    h, w = size
    with torch.no_grad():
        pyramid = nano(torch.randn(2, 3, h, w))
    assert {level: tuple(x.shape) for level, x in pyramid.items()} == {
        SEMANTIC: (2, 96, h // 16, w // 16),
        HIGH_RES_1: (2, 96, h // 8, w // 8),
        HIGH_RES_0: (2, 96, h // 4, w // 4),
    }


def test_stays_in_the_precision_of_its_images():
    with torch.no_grad():
        pyramid = build_backbone("hiera_nano").bfloat16()(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16))
    assert {x.dtype for x in pyramid.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "millions"), [("hiera_tiny", 27.22), ("hiera_small", 34.32), ("hiera_base_plus", 69.11)]
)
def test_parameters_of_metas_encoders(name, millions):
    # As measured on Meta's package: trunk and neck of one image encoder.
    count = sum(p.numel() for p in build_backbone(name).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_nano_is_small(nano):
    assert sum(p.numel() for p in nano.parameters()) < 3e6
    assert count_macs("hiera_nano", 256).total < 0.603e9


class TestCachedPositionalEmbedding:
    def test_cached_embedding_equals_the_computed_one(self, nano):
        for size in ((16, 16), (8, 24), (16, 16)):
            with torch.inference_mode():
                nano.requires_grad_(False)
                kept = [nano.trunk.position(*size) for _ in range(2)]
            assert kept[0] is kept[1]
            assert torch.equal(kept[0], nano.trunk._interpolate(*size))

    def test_last_few_sizes_are_cached(self, nano):
        nano.requires_grad_(False)
        sizes = [(8, 8 * count) for count in range(1, 13)]
        with torch.inference_mode():
            computed = [nano.trunk.position(*size) for size in sizes]
            assert all(nano.trunk.position(*size) is kept for size, kept in zip(sizes[-8:], computed[-8:], strict=True))
            assert nano.trunk.position(*sizes[0]) is not computed[0]
            assert nano.trunk.position(*sizes[-1]) is cached_values(nano)[0]

    @pytest.mark.parametrize("name", ["pos_embed", "pos_embed_window"])
    def test_cache_follows_the_weights(self, name):
        trunk = build_backbone("hiera_nano").requires_grad_(False).trunk
        with torch.inference_mode():
            trunk.position(16, 16)
        with torch.no_grad():
            getattr(trunk, name).add_(1)
        with torch.inference_mode():
            assert torch.equal(trunk.position(16, 16), trunk._interpolate(16, 16))

    def test_weights_in_training_are_not_cached(self):
        """A fused optimizer changes them, and not their `_version`."""
        trunk = build_backbone("hiera_nano").trunk
        optimizer = torch.optim.AdamW(trunk.parameters(), lr=1.0, fused=True)
        with torch.inference_mode():
            before = trunk.position(16, 16).clone()
        trunk.position(16, 16).sum().backward()
        optimizer.step()
        with torch.inference_mode():
            after = trunk.position(16, 16)
        assert not torch.allclose(after, before) and torch.equal(after, trunk._interpolate(16, 16))

    def test_cache_follows_replaced_parameters(self):
        trunk = build_backbone("hiera_nano").requires_grad_(False).trunk
        for _ in range(3):
            state = {name: torch.randn_like(tensor) for name, tensor in trunk.state_dict().items()}
            trunk.load_state_dict(state, assign=True)
            with torch.inference_mode():
                assert torch.equal(trunk.position(16, 16), trunk._interpolate(16, 16))

    def test_cache_follows_the_precision(self):
        trunk = build_backbone("hiera_nano").requires_grad_(False).trunk
        with torch.inference_mode():
            trunk.position(16, 16)
            assert trunk.bfloat16().position(16, 16).dtype == torch.bfloat16

    def test_cache_is_not_used_in_training(self):
        trunk = build_backbone("hiera_nano").trunk
        with torch.inference_mode():
            trunk.position(16, 16)
        trunk.position(16, 16).sum().backward()
        assert trunk.pos_embed.grad is not None

    def test_a_model_built_in_inference_mode_works(self):
        with torch.inference_mode():
            assert build_backbone("hiera_nano")(torch.randn(1, 3, 32, 32))[SEMANTIC].shape == (1, 96, 2, 2)


def test_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=f"'hiera_huge'; there are {', '.join(BACKBONES)}"):
        build_backbone("hiera_huge")
