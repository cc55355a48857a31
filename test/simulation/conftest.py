# SPDX-License-Identifier: Apache-2.0
"""A small street by day and by night, rendered once."""

import pytest

from mlesam_ros.simulation.world import World

SIZE = (96, 128)


@pytest.fixture(scope="session")
def day():
    return World(seed=4, weather="day", size=SIZE)


@pytest.fixture(scope="session")
def night():
    return World(seed=4, weather="night", size=SIZE)


@pytest.fixture(scope="session")
def noon(day):
    return day.sample(12)


@pytest.fixture(scope="session")
def midnight(night):
    return night.sample(12)
