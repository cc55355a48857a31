"""Depth as DELIVER's experts read it: disparity, height above ground, angle with gravity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.context import Context, depth_of
from mlesam_ros.encoding.encoder import Image, Normalization
from mlesam_ros.encoding.gravity import Normals, Vector, gravity_from_normals, gravity_from_tf
from mlesam_ros.encoding.picture import Meters
from mlesam_ros.encoding.settings import GRAVITY, SENSOR
from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import AUTO, DEPTH, Modality, SensorFrame
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.normals import surface_normals
from mlesam_ros.geometry.rig import Rig

_TREE, _DOWN = "tf", "down"
_NEAREST = 100.0
"""Centimeters; what is nearer has the disparity of this."""
_DISPARITY = 31000.0
_UPRIGHT = 128.0
"""Count of a surface that is upright; a level one that is seen from above has 38, from below 218."""
_LOWEST_SHARE = 1.0
"""Percent of the pixels that may lie below the ground: noise, and holes in the road."""


@dataclass(frozen=True)
class HHA:
    """Whole counts from 0 to 255 over 255, as in DELIVER's `hha` folder, which was made with Depth2HHA-python.

    Red: 31000 / depth in centimeters. Green: centimeters above the ground. Blue: degrees between the surface's normal,
    away from the camera, and gravity, plus 38. Source: S. Gupta, R. Girshick, P. Arbeláez, J. Malik, "Learning rich
    features from RGB-D images", ECCV 2014; constants from https://github.com/charlesCXK/Depth2HHA-python.

    Down is against z of the fixed frame or the robot's base if the transform tree knows one, else `down`, else what the
    surfaces tell; `gravity` chooses one of the three. The ground is the height that 1 % of the measured pixels lie
    below (Depth2HHA: the very lowest), but where nothing as low as `least_height` is in view the camera is taken to be
    `usual_height` above it, as there.

    Attributes:
        down: gravity in the label camera's optical frame, of any length; None if it is not known.
        gravity: where down is from: `auto` as above, `tf` for the transform tree alone, `down` for that direction
            alone, `normals` for the surfaces alone. Where the transform tree does not know it the surfaces tell, and a
            note says so.
        radius: pixels to every side of the window that a normal is fitted in.
        least_height, usual_height: meters.
    """

    modality: ClassVar[Modality] = DEPTH
    name: ClassVar[str] = "hha"
    statistics: ClassVar[Normalization] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """CMNeXt's for DELIVER: counts over 255, and nothing else."""

    down: tuple[float, float, float] | None = field(default=None, metadata=SENSOR)
    gravity: str = field(default=AUTO, metadata=SENSOR)
    radius: int = 3
    least_height: float = 0.9
    usual_height: float = 1.3

    def __post_init__(self) -> None:
        """Refuse a direction that is none.

        Raises:
            ConfigError: down is not three finite numbers of some length, or the source of gravity is not known.
        """
        if self.gravity not in (*GRAVITY, _DOWN) or (self.gravity == _DOWN and self.down is None):
            raise ConfigError(f"gravity is {self.gravity!r}; accepted are {', '.join(GRAVITY)}, and {_DOWN} with one.")
        if self.down is not None and not (np.shape(self.down) == (3,) and 0 < np.linalg.norm(self.down) < np.inf):
            raise ConfigError(
                f"down is {self.down}; it must be a direction in the camera's optical frame, as (0, 1, 0)."
            )

    def __call__(self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: Context | None = None) -> Image:
        """Encode a `Picture` or `CompressedImage`; see `Encoder`. Holes are 0, the edges of things included."""
        meters = depth_of(frame, rig, size, context)
        camera = rig.camera.scaled(*size)
        normals = surface_normals(meters, camera, self.radius)
        down = self._down(normals, camera, rig, frame.time, context)
        with np.errstate(invalid="ignore"):
            cosine = np.einsum("chw,c->hw", normals, down.astype(np.float32))
            red = _DISPARITY / np.maximum(100 * meters, _NEAREST)
            green = 100 * self._height(meters, camera, down)
            blue = np.degrees(np.arccos(np.clip(cosine, -1, 1))) + (_UPRIGHT - 90)
            image = np.rint(np.clip(np.stack([red, green, blue]), 0, 255))
        image[:, ~np.isfinite(image).all(axis=0)] = 0
        return np.asarray(image / 255, np.float32)

    def _down(self, normals: Normals, camera: CameraModel, rig: Rig, time: int, context: Context | None) -> Vector:
        """Gravity in the picture's own frame, which is turned against the optical frame where it is rectified."""
        down = None
        if self.gravity in (AUTO, _TREE):
            down = gravity_from_tf(rig, time if context is None else context.time)
            if down is None and self.gravity == _TREE and context is not None:
                context.note(DEPTH, "gravity is found by the surfaces: no transform to the fixed frame or the base.")
        if down is None and self.down is not None and self.gravity in (AUTO, _DOWN):
            down = np.asarray(self.down) / np.linalg.norm(self.down)
        if down is None:
            return gravity_from_normals(normals)
        return down if camera.rectification is None else camera.rectification.rotation @ down

    def _height(self, meters: Meters, camera: CameraModel, down: Vector) -> npt.NDArray[np.float32]:
        """(h, w) meters above the ground."""
        x, y = camera.rays[..., 0], camera.rays[..., 1]
        below = meters * (x * np.float32(down[0]) + y * np.float32(down[1]) + np.float32(down[2]))
        known = below[np.isfinite(below)]
        some = known[:: max(known.size // 20_000, 1)]
        ground = float(np.percentile(some, 100 - _LOWEST_SHARE)) if some.size else 0.0
        height = (ground if ground >= self.least_height else self.usual_height) - below
        return np.asarray(height, np.float32)
