# SPDX-License-Identifier: Apache-2.0
"""The style `varied`: colors do not reveal classes, every class occurs, and colors do not change shapes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.labels import load_label_space
from mlesam_ros.simulation.scene import Label
from mlesam_ros.simulation.sensors import Camera
from mlesam_ros.simulation.street import furnish_tile
from mlesam_ros.simulation.street_layout import StreetLayout
from mlesam_ros.simulation.style import (
    STYLES,
    VARIED,
    Colors,
    Level,
    LogUniform,
    Palette,
    Response,
    draw_fields,
    draw_parts,
)
from mlesam_ros.simulation.weather import Fault, draw_weather
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR

STREETS = 32
SIZE = (48, 80)
PAIRS = ((Label.SIDEWALK, Label.ROAD), (Label.VEGETATION, Label.BUILDING))


def rgb(sample):
    return sample.frames[CAMERA].payload.data.reshape(-1, 3).astype(float)


@pytest.fixture(scope="module")
def moments():
    """Style → one moment each of different streets by day, without LiDAR and events."""
    return {
        style: [
            World(seed, ("sun", "cloud")[seed % 2], SIZE, dropped=[EVENT, LIDAR], style=style).sample(37 * seed % 600)
            for seed in range(2000, 2000 + STREETS)
        ]
        for style in STYLES
    }


def accuracy(samples, pair):
    """Balanced accuracy of the nearest class mean: each street's mean colors against those of the other streets."""
    means = np.full((len(samples), 2, 3), np.nan)
    for row, sample in enumerate(samples):
        for column, label in enumerate(pair):
            mask = sample.labels.ravel() == label
            if mask.sum() >= 20:
                means[row, column] = rgb(sample)[mask].mean(0)
    right = [[], []]
    for row in range(len(means)):
        others = np.nanmean(np.delete(means, row, 0), axis=0)
        for column in range(2):
            if not np.isnan(means[row, column]).any():
                distance = np.linalg.norm(means[row, column] - others, axis=1)
                right[column].append(distance.argmin() == column)
    assert min(len(part) for part in right) > STREETS / 3
    return np.mean([np.mean(part) for part in right])


@pytest.mark.parametrize("pair", PAIRS, ids=["sidewalk or road", "plants or buildings"])
def test_mean_color_does_not_reveal_the_class(moments, pair):
    """Over 60 streets: 0.87 and 0.93 in `plain`, about 0.5 and 0.6 in `varied`; chance is 0.5."""
    assert accuracy(moments["varied"], pair) < 0.68
    assert accuracy(moments["plain"], pair) > 0.72


def test_blacks_and_clipped_skies_occur(moments):
    def extremes(samples):
        skies = [rgb(s)[s.labels.ravel() == Label.SKY].min(1) for s in samples if np.any(s.labels == Label.SKY)]
        clipped = np.mean([np.mean(sky >= 250) > 0.2 for sky in skies])
        return clipped, np.mean([np.mean(rgb(s).max(1) <= 5) > 0.01 for s in samples])

    assert extremes(moments["plain"]) == (0, 0)
    clipped, black = extremes(moments["varied"])
    assert 0.05 < clipped < 0.7 and 0.05 < black < 0.7


def test_every_class_occurs(moments):
    found = {int(label) for sample in moments["varied"] for label in np.unique(sample.labels)}
    for seed in range(200):
        look, shapes, _, _ = draw_parts(VARIED, (seed, 11))
        layout = StreetLayout.draw(np.random.default_rng([seed, 7]), shapes, look)
        found |= set(np.unique(furnish_tile(layout, seed, 3).classes).tolist())
        if len(found) == len(load_label_space("deliver").names):
            return
    pytest.fail(f"only {sorted(found)} occur")


def test_colors_and_response_change_neither_labels_nor_depth(monkeypatch):
    grays, light = Palette(((0.5, 0.5, 0.5), (0.4, 0.4, 0.4))), Level(LogUniform(0.3, 0.45))
    look = {name: Colors(grays, 2, light) for name, each in VARIED.look.items() if isinstance(each, Colors)}
    monkeypatch.setitem(STYLES, "gray", replace(VARIED, look={**VARIED.look, **look, "asphalt": light}, response={}))
    for seed in (3, 8, 14):
        first, second = (World(seed, size=SIZE, style=style).sample(seed * 20) for style in ("varied", "gray"))
        assert np.array_equal(first.labels, second.labels)
        assert np.array_equal(first.frames[DEPTH].payload.data, second.frames[DEPTH].payload.data)
        assert np.abs(rgb(first) - rgb(second)).mean() > 5


@pytest.mark.parametrize("seed", range(5))
def test_depth_of_the_road_lies_on_the_ground_plane_from_any_mounting(seed):
    world = World(seed, size=(96, 128), dropped=[EVENT, LIDAR], style="varied")
    sample = world.sample(60)
    depth = sample.frames[DEPTH].payload.data.view("<u2").reshape(96, 128) / 1000
    points = world.rig.camera.unproject(depth).reshape(-1, 3)
    base = world.rig.tree.lookup("base_link", sample.frames[DEPTH].frame_id)
    height = sample.pose.apply(base.apply(points))[:, 2].reshape(96, 128)
    road = (sample.labels == Label.ROAD) & (depth > 0) & (depth < 8)
    assert road.sum() > 100
    assert np.abs(np.median(height[road])) < 0.02 and np.quantile(np.abs(height[road]), 0.99) < 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_brighter_light_is_never_shown_darker(seed):
    """For every camera: white stays white, and a gray ramp is monotonic up to the noise."""
    response = draw_fields(Response, VARIED.response, np.random.default_rng(seed))
    quiet = replace(response, full_well=1e9, read_noise=0.0, falloff=0.0, sharpening=0.0, fringe=1.0, key=0.0)
    camera = Camera(quiet, (32, 64), np.ones(32 * 64, np.float32))
    ramp = np.repeat(np.linspace(0, 4, 64, dtype=np.float32)[None, :, None], 32, 0).repeat(3, 2)
    weather = draw_weather("sun", np.random.default_rng(0))
    pixels = camera.expose(ramp, weather, Fault(), np.random.default_rng(0)).data.reshape(32, 64, 3).mean(0)
    assert np.all(np.diff(pixels, axis=0) > -2)
    assert pixels[-1].min() > 250


def test_falloff_darkens_the_corners_and_the_meter_sets_the_exposure():
    cosine = World(0, size=(64, 64))._cosine
    light, weather = np.full((64, 64, 3), 0.7, np.float32), draw_weather("sun", np.random.default_rng(0))

    def expose(**fields):
        camera = Camera(Response(**fields), (64, 64), cosine)
        return camera.expose(light, weather, Fault(), np.random.default_rng(0)).data.reshape(64, 64, 3).astype(float)

    shaded = expose(falloff=0.5)
    assert shaded[:4, :4].mean() < 0.85 * shaded[30:34, 30:34].mean()
    levels = [expose(key=key, gamma=1.0, film=False).mean() / 255 for key in (0.3, 0.45)]
    assert levels == pytest.approx([0.3, 0.45], rel=0.05)
