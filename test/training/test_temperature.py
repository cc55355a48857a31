# SPDX-License-Identifier: Apache-2.0
"""Temperature scaling: the fitted temperature has the highest likelihood, and calibrates."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.metrics import Reliability
from mlesam_training.temperature import temperature


def drawn(seed, sharpness, count=4000):
    """Logits that are `sharpness` times those of the distribution that the labels are drawn from."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 6, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return sharpness * logits, labels


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100), sharpness=st.floats(0.3, 6))
def test_the_sharpness_of_the_logits_is_found(seed, sharpness):
    assert temperature(*drawn(seed, sharpness, 20_000)) == pytest.approx(sharpness, rel=0.12)


def test_no_other_temperature_is_more_likely():
    logits, labels = drawn(3, 2.5)
    tried = np.geomspace(0.1, 10, 400)
    losses = [float(F.cross_entropy(logits / value, labels)) for value in tried]
    assert temperature(logits, labels) == pytest.approx(tried[np.argmin(losses)], rel=0.02)


def test_scaling_lowers_the_calibration_error():
    def error(divisor):
        confidence, prediction = ((logits / divisor).softmax(1)).max(1)
        found = Reliability()
        found.add(labels.numpy(), prediction.numpy(), confidence.numpy())
        return found.error

    logits, labels = drawn(5, 4.0, 40_000)
    assert error(1.0) > 0.15 and error(temperature(logits, labels)) < 0.02


def test_certain_and_random_logits_end_at_the_limits():
    certain = 5 * F.one_hot(torch.arange(4), 4).float()
    assert temperature(certain, torch.arange(4)) == pytest.approx(0.1, rel=1e-3)
    assert temperature(certain, (torch.arange(4) + 1) % 4) == pytest.approx(10, rel=1e-3)
