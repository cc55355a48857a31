# SPDX-License-Identifier: Apache-2.0
"""Preprocessors of a checkpoint's experts are those of training; other settings are noted with both values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlesam_ros.errors import ConfigError
from mlesam_ros.expert_preprocessors import ExpertPreprocessors
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.preprocessing.base import DEFAULTS, Preprocessing
from mlesam_ros.preprocessing.preprocessors import (
    DEFAULT_PREPROCESSORS,
    PREPROCESSORS,
    image_settings,
    make_preprocessors,
)
from mlesam_ros.types import DEPTH, EVENT

OLD = MLESAMConfig(preprocessors=DEFAULT_PREPROCESSORS)
"""A checkpoint of an earlier version, without settings."""
LONG = replace(OLD, settings={EVENT: {"window": 0.05, "most": 4.0}})


def made(config, **settings):
    preprocessors = ExpertPreprocessors(config, Preprocessing(**settings))
    return preprocessors.by_modality, preprocessors.settings.event_window, preprocessors.mismatch


def test_checkpoint_without_settings_uses_the_defaults():
    preprocessors, window, difference = made(OLD)
    assert image_settings(preprocessors) == image_settings(make_preprocessors(DEFAULT_PREPROCESSORS))
    assert (window, difference) == (0.03, "")


def test_settings_of_the_checkpoint_are_used():
    preprocessors, window, difference = made(LONG)
    assert (preprocessors[EVENT].window, preprocessors[EVENT].most, window, difference) == (0.05, 4.0, 0.05, "")


@pytest.mark.parametrize(("config", "given", "trained"), [(OLD, 0.05, 0.03), (LONG, 0.03, 0.05)])
def test_another_window_is_noted_with_both_values(config, given, trained):
    _, window, difference = made(config, event_window=given)
    assert window == given
    assert f"event.window is {given:g} s, but the expert was trained on {trained:g} s" in difference


def test_the_window_as_trained_is_no_difference():
    assert made(LONG, event_window=0.05)[2] == ""


def test_another_representation_is_noted_with_both_names():
    preprocessors, _, difference = made(OLD, event_representation="time_surface")
    assert preprocessors[EVENT] == PREPROCESSORS["time_surface"]()
    assert "event.representation is time_surface, but the expert was trained on event_counts" in difference
    assert made(OLD, event_representation="event_counts")[2] == ""


def test_settings_round_trip_through_the_configuration():
    config = replace(LONG, settings=image_settings(made(LONG)[0]))
    assert MLESAMConfig.from_dict(config.to_dict()) == config
    assert config.settings[EVENT]["window"] == 0.05 and config.settings[DEPTH] == {"nearest": 0.1, "farthest": 200.0}
    assert not set(config.settings[DEPTH]) & {"unit", "gravity", "down"}, "these are the sensor's"


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(
        ConfigError, match="preprocessor event_counts has no setting 'windw'; accepted are most, window"
    ):
        made(replace(OLD, settings={EVENT: {"windw": 0.05}}))


@pytest.mark.parametrize("gravity", ["auto", "tf", "normals", "0, 1, 0", "0.1 0.9 -0.2"])
def test_the_source_of_gravity(gravity):
    encoder = make_preprocessors({DEPTH: "hha"}, preprocessing=Preprocessing(gravity=gravity))[DEPTH]
    fixed = gravity[0] == "0"
    assert encoder.gravity == ("down" if fixed else gravity)
    assert encoder.down == (tuple(map(float, gravity.replace(",", " ").split())) if fixed else None)
    assert make_preprocessors({DEPTH: "hha"}, preprocessing=DEFAULTS)[DEPTH] == PREPROCESSORS["hha"]()


@pytest.mark.parametrize("gravity", ["", "down", "0, 0, 0", "1, 2", "nan 0 0", "a b c"])
def test_invalid_gravity_is_refused(gravity):
    with pytest.raises(ConfigError, match=r"depth\.gravity is"):
        Preprocessing(gravity=gravity)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"event_window": 0.0005}, "event.window"),
        ({"event_window": 11.0}, "event.window"),
        ({"depth_unit": -0.001}, "depth.unit"),
        ({"significant_bits": 11}, "camera.significant_bits"),
    ],
)
def test_invalid_settings_are_refused(values, name):
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        Preprocessing(**values)
