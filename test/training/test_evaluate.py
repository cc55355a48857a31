"""The evaluation: which subsets, what is counted under which condition, and the tables."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mlesam_ros.corruptions import subsets
from mlesam_ros.labels import load_label_space
from mlesam_ros.model.mlesam import build_mlesam
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES
from mlesam_training.dataset_evaluation import EvalConfig, evaluate, most_likely, subset_predictor, to_json

PAIR = [(CAMERA, LIDAR), (LIDAR,)]


def oracle(street):
    """Knows the truth by the camera's picture; guesses road without it."""
    known = {street.images[CAMERA][row].tobytes(): street.labels[row] for row in range(len(street))}

    def predict(images, rows):
        seen = [known[picture.numpy().astype(np.float16).tobytes()] for picture in images[CAMERA]]
        for subset in PAIR:
            labels = torch.from_numpy(np.stack(seen)) if CAMERA in subset else torch.full((len(rows), 64, 64), 6)
            yield subset, F.one_hot(labels.long(), 25).permute(0, 3, 1, 2).float()

    return predict


def scores_of(street, batch=3):
    return evaluate(oracle(street), street, (CAMERA, LIDAR), PAIR, EvalConfig(batch=batch))


def test_what_is_right_is_counted_right_by_condition_and_subset(street):
    scores = scores_of(street)
    assert scores[PAIR[0]].whole.miou == 1
    blind = scores[PAIR[1]]
    night = np.array([c["weather"] == "night" for c in street.conditions])
    assert blind.whole.pixel_accuracy == (street.labels[:] == 6).mean()
    assert blind.conditions["weather"]["night"].pixel_accuracy == (street.labels[night] == 6).mean()
    assert (sum(part.counts for part in blind.conditions["weather"].values()) == blind.whole.counts).all()
    assert (blind.conditions["fault"]["none"].counts == blind.whole.counts).all()


def test_the_size_of_a_batch_changes_nothing(street):
    for one, other in zip(scores_of(street, 3).values(), scores_of(street, 8).values(), strict=True):
        assert (one.whole.counts == other.whole.counts).all()


def test_pictures_are_fitted_before_they_are_shown(street):
    def half(images, labels):
        return images, labels[:, :32]

    scores = evaluate(oracle(street), street, (CAMERA,), PAIR, EvalConfig(fit=half))
    assert scores[PAIR[0]].whole.pixels.sum() == street.labels[:, :32].size


def test_a_subset_is_what_the_model_says_of_these_sensors_alone(street):
    torch.manual_seed(0)
    model = build_mlesam(MLESAMConfig(rank=2)).eval()
    chosen = subsets(MODALITIES)
    images, _ = street.batch([0, 5], MODALITIES)
    with torch.inference_mode():
        found = dict(subset_predictor(model, chosen)(images, [0, 5]))
        assert list(found) == chosen
        for subset in chosen:
            alone = model({name: images[name] for name in subset}).fused
            torch.testing.assert_close(found[subset], alone, rtol=1e-4, atol=1e-4)


def test_json_has_the_keys_that_are_documented(street):
    content = to_json(scores_of(street), load_label_space("deliver"), "a street")
    entry = content["subsets"][0]
    assert entry["sensors"] == [CAMERA, LIDAR] and entry["miou"] == 100.0
    assert entry["conditions"]["weather"]["night"]["miou"] == 100.0
    assert content["mean_of_subsets"]["miou"] == pytest.approx((100 + content["subsets"][1]["miou"]) / 2, abs=0.006)
    assert content["data"] == "a street" and content["label_space"] == "deliver"
    assert content["classes_present"] == len(np.unique(street.labels))
    assert "any_modal" not in content, "expectations need every subset"


def test_the_most_likely_class_is_taken_after_interpolation():
    logits = torch.tensor([[[[4.0, 0.0]], [[0.0, 1.0]]]])  # two classes, 1 x 2
    found = most_likely(logits, (1, 8))
    assert found.dtype == np.uint8 and found.tolist() == [[[0, 0, 0, 0, 0, 1, 1, 1]]]
