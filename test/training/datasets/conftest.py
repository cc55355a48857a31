# SPDX-License-Identifier: Apache-2.0
"""Published sets in their own layouts, small."""

import layouts
import pytest
from small_recipes import RUNS, SIZE

from mlesam_ros.simulation.export import write_deliver_scene
from mlesam_ros.simulation.world import World


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """Every set in its published layout, two rows to train on and one or two held out."""
    found = {name: tmp_path_factory.mktemp(name) for name in RUNS}
    for weather, fault, split in (("sun", "none", "train"), ("rain", "eventlowres", "train"), ("night", "none", "val")):
        write_deliver_scene(found["deliver"], World(5, weather, SIZE, fault=fault), split, [0])
    layouts.muses(found["muses"])
    layouts.mcubes(found["mcubes"])
    return found
