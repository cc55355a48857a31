# SPDX-License-Identifier: Apache-2.0
"""The whole street: deterministic in any order; sensors agree with each other and with the ground truth."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from mlesam_ros.errors import ConfigError
from mlesam_ros.labels import load_label_space
from mlesam_ros.preprocessing.evt3 import Evt3Decoder
from mlesam_ros.simulation.scene import Label
from mlesam_ros.simulation.style import STYLES
from mlesam_ros.simulation.world import EPOCH, PERIOD, SENSOR_ZERO, World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, NANOSECONDS


def digest(sample):
    everything = hashlib.sha256(sample.labels.tobytes())
    for modality in (CAMERA, DEPTH):
        everything.update(sample.frames[modality].payload.data.tobytes())
    everything.update(sample.frames[LIDAR].payload.points.tobytes())
    everything.update(sample.evt3.tobytes())
    return everything.hexdigest()


def rgb(sample):
    image = sample.frames[CAMERA].payload
    return image.data.reshape(image.height, image.width, 3)


def depth(sample):
    image = sample.frames[DEPTH].payload
    return image.data.view("<u2").reshape(image.height, image.width) / 1000


@pytest.mark.parametrize("style", STYLES)
def test_sample_is_equal_in_another_process(style):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_world import digest\nfrom mlesam_ros.simulation.world import World\n"
        "print(digest(World(11, 'night', (48, 64), style=sys.argv[3]).sample(5)))"
    )
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(os.path.dirname(here)), here, style],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(World(11, "night", (48, 64), style=style).sample(5))


@pytest.mark.parametrize("style", STYLES)
def test_sample_is_independent_of_previous_samples(style):
    wandering, direct = (World(7, size=(48, 48), style=style) for _ in range(2))
    for index in (3, 300, 8, 9):
        wandering.sample(index)
    assert digest(wandering.sample(40)) == digest(direct.sample(40))


def test_seeds_and_weathers_differ(noon, midnight):
    assert digest(World(5, size=(48, 48)).sample(0)) != digest(World(6, size=(48, 48)).sample(0))
    assert np.array_equal(noon.labels, midnight.labels), "night changes the light, not the street"
    assert not np.array_equal(rgb(noon), rgb(midnight))


def test_stamps_frames_and_sizes(day, noon):
    assert noon.stamp == EPOCH + 12 * PERIOD
    assert tuple(noon.frames) == MODALITIES
    assert all(frame.stamp == noon.stamp and frame.modality == m for m, frame in noon.frames.items())
    assert noon.labels.shape == rgb(noon).shape[:2] == depth(noon).shape == day.size
    for frame in noon.frames.values():
        day.rig.extrinsic(frame.frame_id)


def test_labels_are_deliver_ids_of_a_street():
    space, seen = load_label_space("deliver"), set()
    for seed in range(8):
        labels = World(seed, size=(64, 64)).sample(seed * 9).labels
        space.check(labels)
        seen |= {space.names[i] for i in np.unique(labels)}
        assert {"Road", "Sky", "Building", "Vegetation"} <= {space.names[i] for i in np.unique(labels)}
    assert len(seen) >= 15


def test_depth_of_the_road_lies_on_the_ground_plane(day, noon):
    """Road pixels unproject onto the plane that base_link stands on."""
    points = day.rig.camera.unproject(depth(noon))
    base = day.rig.tree.lookup("base_link", noon.frames[DEPTH].frame_id)
    flat = noon.pose.apply(base.apply(points.reshape(-1, 3))).reshape(*day.size, 3)
    # The lowest quarter of the picture is within a few meters, where noise is millimeters.
    near = np.zeros(day.size, bool)
    near[-day.size[0] // 4 :] = True
    road = near & (noon.labels == Label.ROAD) & (depth(noon) > 0)
    assert road.sum() > 500
    assert abs(np.median(flat[road][:, 2])) < 0.01
    assert np.abs(flat[road][:, 2]).max() < 0.15


def test_lidar_and_depth_agree(day, noon):
    points = noon.frames[LIDAR].payload.points
    xyz = np.stack([points[axis] for axis in "xyz"], 1).astype(np.float64)
    seen = day.rig.extrinsic(noon.frames[LIDAR].frame_id).apply(xyz)
    uv, valid = day.rig.camera.project(seen)
    column, row = np.round(uv[valid]).astype(int).T
    inside = (column >= 0) & (column < day.size[1]) & (row >= 0) & (row < day.size[0])
    truth, z = depth(noon)[row[inside], column[inside]], seen[valid][inside, 2]
    both = (truth > 0) & (z < 15)
    assert both.sum() > 1000
    # At 128 pixels a pixel on the road 10 m ahead covers a meter of depth; the middle of the errors must vanish.
    assert abs(np.median(truth[both] - z[both])) < 0.05
    assert np.mean(np.abs(truth[both] - z[both]) < 0.1 * z[both]) > 0.8


def test_depth_has_holes_in_the_sky_and_beyond_its_range(noon):
    meters = depth(noon)
    assert not meters[noon.labels == Label.SKY].any()
    assert meters[meters > 0].min() > 0 and meters.max() <= 45
    assert 0 < np.mean(meters[noon.labels != Label.SKY] == 0) < 0.5


def test_event_frame_is_the_end_of_the_period(noon):
    window, period = noon.frames[EVENT].payload, noon.period_events
    assert (window.end, window.end - window.start) == (noon.stamp, 30_000_000)
    assert (period.end, period.end - period.start) == (noon.stamp, PERIOD)
    count = len(window.t)
    assert count > 500
    for name in ("x", "y", "t", "polarity"):
        assert np.array_equal(getattr(window, name), getattr(period, name)[-count:])
    assert period.t[0] >= period.start and period.t[-1] < period.end
    assert np.all(np.diff(period.t) >= 0)
    assert period.x.max() < period.width and period.y.max() < period.height


def test_packet_is_the_period_in_evt3(noon):
    period = noon.period_events
    x, y, t, polarity = Evt3Decoder(period.width, period.height).decode(noon.evt3)
    assert np.array_equal(x, period.x) and np.array_equal(y, period.y) and np.array_equal(polarity, period.polarity)
    assert np.array_equal(t - t[0], (period.t - period.t[0]) // 1000)
    assert noon.packet_stamp == period.t[0]
    assert (period.t[0] - SENSOR_ZERO) % 1000 == 0


def test_vehicle_moves_at_its_speed(day):
    poses = [day.sample(index).pose.translation for index in (0, 10)]
    assert np.linalg.norm(poses[1] - poses[0]) == pytest.approx(day.ego.speed * 10 * PERIOD / NANOSECONDS, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seed": -1}, "-1"),
        ({"size": (16, 512)}, "512x16"),
        ({"length": 0}, "0 steps"),
        ({"weather": "dusk"}, "dusk"),
        ({"fault": "blur"}, "motionblur"),
        ({"style": "gray"}, "varied"),
        ({"dropped": ["radar"]}, "radar"),
        ({"dropped": list(MODALITIES)}, "at least one sensor"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, word):
    with pytest.raises(ConfigError, match=word):
        World(**arguments)


def test_negative_steps_are_rejected(day):
    with pytest.raises(ConfigError, match="-1"):
        day.sample(-1)
