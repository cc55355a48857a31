# SPDX-License-Identifier: Apache-2.0
"""Inference options against the reference implementation, CUDA graphs, memory errors and postprocessing."""

import copy
import gc
from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
import torch
from fake_cuda_graph import tapes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mlesam_ros.errors import ConfigError
from mlesam_ros.model import inference
from mlesam_ros.model.checkpoint import save_checkpoint
from mlesam_ros.model.inference import (
    ALL,
    REFERENCE,
    CudaGraphCache,
    InferenceOptions,
    argmax_with_confidence,
    explain_oom,
    postprocess,
    prepare,
)
from mlesam_ros.model.mlesam import Output
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

ROUNDING = 1e-5
"""Of the largest value, in float32."""
SUBSETS = (MODALITIES, (CAMERA, LIDAR), (DEPTH,))
SWITCHES = [field.name for field in fields(InferenceOptions) if field.name != "graphs"]  # below


@pytest.fixture
def outputs(family, make_model, make_images):
    """Outputs of a model with some options, for each subset twice, since some options cache between calls."""
    weights = make_model(backbone=family).state_dict()
    images = make_images(batch=1)

    def run(paths, dtype=torch.float32, **changes):
        model = make_model(backbone=family, **changes)
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
def test_each_option_equals_the_reference(switch, outputs, distance):
    assert_same(outputs(replace(REFERENCE, **{switch: True})), outputs(REFERENCE), distance)


def test_all_options_together_equal_the_reference(outputs, distance):
    assert_same(outputs(ALL), outputs(REFERENCE), distance)


def test_options_add_little_error_in_bf16(outputs, distance):
    every = {"top_k": len(MODALITIES)}  # the scores of random weights are so close that rounding changes a selection
    rounded = outputs(ALL, torch.bfloat16, **every), outputs(REFERENCE, torch.bfloat16, **every)
    for found, plain, true in zip(*rounded, outputs(REFERENCE, **every), strict=True):
        own, floor = (float((x.fused.float() - true.fused).norm() / true.fused.norm()) for x in (found, plain))
        assert own < 1.5 * floor < 0.1


def test_options_can_be_turned_off(make_model):
    model = prepare(make_model(), "cpu", torch.float32, REFERENCE)
    assert not model.backbone.trunk.cache_pos_embed
    assert model.backbone.trunk.patch_embed.proj[0].weight.is_contiguous()
    model = prepare(make_model(), "cpu", torch.float32, ALL)
    assert model.backbone.trunk.cache_pos_embed
    assert model.backbone.trunk.patch_embed.proj[0].weight.is_contiguous(memory_format=torch.channels_last)


ALL_SUBSETS = [subset for count in (4, 3, 2, 1) for subset in combinations(MODALITIES, count)]


@pytest.fixture
def made(monkeypatch):
    with tapes(monkeypatch) as graphs:
        yield graphs


def images_of(subset, size=(64, 96), seed=0):
    rng = np.random.default_rng(seed)
    return {m: rng.normal(size=(3, *size)).astype(np.float32) for m in subset}


@pytest.fixture
def pair(monkeypatch, make_model, family):
    """A pipeline that captures graphs, on the CPU, and one with the same weights that does not."""
    model = make_model(backbone=family)
    monkeypatch.setattr(inference, "DEVICES", ("cpu",))
    captured, reference = (Pipeline(copy.deepcopy(model), "cpu", "fp32", 1, paths) for paths in (ALL, REFERENCE))
    for pipeline in (captured, reference):
        pipeline.encodes_on_device = True  # as on a GPU, where the result has the nonfinite modalities
    return captured, reference


def assert_same_prediction(found, expected):
    assert (found.labels != expected.labels).mean() < 1e-3  # where two classes are equally likely
    assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1
    assert (found.modalities, found.nonfinite_modalities) == (expected.modalities, expected.nonfinite_modalities)
    for level, weights in expected.weights.items():
        assert found.weights[level] == pytest.approx(weights, abs=1e-5)


def test_every_subset_is_captured_once_and_equals_the_reference(made, pair):
    captured, reference = pair
    for seed in range(2):
        for subset in ALL_SUBSETS:
            images = images_of(subset, seed=seed)
            assert_same_prediction(captured.infer(images), reference.infer(images))
    assert [tape.plays for tape in made] == [2] * len(ALL_SUBSETS)


def test_batch_of_frame_sets_is_captured_and_equals_each_alone(made, pair):
    captured, reference = pair
    sets = [images_of((CAMERA, LIDAR), seed=seed) for seed in range(3)]
    for _ in range(2):
        for images, found in zip(sets, captured.infer_batch(sets), strict=True):
            assert_same_prediction(found, reference.infer(images))
    sets[1][LIDAR][0, 3, 4] = np.nan
    assert [found.nonfinite_modalities for found in captured.infer_batch(sets)] == [(), (LIDAR,), ()]
    assert [tape.plays for tape in made] == [3, 0, 0]  # the others are of the loss of a sensor


def test_order_of_modalities_needs_no_new_graph(made, pair):
    captured, reference = pair
    for subset in ((CAMERA, LIDAR, EVENT), (EVENT, CAMERA, LIDAR)):
        assert_same_prediction(captured.infer(images_of(subset)), reference.infer(images_of(subset)))
    assert [tape.plays for tape in made] == [2, 0, 0, 0]


def test_captured_graph_detects_nonfinite_images(made, pair):
    captured, _ = pair
    images = images_of((CAMERA, LIDAR))
    assert captured.infer(images).nonfinite_modalities == ()
    images[LIDAR][0, 3, 4] = np.nan
    assert captured.infer(images).nonfinite_modalities == (LIDAR,)
    assert [tape.plays for tape in made] == [2, 0, 0]


def test_image_sizes_in_turn_are_captured_once_each(made, pair):
    """As those of cameras with images of two sizes; other sizes between them drop what the network caches for these."""
    captured, reference = pair
    sizes = (64, 96), (96, 64)
    for seed in range(2):
        for size in sizes:
            images = images_of((CAMERA, DEPTH), size, seed)
            assert_same_prediction(captured.infer(images), reference.infer(images))
        for width in range(32, 32 * 12, 32):
            captured.features(images_of((CAMERA,), (32, width)))
        gc.collect()
    assert [tape.plays for tape in made] == [2, 0, 0, 2, 0, 0]


def test_swapped_experts_reset_the_graphs(made, pair, make_model, family, tmp_path):
    captured, reference = pair
    images = images_of((CAMERA, DEPTH))
    before = captured.infer(images).confidence.copy()
    other = make_model(backbone=family)
    other.backbone.load_state_dict(reference.network.backbone.state_dict())
    save_checkpoint(tmp_path / "other.safetensors", other)
    for pipeline in pair:
        pipeline.swap_experts(tmp_path / "other.safetensors")
    after = captured.infer(images)
    assert (after.confidence != before).any()
    assert_same_prediction(after, reference.infer(images))
    assert [tape.plays for tape in made] == [1, 0, 0, 1, 0, 0]


def test_graphs_of_a_lost_sensor_are_captured_with_the_first_frame(made):
    graphs = CudaGraphCache(lambda images: sum(images.values()))
    images = {name: torch.full((3, 2, 2), float(i)) for i, name in enumerate("abcd")}

    def run(names):
        return float(graphs({name: images[name] for name in names})[0, 0, 0])

    assert run("abcd") == 6 and len(made) == 5
    assert [run(names) for names in ("bcd", "acd", "abd", "abc")] == [6, 5, 4, 3]
    assert len(made) == 5 and [tape.plays for tape in made] == [1] * 5
    assert run("ab") == 1 and len(made) == 6, "two sensors are lost: their graph alone is captured, in mid-drive"
    assert len(made.streams.made) == 1


def test_failed_capture_falls_back_to_eager_with_a_warning(made):
    calls = iter(range(1, 100))

    def work(images):
        if next(calls) == 4:  # after the three warm-up calls before a capture
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return images["camera"] + 1

    graphs, images, queue = CudaGraphCache(work), {"camera": torch.zeros(3, 2, 2)}, torch.cuda.current_stream()
    with pytest.warns(RuntimeWarning, match="take longer: operation not permitted when stream is capturing$"):
        assert graphs(images).sum() == 12
    assert torch.cuda.current_stream() is queue, "torch leaves the stream of the failed capture current"
    assert graphs(images).sum() == 12 and next(calls) == 7
    graphs({"camera": torch.zeros(3, 2, 4)})
    assert made[-1].plays == 1, "another shape is captured"
    graphs.reset()
    graphs(images)
    assert len(made) == 3 and made[-1].plays == 1
    assert len(made.streams.made) == 1


def test_subset_that_cannot_be_captured_leaves_the_others_captured(made):
    def work(images):
        if [*images] == ["b"] and made[-1].open:
            raise RuntimeError("not here")
        return sum(images.values()) + 0

    graphs, images = CudaGraphCache(work), {name: torch.ones(3, 2, 2) for name in "ab"}
    with pytest.warns(RuntimeWarning, match="take longer: not here$"):
        assert graphs(images).sum() == 24
    for names in ("a", "b", "a", "b"):
        assert graphs({name: images[name] for name in names}).sum() == 12
    assert [tape.plays for tape in made] == [1, 0, 2]


def test_number_of_graphs_is_bounded(made):
    graphs = CudaGraphCache(lambda images: sum(images.values()))
    names = [f"sensor_{i}" for i in range(70)]
    for name in names:
        graphs({name: torch.zeros(3, 2, 2)})
    graphs({names[-1]: torch.zeros(3, 2, 2)})
    assert len(made) == len(names)
    graphs({names[0]: torch.zeros(3, 2, 2)})
    assert len(made) == len(names) + 1


def test_no_graph_is_captured_on_the_cpu(made, make_model):
    pipeline = Pipeline(make_model(), "cpu", "fp32", 1, ALL)
    pipeline.infer(images_of((CAMERA,)))
    assert not made


WEIGHTS = torch.nn.Linear(500, 500, bias=False)  # one megabyte


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"), 2148),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), 22),
        (MemoryError(), 1),
    ],
)
def test_oom_error_has_the_memory_requirement(error, needed):
    words = rf"needs at least {needed} MB there, 1 MB of them weights.* MB are free"
    with pytest.raises(ConfigError, match=words), explain_oom(WEIGHTS, "cpu"):
        raise error


def test_oom_message_of_the_cpu_allocator_is_parsed():
    with (
        pytest.raises(ConfigError, match="memory of cpu: it needs at least 40000001 MB"),
        explain_oom(WEIGHTS, "cpu"),
    ):
        torch.empty(10**13)


def test_other_errors_pass_explain_oom():
    with pytest.raises(RuntimeError, match="shapes"), explain_oom(WEIGHTS, "cpu"):
        WEIGHTS(torch.zeros(3))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(-6, 6), st.integers(0, 2**31 - 1))
def test_labels_equal_argmax_and_confidence_softmax(classes, magnitude, seed):
    logits = 10**magnitude * torch.randn(1, classes, 5, 7, generator=torch.manual_seed(seed))
    labels, confidence = argmax_with_confidence(logits, (20, 14))
    full = F.interpolate(logits, (20, 14), mode="bilinear", align_corners=False)[0]
    probability = full.softmax(0).amax(0)
    assert torch.equal(full.amax(0), full.gather(0, labels.long()[None])[0])  # of equals, any will do
    assert (confidence.float() - 255 * probability).abs().max() <= 0.51


def test_equal_logits_give_a_valid_label():
    labels, confidence = argmax_with_confidence(torch.zeros(1, 5, 4, 4), (4, 4))
    assert labels.max() < 5 and (confidence == 51).all()


@pytest.mark.parametrize("nonfinite_modalities", [(), ("lidar",), ("camera", "lidar")])
def test_postprocess_gives_nonfinite_modalities_and_router_weights(nonfinite_modalities):
    weights = {"semantic": torch.tensor([[0.25, 0.75]]), "high_res_0": torch.tensor([[0.5, 0.5]])}
    output = Output(torch.zeros(1, 3, 4, 4), None, weights, ("camera", "lidar"), "mean")
    images = {m: torch.full((1, 3, 2, 2), torch.inf if m in nonfinite_modalities else 1.0) for m in output.modalities}
    answer = postprocess(output, (6, 8), images)
    assert answer.nonfinite_modalities == nonfinite_modalities
    assert answer.labels.shape == answer.confidence.shape == (6, 8)
    assert answer.weights == {
        "semantic": {"camera": 0.25, "lidar": 0.75},
        "high_res_0": {"camera": 0.5, "lidar": 0.5},
    }
    assert postprocess(output, (6, 8)).nonfinite_modalities == ()
