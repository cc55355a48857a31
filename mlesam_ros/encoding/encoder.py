"""What every encoder is: one sensor's frame in, the picture that its expert reads out."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.context import Context
from mlesam_ros.frame import Modality, SensorFrame
from mlesam_ros.geometry.rig import Rig

Image = npt.NDArray[np.float32]
Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per channel, in the encoder's own units."""


class Preprocessor(Protocol):
    """Makes a sensor's frames comparable: same plane, same size, about the same range of numbers.

    Training and inference call the very same object, so that neither can drift from the other.

    Attributes:
        modality: whose frames it reads.
        name: what configurations and checkpoints call it.
        statistics: what it normalizes with.
    """

    modality: ClassVar[Modality]
    name: ClassVar[str]
    statistics: ClassVar[Normalization]

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
        """Encode a frame.

        Args:
            frame: of this encoder's modality.
            rig: where the sensors sit and how their lenses bend light.
            size: (h, w) of the network's pictures; they show what the label camera sees, scaled to this size.
            context: what surrounds the frame in its set; None for a frame on its own, which is its own moment.

        Returns:
            (3, h, w) float32, normalized; exactly 0 where the sensor says nothing.

        Raises:
            MlesamError: the frame cannot be read, or the rig does not tell where it belongs.
        """
        ...


def scatter_to_image(
    values: npt.NDArray[np.floating[Any]],
    pixels: tuple[npt.NDArray[np.intp], ...],
    size: tuple[int, int],
    statistics: Normalization,
) -> Image:
    """A picture of a few normalized pixels.

    Args:
        values: (3, n) in the encoder's units.
        pixels: (rows, cols), each (n,).
        size: (h, w).
        statistics: what to normalize with.

    Returns:
        (3, h, w) float32, 0 elsewhere.
    """
    image = np.zeros((3, *size), np.float32)
    at = pixels[0] * size[1] + pixels[1]
    for channel, numbers, mean, std in zip(image.reshape(3, -1), values, *statistics, strict=True):
        channel[at] = (numbers - np.float32(mean)) / np.float32(std)
    return image
