# SPDX-License-Identifier: Apache-2.0
"""Masks and ground-truth labels are matched once in any order, and buffers are bounded."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.evaluation.ground_truth import GroundTruth
from mlesam_ros.evaluation.scores import ANY, MAX_LABEL_OFFSET_NS, Corruption, Scores, percentiles_ms
from mlesam_ros.types import FrameSet, Segmentation

USED = ("camera", "lidar")
PERIOD = 100_000_000


def mask(index, classes=5, size=(6, 8)):
    labels = np.random.default_rng(index).integers(0, classes, size, np.uint8)
    return Segmentation(
        (index + 1) * PERIOD, "camera", labels, np.full(size, 51, np.uint8), {"semantic": dict.fromkeys(USED, 0.5)},
        USED, dict.fromkeys(USED, 0), {"model": 0.01 * (index + 1)},
    )  # fmt: skip


def take(scores, made, others=None):
    trace = scores.add_mask(FrameSet(made.stamp, "camera", {}, dict.fromkeys(USED, 0)), made, others)
    scores.match(made.stamp)
    return trace


def truth(index, late=0, size=(6, 8)):
    labels = np.random.default_rng(100 + index).integers(0, 5, size, np.uint8)
    return GroundTruth((index + 1) * PERIOD + late, labels)


@given(
    st.permutations([("mask", i) for i in range(6)] + [("truth", i) for i in range(6)]),
    st.integers(-MAX_LABEL_OFFSET_NS, MAX_LABEL_OFFSET_NS),
)
@settings(max_examples=40, deadline=None)
def test_scores_are_independent_of_arrival_order(steps, late):
    expected = Scores(5)
    for index in range(6):
        take(expected, mask(index))
        expected.add_ground_truth(truth(index))
    scores = Scores(5)
    for what, index in steps:
        take(scores, mask(index)) if what == "mask" else scores.add_ground_truth(truth(index, late))
    assert scores.compared == 6
    assert np.array_equal(scores.confusion.counts, expected.confusion.counts)
    mious = {trace.stamp: trace.miou for trace in scores.masks}
    assert mious == {trace.stamp: trace.miou for trace in expected.masks}


def test_labels_beyond_the_tolerance_are_not_matched():
    scores = Scores(5)
    take(scores, mask(0))
    scores.add_ground_truth(truth(0, MAX_LABEL_OFFSET_NS + 1))
    assert scores.compared == 0


def test_mask_is_matched_once():
    scores = Scores(5)
    take(scores, mask(0))
    scores.add_ground_truth(truth(0))
    scores.add_ground_truth(truth(0, 1000))
    assert scores.compared == 1


def test_unmatched_buffers_are_bounded():
    scores = Scores(5)
    for index in range(200):
        take(scores, mask(index))
        scores.add_ground_truth(GroundTruth(index + 1, np.zeros((6, 8), np.uint8)))
    assert len(scores._unmatched_masks) == len(scores._unmatched_labels) == 30
    scores.finish()
    assert not scores._unmatched_masks and not scores._unmatched_labels


def test_masks_are_resized_to_the_ground_truth():
    scores, made = Scores(5), mask(0)
    take(scores, made)
    scores.add_ground_truth(GroundTruth(made.stamp, np.kron(made.labels, np.ones((2, 2), np.uint8))))
    assert scores.confusion.miou == 1.0
    assert scores.confusion.counts.sum() == 4 * made.labels.size


def test_merged_scores_equal_joint_scores():
    parts, whole = [Scores(5), Scores(5)], Scores(5)
    for index in range(8):
        others = {Corruption(ANY, s): mask(index + 50 * i) for i, s in enumerate((USED, *((m,) for m in USED)))}
        for scores in (parts[index // 4], whole):
            take(scores, mask(index), others)
            scores.add_ground_truth(truth(index))
    parts[0].merge(parts[1])
    assert np.array_equal(parts[0].confusion.counts, whole.confusion.counts)
    assert np.array_equal(parts[0].shares, whole.shares)
    assert parts[0].robustness.rows() == whole.robustness.rows()
    assert parts[0].compared == whole.compared == 8
    assert parts[0].reliabilities.keys() == whole.reliabilities.keys() == {USED}
    for one, other in ((p.reliabilities[USED], p.robustness.reliabilities[USED]) for p in (parts[0], whole)):
        assert np.array_equal(one.correct, other.correct) and one.pixels.sum() == 8 * 48
    assert np.array_equal(parts[0].reliabilities[USED].correct, whole.reliabilities[USED].correct)
    assert [t.stamp for t in parts[0].masks] == [t.stamp for t in whole.masks]


def test_confidence_and_consistency_are_means():
    scores = Scores(5)
    first, second = take(scores, mask(0)), take(scores, mask(1))
    assert first.confidence == 0.2
    assert first.consistency is None
    assert second.consistency == (mask(0).labels == mask(1).labels).mean()


def test_percentiles_are_in_milliseconds():
    assert percentiles_ms([]) == {"p50": None, "p95": None, "p99": None}
    assert percentiles_ms([0.001] * 3) == {"p50": 1.0, "p95": 1.0, "p99": 1.0}
