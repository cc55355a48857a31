"""What several encoders refuse, in the same words."""

from __future__ import annotations

from mlesam_ros.errors import CalibrationError, ImageError
from mlesam_ros.frame import SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig


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
