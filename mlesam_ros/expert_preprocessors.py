# SPDX-License-Identifier: Apache-2.0
"""Preprocessors of a model's experts, as they were trained, with the settings of one camera's sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from mlesam_ros.errors import CheckpointError, ConfigError, MlesamError, Problem
from mlesam_ros.model.inference import Image
from mlesam_ros.model.mlesam import check_finite
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.preprocessing.base import DEFAULTS, EVENT_WINDOW, Preprocessing, Preprocessor
from mlesam_ros.preprocessing.cuda import AsyncUploader, encode_torch
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, make_preprocessors
from mlesam_ros.types import EVENT, Modality, SensorFrame
from mlesam_ros.view import View


class ExpertPreprocessors:
    """Preprocessors of the experts of a model.

    Attributes:
        by_modality: modality → its preprocessor.
        settings: of the sensor data, with the event window of the training where none is set.
        mismatch: warning where the event settings differ from those of the training; empty where they agree.
    """

    def __init__(
        self, config: MLESAMConfig, settings: Preprocessing = DEFAULTS, modalities: Sequence[Modality] | None = None
    ) -> None:
        """Make the preprocessors.

        Args:
            config: of the model, with the names, settings and normalization of its preprocessors.
            settings: of the sensor data.
            modalities: of the experts; None for all.

        Raises:
            ConfigError: no preprocessor is known for a modality, or it has no such setting.
            CheckpointError: the experts were trained on images with other normalization.
        """
        names = {m: _trained_name(config, m) for m in (config.modalities if modalities is None else modalities)}
        self.by_modality = make_preprocessors(names, config.settings, settings)
        _check_normalization(config, self.by_modality)
        window = settings.event_window or float(getattr(self.by_modality.get(EVENT), "window", EVENT_WINDOW))
        self.settings = replace(settings, event_window=window)
        self.mismatch = _mismatch(config, self.by_modality, window)

    def encode(self, view: View, upload: AsyncUploader | None) -> None:
        """Make the images of a view. Frames that cannot be preprocessed become refusals.

        Args:
            view: with its size and context.
            upload: to the device that preprocesses; None to preprocess on the CPU, where images are checked, too.

        Raises:
            MlesamError: no frame is usable.
        """
        if self.mismatch:
            view.context.note(EVENT, self.mismatch)
        for modality, frame in view.frame_set.frames.items():
            if modality not in self.by_modality:
                reason = f"the model has no expert for {modality}; it has {', '.join(self.by_modality)}."
                view.refusals[modality] = Problem(reason, f"Take {modality} out of modalities.")
                continue
            try:
                view.images[modality] = self._image(frame, view, upload)
            except MlesamError as error:
                view.refusals[modality] = error.problem
        view.require_images()

    def _image(self, frame: SensorFrame, view: View, upload: AsyncUploader | None) -> Image | torch.Tensor:
        preprocessor = self.by_modality[frame.modality]
        if upload is not None:
            return encode_torch(upload, preprocessor, frame, view.rig, view.size, view.context)
        image = preprocessor(frame, view.rig, view.size, view.context)
        check_finite({frame.modality: torch.from_numpy(image)})
        return image


def _mismatch(config: MLESAMConfig, preprocessors: Mapping[Modality, Preprocessor], window: float) -> str:
    """See `ExpertPreprocessors.mismatch`."""
    if EVENT not in preprocessors:
        return ""
    trained, used, found = _trained_name(config, EVENT), preprocessors[EVENT].name, []
    if used != trained:
        found.append(f"event.representation is {used}, but the expert was trained on {trained}")
    trained_window = float(config.settings.get(EVENT, {}).get("window", EVENT_WINDOW))
    if window != trained_window:
        found.append(f"event.window is {window:g} s, but the expert was trained on {trained_window:g} s")
    return f"{' and '.join(found)}; masks may be worse." if found else ""


def _trained_name(config: MLESAMConfig, modality: Modality) -> str:
    """Name of the preprocessor that an expert was trained with."""
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
