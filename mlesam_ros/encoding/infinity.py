"""Pictures of another camera, seen from the label camera as if everything were infinitely far away.

That is exact for a shared lens, and off by focal length · baseline / depth pixels otherwise: what is done with an event
camera beside the camera as long as nothing tells the depth.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.encoder import check_aspect
from mlesam_ros.frame import SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transform import Transform

Floats = npt.NDArray[np.float32]
_FAR = 1e6
"""Metres that count as infinitely far."""
_SAME = 0.25
"""Pixels of the network by which two lenses may differ and still count as one."""


def seen_from_camera(values: Floats, frame: SensorFrame, rig: Rig, size: tuple[int, int]) -> Floats:
    """A picture's values on the label camera's pixels.

    Args:
        values: (H, W, C) float32, whose mean over an area is what a coarser pixel should show.
        frame: where the picture comes from and when.
        rig: knows both cameras, unless the frame is the label camera's own.
        size: (h, w) of the network.

    Returns:
        (h, w, C) float32; 0 where the other camera does not look.

    Raises:
        CalibrationError: the picture's size contradicts its calibration, or the rig does not know its camera.
    """
    have = values.shape[0], values.shape[1]
    if frame.frame_id == rig.camera_frame:
        check_aspect(frame, have, rig)
        return _resized(values, size)
    model = rig.model(frame.frame_id)
    model.check(*have, f"{frame.modality} picture")
    camera_from_sensor = rig.extrinsic(frame.frame_id, frame.stamp)
    coarse, maps = _maps(model, rig.camera, size, camera_from_sensor.rotation.tobytes())
    if maps is None:
        return _resized(values, size)
    warped = cv2.remap(_resized(values, coarse), maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(warped, np.float32).reshape(*size, values.shape[2])


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    if values.shape[:2] == size:
        return values
    shrinks = size[0] <= values.shape[0] and size[1] <= values.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(values, size[::-1], interpolation=how), np.float32).reshape(*size, values.shape[2])


@lru_cache(maxsize=8)
def _maps(
    model: CameraModel, camera: CameraModel, size: tuple[int, int], rotation: bytes
) -> tuple[tuple[int, int], tuple[Floats, Floats] | None]:
    """The size to shrink the other camera's picture to, and where on it the pixels of the label camera look.

    The maps are None where they say no more than a change of size does.
    """
    target = camera.scaled(*size)
    shrink = max(model.K[0, 0] / target.K[0, 0], model.K[1, 1] / target.K[1, 1], 1.0)
    coarse = max(round(model.height / shrink), 1), max(round(model.width / shrink), 1)
    points = target.unproject(np.full(size, _FAR)).reshape(-1, 3)
    turn = Transform(np.frombuffer(rotation).reshape(3, 3), np.zeros(3)).inverse()
    uv, valid = model.scaled(*coarse).project(turn.apply(points))
    if valid.all() and coarse == size and np.abs(uv - _grid(size)).max() < _SAME:
        return size, None
    u, v = (np.where(valid, axis, -2.0).astype(np.float32).reshape(size) for axis in uv.T)
    return coarse, (u, v)


def _grid(size: tuple[int, int]) -> npt.NDArray[np.float64]:
    rows, cols = np.indices(size)
    return np.stack([cols.ravel(), rows.ravel()], axis=1).astype(np.float64)
