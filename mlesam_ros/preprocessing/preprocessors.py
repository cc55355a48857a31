# SPDX-License-Identifier: Apache-2.0
"""The RGB preprocessor, the registry of all preprocessors by name, and the preprocessing of a frame set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.base import (
    DEFAULTS,
    EVENT_WINDOW_RANGE,
    GRAVITY,
    Image,
    Normalization,
    Preprocessing,
    Preprocessor,
    parse_direction,
)
from mlesam_ros.preprocessing.depth import HHA, LogDepth
from mlesam_ros.preprocessing.events import EventCounts, EventPolarity, TimeSurface
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.preprocessing.lidar import DeliverLidar, RangeIntensityHeight
from mlesam_ros.preprocessing.registration import FrameContext, wrong_payload
from mlesam_ros.strict_yaml import check_choice, short_repr
from mlesam_ros.types import (
    AUTO,
    CAMERA,
    DEPTH,
    EVENT,
    LIDAR,
    CompressedImage,
    FrameSet,
    Modality,
    RawImage,
    SensorFrame,
)


class RGB:
    """Red, green, blue from 0 to 1, normalized with ImageNet's statistics as in SAM 2's own transforms."""

    modality: ClassVar[Modality] = CAMERA
    name: ClassVar[str] = "rgb"
    normalization: ClassVar[Normalization] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def __call__(
        self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: FrameContext | None = None
    ) -> Image:
        """Convert a `RawImage` or `CompressedImage` of the label camera; see `Preprocessor`.

        Downscaling averages over areas, so that thin objects do not flicker.
        """
        rgb = decode_full(frame, rig)
        if rgb.shape[:2] != size:
            how = cv2.INTER_AREA if is_downscale(rgb.shape, size) else cv2.INTER_LINEAR
            rgb = np.asarray(cv2.resize(rgb, size[::-1], interpolation=how), np.uint8)
        mean, std = (np.array(s, np.float32)[:, None, None] for s in self.normalization)
        image = np.empty((3, *size), np.float32)
        np.multiply(rgb.transpose(2, 0, 1), 1 / (255 * std), out=image)
        image -= mean / std
        return image


def decode_full(frame: SensorFrame, rig: Rig) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8, the label camera's image at full size.

    Raises:
        ImageError: the image cannot be read.
        CalibrationError: the image size contradicts the calibration.
    """
    if not isinstance(frame.payload, RawImage | CompressedImage):
        raise wrong_payload(frame, "a RawImage or CompressedImage")
    rgb = to_rgb(frame.payload)
    rig.camera.check(rgb.shape[0], rgb.shape[1], "camera image")
    return rgb


def is_downscale(have: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether an image of (H, W, …) becomes smaller or stays equal along both axes."""
    return size[0] <= have[0] and size[1] <= have[1]


PREPROCESSORS: dict[str, type[Preprocessor]] = {
    cls.name: cls
    for cls in (RGB, LogDepth, HHA, EventCounts, EventPolarity, TimeSurface, RangeIntensityHeight, DeliverLidar)
}
"""Name → class; each class has defaults for all of its arguments."""

DEFAULT_PREPROCESSORS: dict[Modality, str] = {
    CAMERA: RGB.name,
    DEPTH: LogDepth.name,
    EVENT: EventCounts.name,
    LIDAR: RangeIntensityHeight.name,
}


_MAX_NUMBER, _MAX_INTEGER = 1e6, 64

Settings = Mapping[Modality, Mapping[str, Any]]
"""Modality → settings of its preprocessor's image; missing settings have their defaults."""


def make_preprocessors(
    names: Mapping[Modality, str],
    settings: Settings | None = None,
    preprocessing: Preprocessing = DEFAULTS,
) -> dict[Modality, Preprocessor]:
    """Create preprocessors by name.

    Args:
        names: modality → preprocessor name, such as `DEFAULT_PREPROCESSORS` or those of a model's configuration.
        settings: settings of their images, such as those of a model's configuration; see `image_settings`.
        preprocessing: settings of the sensor data; `event_representation` replaces the preprocessor of events.

    Raises:
        ConfigError: a name is unknown, its preprocessor reads another modality, or a setting is not accepted.
    """
    preprocessors, replaced = {}, preprocessing.event_representation
    for modality, trained in names.items():
        name = replaced if modality == EVENT and replaced != AUTO else trained
        check_choice("preprocessor", name, PREPROCESSORS)
        if PREPROCESSORS[name].modality != modality:
            raise ConfigError(
                f"preprocessor {name} reads {PREPROCESSORS[name].modality}, not {modality}.", "Choose another."
            )
        given = dict((settings or {}).get(modality, {})) if name == trained else {}
        known = _image_fields(PREPROCESSORS[name])
        if unknown := [key for key in given if key not in known]:
            raise ConfigError(
                f"preprocessor {name} has no setting {unknown[0]!r}; accepted are {', '.join(known) or 'none'}.",
                "Remove it from settings, or use the version that the checkpoint was trained with.",
            )
        for key, value in given.items():
            _check_setting(name, key, value, getattr(PREPROCESSORS[name], key))
        if name == HHA.name and preprocessing.gravity not in GRAVITY:
            given |= {"gravity": "down", "down": parse_direction(preprocessing.gravity)}
        elif name == HHA.name:
            given |= {"gravity": preprocessing.gravity}
        preprocessors[modality] = PREPROCESSORS[name](**given)
    return preprocessors


def image_settings(preprocessors: Mapping[Modality, Preprocessor]) -> dict[Modality, dict[str, Any]]:
    """The settings that determine the images that experts are trained on, of each preprocessor with settings."""
    found = {m: {name: getattr(e, name) for name in _image_fields(type(e))} for m, e in preprocessors.items()}
    return {modality: values for modality, values in found.items() if values}


def _image_fields(preprocessor: type[Preprocessor]) -> list[str]:
    return [f.name for f in fields(preprocessor) if not f.metadata] if is_dataclass(preprocessor) else []


def _check_setting(preprocessor: str, key: str, value: Any, default: Any) -> None:
    """Reject a setting of another type than its default: text, a positive number, or an integer from 0 to 64."""
    highest = EVENT_WINDOW_RANGE[1] if key == "window" else _MAX_NUMBER
    if isinstance(default, str):
        kind, fits = "text", isinstance(value, str)
    elif isinstance(default, int):
        kind = f"a whole number from 0 to {_MAX_INTEGER}"
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER
    else:
        kind = f"a number above 0 and up to {highest:g}"
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= highest
    if not fits:
        raise ConfigError(f"setting {key!r} of preprocessor {preprocessor} is {short_repr(value)}; accepted is {kind}.")


def encode(
    frame_set: FrameSet, rig: Rig, size: tuple[int, int], preprocessors: Mapping[Modality, Preprocessor]
) -> dict[Modality, Image]:
    """Convert the frames of a set in the order of the preprocessors; frames without a preprocessor are skipped.

    Args:
        frame_set: the frames.
        rig: as for `Preprocessor`.
        size: (h, w) of the network input.
        preprocessors: modality → preprocessor.

    Returns:
        modality → (3, h, w) float32.

    Raises:
        MlesamError: a frame cannot be converted. Remove it from the set to convert the others.
    """
    frames, context, rig = frame_set.frames, FrameContext(frame_set.time, frame_set.frames), rig.of_set(frame_set)
    return {
        modality: preprocessor(frames[modality], rig, size, context)
        for modality, preprocessor in preprocessors.items()
        if modality in frames
    }
