"""Whose view the masks of a bag are made in, where the bag does not say how its camera sees."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mlesam_ros.encoding.picture import to_rgb
from mlesam_ros.errors import MlesamError
from mlesam_ros.frame import CAMERA, EVENT, CompressedImage, EventWindow, FrameSet, Modality, RawImage, SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig

_ASSUMED = 70.0
"""Degrees that a camera without any calibration is taken to see from side to side."""


def choose_reference_camera(rig: Rig, frame_set: FrameSet, calibrated: Collection[Modality]) -> str | None:
    """Give a rig without a label camera one: another calibrated sensor, or a camera whose lens is assumed.

    Args:
        rig: changed where its label camera is not known.
        frame_set: the sensors at hand.
        calibrated: modalities with a CameraInfo in the bag.

    Returns:
        what was assumed, in a sentence; None where nothing had to be.
    """
    if rig.has_camera or CAMERA in calibrated:
        return None  # a CameraInfo that was refused or is still to come is for the pipeline to name, as in the node
    frames = frame_set.frames
    for modality in calibrated:
        if modality in frames and modality in rig.lenses:
            rig.view, rig.camera_frame = modality, frames[modality].frame_id
            return f"no calibrated camera; masks are made in the view of {modality}."
    for modality in (CAMERA, EVENT):
        if modality in frames and (size := _size(frames[modality])) is not None:
            rig.view, rig.camera_frame = modality, frames[modality].frame_id
            rig.models[rig.camera_frame] = _assumed(*size)
            return (
                f"no CameraInfo: masks are made in the view of {modality}, its lens taken to see {_ASSUMED:g} degrees "
                "without distortion; give --calibration for anything that must be right."
            )
    return None


def _size(frame: SensorFrame) -> tuple[int, int] | None:
    """(width, height) of what has pixels."""
    payload = frame.payload
    if isinstance(payload, RawImage | EventWindow):
        return payload.width, payload.height
    if not isinstance(payload, CompressedImage):
        return None
    try:
        height, width = to_rgb(payload).shape[:2]
    except MlesamError:
        return None
    return width, height


def _assumed(width: int, height: int) -> CameraModel:
    focal = width / 2 / np.tan(np.radians(_ASSUMED / 2))
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return CameraModel(width, height, intrinsics, np.zeros(0), "pinhole")
