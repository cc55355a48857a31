"""Pictures of another camera, seen from the label camera as if everything were infinitely far away.

That is exact for a shared lens, and off by focal length · baseline / depth pixels otherwise: what `aligned.py` falls
back on where nothing tells the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.checks import other_camera
from mlesam_ros.frame import SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transform import Transform

Floats = npt.NDArray[np.float32]
INFINITE_DEPTH_M = 1e6
"""Meters that count as infinitely far."""
SAME_LENS_TOLERANCE_PX = 0.25
"""Pixels of the network by which two lenses may differ and still count as one."""


@dataclass(frozen=True, eq=False)
class ImageWarp:
    """How another camera's picture becomes the label camera's.

    Attributes:
        coarse: (h', w') that its picture is to be reduced to first, by averaging; never more than it has.
        size: (h, w) of the network.
        maps: where on the reduced picture each pixel of the network looks; None where a change of size is all.
    """

    coarse: tuple[int, int]
    size: tuple[int, int]
    maps: tuple[Floats, Floats] | None = None

    def warp(self, values: Floats) -> Floats:
        """Values on the label camera's pixels.

        Args:
            values: (h', w', C) float32.

        Returns:
            (h, w, C) float32; 0 where the other camera does not look.
        """
        if self.maps is not None:
            warped = cv2.remap(values, *self.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        elif self.coarse != self.size:
            warped = resize_nearest(values, self.size)
        else:
            return values
        return np.asarray(warped, np.float32).reshape(*self.size, values.shape[2])


def warp_at_infinity(frame: SensorFrame, have: tuple[int, int], rig: Rig, size: tuple[int, int]) -> ImageWarp:
    """How the label camera sees a picture.

    Args:
        frame: where the picture comes from and when.
        have: (H, W) of the picture.
        rig: knows both cameras, unless the frame is the label camera's own.
        size: (h, w) of the network.

    Raises:
        CalibrationError: the picture's size contradicts its calibration, or the rig does not know its camera.
    """
    model = other_camera(frame, have, rig)
    if model is None:
        return ImageWarp((min(size[0], have[0]), min(size[1], have[1])), size)
    return _turned_view(model, rig.camera, size, rig.extrinsic(frame.frame_id, frame.time).rotation.tobytes())


@lru_cache(maxsize=8)
def _turned_view(model: CameraModel, camera: CameraModel, size: tuple[int, int], rotation: bytes) -> ImageWarp:
    target = camera.scaled(*size)
    coarse = antialias_size(model, target)
    points = target.unproject(np.full(size, INFINITE_DEPTH_M)).reshape(-1, 3)
    turn = Transform(np.frombuffer(rotation).reshape(3, 3), np.zeros(3)).inverse()
    uv, valid = model.scaled(*coarse).project(turn.apply(points))
    if valid.all() and coarse == size and np.abs(uv - _grid(size)).max() < SAME_LENS_TOLERANCE_PX:
        return ImageWarp(size, size)
    u, v = (np.where(valid, axis, -2.0).astype(np.float32).reshape(size) for axis in uv.T)
    return ImageWarp(coarse, size, (u, v))


def antialias_size(model: CameraModel, target: CameraModel) -> tuple[int, int]:
    """(h', w') at which a camera's pixels are no finer than the target's, so that none of them is jumped over."""
    shrink = max(model.K[0, 0] / target.K[0, 0], model.K[1, 1] / target.K[1, 1], 1.0)
    return max(round(model.height / shrink), 1), max(round(model.width / shrink), 1)


def _grid(size: tuple[int, int]) -> npt.NDArray[np.float64]:
    rows, cols = np.indices(size)
    return np.stack([cols.ravel(), rows.ravel()], axis=1).astype(np.float64)
