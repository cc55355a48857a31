"""Frames that are recorded and played back, with a tape in the place of the GPU's graph; no GPU has run this."""

import copy
from itertools import combinations

import numpy as np
import pytest
import torch
from fake_cuda_graph import tapes

from mlesam_ros import pipeline as pipelines
from mlesam_ros.model.checkpoint import save_checkpoint
from mlesam_ros.model.inference import ALL, REFERENCE, CudaGraphCache
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

SUBSETS = [subset for count in (4, 3, 2, 1) for subset in combinations(MODALITIES, count)]


@pytest.fixture
def made(monkeypatch):
    with tapes(monkeypatch) as graphs:
        yield graphs


def pictures(subset, size=(64, 96), seed=0):
    rng = np.random.default_rng(seed)
    return {m: rng.normal(size=(3, *size)).astype(np.float32) for m in subset}


@pytest.fixture
def pair(monkeypatch, make_model, family):
    """A pipeline that records, on the CPU, and one of the same weights that does not."""
    model = make_model(backbone=family)
    monkeypatch.setattr(pipelines, "DEVICES", ("cpu",))
    recording, plain = (Pipeline(copy.deepcopy(model), "cpu", "fp32", 1, paths) for paths in (ALL, REFERENCE))
    for pipeline in (recording, plain):
        pipeline.encodes_on_device = True  # as on a GPU, where the answer tells which pictures were spoilt
    return recording, plain


def assert_same(found, expected):
    assert (found.labels != expected.labels).mean() < 1e-3  # where two classes are equally likely
    assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1
    assert (found.modalities, found.nonfinite_modalities) == (expected.modalities, expected.nonfinite_modalities)
    for level, weights in expected.weights.items():
        assert found.weights[level] == pytest.approx(weights, abs=1e-5)


def test_every_subset_is_recorded_once_and_says_what_the_plain_way_says(made, pair):
    recording, plain = pair
    for seed in range(2):
        for subset in SUBSETS:
            images = pictures(subset, seed=seed)
            assert_same(recording.infer(images), plain.infer(images))
    assert len(made) == len(SUBSETS)
    assert [tape.plays for tape in made] == [2] * len(SUBSETS)


def test_the_order_in_which_sensors_are_named_makes_no_recording(made, pair):
    recording, plain = pair
    for subset in ((CAMERA, LIDAR, EVENT), (EVENT, CAMERA, LIDAR)):
        assert_same(recording.infer(pictures(subset)), plain.infer(pictures(subset)))
    assert len(made) == 1


def test_spoilt_pictures_are_found_by_a_recording_of_good_ones(made, pair):
    recording, _ = pair
    images = pictures((CAMERA, LIDAR))
    assert recording.infer(images).nonfinite_modalities == ()
    images[LIDAR][0, 3, 4] = np.nan
    assert recording.infer(images).nonfinite_modalities == (LIDAR,)
    assert len(made) == 1


def test_another_size_begins_afresh(made, pair):
    recording, plain = pair
    for number, size in enumerate(((64, 96), (96, 64), (64, 96)), start=1):
        images = pictures((CAMERA, DEPTH), size)
        assert_same(recording.infer(images), plain.infer(images))
        assert len(made) == number


def test_exchanged_experts_are_recorded_anew(made, pair, make_model, family, tmp_path):
    recording, plain = pair
    images = pictures((CAMERA, DEPTH))
    before = recording.infer(images).confidence.copy()
    other = make_model(backbone=family)
    other.backbone.load_state_dict(plain.network.backbone.state_dict())
    save_checkpoint(tmp_path / "other.safetensors", other)
    for pipeline in pair:
        pipeline.swap_experts(tmp_path / "other.safetensors")
    after = recording.infer(images)
    assert (after.confidence != before).any()
    assert_same(after, plain.infer(images))
    assert len(made) == 2


def test_what_cannot_be_recorded_is_done_plainly_with_a_word_why(made):
    calls = iter(range(1, 100))

    def work(images):
        if next(calls) == 4:  # after the three that come before a recording
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return images["camera"] + 1

    graphs, images = CudaGraphCache(work), {"camera": torch.zeros(3, 2, 2)}
    with pytest.warns(RuntimeWarning, match="take longer: operation not permitted when stream is capturing$"):
        assert graphs(images).sum() == 12
    assert graphs(images).sum() == 12 and next(calls) == 7
    graphs.forget()
    graphs(images)
    assert len(made) == 2 and made[-1].plays == 1


def test_recordings_do_not_grow_without_end(made):
    graphs = CudaGraphCache(lambda images: sum(images.values()))
    names = [f"sensor_{i}" for i in range(20)]
    for name in names:
        graphs({name: torch.zeros(3, 2, 2)})
    graphs({names[-1]: torch.zeros(3, 2, 2)})
    assert len(made) == len(names)
    graphs({names[0]: torch.zeros(3, 2, 2)})
    assert len(made) == len(names) + 1


def test_without_a_gpu_nothing_is_recorded(made, make_model):
    pipeline = Pipeline(make_model(), "cpu", "fp32", 1, ALL)
    pipeline.infer(pictures((CAMERA,)))
    assert not made
