# SPDX-License-Identifier: Apache-2.0
import copy
from itertools import combinations

import pytest
import torch
from torch import nn

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.backbones import build_backbone
from mlesam_ros.model.checkpoint import load_checkpoint
from mlesam_ros.model.hiera import Hiera
from mlesam_ros.model.lora import ExpertBank, project_each
from mlesam_ros.model.vit import ViT
from mlesam_ros.resources import resource_path
from mlesam_ros.types import MODALITIES

SUBSETS = [subset for n in range(1, 5) for subset in combinations(MODALITIES, n)]
ROUNDING = 1e-5


class LoRALinear(nn.Module):
    """Reference LoRA of its paper, for one modality."""

    def __init__(self, base, expert, block):
        super().__init__()
        self.base, self.a, self.b = base, expert.a[block], expert.b[block]

    def forward(self, x):
        q, k, v = self.base(x).chunk(3, -1)
        return torch.cat((q + x @ self.a[0] @ self.b[0], k, v + x @ self.a[1] @ self.b[1]), -1)


def hiera():
    """A trunk of every kind of block, wide at its stage transitions, without a neck."""
    return build_backbone("hiera_nano").trunk


def plain_vit():
    """SAM 1's kind, with positional codes that do something."""
    encoder = ViT(width=64, depth=4, heads=2, globals=(1, 3), neck=32, position=8)
    for name, parameter in encoder.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter, std=0.2)
    return encoder


@pytest.fixture(scope="module", params=[hiera, plain_vit], ids=["hiera", "vit"])
def trunk(request):
    torch.manual_seed(3)
    return request.param().eval()


@pytest.fixture(scope="module")
def plain(trunk):
    return copy.deepcopy(trunk)


@pytest.fixture(scope="module")
def experts(trunk, plain):
    experts = ExpertBank(trunk.blocks, MODALITIES, 4).requires_grad_(False)
    for modality in MODALITIES:
        for b in experts.expert(modality).b:
            b.normal_(std=0.2)
    return experts


def encode(trunk, experts, images):
    with torch.no_grad(), experts.active(tuple(images)):
        stages = trunk(torch.cat(list(images.values())))
    return [stage.unflatten(0, (len(images), -1)) for stage in stages]  # (M, B, C, h, w)


def test_new_experts_are_the_identity(plain):
    trunk = copy.deepcopy(plain)
    experts = ExpertBank(trunk.blocks, MODALITIES, 8)
    images = {m: torch.randn(2, 3, 96, 64) for m in MODALITIES}
    with torch.no_grad():
        expected = plain(torch.cat(list(images.values())))
    for stage, reference in zip(encode(trunk, experts, images), expected, strict=True):
        assert torch.equal(stage.flatten(0, 1), reference)


def test_without_active_experts_the_trunk_is_the_frozen_one(trunk, plain, experts):
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(trunk(image), plain(image), strict=True))


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_stacked_single_and_merged_forms_equal_plain_lora(trunk, plain, experts, distance, subset):
    # Sides at which windows need padding, and odd batches.
    batch, size = 1 + len(subset) % 3, (96, 160) if len(subset) % 2 else (64, 64)
    images = {m: torch.randn(batch, 3, *size) for m in subset}
    experts.unmerge()
    stacked = encode(trunk, experts, images)
    experts.merge()
    merged = encode(trunk, experts, images)
    experts.unmerge()
    for row, modality in enumerate(subset):
        alone = encode(trunk, experts, {modality: images[modality]})
        slow = copy.deepcopy(plain)
        for block, layer in enumerate(slow.blocks):
            layer.attn.qkv = LoRALinear(layer.attn.qkv, experts.expert(modality), block)
        with torch.no_grad():
            reference = slow(images[modality])
        for s, m, a, t in zip(stacked, merged, alone, reference, strict=True):
            assert distance(s[row], t) < ROUNDING
            assert distance(m[row], t) < ROUNDING
            assert distance(a[0], t) < ROUNDING


class TestBf16:
    """Error of the forms in half precision, against float32 with the same (rounded) weights and images.

    A whole encoder rounds its tokens some hundred times, and one rounding that falls the other way re-rolls all later
    ones. So two equally accurate encoders differ by about as much as either differs from the exact result.
    """

    @pytest.fixture
    def half(self, trunk, experts):
        """One deep copy of both: the experts' layers stay those of the copied trunk."""
        trunk, experts = copy.deepcopy((trunk, experts))
        return trunk.bfloat16(), experts.bfloat16()

    def test_a_layer_agrees_within_a_hundredth(self, half, distance):
        _, experts = half
        experts.merge()
        for block, layer in enumerate(experts.layers):
            x = torch.randn(4, 50, layer.in_features)  # a run per modality
            layer.a, layer.b = experts._stack(block, MODALITIES)
            exact = torch.baddbmm(
                layer.bias.float(), x.bfloat16().float(), layer.weight.T.float() + layer.a.float() @ layer.b.float()
            )
            stacked = layer(x.bfloat16()).float()
            layer.merged = experts._merged[block]
            merged = layer(x.bfloat16()).float()
            layer.a = layer.b = layer.merged = None
            for one, other in ((stacked, exact), (merged, exact), (merged, stacked)):
                assert (one - other).norm() / other.norm() < 1e-2

    def test_no_form_adds_to_the_rounding_of_the_frozen_encoder(self, half, trunk):
        half_trunk, half_experts = half
        exact_trunk, exact_experts = copy.deepcopy((half_trunk, half_experts))
        exact_trunk.float(), exact_experts.float()
        images = {m: torch.randn(2, 3, 64, 96).bfloat16() for m in MODALITIES}
        exact = encode(exact_trunk, exact_experts, {m: image.float() for m, image in images.items()})
        with torch.no_grad():
            batch = torch.cat(list(images.values()))
            frozen, frozen_exact = half_trunk(batch), exact_trunk(batch.float())
        forms = [encode(half_trunk, half_experts, images)]
        half_experts.merge()
        forms.append(encode(half_trunk, half_experts, images))
        for level, reference in enumerate(exact):
            own = relative_error(frozen[level], frozen_exact[level])
            assert 1e-3 < own < 2e-2
            for form in forms:
                assert relative_error(form[level], reference) < 1.15 * own
            assert relative_error(forms[1][level], forms[0][level].float()) < 1.5 * own


def relative_error(rounded, exact):
    """Relative error as a norm."""
    return float((rounded.float() - exact).norm() / exact.norm())


def test_merged_experts_are_as_exact_in_bf16_as_low_rank_products():
    """Both beside fp32, with the shipped experts."""
    torch.manual_seed(0)
    images = torch.randn(len(MODALITIES), 3, 96, 160)

    def levels(dtype, merged):
        model = load_checkpoint(resource_path("weights/street.safetensors")).to(dtype)
        if merged:
            model.experts.merge()
        with torch.no_grad(), model.experts.active(MODALITIES):
            return list(model.backbone(images.to(dtype)).values())

    exact, stacked = levels(torch.float32, False), levels(torch.bfloat16, False)
    for reference, ours, theirs in zip(exact, levels(torch.bfloat16, True), stacked, strict=True):
        assert relative_error(ours, reference) < 1.1 * relative_error(theirs, reference) < 0.02


@pytest.mark.parametrize("merged", [False, True])
def test_a_modality_does_not_see_the_others(trunk, experts, merged):
    images = {m: torch.randn(2, 3, 64, 64) for m in MODALITIES}
    experts.merge() if merged else experts.unmerge()
    before = encode(trunk, experts, images)
    images["event"] = torch.randn(2, 3, 64, 64)
    after = encode(trunk, experts, images)
    experts.unmerge()
    for a, b in zip(before, after, strict=True):
        same = [torch.equal(x, y) for x, y in zip(a, b, strict=True)]
        assert same == [True, True, False, True]


def test_parameters_of_the_papers_experts():
    # reference: 1.326 M per modality, 5.30 M for four, with the widths right at the stage transitions
    with torch.device("meta"):
        experts = ExpertBank(build_backbone("hiera_base_plus").blocks, MODALITIES, 32)
    counts = [sum(p.numel() for p in experts.expert(m).parameters()) for m in MODALITIES]
    widths = [112] * 2 + [224] * 3 + [448] * 16 + [896] * 3
    entering = [112, *widths[:-1]]
    by_hand = sum(2 * 32 * (read + write) for read, write in zip(entering, widths, strict=True))
    assert counts == [by_hand] * 4
    assert by_hand == 1_326_080
    assert 4 * by_hand == 5_304_320


@pytest.mark.parametrize(("name", "width", "depth"), [("vit_b", 768, 12), ("vit_l", 1024, 24), ("vit_h", 1280, 32)])
def test_parameters_of_experts_on_sam_1(name, width, depth):
    with torch.device("meta"):
        expert = ExpertBank(build_backbone(name).blocks, ("camera",), 32).expert("camera")
    assert sum(p.numel() for p in expert.parameters()) == depth * 2 * 32 * (width + width)


def test_q_and_v_are_updated_over_their_whole_width_at_stage_transitions(trunk, plain, experts):
    wide = [layer for layer in experts.layers if layer.out_features != 3 * layer.in_features]
    assert len(wide) == (3 if isinstance(trunk, Hiera) else 0)
    for layer in wide:
        x = torch.randn(1, 2, 2, layer.in_features)
        before = layer(x).unflatten(-1, (3, -1))
        block = experts.layers.index(layer)
        layer.a, layer.b = experts._stack(block, ("lidar",))
        after = layer(x).unflatten(-1, (3, -1))
        layer.a = layer.b = None
        changed = (after != before).flatten(0, 2)  # (tokens, 3, D)
        assert changed[:, 0].all()
        assert not changed[:, 1].any()
        assert changed[:, 2].all()


class TestLive:
    """Adding, replacing and removing on a model that is in use."""

    @pytest.fixture
    def parts(self, plain):
        trunk = copy.deepcopy(plain)
        return trunk, ExpertBank(trunk.blocks, ("camera", "lidar"), 4)

    @pytest.fixture
    def lively(self, parts):
        """An expert that changes something."""

        def make():
            expert = parts[1].new_expert(4)
            for b in expert.b:
                nn.init.normal_(b, std=0.2)
            return expert

        return make

    @pytest.mark.parametrize("merged", [False, True])
    def test_a_replaced_expert_takes_effect_at_once(self, parts, lively, merged):
        trunk, experts = parts
        images = {"lidar": torch.randn(1, 3, 64, 64)}
        if merged:
            experts.merge()
        before = encode(trunk, experts, images)[-1]
        experts.add("lidar", lively())
        assert not torch.equal(encode(trunk, experts, images)[-1], before)

    def test_a_merged_model_stays_merged(self, parts, lively, distance):
        trunk, experts = parts
        experts.add("camera", lively())
        experts.merge()
        camera = {"camera": torch.randn(1, 3, 64, 64)}
        untouched = encode(trunk, experts, camera)[-1]
        experts.add("lidar", lively())
        experts.add("sonar", lively())
        assert torch.equal(encode(trunk, experts, camera)[-1], untouched)
        images = {m: torch.randn(2, 3, 64, 64) for m in ("camera", "lidar", "sonar")}
        merged = encode(trunk, experts, images)
        for layer in experts.layers:
            layer.register_forward_pre_hook(lambda layer, _: pytest.fail("stacked") if layer.merged is None else None)
        encode(trunk, experts, images)
        experts.remove("camera")
        fewer = encode(trunk, experts, {m: images[m] for m in ("lidar", "sonar")})
        for layer in experts.layers:
            layer._forward_pre_hooks.clear()
        experts.unmerge()
        stacked = encode(trunk, experts, {m: images[m] for m in ("lidar", "sonar")})
        for m, f, s in zip(merged, fewer, stacked, strict=True):
            assert distance(m[1:], s) < ROUNDING
            assert distance(f, s) < ROUNDING

    def test_merged_projections_follow_a_change_of_precision(self, parts, lively):
        trunk, experts = parts
        experts.add("lidar", lively())
        experts.merge()
        image = torch.randn(1, 3, 64, 64)
        exact = encode(trunk, experts, {"lidar": image})
        trunk.bfloat16()
        experts.bfloat16()
        for rounded, reference in zip(encode(trunk, experts, {"lidar": image.bfloat16()}), exact, strict=True):
            assert rounded.dtype == torch.bfloat16
            assert relative_error(rounded, reference) < 3e-2

    def test_added_expert_takes_the_precision_of_the_others(self, parts, lively):
        trunk, experts = parts
        expert = lively()
        trunk.bfloat16()
        experts.bfloat16()
        for merged in (False, True):
            experts.merge() if merged else experts.unmerge()
            experts.add("sonar", copy.deepcopy(expert))
            stages = encode(trunk, experts, {m: torch.randn(1, 3, 64, 64).bfloat16() for m in ("camera", "sonar")})
            assert {stage.dtype for stage in stages} == {torch.bfloat16}
            assert {p.dtype for p in experts.parameters()} == {torch.bfloat16}

    def test_added_and_removed(self, parts):
        trunk, experts = parts
        experts.add("sonar", experts.new_expert(4))
        assert experts.modalities == ("camera", "lidar", "sonar")
        assert encode(trunk, experts, {"sonar": torch.randn(1, 3, 64, 64)})[0].shape[0] == 1
        experts.remove("camera")
        assert experts.modalities == ("lidar", "sonar")

    def test_expert_of_another_rank_or_backbone_is_refused(self, parts):
        _, experts = parts
        with pytest.raises(ConfigError, match="has rank 5, but the others have 4"):
            experts.add("sonar", experts.new_expert(5))
        short = experts.new_expert(4)
        short.a, short.b = short.a[:3], short.b[:3]
        with pytest.raises(ConfigError, match=rf"has 3 blocks .*; this backbone has {len(experts.layers)} of"):
            experts.add("sonar", short)

    @pytest.mark.parametrize("name", ["", "a.b", "keys"])
    def test_invalid_modality_name_is_refused(self, parts, name):
        with pytest.raises(ConfigError, match="cannot be called"):
            parts[1].add(name, parts[1].new_expert(4))

    def test_removing_a_missing_or_the_last_expert_is_refused(self, parts):
        _, experts = parts
        with pytest.raises(ConfigError, match="'sonar' of camera, lidar"):
            experts.remove("sonar")
        experts.remove("camera")
        with pytest.raises(ConfigError, match="'lidar' of lidar"):
            experts.remove("lidar")


def test_merged_projections_of_a_subset_keep_their_memory(experts):
    """A CUDA graph reads them there. Only a change of the experts moves them."""
    experts = copy.deepcopy(experts)

    def places(subset):
        with experts.active(subset):
            return [layer.merged.data_ptr() for layer in experts.layers]

    experts.merge()
    seen = {subset: places(subset) for subset in SUBSETS}
    assert seen == {subset: places(subset) for subset in SUBSETS}
    assert seen[MODALITIES[:2]] == seen[MODALITIES]  # neighbors are a view
    with experts.active(MODALITIES[::2]):
        old = experts.layers[0].merged.clone()
    experts.add(MODALITIES[0], experts.new_expert(4))
    with experts.active(MODALITIES[::2]):
        assert not torch.equal(old[0], experts.layers[0].merged[0])
        assert torch.equal(old[1], experts.layers[0].merged[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_per_modality_are_as_exact_as_the_batched_product(dtype):
    """The form of a GPU, against float64."""
    bias, runs, weights = (torch.randn(*shape) for shape in ((36,), (3, 50, 24), (3, 24, 36)))
    expected = runs.to(dtype).double() @ weights.to(dtype).double() + bias.to(dtype).double()
    with torch.inference_mode():
        found, batched = (f(bias.to(dtype), runs.to(dtype), weights.to(dtype)) for f in (project_each, torch.baddbmm))
    errors = [float((result.double() - expected).abs().max()) for result in (found, batched)]
    assert found.shape == (3, 50, 36) and found.dtype == dtype
    assert errors[0] <= errors[1] * 1.01 < (1e-4 if dtype == torch.float32 else 0.1)


def test_network_with_products_per_modality(monkeypatch, make_model, make_images):
    model, images = make_model(), make_images(batch=1)
    model.experts.merge()
    with torch.inference_mode():
        expected = model(images).fused
        batched = torch.baddbmm

        def product(bias, runs, weights):  # the decoder's products have a bias per class
            return project_each(bias, runs, weights) if bias.ndim == 1 else batched(bias, runs, weights)

        monkeypatch.setattr(torch, "baddbmm", product)
        assert (model(images).fused - expected).abs().max() <= ROUNDING * expected.abs().max()
