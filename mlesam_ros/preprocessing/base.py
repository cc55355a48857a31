# SPDX-License-Identifier: Apache-2.0
"""Interface and normalization of the preprocessors, and settings of the sensor data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ConfigError
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.images import SIGNIFICANT_BITS
from mlesam_ros.preprocessing.point_cloud import GATHER_AUTO
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import AUTO, Modality, SensorFrame

Image = npt.NDArray[np.float32]
Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per channel, in the preprocessor's units."""


class Preprocessor(Protocol):
    """Converts frames of one modality to normalized images in the label camera's image plane.

    Training and inference use the same implementation.

    Attributes:
        modality: modality of the frames that it reads.
        name: its name in configurations and checkpoints.
        normalization: mean and standard deviation of its normalization.
    """

    modality: ClassVar[Modality]
    name: ClassVar[str]
    normalization: ClassVar[Normalization]

    def __call__(
        self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: FrameContext | None = None
    ) -> Image:
        """Convert a frame to an image.

        Args:
            frame: a frame of this preprocessor's modality.
            rig: extrinsics of the sensors and camera models.
            size: (h, w) of the network input, which covers the label camera's field of view.
            context: shared data of the frame's set; None for a single frame, which is its own time reference.

        Returns:
            (3, h, w) float32, normalized; exactly 0 where the sensor has no measurement.

        Raises:
            MlesamError: the frame cannot be read, or the rig has no calibration or transform for it.
        """
        ...


def scatter_to_image(
    values: npt.NDArray[np.floating[Any]],
    pixels: tuple[npt.NDArray[np.intp], ...],
    size: tuple[int, int],
    normalization: Normalization,
) -> Image:
    """Normalize sparse pixel values and scatter them into an image.

    Args:
        values: (3, n) in the preprocessor's units.
        pixels: (rows, cols), each (n,).
        size: (h, w).
        normalization: mean and standard deviation per channel.

    Returns:
        (3, h, w) float32, 0 elsewhere.
    """
    image = np.zeros((3, *size), np.float32)
    at = pixels[0] * size[1] + pixels[1]
    for channel, numbers, mean, std in zip(image.reshape(3, -1), values, *normalization, strict=True):
        channel[at] = (numbers - np.float32(mean)) / np.float32(std)
    return image


EVENT_WINDOW = 0.030
"""Seconds of events in one image, as in MUSES."""
EVENT_WINDOW_RANGE = (0.001, 10.0)
"""Shortest and longest window in seconds."""
DEPTH_UNIT_RANGE = (1e-6, 1000.0)
"""Smallest and largest unit of depth in meters per count."""
INTENSITY_SCALE_RANGE = (1e-6, 1e9)
"""Smallest and largest accepted intensity at full strength."""
GRAVITY = (AUTO, "tf", "normals")
"""Sources of gravity by name; a fixed direction is three numbers."""
SENSOR = {"sensor": True}
"""Metadata of a preprocessor's field that describes the sensor, not the image that an expert is trained on."""


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the sensor data; by default detected from the messages or taken from the checkpoint.

    Attributes:
        significant_bits: `camera.significant_bits`, of 16-bit samples; 0 to detect them by the largest sample so far.
        depth_unit: `depth.unit`, meters per count; 0 for millimeters in integers and meters in floats.
        gravity: `depth.gravity`, one of `GRAVITY`, or the direction in the label camera's optical frame: `0, 1, 0`.
        intensity_field: `lidar.intensity_field`; auto for the first known name.
        intensity_scale: `lidar.intensity_scale`, the intensity at full strength; 0 to detect it.
        time_unit: `lidar.time_unit`, of the points' times; auto to detect it.
        gather: `lidar.gather`, seconds of messages in a sweep; 0 for whole sweeps, negative to detect it.
        event_window: `event.window`, seconds; 0 for the window of the checkpoint.
        event_representation: `event.representation`, name of a preprocessor; auto for that of the checkpoint.
    """

    significant_bits: int = 0
    depth_unit: float = 0.0
    gravity: str = AUTO
    intensity_field: str = AUTO
    intensity_scale: float = 0.0
    time_unit: str = AUTO
    gather: float = GATHER_AUTO
    event_window: float = 0.0
    event_representation: str = AUTO

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is not accepted; the message has the parameter, its value and the accepted ones.
        """
        if self.significant_bits not in (0, *SIGNIFICANT_BITS):
            raise ConfigError(
                f"camera.significant_bits is {self.significant_bits}; accepted are 0, 8, 10, 12, 14 and 16.",
                "Set camera.significant_bits to the depth of the camera's converter, or to 0.",
            )
        _check_number("depth.unit", self.depth_unit, DEPTH_UNIT_RANGE)
        _check_number("lidar.intensity_scale", self.intensity_scale, INTENSITY_SCALE_RANGE)
        _check_number("event.window", self.event_window, EVENT_WINDOW_RANGE)
        if self.gravity not in GRAVITY:
            parse_direction(self.gravity)

    @property
    def cloud_field(self) -> str:
        """Name of the intensity field; empty for the known names."""
        return "" if self.intensity_field in ("", AUTO) else self.intensity_field


def _check_number(name: str, value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if value != 0 and not low <= value <= high:
        raise ConfigError(
            f"{name} is {value}; accepted are 0 and {low:g} to {high:g}.", f"Set {name} to 0 to detect it."
        )


def parse_direction(text: str) -> tuple[float, float, float]:
    """The direction of gravity in a text such as `0, 1, 0`.

    Raises:
        ConfigError: the text is not a finite vector of nonzero length.
    """
    try:
        x, y, z = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        x = y = z = 0.0
    if not 0 < math.hypot(x, y, z) < math.inf:
        raise ConfigError(
            f"depth.gravity is {text!r}; accepted are {', '.join(GRAVITY)} and three numbers.",
            "Set depth.gravity to auto, or to a direction in the camera's optical frame such as '0, 1, 0'.",
        )
    return x, y, z


DEFAULTS = Preprocessing()
"""All settings detected or taken from the checkpoint."""
