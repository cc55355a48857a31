# SPDX-License-Identifier: Apache-2.0
"""Time surfaces against the definition, one event at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.errors import ImageError, PacketError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.events import time_surface
from mlesam_ros.preprocessing.preprocessors import PREPROCESSORS
from mlesam_ros.types import EVENT, CompressedImage, EventWindow, RawImage, SensorFrame

HEIGHT, WIDTH, END, MS = 8, 12, 10**18, 10**6


def events(drafts):
    """(x, y, milliseconds before the end, polarity) each, in any order."""
    x, y, age, polarity = np.array(sorted(drafts, key=lambda d: -d[2]), np.int64).reshape(-1, 4).T
    return EventWindow(
        WIDTH, HEIGHT, x.astype(np.uint16), y.astype(np.uint16), END - age * MS, polarity != 0, END - 30 * MS, END
    )


def encode(payload, size=(HEIGHT, WIDTH)):
    rig = Rig("front")
    rig.models["front"] = CameraModel(WIDTH, HEIGHT, np.diag([9.0, 9.0, 1.0]), np.zeros(5), "plumb_bob")
    return PREPROCESSORS["time_surface"]()(SensorFrame(EVENT, END, "front", payload), rig, size)


def test_newest_event_of_each_polarity_is_used():
    image = encode(events([(3, 2, 0, 1), (3, 2, 20, 1), (5, 4, 10, 0), (5, 4, 30, 1)]))
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image.dtype == np.float32
    assert image[:, 2, 3].tolist() == [1, 0, 0]
    np.testing.assert_allclose(image[:, 4, 5], [math.exp(-3), math.exp(-1), 0], rtol=1e-6)
    assert np.count_nonzero(image) == 3


DRAFTS = st.lists(
    st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(0, 30), st.integers(0, 1)), max_size=40
)


@settings(deadline=None)
@given(DRAFTS, st.sampled_from([(HEIGHT, WIDTH), (4, 6), (3, 5), (1, 1)]), st.sampled_from([0.003, 0.01, 0.1]))
def test_any_events_equal_the_definition(drafts, size, decay):
    expected = np.zeros((*size, 2), np.float32)
    for x, y, age, polarity in drafts:
        cell = (2 * y + 1) * size[0] // (2 * HEIGHT), (2 * x + 1) * size[1] // (2 * WIDTH), 1 - polarity
        expected[cell] = max(expected[cell], math.exp(-age * 1e-3 / decay))
    np.testing.assert_allclose(time_surface(events(drafts), size, decay), expected, rtol=1e-5)


def test_no_events_give_empty_image():
    assert not encode(events([])).any()


@pytest.mark.parametrize(
    "payload",
    [RawImage(1, 1, "mono8", 1, np.zeros(1, np.uint8)), CompressedImage("png", np.zeros(1, np.uint8))],
)
def test_rendered_event_image_is_rejected(payload):
    with pytest.raises(ImageError, match="event_counts reads a rendered event image"):
        encode(payload)


def test_event_outside_sensor_is_rejected():
    with pytest.raises(PacketError, match="events reach column 12"):
        encode(events([(12, 0, 0, 1)]))
