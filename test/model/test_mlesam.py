# SPDX-License-Identifier: Apache-2.0
"""The network and its router."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import ImageError
from mlesam_ros.model.backbones import LEVELS
from mlesam_ros.model.checkpoint import weights_sha256
from mlesam_ros.model.mlesam import MLESAM, Router
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import MODALITIES

SUBSETS = [subset for n in range(1, 5) for subset in combinations(MODALITIES, n)]


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_every_subset_of_modalities_gives_logits_and_weights(make_model, make_images, family, subset):
    with torch.inference_mode():
        output = make_model(backbone=family)(make_images(subset, size=(64, 96)))
    assert output.logits.shape == output.aux_logits.shape == output.fused.shape == (2, 25, 16, 24)
    assert output.modalities == subset
    assert set(output.weights) == set(LEVELS)
    for weights in output.weights.values():
        assert weights.shape == (2, len(subset))
        torch.testing.assert_close(weights.sum(1), torch.ones(2))


def test_modalities_may_have_any_names(make_model, make_images):
    names = ("near_infrared", "polarization_angle")
    with torch.inference_mode():
        assert make_model(modalities=names)(make_images(names)).modalities == names


def test_a_missing_sensor_is_a_smaller_batch(make_model, make_images):
    model, seen = make_model(), []
    model.backbone.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.inference_mode():
        model(make_images(MODALITIES, batch=3))
        model(make_images(("lidar",), batch=3))
    assert seen == [12, 3]


def test_an_absent_sensor_has_no_weight(make_model, make_images):
    with torch.inference_mode():
        output = make_model()(make_images(("depth", "lidar"), batch=3))
    for level in LEVELS:
        assert torch.equal(output.weight(level, "camera"), torch.zeros(3))
        assert torch.equal(output.weight(level, "lidar"), output.weights[level][:, 1])
        torch.testing.assert_close(sum(output.weight(level, m) for m in MODALITIES), torch.ones(3))


@pytest.mark.parametrize("fuse", ["mean", "main", "max_confidence"])
def test_the_temperature_of_a_subset_divides_its_logits(make_model, make_images, fuse):
    model = make_model(fuse=fuse)
    subset, other, images = ("camera", "lidar"), ("camera", "depth"), make_images(MODALITIES)
    with torch.inference_mode():
        before = [model({m: images[m] for m in some}).fused for some in (subset, other)]
        model.config = replace(model.config, temperatures={"camera+lidar": 2.5})
        after = [model({m: images[m] for m in some}).fused for some in (subset, other)]
    torch.testing.assert_close(after[0], before[0] / 2.5)
    assert torch.equal(after[1], before[1])


def test_the_order_in_which_images_are_given_does_not_matter(make_model, make_images):
    model, images = make_model(), make_images()
    with torch.inference_mode():
        assert torch.equal(model(images).logits, model(dict(reversed(images.items()))).logits)


def test_the_order_of_the_experts_does_not_matter(make_model, make_images, distance):
    model, images = make_model(), make_images()
    other = make_model(modalities=tuple(reversed(MODALITIES)))
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        ours, theirs = model(images), other(images)
    assert theirs.modalities == tuple(reversed(MODALITIES))
    assert distance(theirs.fused, ours.fused) < 1e-5
    for level in LEVELS:
        torch.testing.assert_close(theirs.weights[level].flip(1), ours.weights[level])


@pytest.mark.parametrize("subset", [MODALITIES, ("depth", "lidar"), ("camera",)], ids="-".join)
def test_merged_form_equals_stacked_form(make_model, make_images, distance, subset):
    # The router's choice of the best k is a step: compare where both forms chose alike, which is nearly always.
    model, images = make_model(top_k=4), make_images(subset)
    with torch.inference_mode():
        stacked = model(images)
        model.experts.merge()
        merged = model(images)
    assert distance(merged.fused, stacked.fused) < 1e-5


def test_batch_rows_are_independent(make_model, make_images, distance):
    model, images = make_model(), make_images(batch=3)
    with torch.inference_mode():
        whole = model(images).fused
        alone = model({m: x[1:2] for m, x in images.items()}).fused
    assert distance(alone, whole[1:2]) < 1e-5


def test_ablation_rows_are_model_configurations(make_model, make_images):
    rows = [
        {"features": "average", "auxiliary": False},
        {"features": "routed", "auxiliary": False},
        {"features": "both", "auxiliary": False},
        {"features": "both", "auxiliary": True},
    ]
    images, counts = make_images(), []
    for row in rows:
        torch.manual_seed(0)
        model = make_model(**row)
        counts.append(sum(p.numel() for p in model.parameters()))
        with torch.inference_mode():
            output = model(images)
        assert (output.aux_logits is not None) == row["auxiliary"]
        assert torch.equal(output.fused, output.logits) or row["auxiliary"]
    assert counts[0] < counts[1] == counts[2] < counts[3]


def test_fuse_option_combines_the_heads(make_model, make_images):
    images, fused = make_images(), {}
    for fuse in ("mean", "max_confidence", "main"):
        torch.manual_seed(0)
        with torch.inference_mode():
            output = make_model(fuse=fuse)(images)
        main, aux, fused[fuse] = output.logits, output.aux_logits, output.fused
    assert torch.equal(fused["main"], main)
    assert torch.equal(fused["mean"], (main + aux) / 2)
    surer = main.softmax(1).max(1).values >= aux.softmax(1).max(1).values
    assert 0 < surer.float().mean() < 1
    for b, y, x in ((0, 3, 5), (1, 12, 20)):
        assert torch.equal(fused["max_confidence"][b, :, y, x], (main if surer[b, y, x] else aux)[b, :, y, x])


@pytest.mark.parametrize(
    "changes", [{}, {"combine": "concat", "router_width": 5, "top_k": 4, "gate": "sigmoid"}], ids=["default", "options"]
)
def test_one_training_step_moves_everything_but_the_backbone(make_model, make_images, family, changes):
    model = make_model(backbone=family, **changes).train()
    # A fresh expert's A has no gradient until its B has moved; these have.
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sha = weights_sha256(model.backbone)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
    output = model(make_images())
    (output.logits.square().mean() + output.aux_logits.square().mean()).backward()
    optimizer.step()
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert {name.split(".")[0] for name in still} == {"backbone"}
    assert still == {name for name in before if name.startswith("backbone.")}
    assert weights_sha256(model.backbone) == sha


def test_the_backbone_stays_in_evaluation_mode(make_model):
    model = make_model().train()
    assert model.decoder.training
    assert model.auxiliary.dropout.training
    assert not any(module.training for module in model.backbone.modules())
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_sizes_of_the_shipped_model(make_model):
    model = make_model(rank=16)
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    assert count["backbone"] <= 3_000_000
    assert 4 * sum(count.values()) <= 12_000_000  # bytes that are shipped


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({}, "no modality; this model takes one or more of camera, depth, event, lidar"),
        ({"sonar": (1, 3, 64, 64)}, "given for sonar"),
        ({"camera": (1, 3, 64, 64), "lidar": (1, 3, 64, 96)}, r"'camera': \(1, 3, 64, 64\).*must have the same"),
        ({"camera": (1, 3, 64, 64), "lidar": (2, 3, 64, 64)}, "must have the same"),
        ({"camera": (1, 3, 64, 80)}, r"\(1, 3, 64, 80\); it must be .* multiples of 32"),
        ({"camera": (1, 1, 64, 64)}, r"\(B, 3, H, W\)"),
        ({"camera": (3, 64, 64)}, r"\(B, 3, H, W\)"),
        ({"camera": (0, 3, 64, 64)}, r"\(0, 3, 64, 64\)"),
        ({"camera": (1, 3, 0, 64)}, r"\(1, 3, 0, 64\)"),
    ],
)
def test_wrong_images_are_refused(make_model, images, words):
    with pytest.raises(ImageError, match=words):
        make_model()({m: torch.zeros(shape) for m, shape in images.items()})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_sensor_and_number(make_model, make_images, value):
    images = make_images(size=(32, 32))
    images["event"][1, 2, 5:7] = value
    with pytest.raises(ImageError, match="the event image has 64 NaN or infinite values of 6144"):
        make_model()(images)


def test_values_are_not_checked_off_the_cpu(make_model):
    # The meta device has no values; reading one raises an error.
    with torch.device("meta"):
        model = MLESAM(MLESAMConfig(rank=4))
        output = model({m: torch.empty(1, 3, 64, 64) for m in MODALITIES})
    assert output.logits.shape == (1, 25, 16, 16)


def test_integer_images_are_refused(make_model):
    with pytest.raises(ImageError, match=r"lidar image is torch\.uint8; it must be normalized"):
        make_model()({"lidar": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)})


def test_parameter_counts_of_the_papers_model():
    # The paper's 20.8 M most likely count SAM 2's memory modules too, which a picture never reaches.
    with torch.device("meta"):
        model = MLESAM(MLESAMConfig.paper())
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    assert count["backbone"] == 69_106_816
    assert count["experts"] == 5_304_320
    assert count["router"] == (256 + 1) + (64 + 1) + (32 + 1)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sum(count.values()) - count["backbone"]
    # As measured on Meta's package with 26 mask tokens: 7.302 M, of it 0.138 + 0.132 for the quality and object heads.
    # Ours has 25 tokens, and neither those heads nor their two tokens.
    hypernetwork = (2 * (256 * 256 + 256) + 256 * 32 + 32) / 1e6
    assert count["decoder"] / 1e6 == pytest.approx(7.302 - 0.138 - 0.132 - hypernetwork, abs=2e-3)


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_selected_features_equal_those_of_the_subset_alone(make_model, make_images, distance, subset):
    model, images = make_model(), make_images()
    with torch.inference_mode():
        chosen = model.decode_heads(model.features(images).select(subset))
        alone = model({m: images[m] for m in subset})
    assert chosen.modalities == alone.modalities == subset
    assert distance(chosen.fused, alone.fused) < 1e-5


def test_replaced_features_equal_those_of_replaced_images(make_model, make_images, distance):
    model, images, others = make_model(), make_images(), make_images()
    with torch.inference_mode():
        mixed = model.features(images).replace(model.features(others), ("event", "lidar"))
        expected = model({**images, "event": others["event"], "lidar": others["lidar"]})
        assert distance(model.decode_heads(mixed).fused, expected.fused) < 1e-5


CHANNELS = {"semantic": 12}


def router(**changes):
    torch.manual_seed(1)
    return Router(MLESAMConfig(**changes), CHANNELS)


def features(count, batch=3):
    return torch.randn(count, batch, 12, 4, 5)


@settings(deadline=None, max_examples=40)
@given(
    order=st.integers(1, 5).flatmap(lambda n: st.permutations(range(n))),
    top_k=st.integers(1, 5),
    how=st.sampled_from(["average", "routed", "both"]),
    gate=st.sampled_from(["linear", "sigmoid"]),
    combine=st.sampled_from(["mean", "sum", "concat"]),
    width=st.sampled_from([0, 3]),
    seed=st.integers(0, 1000),
)
def test_permuting_modalities_permutes_weights_and_nothing_else(order, top_k, how, gate, combine, width, seed):
    module = router(top_k=top_k, features=how, gate=gate, combine=combine, router_width=width)
    torch.manual_seed(seed)
    x = features(len(order))
    fused, weights = module("semantic", x)
    permuted_fused, permuted_weights = module("semantic", x[list(order)])
    torch.testing.assert_close(permuted_fused, fused)
    torch.testing.assert_close(permuted_weights, weights[:, list(order)])


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 5), top_k=st.integers(1, 6), renormalize=st.booleans())
def test_top_k_keeps_the_k_largest_weights(count, top_k, renormalize):
    _, weights = router(top_k=top_k, renormalize=renormalize)("semantic", features(count))
    assert weights.shape == (3, count)
    assert ((weights > 0).sum(1) == min(top_k, count)).all()
    if renormalize or top_k >= count:
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
    else:
        assert (weights.sum(1) < 1).all()


def test_router_equals_the_formula():
    module, x = router(top_k=2, features="both", combine="sum"), features(3, batch=1)
    layer = module.scores["semantic"]
    scores = torch.stack([layer.weight[0] @ x[m, 0].mean((1, 2)) + layer.bias[0] for m in range(3)])
    share = scores.exp() / scores.exp().sum()
    share[share.argmin()] = 0
    share = share / share.sum()
    expected = sum((1 / 3 + share[m]) * x[m, 0] for m in range(3))
    fused, weights = module("semantic", x)
    torch.testing.assert_close(weights[0], share)
    torch.testing.assert_close(fused[0], expected)


def test_renormalized_top_k_is_a_softmax_over_the_kept_ones():
    # The two readings of "softmax and top-k" are one.
    scores = torch.randn(5, 4)
    kept = scores.masked_fill(scores < scores.topk(2).values[:, -1:], -torch.inf)
    torch.testing.assert_close(router(top_k=2, renormalize=True).gate(scores), kept.softmax(-1))


def test_concat_starts_as_the_mean_and_is_trained():
    x = features(4)
    mean, weights = router(combine="mean")("semantic", x)
    module = router(combine="concat")
    fused, same = module("semantic", x)
    torch.testing.assert_close(fused, mean)
    assert torch.equal(same, weights)
    fused.square().mean().backward()
    assert module.mixes["semantic"].weight.grad.abs().sum() > 0
    assert not list(router(combine="concat", features="average").parameters())


def test_hidden_units_of_the_scoring():
    module = router(router_width=5)
    assert sum(p.numel() for p in module.parameters()) == (12 * 5 + 5) + (5 + 1)


def test_a_sigmoid_gate_bounds_how_far_weights_differ():
    x = 100 * features(2)
    _, linear = router(gate="linear")("semantic", x)
    _, sigmoid = router(gate="sigmoid")("semantic", x)
    assert linear.max() > 0.99
    assert sigmoid.max() < 0.74  # e / (1 + e)


@pytest.mark.parametrize("how", ["average", "routed", "both"])
def test_a_single_modality_passes_unchanged(how):
    x = features(1)
    fused, weights = router(features=how)("semantic", x)
    torch.testing.assert_close(fused, x[0])
    assert (weights == 1).all()


def test_features_option_selects_average_routed_or_both():
    x = features(4)
    average, uniform = router(features="average")("semantic", x)
    routed, weights = router(features="routed")("semantic", x)
    both, _ = router(features="both", combine="mean")("semantic", x)
    torch.testing.assert_close(average, x.mean(0))
    torch.testing.assert_close(uniform, torch.full((3, 4), 0.25))
    torch.testing.assert_close(both, (average + routed) / 2)
    assert not torch.allclose(weights, uniform)
    assert not list(router(features="average").parameters())
