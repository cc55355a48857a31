# SPDX-License-Identifier: Apache-2.0
"""Masks of subsets equal the pipeline's; averages are those of the protocols."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mlesam_ros.corruptions import ANY, EMM, NM, RMM, Corruption, subsets
from mlesam_ros.evaluation.bag_evaluator import EvaluationOptions, evaluate
from mlesam_ros.evaluation.scores import RobustnessEvaluator, RobustnessResults
from mlesam_ros.model.inference import Prediction
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.simulation.world import World
from mlesam_ros.types import MODALITIES, FrameSet


@pytest.fixture(scope="module")
def world():
    return World(3, "day", (64, 96))


@pytest.fixture(scope="module")
def frame_set(world):
    step = world.sample(4)
    return FrameSet(step.stamp, "camera", dict(step.frames), dict.fromkeys(step.frames, 0))


def only(frame_set, chosen):
    return FrameSet(frame_set.stamp, chosen[0], {m: frame_set.frames[m] for m in chosen}, dict.fromkeys(chosen, 0))


def small(labels, size):
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def test_subset_masks_equal_the_pipelines_masks_of_the_subset(world, frame_set, pipeline):
    pipeline.segment(frame_set, world.rig)
    found = RobustnessEvaluator(pipeline)(frame_set, MODALITIES, world.rig)
    size = pipeline.network_size(world.rig)
    for chosen in subsets(MODALITIES):
        alone = pipeline.segment(only(frame_set, chosen), world.rig).labels
        assert (found[Corruption(ANY, chosen)].labels == small(alone, size)).mean() > 0.995, chosen


def test_all_sensors_give_the_intact_mask_in_every_protocol(world, frame_set, pipeline):
    pipeline.segment(frame_set, world.rig)
    found = RobustnessEvaluator(pipeline)(frame_set, MODALITIES, world.rig)
    whole = found[Corruption(ANY, MODALITIES)].labels
    assert np.array_equal(found[Corruption(EMM, MODALITIES)].labels, whole)
    levels = ("0.25", "0.5", "0.75")
    assert all(np.array_equal(found[Corruption(RMM, MODALITIES, level)].labels, whole) for level in levels)
    assert {d.level for d in found if d.protocol == NM} == {"low", "mid", "high"}
    assert len(found) == 15 + 15 + 3 * 15 + 3
    again = RobustnessEvaluator(pipeline)
    pipeline.segment(frame_set, world.rig)
    for damage, mask in again(frame_set, MODALITIES, world.rig).items():
        assert np.array_equal(found[damage].labels, mask.labels)


def test_backbone_runs_once_per_corruption(world, frame_set, pipeline, monkeypatch):
    calls, features = [], MLESAM.features
    monkeypatch.setattr(MLESAM, "features", lambda self, images: calls.append(tuple(images)) or features(self, images))
    pipeline.segment(frame_set, world.rig)
    calls.clear()
    RobustnessEvaluator(pipeline)(frame_set, MODALITIES, world.rig)
    assert calls == [tuple(MODALITIES)] * (1 + 1 + 3 + 3)


def test_emm_uses_empty_images(world, frame_set, pipeline):
    pipeline.segment(frame_set, world.rig)
    images = dict(pipeline.images)
    found = RobustnessEvaluator(pipeline)(frame_set, MODALITIES, world.rig)
    shown = {m: image if m == "depth" else np.zeros_like(image) for m, image in images.items()}
    expected = pipeline.decode(pipeline.features(shown), world.rig)
    assert (found[Corruption(EMM, ("depth",))].labels == expected.labels).mean() > 0.995


def predicted(labels):
    return Prediction(labels, np.full(labels.shape, 204, np.uint8), {}, (), ())


def filled(scores):
    """Results in which subset S predicts class 0, the true one, for scores[S] of 100 pixels and class 1 elsewhere."""
    trials, truth = RobustnessResults(2), np.zeros((1, 100), np.uint8)
    for chosen, hits in scores.items():
        mask = predicted(np.repeat(np.array([[0, 1]], np.uint8), [hits, 100 - hits], 1))
        trials.agree(("a", "b"), {Corruption(ANY, ("a", "b")): predicted(truth), Corruption(ANY, chosen): mask})
        trials.compare(("a", "b"), Corruption(ANY, chosen), truth, mask.labels, mask.confidence)
    return trials


def test_average_and_expectation_equal_manual_values():
    trials = filled({("a", "b"): 80, ("a",): 60, ("b",): 10})
    assert [row["miou"] for row in trials.rows()] == [80.0, 60.0, 10.0]
    errors = {subset: reliability.error for subset, reliability in trials.reliabilities.items()}
    assert errors == pytest.approx({("a", "b"): 0.0, ("a",): 0.2, ("b",): 0.7}), "the confidence is 204 / 255 = 0.8"
    found = trials.summary()[ANY]
    assert found["average"] == 50.0
    p = 0.1  # of two sensors, given that not both fail
    assert found["expected"]["0.1"] == round(((1 - p) ** 2 * 80 + p * (1 - p) * (60 + 10)) / (1 - p**2), 2)


def test_rows_are_of_the_largest_sets_only():
    trials, truth = filled({("a", "b"): 80, ("a",): 60, ("b",): 10}), np.zeros((1, 100), np.uint8)
    for _ in range(50):
        trials.agree(("a",), {Corruption(ANY, ("a",)): predicted(truth)})
        trials.compare(("a",), Corruption(ANY, ("a",)), truth, truth, predicted(truth).confidence)
    assert trials.sensors == ("a", "b")
    assert [row["miou"] for row in trials.rows()] == [80.0, 60.0, 10.0]


def test_results_are_empty_without_sets():
    assert RobustnessResults(3).rows() == []
    assert RobustnessResults(3).summary() == {ANY: {}, EMM: {}, RMM: {}, NM: {}}


def test_agreement_needs_no_ground_truth(street, pipeline):
    found = evaluate(street, pipeline, EvaluationOptions(robustness=True, every=6))
    rows = found.scores.robustness.rows()
    assert [tuple(row["sensors"]) for row in rows] == subsets(MODALITIES)
    assert rows[0]["agreement"] == 100.0
    assert all(row["masks"] == 2 for row in rows)
    assert min(row["agreement"] for row in rows) < 100
    summary = found.scores.robustness.summary()
    assert set(summary[RMM]) == {"0.25", "0.5", "0.75"} and set(summary[NM]) == {"low", "mid", "high"}
