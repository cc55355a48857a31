# SPDX-License-Identifier: Apache-2.0
"""Weather, faults and dropped sensors: their effect on each sensor; the street stays the same."""

from pathlib import Path

import numpy as np
import pytest

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.simulation.scene import COLUMNS, Hits
from mlesam_ros.simulation.sensors import jitter_pose
from mlesam_ros.simulation.weather import FAULTS, WEATHERS, draw_fault, draw_weather, flow, motion_blur
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES

SIZE, SEED, INDEX = (96, 128), 4, 12


@pytest.fixture(scope="module")
def samples():
    """Condition → sample, of one street."""
    worlds = {name: World(SEED, name, SIZE) for name in WEATHERS}
    worlds |= {name: World(SEED, "sun", SIZE, fault=name) for name in FAULTS}
    return {name: world.sample(INDEX) for name, world in worlds.items()}


def rgb(sample):
    image = sample.frames[CAMERA].payload
    return image.data.reshape(image.height, image.width, 3).astype(float)


def meters(sample):
    image = sample.frames[DEPTH].payload
    return image.data.view("<u2").reshape(image.height, image.width) / 1000


def points(sample):
    cloud = sample.frames[LIDAR].payload.points
    return np.stack([cloud[axis] for axis in "xyz"], 1)


def ranges(sample):
    """Meters of each beam at each step of the turn, NaN without a return."""
    cloud, out = sample.frames[LIDAR].payload.points, np.full((32, 1024), np.nan)
    step = np.round((cloud["time"] / 0.1 + 0.5) * 1024 - 0.5).astype(int)
    out[cloud["ring"], step] = np.linalg.norm(points(sample), axis=1)
    return out


def contrast(sample, rows=slice(0, 48)):
    """Mean difference of neighboring pixels in the upper half, in gray levels."""
    return np.abs(np.diff(rgb(sample).mean(2)[rows], axis=1)).mean()


def payload_bytes(frame):
    payload = frame.payload
    if frame.modality == EVENT:
        return b"".join(getattr(payload, name).tobytes() for name in ("x", "y", "t", "polarity"))
    return (payload.points if frame.modality == LIDAR else payload.data).tobytes()


@pytest.mark.parametrize("weather", ["sun", "night"])
def test_day_and_night_equal_the_training_data_of_the_shipped_weights(samples, weather):
    """Rounding of exp and sin may differ between machines; the street may not."""
    stored = np.load(Path(__file__).with_name("street_as_trained.npz"))
    sample = samples[weather]
    assert np.mean(sample.labels != stored[f"{weather}_labels"]) < 0.001
    assert np.mean(np.abs(rgb(sample) - stored[f"{weather}_camera"]) > 1) < 0.002
    assert np.mean(np.abs(meters(sample) - stored[f"{weather}_depth"] / 1000) > 0.002) < 0.002
    events, counts = sample.frames[EVENT].payload, np.zeros((2, *SIZE))
    np.add.at(counts, (events.polarity.astype(int), events.y, events.x), 1)
    assert np.mean(counts != stored[f"{weather}_events"]) < 0.01
    cloud = sample.frames[LIDAR].payload.points[::40]
    found = np.stack([cloud[name] for name in ("x", "y", "z", "intensity")], 1)
    if len(found) == len(stored[f"{weather}_lidar"]):  # a single return more or less shifts all that follow
        assert np.mean(np.abs(found - stored[f"{weather}_lidar"]).max(1) > 0.01) < 0.01
    assert abs(len(found) - len(stored[f"{weather}_lidar"])) <= 1


def test_labels_are_the_same_in_every_condition(samples):
    assert set(samples) == {*WEATHERS, *FAULTS}
    for sample in samples.values():
        assert np.array_equal(sample.labels, samples["sun"].labels)
        assert tuple(sample.frames) == MODALITIES


@pytest.mark.parametrize(
    ("fault", "hurt"),
    [("motionblur", CAMERA), ("overexposure", CAMERA), ("underexposure", CAMERA), ("lidarjitter", LIDAR),
     ("lidarsectors", LIDAR), ("lidarclutter", LIDAR), ("lidarcrosstalk", LIDAR), ("eventlowres", EVENT)],
)  # fmt: skip
def test_fault_changes_one_sensor_only(samples, fault, hurt):
    for modality in MODALITIES:
        same = payload_bytes(samples[fault].frames[modality]) == payload_bytes(samples["none"].frames[modality])
        assert same == (modality != hurt)


def test_fog_reduces_the_range_of_every_sensor(samples):
    fog, clear = samples["fog"], samples["sun"]
    assert contrast(fog) < 0.5 * contrast(clear)
    for reading in (lambda m: np.linalg.norm(points(m), axis=1), lambda m: meters(m)[meters(m) > 0]):
        far, near = (np.sum(reading(fog) > 25) / np.sum(reading(clear) > 25), np.sum(reading(fog) < 12))
        assert far < 0.5, "distant returns must drop"
        assert near > 0.8 * np.sum(reading(clear) < 12), "near ones must stay"
    assert len(fog.frames[EVENT].payload.t) < 0.7 * len(clear.frames[EVENT].payload.t)


@pytest.mark.parametrize("weather", ["fog", "rain"])
def test_drops_give_weak_near_echoes(samples, weather):
    """Some firings return a weak echo nearer than their echo in clear air."""
    wet, clear = ranges(samples[weather]), ranges(samples["sun"])
    ghosts = wet < clear - 0.5
    assert 0.005 < ghosts.mean() < 0.15
    assert np.median(wet[ghosts]) < 6


def test_rain_reduces_lidar_intensity_and_camera_contrast(samples):
    rain, clear = samples["rain"], samples["sun"]
    strength = [np.median(m.frames[LIDAR].payload.points["intensity"][points(m)[:, 2] < -1.7]) for m in (rain, clear)]
    assert strength[0] < 0.7 * strength[1]
    assert contrast(rain) < contrast(clear)
    assert len(points(rain)) < len(points(clear))


def test_night_darkens_the_camera_and_not_the_lidar(samples):
    assert rgb(samples["night"]).mean() < 0.5 * min(rgb(samples[name]).mean() for name in ("cloud", "fog", "rain"))
    assert np.array_equal(points(samples["night"]), points(samples["sun"]))
    assert len(samples["night"].period_events.t) > 1000


def test_overcast_sky_has_no_shadows(samples):
    assert rgb(samples["cloud"]).std() < rgb(samples["sun"]).std()
    assert draw_weather("sun", np.random.default_rng(0)).shadows
    assert not draw_weather("cloud", np.random.default_rng(0)).shadows


def test_exposure_faults_saturate_and_darken(samples):
    over, under = rgb(samples["overexposure"]), rgb(samples["underexposure"])
    assert np.mean(over > 250) > 0.3
    assert np.mean(rgb(samples["sun"]) > 250) < 0.1
    assert under.mean() < 0.45 * rgb(samples["sun"]).mean()


def test_motion_blur_reduces_contrast_of_moving_content(samples):
    low = slice(60, 96)  # the road right before the car streams past
    assert contrast(samples["motionblur"], low) < 0.7 * contrast(samples["sun"], low)


def test_jitter_displaces_points_by_about_one_degree(samples):
    """On flat ground, a beam 20 degrees down that tilts by 1 degree meets it about 5 % nearer or further."""
    clean, shaken = (ranges(samples[name])[2:6, 480:544] for name in ("none", "lidarjitter"))
    error = np.abs(shaken / clean - 1)
    assert 0.01 < np.nanmedian(error) < 0.1


def test_lost_sectors_have_no_returns(samples):
    """The other firings are as without the fault."""
    lost, clean = ranges(samples["lidarsectors"]), ranges(samples["none"])
    fault = draw_fault("lidarsectors", np.random.default_rng([SEED, 10]))
    share = np.arange(1024) / 1024
    blind = np.any([np.mod(share - first, 1) <= last - first for first, last in fault.sectors], axis=0)
    assert 0.03 < blind.mean() < 0.95
    assert np.isnan(lost[:, blind]).all()
    assert np.array_equal(lost[:, ~blind], clean[:, ~blind], equal_nan=True)


def test_clutter_is_near_and_weak(samples):
    wet, clean = ranges(samples["lidarclutter"]), ranges(samples["none"])
    drops = wet < clean - 0.5
    assert 0.05 < drops.mean() < 0.45 and np.median(wet[drops]) < 10
    cloud = samples["lidarclutter"].frames[LIDAR].payload.points
    near = np.linalg.norm(points(samples["lidarclutter"]), axis=1) < 1.5
    assert np.median(cloud["intensity"][near]) < 15


def test_crosstalk_comes_in_bursts_at_any_range(samples):
    talk, clean = ranges(samples["lidarcrosstalk"]), ranges(samples["none"])
    foreign = ~np.isclose(talk, clean, atol=0.3) & ~np.isnan(talk)
    assert 0.01 < foreign.mean() < 0.5
    assert np.ptp(np.quantile(talk[foreign], (0.1, 0.9))) > 20, "pulses have nothing to do with the scene"
    assert np.quantile(foreign.mean(0), 0.99) > 2.5 * foreign.mean(), "and come in bursts"


def test_jitter_pose_is_a_rotation():
    for seed in range(20):
        error = jitter_pose((0.02, 0.01), np.random.default_rng(seed))
        assert np.allclose(error.rotation @ error.rotation.T, np.eye(3)) and np.linalg.det(error.rotation) > 0
        assert np.abs(error.rotation - np.eye(3)).max() < 0.15


def test_low_resolution_events_have_their_own_camera_model(samples):
    world = World(SEED, "sun", SIZE, fault="eventlowres")
    events = samples["eventlowres"].frames[EVENT].payload
    assert (events.height, events.width) == world.event_size == (47, 63)
    model = world.rig.model(samples["eventlowres"].frames[EVENT].frame_id)
    assert (model.height, model.width) == world.event_size
    assert events.x.max() < 63 and events.y.max() < 47


@pytest.mark.parametrize("lost", MODALITIES)
def test_dropped_sensor_does_not_change_the_others(samples, lost):
    sample = World(SEED, "rain", SIZE, dropped=[lost]).sample(INDEX)
    assert set(sample.frames) == set(MODALITIES) - {lost}
    for modality, frame in sample.frames.items():
        assert payload_bytes(frame) == payload_bytes(samples["rain"].frames[modality])


def test_conditions_are_deterministic(samples):
    again = World(SEED, "rain", SIZE, fault="motionblur").sample(INDEX)
    other = World(SEED, "rain", SIZE, fault="motionblur")
    other.sample(3)
    for modality, frame in other.sample(INDEX).frames.items():
        assert payload_bytes(frame) == payload_bytes(again.frames[modality])


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_severity_is_random_and_deterministic(fault):
    drawn = [draw_fault(fault, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert (drawn[0] == drawn[2]) == (fault in ("none", "eventlowres"))


# Motion blur, against projection by hand


CAMERA_64 = CameraModel(64, 48, np.array([[32.0, 0, 31.5], [0, 32.0, 23.5], [0, 0, 1]]), np.zeros(5), "plumb_bob")
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def one_hit(point, speed=0.0, heading=0.0):
    row = np.zeros((1, COLUMNS), np.float32)
    row[0, 3:5], row[0, 13] = (np.cos(heading), np.sin(heading)), speed
    distance = np.full(48 * 64, np.inf, np.float32)
    distance[0] = np.linalg.norm(point)
    empty = np.zeros(1, np.uint8)
    return Hits(distance, np.array([0]), np.float32([point]), np.float32([[0, 0, 1]]), empty, empty, row)


def driving(meters_on):
    return tuple(Transform(OPTICAL, np.array([x, 0.0, 0.0])) for x in (-meters_on / 2, meters_on / 2))


def test_flow_is_the_difference_of_two_projections():
    point, directions = (10.0, 2.0, -1.0), np.tile(np.float32([1, 0, 0]), (48 * 64, 1))
    way = flow(one_hit(point), directions, CAMERA_64, driving(0.8), 0.1)
    expected = 32 * (np.array([-2, 1]) / 9.6 - np.array([-2, 1]) / 10.4)
    assert np.allclose(way[0, 0], expected, atol=1e-3)
    assert np.abs(way.reshape(-1, 2)[1:]).max() < 1e-2, "the sky stands still for a car that drives straight on"


def test_content_at_the_cameras_speed_is_not_blurred():
    directions = np.tile(np.float32([1, 0, 0]), (48 * 64, 1))
    way = flow(one_hit((10.0, 2.0, 0.0), speed=8.0), directions, CAMERA_64, driving(0.8), 0.1)
    assert np.abs(way[0, 0]).max() < 1e-3


def test_blur_spreads_a_dot_and_keeps_its_total_light():
    light = np.zeros((48, 64, 3), np.float32)
    light[24, 32] = 1
    way = np.zeros((48, 64, 2), np.float32)
    way[..., 0] = 10
    out = motion_blur(light, way)[..., 0]
    assert out.sum() == pytest.approx(1, rel=0.01)
    lit = np.flatnonzero(out[24] > 0.02)
    assert 8 <= np.ptp(lit) <= 12 and not out[23].any() and not out[26].any()
    assert np.allclose(motion_blur(light, np.zeros_like(way)), light)
