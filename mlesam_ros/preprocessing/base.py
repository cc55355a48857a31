"""The interface of preprocessors, and their normalization."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.context import Context
from mlesam_ros.types import Modality, SensorFrame

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

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
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
