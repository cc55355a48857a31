# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix against published scores, hand-made tables and itself."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
    multiclass_precision,
)

from mlesam_ros.errors import LabelError
from mlesam_ros.metrics import Confusion, Reliability


def read(path):
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return picture if picture.ndim == 2 else picture[..., 0]


def test_scores_published_by_the_bdd_toolkit(shared_data):
    folder = shared_data / "metrics_bdd" / "seg"
    confusion = Confusion(2)
    confusion.add(read(folder / "gt/a.png"), read(folder / "pred/a.png"))
    assert confusion.counts[:, :2].tolist() == [[93, 1], [4, 2]]
    # The mAcc of that toolkit is the mean precision; elsewhere mAcc is the mean recall.
    scores = [confusion.miou, confusion.precision.mean(), confusion.fwiou, confusion.pixel_accuracy]
    np.testing.assert_allclose(
        100 * np.array(scores), [61.73469387755102, 81.27147766323024, 90.91836734693878, 95.0], rtol=1e-12
    )
    assert confusion.mean_accuracy == pytest.approx((93 / 94 + 2 / 6) / 2)


def test_a_missing_prediction_counts_as_misses_as_the_bdd_toolkit_does(shared_data):
    folder = shared_data / "metrics_bdd" / "seg"
    confusion = Confusion(2)
    confusion.add(read(folder / "gt+/a.png"), read(folder / "pred/a.png"))
    missing = read(folder / "gt+/b.png")
    confusion.add(missing, np.full_like(missing, 255))
    assert 100 * confusion.miou == pytest.approx(31.91, abs=0.005)


def test_values_computed_by_hand():
    truth = np.array([0, 0, 0, 1, 1, 2, 255, 255], np.uint8)
    prediction = np.array([0, 0, 1, 1, 9, 0, 0, 2], np.uint8)
    confusion = Confusion(4)
    confusion.add(truth, prediction)
    np.testing.assert_allclose(confusion.iou, [2 / 4, 1 / 3, 0, np.nan])
    np.testing.assert_allclose(confusion.accuracy, [2 / 3, 1 / 2, 0, np.nan])
    assert confusion.miou == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert confusion.miou_all == pytest.approx((1 / 2 + 1 / 3) / 4)
    assert confusion.pixel_accuracy == pytest.approx(3 / 6)
    assert confusion.fwiou == pytest.approx((3 * 1 / 2 + 2 * 1 / 3) / 6)


def test_a_class_only_predicted_lowers_the_mean_but_not_that_over_the_present():
    confusion = Confusion(2)
    confusion.add(np.zeros(4, np.uint8), np.array([0, 0, 0, 1], np.uint8))
    assert confusion.miou == pytest.approx(0.75 / 2)
    assert confusion.miou_present == pytest.approx(0.75)


def test_nothing_counted_is_not_a_number_and_none_in_the_summary():
    summary = Confusion(2).summary(["a", "b"])
    assert summary["miou"] is None and summary["per_class"] == {"a": None, "b": None}


def test_summary_is_in_percent():
    confusion = Confusion(2)
    confusion.add(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    assert confusion.summary(["a", "b"])["per_class"] == {"a": 50.0, "b": 66.67}


@settings(deadline=None)
@given(
    arrays(np.uint8, 60, elements=st.sampled_from([0, 1, 2, 255])),
    arrays(np.uint8, 60, elements=st.sampled_from([0, 1, 2, 3, 255])),
)
def test_parts_sum_to_the_whole_and_the_matrix_counts_pairs(truth, prediction):
    whole, halves = Confusion(3), Confusion(3)
    whole.add(truth.reshape(6, 10), prediction.reshape(6, 10))
    for part in (slice(0, 25), slice(25, 60)):
        half = Confusion(3)
        half.add(truth[part], prediction[part])
        halves.merge(half)
    assert (whole.counts == halves.counts).all()
    for t in range(3):
        for p in range(3):
            assert whole.counts[t, p] == ((truth == t) & (prediction == p)).sum()
    assert whole.counts.sum() == (truth != 255).sum()


@settings(deadline=None)
@given(arrays(np.uint8, 40, elements=st.sampled_from([0, 1, 2, 255])))
def test_ground_truth_as_prediction_is_perfect(truth):
    confusion = Confusion(3)
    confusion.add(truth, truth)
    assert np.isnan(confusion.miou) if (truth == 255).all() else confusion.miou == 1


labels = st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=1, max_size=80)


@settings(deadline=None)
@given(st.data())
def test_torchmetrics_counts_the_same(data):
    """Class 4 never occurs. torchmetrics has 0 where nothing is known of a class; we have NaN."""
    truth = np.array(data.draw(labels), np.uint8)
    guessed = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(truth), max_size=len(truth))), np.uint8)
    assume((truth != 255).any())
    confusion = Confusion(5)
    confusion.add(truth, guessed)
    pair = torch.from_numpy(guessed.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))

    def theirs(function, average):
        return function(*pair, num_classes=5, average=average, ignore_index=255).numpy()

    counts = multiclass_confusion_matrix(*pair, num_classes=5, ignore_index=255).numpy()
    assert (confusion.counts[:, :5] == counts).all() and not confusion.counts[:, 5].any()
    known = ~np.isnan(confusion.iou)
    np.testing.assert_allclose(theirs(multiclass_jaccard_index, "none")[known], confusion.iou[known], atol=1e-6)
    assert confusion.miou == pytest.approx(float(theirs(multiclass_jaccard_index, "macro")), abs=1e-6)
    assert confusion.fwiou == pytest.approx(float(theirs(multiclass_jaccard_index, "weighted")), abs=1e-6)
    assert confusion.pixel_accuracy == pytest.approx(float(theirs(multiclass_accuracy, "micro")), abs=1e-6)
    present = confusion.pixels > 0
    recall = theirs(multiclass_accuracy, "none")
    np.testing.assert_allclose(recall[present], confusion.accuracy[present], atol=1e-6)
    assert confusion.mean_accuracy == pytest.approx(float(recall[present].mean()), abs=1e-6)
    predicted = ~np.isnan(confusion.precision)
    precision = theirs(multiclass_precision, "none")[predicted]
    np.testing.assert_allclose(precision, confusion.precision[predicted], atol=1e-6)


def test_absent_class_is_nan_and_left_out_of_means():
    """0 is true and found, 1 true and never predicted, 2 predicted and never true, 3 neither."""
    confusion = Confusion(4)
    confusion.add(np.array([0, 0, 1, 1]), np.array([0, 0, 2, 2]))
    np.testing.assert_equal(confusion.iou, [1, 0, 0, np.nan])
    np.testing.assert_equal(confusion.accuracy, [1, 0, np.nan, np.nan])
    np.testing.assert_equal(confusion.precision, [1, np.nan, 0, np.nan])
    assert confusion.miou == pytest.approx(1 / 3), "over what is true or predicted"
    assert confusion.miou_present == confusion.mean_accuracy == 0.5, "over what is true"
    assert confusion.miou_all == 0.25, "over all, NaN as 0"
    assert confusion.fwiou == 0.5


def test_unequal_shapes_and_foreign_ids_are_refused():
    with pytest.raises(LabelError, match=r"\(4,\).*\(5,\)"):
        Confusion(2).add(np.zeros(4, np.uint8), np.zeros(5, np.uint8))
    with pytest.raises(LabelError, match=r"\[7\].*0 to 1"):
        Confusion(2).add(np.full(4, 7, np.uint8), np.zeros(4, np.uint8))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), bins=st.integers(2, 30))
def test_calibration_error_is_that_of_torchmetrics(seed, bins):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 5, 6, 7, generator=generator)
    truth = torch.randint(0, 5, (2, 6, 7), generator=generator)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = 255
    expected = multiclass_calibration_error(logits.softmax(1), truth, 5, bins, "l1", ignore_index=255)
    confidence, prediction = (x.numpy() for x in logits.softmax(1).max(1))
    whole = Reliability(bins)
    for index in range(2):
        part = Reliability(bins)
        part.add(truth[index].numpy(), prediction[index], confidence[index])
        whole.merge(part)
    assert whole.error == pytest.approx(float(expected), abs=1e-6) and whole.pixels.sum() == (truth != 255).sum()


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_coverage_is_that_of_masks_cut_at_each_threshold(data):
    """Confidence images are uint8, as the node publishes them; pixels without a class count nowhere."""
    size = data.draw(st.integers(1, 60))
    confidence = data.draw(arrays(np.uint8, size, elements=st.sampled_from([0, 1, 16, 18, 203, 254])))
    truth, prediction = (
        data.draw(arrays(np.uint8, size, elements=st.sampled_from([0, 1, 255]))) for _ in ("truth", "prediction")
    )
    found = Reliability()
    found.add(truth, prediction, confidence)
    counted = (truth != 255) & (prediction != 255)
    thresholds, kept, accuracy = found.coverage
    for value in (0, 2, 16, 17, 18, 100, 203, 204, 255):
        above = counted & (confidence >= value)
        place = max(value, 1) - 1
        assert thresholds[place] == pytest.approx(value / 255 if value > 1 else 0)
        np.testing.assert_allclose(kept[place], above.sum() / counted.sum() if counted.any() else np.nan)
        np.testing.assert_allclose(accuracy[place], (truth == prediction)[above].mean() if above.any() else np.nan)
    if counted.any():
        hits, sure = (torch.from_numpy(x[counted]) for x in ((truth == prediction).astype(int), confidence / 255))
        assert found.error == pytest.approx(float(binary_calibration_error(sure, hits, 15)), abs=1e-6)


def test_summary_of_the_reliability():
    found = Reliability(5)
    found.add(np.zeros(10, int), np.repeat([0, 1], [7, 3]), np.repeat([0.95, 0.35], [8, 2]))
    summary = found.summary()
    assert summary["bins"] == {
        "share": [0, 0.2, 0, 0, 0.8], "confidence": [None, 0.35, None, None, 0.95],
        "accuracy": [None, 0.0, None, None, 0.875],
    }  # fmt: skip
    assert summary["calibration_error"] == 0.13 and summary["pixels"] == 10
    assert summary["coverage"]["share"] == [1.0, 0.8] and summary["coverage"]["accuracy"] == [0.7, 0.875]
    empty = Reliability().summary()
    assert empty["calibration_error"] is None and empty["coverage"]["share"] == []
