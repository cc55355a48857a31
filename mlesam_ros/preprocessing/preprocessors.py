"""The preprocessors by name, the one of camera images among them, and the preprocessing of a whole set."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.base import Image, Normalization, Preprocessor, wrong_payload
from mlesam_ros.preprocessing.context import Context
from mlesam_ros.preprocessing.depth import HHA, LogDepth
from mlesam_ros.preprocessing.events import EventCounts, EventPolarity, TimeSurface
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.preprocessing.lidar import DeliverLidar, RangeIntensityHeight
from mlesam_ros.preprocessing.settings import DEFAULTS, GRAVITY, WINDOWS, Preprocessing, direction
from mlesam_ros.strict_yaml import short_repr
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
    statistics: ClassVar[Normalization] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
        """Encode a `RawImage` or `CompressedImage` of the label camera; see `Encoder`.

        Shrinking averages over areas, so that thin things fade instead of flickering.
        """
        rgb = decode_full(frame, rig)
        if rgb.shape[:2] != size:
            how = cv2.INTER_AREA if is_downscale(rgb.shape, size) else cv2.INTER_LINEAR
            rgb = np.asarray(cv2.resize(rgb, size[::-1], interpolation=how), np.uint8)
        mean, std = (np.array(s, np.float32)[:, None, None] for s in self.statistics)
        image = np.empty((3, *size), np.float32)
        np.multiply(rgb.transpose(2, 0, 1), 1 / (255 * std), out=image)
        image -= mean / std
        return image


def decode_full(frame: SensorFrame, rig: Rig) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8, the label camera's picture as it came.

    Raises:
        ImageError: it cannot be read.
        CalibrationError: its size contradicts its calibration.
    """
    if not isinstance(frame.payload, RawImage | CompressedImage):
        raise wrong_payload(frame, "a RawImage or CompressedImage")
    rgb = to_rgb(frame.payload)
    rig.camera.check(rgb.shape[0], rgb.shape[1], "camera picture")
    return rgb


def is_downscale(have: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a picture of (H, W, …) becomes smaller to both sides, or stays."""
    return size[0] <= have[0] and size[1] <= have[1]


PREPROCESSORS: dict[str, type[Preprocessor]] = {
    cls.name: cls
    for cls in (RGB, LogDepth, HHA, EventCounts, EventPolarity, TimeSurface, RangeIntensityHeight, DeliverLidar)
}
"""Name → class; called without arguments it makes an encoder with the stated defaults."""

DEFAULT_PREPROCESSORS: dict[Modality, str] = {
    CAMERA: RGB.name,
    DEPTH: LogDepth.name,
    EVENT: EventCounts.name,
    LIDAR: RangeIntensityHeight.name,
}


_MOST, _MOST_WHOLE = 1e6, 64

Settings = Mapping[Modality, Mapping[str, Any]]
"""Modality → the settings of its encoder's image; the defaults where they say nothing."""


def make_preprocessors(
    names: Mapping[Modality, str],
    settings: Settings | None = None,
    preprocessing: Preprocessing = DEFAULTS,
) -> dict[Modality, Preprocessor]:
    """Encoders by name.

    Args:
        names: modality → encoder name, such as `DEFAULT_PREPROCESSORS` or a model's configuration.
        settings: of their images, such as a model's configuration has them; see `image_settings`.
        preprocessing: settings of the sensors' data; `event_representation` replaces the encoder of events.

    Raises:
        ConfigError: no encoder has that name, it reads another modality, or it has no such setting.
    """
    encoders, replaced = {}, preprocessing.event_representation
    for modality, trained in names.items():
        name = replaced if modality == EVENT and replaced != AUTO else trained
        if name not in PREPROCESSORS:
            near = difflib.get_close_matches(name, PREPROCESSORS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"no encoder is called {name!r}; {hint}accepted are {', '.join(PREPROCESSORS)}.")
        if PREPROCESSORS[name].modality != modality:
            raise ConfigError(
                f"encoder {name} reads {PREPROCESSORS[name].modality}, not {modality}.", "Choose another."
            )
        given = dict((settings or {}).get(modality, {})) if name == trained else {}
        known = _image_fields(PREPROCESSORS[name])
        if foreign := [key for key in given if key not in known]:
            raise ConfigError(
                f"encoder {name} has no setting {foreign[0]!r}; accepted are {', '.join(known) or 'none'}.",
                "Take it out of settings, or use the version that the checkpoint was trained with.",
            )
        for key, value in given.items():
            _check_setting(name, key, value, getattr(PREPROCESSORS[name], key))
        if name == HHA.name and preprocessing.gravity not in GRAVITY:
            given |= {"gravity": "down", "down": direction(preprocessing.gravity)}
        elif name == HHA.name:
            given |= {"gravity": preprocessing.gravity}
        encoders[modality] = PREPROCESSORS[name](**given)
    return encoders


def image_settings(encoders: Mapping[Modality, Preprocessor]) -> dict[Modality, dict[str, Any]]:
    """The settings that decide over the images that experts are trained on, of each encoder that has any."""
    found = {m: {name: getattr(e, name) for name in _image_fields(type(e))} for m, e in encoders.items()}
    return {modality: values for modality, values in found.items() if values}


def _image_fields(encoder: type[Preprocessor]) -> list[str]:
    return [f.name for f in fields(encoder) if not f.metadata] if is_dataclass(encoder) else []


def _check_setting(encoder: str, key: str, value: Any, default: Any) -> None:
    """Refuse a setting that is not of its default's kind: text, a positive number, or a small whole number from 0."""
    most = WINDOWS[1] if key == "window" else _MOST
    if isinstance(default, str):
        kind, fits = "text", isinstance(value, str)
    elif isinstance(default, int):
        kind = f"a whole number from 0 to {_MOST_WHOLE}"
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_WHOLE
    else:
        kind = f"a number above 0 and up to {most:g}"
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= most
    if not fits:
        raise ConfigError(f"setting {key!r} of encoder {encoder} is {short_repr(value)}; accepted is {kind}.")


def encode(
    frame_set: FrameSet, rig: Rig, size: tuple[int, int], encoders: Mapping[Modality, Preprocessor]
) -> dict[Modality, Image]:
    """Encode the frames of a set, in the encoders' order; frames without an encoder are passed over.

    Args:
        frame_set: the frames.
        rig: as for `Preprocessor`.
        size: (h, w) of the network's pictures.
        encoders: modality → encoder.

    Returns:
        modality → (3, h, w) float32.

    Raises:
        MlesamError: a frame cannot be encoded. Encode the others by leaving it out of the set.
    """
    frames, context, rig = frame_set.frames, Context(frame_set), rig.of_set(frame_set)
    return {
        modality: encoder(frames[modality], rig, size, context)
        for modality, encoder in encoders.items()
        if modality in frames
    }
