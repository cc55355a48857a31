"""The reference of a frame set, and checks that the preprocessors share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mlesam_ros.errors import CalibrationError, ImageError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import PointTransform, Rig
from mlesam_ros.types import Modality, SensorFrame


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
