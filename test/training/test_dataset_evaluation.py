# SPDX-License-Identifier: Apache-2.0
"""Evaluation of every subset, and the EMM, RMM and NM protocols."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mlesam_ros.corruptions import (
    EMM,
    NM,
    NM_LEVELS,
    RMM,
    RMM_RATES,
    Corruption,
    add_noise,
    all_corruptions,
    corruption_generator,
    subsets,
)
from mlesam_ros.labels import load_label_space
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import CAMERA, EVENT, LIDAR, MODALITIES
from mlesam_training.dataset_evaluation import (
    EvalConfig,
    corruption_predictor,
    evaluate,
    most_likely,
    robustness,
    subset_predictor,
    summary,
    to_json,
)

PAIR = [(CAMERA, LIDAR), (LIDAR,)]


def oracle(street):
    """Predicts the ground truth from the camera image, and road without one."""
    known = {street.images[CAMERA][row].tobytes(): street.labels[row] for row in range(len(street))}

    def predict(images, rows):
        seen = [known[picture.numpy().astype(np.float16).tobytes()] for picture in images[CAMERA]]
        for subset in PAIR:
            labels = torch.from_numpy(np.stack(seen)) if CAMERA in subset else torch.full((len(rows), 64, 64), 6)
            yield subset, F.one_hot(labels.long(), 25).permute(0, 3, 1, 2).float()

    return predict


def scores_of(street, batch=3):
    return evaluate(oracle(street), street, (CAMERA, LIDAR), PAIR, EvalConfig(batch=batch))


def test_scores_by_condition_and_subset(street):
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


def test_images_are_resized_before_the_network(street):
    def half(images, labels):
        return images, labels[:, :32]

    scores = evaluate(oracle(street), street, (CAMERA,), PAIR, EvalConfig(fit=half))
    assert scores[PAIR[0]].whole.pixels.sum() == street.labels[:, :32].size


def test_subset_equals_the_model_on_these_modalities_alone(street):
    torch.manual_seed(0)
    model = MLESAM(MLESAMConfig(rank=2)).eval()
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
    found, *sure = most_likely(logits, (1, 8), (1.0, 2.0))
    large = F.interpolate(logits, (1, 8), mode="bilinear")
    for temperature, confidence in zip((1.0, 2.0), sure, strict=True):
        np.testing.assert_allclose(confidence, (large / temperature).softmax(1).amax(1), rtol=1e-6)
    assert found.dtype == np.uint8 and found.tolist() == [[[0, 0, 0, 0, 0, 1, 1, 1]]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MLESAM(MLESAMConfig(rank=2)).eval()


def test_all_corruptions_of_the_protocols():
    found = all_corruptions(MODALITIES)
    assert len(found) == len(set(found)) == 15 + len(RMM_RATES) * 15 + len(NM_LEVELS)
    assert len(all_corruptions(("a", "b", "c", "d", "e"))) == 31 * 4 + 3


@pytest.fixture(scope="module")
def predictions(model, street):
    rows = [1, 6]
    images, _ = street.batch(rows, MODALITIES)
    with torch.inference_mode():
        return images, dict(corruption_predictor(model)(images, rows))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_emm_sets_images_to_zero(model, predictions):
    images, found = predictions
    dark = {name: p if name in (EVENT, LIDAR) else torch.zeros_like(p) for name, p in images.items()}
    with torch.inference_mode():
        close(found[Corruption(EMM, (EVENT, LIDAR))], model(dark).fused)
        close(found[Corruption(EMM, MODALITIES)], model(images).fused)
        close(found[Corruption(RMM, MODALITIES, "0.5")], model(images).fused)


def test_noise_depends_on_the_row_and_spares_events(model, predictions):
    images, found = predictions
    density, sigma = NM_LEVELS["mid"]
    noisy = {
        name: torch.stack([
            add_noise(p, density, 0.0 if name == EVENT else sigma, corruption_generator(row, name))
            for row, p in zip((1, 6), batch, strict=True)
        ])
        for name, batch in images.items()
    }  # fmt: skip
    with torch.inference_mode():
        close(found[Corruption(NM, (), "mid")], model(noisy).fused)
    assert (noisy[EVENT] == images[EVENT]).float().mean() > 1 - density - 0.01


def test_summary_equals_the_papers_formulas(model, street):
    """Average and expectation by hand (arXiv 2503.18445), from the counts of every subset."""
    scores = robustness(model, street, EvalConfig(batch=3))
    found = summary(scores)
    for protocol, level, row in (
        (EMM, "", found["emm"]),
        *((RMM, f"{share:g}", found["rmm"][f"{share:g}"]) for share in RMM_RATES),
    ):
        miou = {s: 100 * scores[Corruption(protocol, s, level)].whole.miou_present for s in subsets(MODALITIES)}
        assert row["average"] == pytest.approx(sum(miou.values()) / 15, abs=0.006)
        for p in (0.2, 0.1, 0.05):
            weighed = sum(p ** (4 - len(s)) * (1 - p) ** len(s) * score for s, score in miou.items())
            assert row["expected"][f"{p:g}"] == pytest.approx(weighed / (1 - p**4), abs=0.006)
    for level in NM_LEVELS:
        whole = scores[Corruption(NM, (), level)].whole
        assert found["nm"][level] == pytest.approx(100 * whole.miou_present, abs=0.006)
        assert found["over_all_classes"]["nm"][level] == pytest.approx(100 * whole.miou_all, abs=0.006)


def test_corruption_of_a_row_does_not_depend_on_its_batch(model, street):
    images, _ = street.batch([0, 1, 2, 3], MODALITIES)
    predict = corruption_predictor(model)
    with torch.inference_mode():
        together = dict(predict(images, [0, 1, 2, 3]))
        alone = dict(predict({name: batch[2:3] for name, batch in images.items()}, [2]))
    assert together.keys() == alone.keys() == set(all_corruptions(MODALITIES))
    for damage, logits in alone.items():
        close(together[damage][2:3], logits)
