"""Every switch of the fast paths against the plain way, for several sets of sensors and both families."""

from dataclasses import fields, replace

import pytest
import torch

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.inference import ALL, COMPILERS, REFERENCE, InferenceOptions, prepare
from mlesam_ros.types import CAMERA, DEPTH, LIDAR, MODALITIES

ROUNDING = 1e-5
"""Of the largest value, in float32."""
SUBSETS = (MODALITIES, (CAMERA, LIDAR), (DEPTH,))
ELSEWHERE = {"compiler", "graphs"}  # the first below, the second in test_graphs.py
SWITCHES = [field.name for field in fields(InferenceOptions) if field.name not in ELSEWHERE]


@pytest.fixture
def outputs(family, make_model, make_images):
    """What a model says with some paths, for each subset twice, since some paths keep things from call to call."""
    weights = make_model(backbone=family).state_dict()
    images = make_images(batch=1)

    def run(paths, dtype=torch.float32):
        model = make_model(backbone=family)
        model.load_state_dict(weights)
        prepare(model, "cpu", dtype, paths)
        with torch.inference_mode():
            return [model({m: images[m].to(dtype) for m in subset}) for _ in range(2) for subset in SUBSETS]

    return run


def assert_same(found, expected, distance, tolerance=ROUNDING):
    for ours, plain in zip(found, expected, strict=True):
        assert ours.modalities == plain.modalities
        assert distance(ours.fused, plain.fused) <= tolerance
        for level, weights in plain.weights.items():
            assert (ours.weights[level] - weights).abs().max() <= tolerance


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_path_says_what_the_plain_way_says(switch, outputs, distance):
    assert_same(outputs(replace(REFERENCE, **{switch: True})), outputs(REFERENCE), distance)


def test_all_paths_together_say_what_the_plain_way_says(outputs, distance):
    assert_same(outputs(ALL), outputs(REFERENCE), distance)


def test_in_low_precision_the_paths_are_as_near_to_the_truth_as_the_plain_way(outputs, distance):
    truth = outputs(REFERENCE)
    for found, plain, true in zip(outputs(ALL, torch.bfloat16), outputs(REFERENCE, torch.bfloat16), truth, strict=True):
        own, floor = (float((x.fused.float() - true.fused).norm() / true.fused.norm()) for x in (found, plain))
        assert own < 1.5 * floor < 0.1


def test_a_compiled_model_says_what_the_plain_way_says(make_model, make_images, distance):
    images = make_images((CAMERA, LIDAR), batch=1, size=(32, 64))
    model = make_model()
    plain = prepare(make_model(), "cpu", torch.float32, REFERENCE)
    plain.load_state_dict(model.state_dict())
    compiled = prepare(model, "cpu", torch.float32, replace(ALL, compiler="aot_eager"))
    with torch.inference_mode():
        assert_same([compiled(images)], [plain(images)], distance)


def test_a_compiler_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="compiler 'nvcc' is unknown; accepted are inductor, aot_eager"):
        InferenceOptions(compiler="nvcc")
    assert {InferenceOptions(compiler=name).compiler for name in COMPILERS} == set(COMPILERS)


def test_the_paths_can_be_switched(make_model):
    model = prepare(make_model(), "cpu", torch.float32, REFERENCE)
    assert not model.backbone.trunk.cache_pos_embed
    assert model.backbone.trunk.patch_embed.proj.weight.is_contiguous()
    model = prepare(make_model(), "cpu", torch.float32, ALL)
    assert model.backbone.trunk.cache_pos_embed
    assert model.backbone.trunk.patch_embed.proj.weight.is_contiguous(memory_format=torch.channels_last)
