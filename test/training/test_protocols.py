"""EMM, RMM and NM on a model: features put together must be what the model says of damaged pictures."""

import pytest
import torch

from mlesam_ros.frame import EVENT, LIDAR, MODALITIES
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.mlesam import build_mlesam
from mlesam_ros.robustness import MISSING, NOISE, with_noise
from mlesam_ros.training import robustness as protocols
from mlesam_ros.training.evaluate import How
from mlesam_ros.training.robustness import robustness, summary, tries


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_mlesam(MLESAMConfig(rank=2)).eval()


def test_everything_that_the_protocols_ask_for_is_tried():
    found = tries(MODALITIES)
    assert len(found) == len(set(found)) == 15 + len(MISSING) * 15 + len(NOISE)
    assert len(tries(("a", "b", "c", "d", "e"))) == 31 * 4 + 3


@pytest.fixture(scope="module")
def predictions(model, street):
    rows = [1, 6]
    images, _ = street.batch(rows, MODALITIES)
    with torch.inference_mode():
        return images, dict(protocols._predictor(model)(images, rows))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_missing_modality_is_shown_as_zeros(model, predictions):
    images, found = predictions
    dark = {name: p if name in (EVENT, LIDAR) else torch.zeros_like(p) for name, p in images.items()}
    with torch.inference_mode():
        close(found["emm", "", (EVENT, LIDAR)], model(dark).fused)
        close(found["emm", "", MODALITIES], model(images).fused)
        close(found["rmm", "0.5", MODALITIES], model(images).fused)


def test_noise_is_the_rows_own_and_events_get_no_gaussian(model, predictions):
    images, found = predictions
    density, sigma = NOISE["mid"]
    noisy = {
        name: torch.stack([
            with_noise(p, density, 0.0 if name == EVENT else sigma, protocols._chance(row, name))
            for row, p in zip((1, 6), batch, strict=True)
        ])
        for name, batch in images.items()
    }  # fmt: skip
    with torch.inference_mode():
        close(found["nm", "mid", ()], model(noisy).fused)
    assert (noisy[EVENT] == images[EVENT]).float().mean() > 1 - density - 0.01


def test_the_summary_has_the_protocols_sums(model, street):
    scores = robustness(model, street, How(batch=3))
    found = summary(scores)
    every = [100 * scores["emm", "", subset].whole.miou_present for (kind, _, subset) in scores if kind == "emm"]
    assert found["emm"]["average"] == round(sum(every) / 15, 2)
    assert found["rmm"].keys() == {"0.25", "0.5", "0.75"} and found["nm"].keys() == {"low", "mid", "high"}
    assert found["over_all_classes"]["nm"]["high"] == round(100 * scores["nm", "high", ()].whole.miou_all, 2)


def test_damage_follows_from_the_row_whatever_its_batch(street):
    images, _ = street.batch([0, 1, 2, 3], (EVENT, LIDAR))
    for damage in protocols._damages().values():
        whole = protocols._damaged(images, [0, 1, 2, 3], damage)
        part = protocols._damaged({name: batch[2:3] for name, batch in images.items()}, [2], damage)
        assert all(torch.equal(whole[name][2:3], part[name]) for name in images)
