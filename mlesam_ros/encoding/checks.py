"""What several encoders refuse, in the same words."""

from __future__ import annotations

from mlesam_ros.errors import CalibrationError, ImageError
from mlesam_ros.frame import SensorFrame
from mlesam_ros.geometry.rig import Rig


def wrong_payload(frame: SensorFrame, accepted: str) -> ImageError:
    """The error for a frame whose payload an encoder cannot read."""
    return ImageError(f"a {frame.modality} frame holds {type(frame.payload).__name__}; it must hold {accepted}.")


def check_aspect(frame: SensorFrame, have: tuple[int, int], rig: Rig) -> None:
    """Refuse a picture that claims the label camera's frame but cannot show what that camera shows.

    Raises:
        CalibrationError: the sides' ratios differ by more than 1 %.
    """
    camera = rig.camera
    if abs(have[1] * camera.height / (have[0] * camera.width) - 1) > 0.01:
        raise CalibrationError(
            f"{frame.modality} picture of {have[1]}x{have[0]} is in the frame {frame.frame_id!r} of a camera with "
            f"{camera.width}x{camera.height}; register it to that camera, or give it its own frame and calibration."
        )
