# SPDX-License-Identifier: Apache-2.0
"""Parts of the simulation: textures, sensor models, deterministic tiles."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.simulation.scene import COLUMNS, REFLECTANCE, Hits, Material
from mlesam_ros.simulation.sensors import (
    DEPTH_RANGE,
    POINT,
    Camera,
    SpinningLidar,
    pixel_rays,
    simulate_depth,
    street_rig,
)
from mlesam_ros.simulation.street import furnish_tile
from mlesam_ros.simulation.street_layout import TILE, StreetLayout
from mlesam_ros.simulation.style import Mounting, Response
from mlesam_ros.simulation.textures import cloudy, grain, hashed, shade_hits
from mlesam_ros.simulation.weather import Fault, draw_weather

DAY = draw_weather("day", np.random.default_rng(3))
PLAN = StreetLayout.draw(np.random.default_rng(5))


@pytest.mark.parametrize("lamps", [False, True])
def test_every_material_has_a_texture_within_physical_bounds(lamps):
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.array(list(Material), np.uint8), 200)
    n = len(kinds)
    normal = rng.normal(size=(n, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    rows = rng.uniform(0, 0.9, (n, COLUMNS)).astype(np.float32)
    rows[:, 3:5] = 1, 0
    point = rng.uniform(-20, 20, (n, 3)).astype(np.float32)
    distance = rng.uniform(1, 80, n).astype(np.float32)
    hits = Hits(distance, np.arange(n), point, normal, kinds, np.zeros(n, np.uint8), rows)
    look = shade_hits(hits, PLAN, 0.004, lamps)
    assert np.isfinite(look.albedo).all() and look.albedo.min() >= 0 and look.albedo.max() < 2
    assert np.isfinite(look.emission).all() and look.emission.min() >= 0
    assert np.all((look.gloss >= 0) & (look.gloss < 1))
    assert np.allclose(np.linalg.norm(hits.normal, axis=1), 1, atol=1e-4)
    assert np.all(REFLECTANCE > 0)


def test_tiles_are_deterministic_and_stay_in_their_range():
    first, again = furnish_tile(PLAN, 9, 3), furnish_tile(PLAN, 9, 3)
    assert np.array_equal(first.vertices, again.vertices) and np.array_equal(first.table, again.table)
    assert not np.array_equal(first.table[:5], furnish_tile(PLAN, 10, 3).table[:5])
    origins = first.table[first.table[:, 0] != 0, 0]
    assert np.all((origins > 3 * TILE - 10) & (origins < 4 * TILE + 10))


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_hash_depends_on_the_cell_only(a, b):
    inside = np.float32([0.25, 0.75])
    dice = hashed(np.float64(a) + inside, np.float64(b) + inside)
    assert dice[0] == dice[1] and 0 <= dice[0] < 1


def test_noise_is_centered_and_cloudy_is_smooth():
    u, v = np.float32(np.random.default_rng(1).uniform(0, 50, (2, 20_000)))
    assert abs(grain(u, v, 40.0).mean()) < 0.05 and abs(grain(u, v, 40.0).std() - 1) < 0.1
    assert np.abs(cloudy(u, v, 5.0) - cloudy(u + np.float32(0.002), v, 5.0)).max() < 0.2


@settings(max_examples=20, deadline=None)
@given(st.floats(0.5, 35))
def test_depth_noise_grows_with_the_square_of_distance(meters):
    quiet = dataclasses.replace(DAY, depth_holes=0.0)
    flat = np.full((64, 64), meters, np.float32)
    image = simulate_depth(flat, np.zeros_like(flat), quiet, np.random.default_rng(0))
    values = image.data.view("<u2").astype(float) / 1000
    assert np.all(values > 0)
    assert values.std() == pytest.approx(0.004 + 0.0011 * meters**2, rel=0.1)


def test_depth_has_holes_beyond_range_on_gloss_and_at_edges():
    depth = np.full((64, 64), 5.0, np.float32)
    depth[:, 32:] = DEPTH_RANGE + 1
    gloss = np.zeros_like(depth)
    gloss[:16] = 0.4
    values = simulate_depth(depth, gloss, DAY, np.random.default_rng(0)).data.view("<u2").reshape(64, 64)
    assert not values[:, 32:].any() and not values[:16].any()
    assert np.mean(values[20:, :30] == 0) < 0.05 < np.mean(values[20:, 31] == 0)


def test_exposure_is_monotonic_and_saturates():
    light = np.repeat(np.linspace(0, 10, 64, dtype=np.float32)[None, :, None], 64, 0).repeat(3, 2)
    camera = Camera(Response(), (64, 64), np.ones(64 * 64, np.float32))
    pixels = camera.expose(light, DAY, Fault(), np.random.default_rng(0)).data.reshape(64, 64, 3).mean(axis=(0, 2))
    assert pixels[0] < 12 and pixels[-1] > 240
    assert np.all(np.diff(pixels) > -2)


@pytest.mark.parametrize("mounting", [Mounting(), Mounting(view=60, distortion=-0.14), Mounting(distortion=0.04)])
def test_pixel_rays_go_through_the_centers_of_the_pixels(mounting):
    model = street_rig((48, 64), mounting=mounting).camera
    rays, cosine = pixel_rays(model, (48, 64))
    uv, valid = model.project(rays.astype(np.float64) / cosine[:, None] * 7)
    v, u = np.divmod(np.arange(48 * 64), 64)
    assert valid.all() and np.abs(uv - np.stack([u, v], 1)).max() < 1e-3


def test_lidar_measures_the_front_at_the_stamp_and_covers_a_turn():
    spinner = SpinningLidar()
    rays, times = spinner.rays()
    assert len(rays) == spinner.beams * spinner.steps and np.allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    front = np.abs(np.arctan2(rays[:, 1], rays[:, 0])) < 0.01
    assert front.sum() >= spinner.beams
    assert np.abs(times[front]).max() < 0.001
    assert times.min() >= -0.05 and times.max() <= 0.05
    assert POINT.names == ("x", "y", "z", "intensity", "ring", "time")
