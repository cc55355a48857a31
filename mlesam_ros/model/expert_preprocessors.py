"""Preprocessors of a model's experts: as in training, except for settings that override them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlesam_ros.errors import CheckpointError, ConfigError
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.preprocessing.base import EVENT_WINDOW, Preprocessing, Preprocessor
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, make_preprocessors
from mlesam_ros.types import EVENT, Modality


def make_expert_preprocessors(
    config: MLESAMConfig, modalities: Sequence[Modality], preprocessing: Preprocessing
) -> dict[Modality, Preprocessor]:
    """Make the preprocessors of some experts' images.

    Args:
        config: of the model, with the names, settings and normalization of its preprocessors.
        modalities: of the experts.
        preprocessing: settings of the sensor data.

    Raises:
        ConfigError: no preprocessor is known for a modality, or it has no such setting.
        CheckpointError: the experts were trained on images with other normalization.
    """
    names = {m: _preprocessor_name(config, m) for m in modalities}
    preprocessors = make_preprocessors(names, config.settings, preprocessing)
    _check_normalization(config, preprocessors)
    return preprocessors


def event_window(preprocessors: Mapping[Modality, Preprocessor], preprocessing: Preprocessing) -> float:
    """Seconds of events that the readers gather: the setting, else the expert's training value."""
    return preprocessing.event_window or float(getattr(preprocessors.get(EVENT), "window", EVENT_WINDOW))


def difference_from_training(
    config: MLESAMConfig, preprocessors: Mapping[Modality, Preprocessor], preprocessing: Preprocessing
) -> str:
    """Warning where the event settings differ from those that the expert was trained with; empty where they agree."""
    if EVENT not in preprocessors:
        return ""
    trained, used, found = _preprocessor_name(config, EVENT), preprocessors[EVENT].name, []
    if used != trained:
        found.append(f"event.representation is {used}, but the expert was trained on {trained}")
    window = float(config.settings.get(EVENT, {}).get("window", EVENT_WINDOW))
    if (now := event_window(preprocessors, preprocessing)) != window:
        found.append(f"event.window is {now:g} s, but the expert was trained on {window:g} s")
    return f"{' and '.join(found)}; masks may be worse." if found else ""


def _preprocessor_name(config: MLESAMConfig, modality: Modality) -> str:
    name = config.preprocessors.get(modality, DEFAULT_PREPROCESSORS.get(modality))
    if name is None:
        raise ConfigError(
            f"no preprocessor is known for modality {modality!r}; those of {', '.join(DEFAULT_PREPROCESSORS)} are.",
            "Name its preprocessor under preprocessors in the model's configuration.",
        )
    return name


def _check_normalization(config: MLESAMConfig, preprocessors: Mapping[Modality, Preprocessor]) -> None:
    for modality in config.normalization.keys() & preprocessors.keys():
        normalization, preprocessor = config.normalization[modality], preprocessors[modality]
        if not np.allclose(normalization, preprocessor.normalization):
            raise CheckpointError(
                f"the {modality} expert was trained on images normalized with {normalization}, but preprocessor "
                f"{preprocessor.name} uses {preprocessor.normalization}.",
                "Train the expert again, or use the version of mlesam_ros that it was trained with.",
            )
