# SPDX-License-Identifier: Apache-2.0
"""Samples of simulated streets are those of the worlds, as the network reads them."""

import numpy as np
import pytest

from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS
from mlesam_ros.simulation.samples import HELD_OUT_SEED, street_samples
from mlesam_ros.simulation.weather import WEATHERS
from mlesam_ros.simulation.world import World
from mlesam_ros.types import MODALITIES


@pytest.mark.parametrize("count", [1, 3])
def test_two_sets_of_each_street_in_the_weathers_in_turn(count):
    size = (32, 64)
    found = list(street_samples(MLESAMConfig(preprocessors=DEFAULT_PREPROCESSORS), size, count, HELD_OUT_SEED))
    assert len(found) == count
    for place, (images, labels) in enumerate(found):
        world = World(HELD_OUT_SEED + place // 2, WEATHERS[place // 2], (64, 128))
        frame = world.sample((150, 450)[place % 2])
        assert set(images) == set(MODALITIES) and {i.shape for i in images.values()} == {(3, *size)}
        assert labels.shape == size and labels.dtype == np.uint8
        assert set(np.unique(labels)) <= set(np.unique(frame.labels))
        assert (frame.labels[::2, ::2] == labels).mean() > 0.9
