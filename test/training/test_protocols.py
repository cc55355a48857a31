"""EMM, RMM and NM on a model: features put together must be what the model says of damaged pictures."""

import pytest
import torch

from mlesam_ros.corruptions import EMM, NM, NM_LEVELS, RMM, RMM_RATES, Corruption, add_noise, chance, damages, subsets
from mlesam_ros.model.mlesam import build_mlesam
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.types import EVENT, LIDAR, MODALITIES
from mlesam_training.dataset_evaluation import EvalConfig, damage_predictor, robustness, summary


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_mlesam(MLESAMConfig(rank=2)).eval()


def test_everything_that_the_protocols_ask_for_is_tried():
    found = damages(MODALITIES)
    assert len(found) == len(set(found)) == 15 + len(RMM_RATES) * 15 + len(NM_LEVELS)
    assert len(damages(("a", "b", "c", "d", "e"))) == 31 * 4 + 3


@pytest.fixture(scope="module")
def predictions(model, street):
    rows = [1, 6]
    images, _ = street.batch(rows, MODALITIES)
    with torch.inference_mode():
        return images, dict(damage_predictor(model)(images, rows))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_missing_modality_is_shown_as_zeros(model, predictions):
    images, found = predictions
    dark = {name: p if name in (EVENT, LIDAR) else torch.zeros_like(p) for name, p in images.items()}
    with torch.inference_mode():
        close(found[Corruption(EMM, (EVENT, LIDAR))], model(dark).fused)
        close(found[Corruption(EMM, MODALITIES)], model(images).fused)
        close(found[Corruption(RMM, MODALITIES, "0.5")], model(images).fused)


def test_noise_is_the_rows_own_and_events_get_no_gaussian(model, predictions):
    images, found = predictions
    density, sigma = NM_LEVELS["mid"]
    noisy = {
        name: torch.stack([
            add_noise(p, density, 0.0 if name == EVENT else sigma, chance(row, name))
            for row, p in zip((1, 6), batch, strict=True)
        ])
        for name, batch in images.items()
    }  # fmt: skip
    with torch.inference_mode():
        close(found[Corruption(NM, (), "mid")], model(noisy).fused)
    assert (noisy[EVENT] == images[EVENT]).float().mean() > 1 - density - 0.01


def test_the_figures_are_the_papers_formulas(model, street):
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


def test_damage_follows_from_the_row_whatever_its_batch(model, street):
    images, _ = street.batch([0, 1, 2, 3], MODALITIES)
    predict = damage_predictor(model)
    with torch.inference_mode():
        together = dict(predict(images, [0, 1, 2, 3]))
        alone = dict(predict({name: batch[2:3] for name, batch in images.items()}, [2]))
    assert together.keys() == alone.keys() == set(damages(MODALITIES))
    for damage, logits in alone.items():
        close(together[damage][2:3], logits)
