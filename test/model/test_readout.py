"""The answer that leaves the device is what a softmax and an arg max say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mlesam_ros.model.mlesam import Output
from mlesam_ros.model.postprocess import argmax_with_confidence, read


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(-6, 6), st.integers(0, 2**31 - 1))
def test_winners_are_those_of_an_arg_max(classes, magnitude, seed):
    logits = 10**magnitude * torch.randn(1, classes, 5, 7, generator=torch.manual_seed(seed))
    labels, confidence = argmax_with_confidence(logits, (20, 14))
    full = F.interpolate(logits, (20, 14), mode="bilinear", align_corners=False)[0]
    probability = full.softmax(0).amax(0)
    assert torch.equal(full.amax(0), full.gather(0, labels.long()[None])[0])  # of equals, any will do
    assert (confidence.float() - 255 * probability).abs().max() <= 0.51


def test_equal_logits_have_a_winner():
    labels, confidence = argmax_with_confidence(torch.zeros(1, 5, 4, 4), (4, 4))
    assert labels.max() < 5 and (confidence == 51).all()


@pytest.mark.parametrize("nonfinite_modalities", [(), ("lidar",), ("camera", "lidar")])
def test_who_was_spoilt_and_how_the_router_weighed(nonfinite_modalities):
    weights = {"semantic": torch.tensor([[0.25, 0.75]]), "high_res_0": torch.tensor([[0.5, 0.5]])}
    output = Output(torch.zeros(1, 3, 4, 4), None, weights, ("camera", "lidar"), "mean")
    images = {m: torch.full((1, 3, 2, 2), torch.inf if m in nonfinite_modalities else 1.0) for m in output.modalities}
    answer = read(output, (6, 8), images)
    assert answer.nonfinite_modalities == nonfinite_modalities
    assert answer.labels.shape == answer.confidence.shape == (6, 8)
    assert answer.weights == {
        "semantic": {"camera": 0.25, "lidar": 0.75},
        "high_res_0": {"camera": 0.5, "lidar": 0.5},
    }
    assert read(output, (6, 8)).nonfinite_modalities == ()
