"""The Preprocessor interface, its normalization, and checks that all preprocessors share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError, ImageError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import PointTransform, Rig
from mlesam_ros.types import Modality, SensorFrame

if TYPE_CHECKING:
    from mlesam_ros.preprocessing.context import Context


class Reference:
    """One set's moment.

    Attributes:
        time: nanoseconds; every picture shows the world as it was then.
    """

    def __init__(self, time: int) -> None:
        """Nothing is noted yet."""
        self.time = time
        self._notes: dict[Modality, str] = {}
        self._placements: dict[Modality, tuple[SensorFrame, PointTransform]] = {}

    @property
    def notes(self) -> Mapping[Modality, str]:
        """Modality → what an encoder had to do without, in one sentence; its picture is the best there can be."""
        return MappingProxyType(self._notes)

    @property
    def placements(self) -> dict[Modality, PointTransform]:
        """Modality → where the points of its frame were placed."""
        return {modality: placement for modality, (_, placement) in self._placements.items()}

    def placement(self, frame: SensorFrame, place: Callable[[], PointTransform]) -> PointTransform:
        """The placement of one of the set's frames, computed once for all that ask for it.

        Args:
            frame: whose points are placed.
            place: computes it.
        """
        known = self._placements.get(frame.modality)
        if known is None or known[0] is not frame:
            known = self._placements[frame.modality] = frame, place()
        return known[1]

    def note(self, modality: Modality, reason: str) -> None:
        """Add what an image had to be made without; several reasons make one text."""
        known = self._notes.get(modality, "")
        if reason not in known:
            self._notes[modality] = f"{known} {reason}".strip()


def wrong_payload(frame: SensorFrame, accepted: str) -> ImageError:
    """The error for a frame whose payload an encoder cannot read."""
    return ImageError(f"a {frame.modality} frame holds {type(frame.payload).__name__}; it must hold {accepted}.")


def other_camera(frame: SensorFrame, have: tuple[int, int], rig: Rig) -> CameraModel | None:
    """The camera that took a frame, where that is another than the label camera.

    A picture in the label camera's frame without a CameraInfo of its own is taken as registered to it. With one it is
    what that says: the label camera's picture at another size, or a picture of another lens from the same place.

    Args:
        frame: where the picture comes from.
        have: (H, W) of the picture.
        rig: knows both cameras, unless the frame is the label camera's own.

    Returns:
        None where the picture, resized, is the label camera's.

    Raises:
        CalibrationError: the picture's size contradicts its calibration, or the rig does not know its camera.
    """
    if frame.frame_id == rig.camera_frame:
        own = None if frame.modality == rig.view else rig.own_model(frame)
        if own is None or own.shows_as(rig.camera):
            check_aspect(frame, have, rig)
            return None
    model = rig.model_of(frame)
    model.check(*have, what=f"{frame.modality} picture")
    return model


def check_aspect(frame: SensorFrame, have: tuple[int, int], rig: Rig) -> None:
    """Refuse a picture that claims the label camera's frame but cannot show what that camera shows.

    Raises:
        CalibrationError: the sides' ratios differ by more than 1 %.
    """
    camera = rig.camera
    if abs(have[1] * camera.height / (have[0] * camera.width) - 1) > 0.01:
        raise CalibrationError(
            f"{frame.modality} picture of {have[1]}x{have[0]} is in the frame {frame.frame_id!r} of a camera "
            f"with {camera.width}x{camera.height}.",
            "Register it to that camera, or give it its own frame and calibration.",
        )


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
