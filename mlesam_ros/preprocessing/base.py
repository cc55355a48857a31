"""The Preprocessor interface, the reference timestamp of a frame set, and checks that all preprocessors share."""

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
    """Reference timestamp of one frame set, with its point placements and notes.

    Attributes:
        time: nanoseconds to which every image of the set is motion-compensated.
    """

    def __init__(self, time: int) -> None:
        """Start without notes and placements."""
        self.time = time
        self._notes: dict[Modality, str] = {}
        self._placements: dict[Modality, tuple[SensorFrame, PointTransform]] = {}

    @property
    def notes(self) -> Mapping[Modality, str]:
        """Modality → inputs that its preprocessor lacked, in one sentence; the image is made without them."""
        return MappingProxyType(self._notes)

    @property
    def placements(self) -> dict[Modality, PointTransform]:
        """Modality → transform from its frame's points to the label camera."""
        return {modality: placement for modality, (_, placement) in self._placements.items()}

    def placement(self, frame: SensorFrame, place: Callable[[], PointTransform]) -> PointTransform:
        """Return the placement of one of the set's frames, computed once per frame.

        Args:
            frame: the frame that holds the points.
            place: computes the placement.
        """
        known = self._placements.get(frame.modality)
        if known is None or known[0] is not frame:
            known = self._placements[frame.modality] = frame, place()
        return known[1]

    def note(self, modality: Modality, reason: str) -> None:
        """Add a reason to the notes of a modality; several reasons are joined into one text."""
        known = self._notes.get(modality, "")
        if reason not in known:
            self._notes[modality] = f"{known} {reason}".strip()


def wrong_payload(frame: SensorFrame, accepted: str) -> ImageError:
    """The error for a frame with a payload type that its preprocessor cannot read."""
    return ImageError(f"a {frame.modality} frame holds {type(frame.payload).__name__}; it must hold {accepted}.")


def other_camera(frame: SensorFrame, have: tuple[int, int], rig: Rig) -> CameraModel | None:
    """The camera model of an image that is not registered to the label camera.

    An image in the label camera's frame without its own CameraInfo counts as registered. With its own CameraInfo, it is
    the label camera's image at another size, or an image of another lens at the same position.

    Args:
        frame: the frame that holds the image.
        have: (H, W) of the image.
        rig: contains both cameras, unless the frame is the label camera's own.

    Returns:
        None if the image only needs resizing.

    Raises:
        CalibrationError: the image size contradicts its calibration, or the rig has no calibration of its camera.
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
    """Reject an image in the label camera's frame with another aspect ratio.

    Raises:
        CalibrationError: the aspect ratios differ by more than 1 %.
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
"""Mean and standard deviation per channel, in the preprocessor's units."""


class Preprocessor(Protocol):
    """Converts frames of one modality to normalized images in the label camera's image plane.

    Training and inference use the same implementation.

    Attributes:
        modality: modality of the frames that it reads.
        name: its name in configurations and checkpoints.
        statistics: mean and standard deviation of its normalization.
    """

    modality: ClassVar[Modality]
    name: ClassVar[str]
    statistics: ClassVar[Normalization]

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
    statistics: Normalization,
) -> Image:
    """Normalize sparse pixel values and scatter them into an image.

    Args:
        values: (3, n) in the preprocessor's units.
        pixels: (rows, cols), each (n,).
        size: (h, w).
        statistics: mean and standard deviation per channel.

    Returns:
        (3, h, w) float32, 0 elsewhere.
    """
    image = np.zeros((3, *size), np.float32)
    at = pixels[0] * size[1] + pixels[1]
    for channel, numbers, mean, std in zip(image.reshape(3, -1), values, *statistics, strict=True):
        channel[at] = (numbers - np.float32(mean)) / np.float32(std)
    return image
