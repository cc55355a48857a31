# SPDX-License-Identifier: Apache-2.0
"""The event model: events sum to the change of the light."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.simulation.sensors import THRESHOLD, draw_thresholds, log_light, simulate_events
from mlesam_ros.simulation.weather import draw_weather

QUIET = dataclasses.replace(draw_weather("day", np.random.default_rng(0)), event_noise=0.0)
DURATION = 35_000_000


def simulate(before, after, seed=0, weather=QUIET):
    thresholds = draw_thresholds(before.shape, np.random.default_rng(1))
    return simulate_events(before, after, thresholds, DURATION, weather, np.random.default_rng(seed)), thresholds


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 2))
def test_events_sum_to_the_change_within_a_threshold(seed, scale):
    rng = np.random.default_rng(seed)
    before = rng.normal(0, 1, (12, 16)).astype(np.float32)
    after = before + rng.normal(0, scale, (12, 16)).astype(np.float32)
    found, thresholds = simulate(before, after, seed)
    total = np.zeros(before.shape)
    np.add.at(total, (found.y, found.x), np.where(found.polarity, 1, -1))
    fine = np.abs(after - before) < 12 * THRESHOLD * 0.8  # more events than that are lost on purpose
    assert np.all(np.abs(total * thresholds - (after - before))[fine] <= thresholds[fine] * 1.001)
    signs = np.sign(after - before)[found.y, found.x]
    assert np.all(signs == np.where(found.polarity, 1, -1))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_times_are_whole_microseconds_in_order_within_the_segment(seed):
    rng = np.random.default_rng(seed)
    found, _ = simulate(*rng.normal(0, 1, (2, 10, 10)).astype(np.float32), seed)
    assert np.all(np.diff(found.t) >= 0) and np.all(found.t % 1000 == 0)
    assert len(found.t) and found.t[0] >= 0 and found.t[-1] < DURATION


def test_linear_ramp_gives_equidistant_events():
    before = np.zeros((1, 1), np.float32)
    found, thresholds = simulate(before, before + np.float32(6 * THRESHOLD))
    steps = np.diff(found.t) / DURATION * 6 * THRESHOLD
    assert len(found.t) in (5, 6, 7) and np.allclose(steps, thresholds[0, 0], atol=1e-3)


def test_constant_light_gives_noise_only():
    still = np.zeros((100, 100), np.float32)
    assert not len(simulate(still, still)[0].t)
    noisy = dataclasses.replace(QUIET, event_noise=10.0)
    count = len(simulate(still, still, weather=noisy)[0].t)
    assert abs(count - 10 * 100 * 100 * DURATION * 1e-9) < 5 * np.sqrt(3500)


def test_event_floor_hides_contrast_in_the_dark():
    dim, bright = np.full((1, 1, 3), 1e-6, np.float32), np.full((1, 1, 3), 2e-6, np.float32)
    assert abs(log_light(bright, QUIET) - log_light(dim, QUIET)).item() < 0.01
    assert (log_light(bright * 1e6, QUIET) - log_light(dim * 1e6, QUIET)).item() > 0.6
