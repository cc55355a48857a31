# SPDX-License-Identifier: Apache-2.0
"""Depth preprocessors: logarithmic depth, and HHA (Gupta et al., ECCV 2014) with its gravity estimation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError, ConfigError
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.projection import surface_normals
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.preprocessing.base import GRAVITY, SENSOR, Image, Normalization, scatter_to_image
from mlesam_ros.preprocessing.images import Meters
from mlesam_ros.preprocessing.registration import FrameContext
from mlesam_ros.types import AUTO, DEPTH, Modality, SensorFrame

Vector = npt.NDArray[np.float64]
Normals = npt.NDArray[np.float32]

_BASE_FRAMES = ("base_link", "base_footprint")
_ROUNDS = ((45.0, 5), (15.0, 5))
"""Per round: degrees within which a surface counts as level or upright, and number of iterations."""
_MAX_NORMALS = 10_000
"""Normals that are sampled; more do not improve the estimate."""


def gravity_from_tf(rig: Rig, stamp: int) -> Vector | None:
    """Down direction by the transform tree: -z of the fixed frame, or of the robot's base frame without a fixed frame.

    The z axis of odom and map points up (REP 105); that of a base frame points up on level ground (REP 103).

    Args:
        rig: holds the transform tree and the label camera's frame.
        stamp: nanoseconds.

    Returns:
        (3,) float64 unit vector in the label camera's optical frame; None if the tree connects neither frame.
    """
    for frame in (rig.fixed_frame_or_default, *_BASE_FRAMES):
        if frame is not None:
            try:
                return -rig.tree.lookup(rig.camera_frame, frame, stamp).rotation[:, 2]
            except CalibrationError:
                continue  # try the next frame
    return None


def gravity_from_normals(normals: Normals, start: npt.ArrayLike = (0.0, 1.0, 0.0)) -> Vector:
    """Down direction by surface normals: the direction to which most surfaces are level or upright.

    Each iteration splits the surfaces into level and upright ones by the current direction. It then takes the direction
    that is most parallel to the normals of the level ones and most perpendicular to those of the upright ones.
    Source: S. Gupta, P. Arbeláez, J. Malik, CVPR 2013, section 4.1.

    Args:
        normals: (3, ...) unit vectors; NaN vectors are ignored.
        start: (3,) initial direction, within 45 degrees of gravity; by default the image's own down.

    Returns:
        (3,) float64 unit vector; the start if no surface is level or upright.
    """
    flat = normals.reshape(3, -1)
    some = np.asarray(flat[:, :: max(flat.shape[1] // _MAX_NORMALS, 1)], np.float64)
    seen = some[:, np.isfinite(some[0])]
    down = np.asarray(start, np.float64) / np.linalg.norm(start)
    for degrees, times in _ROUNDS:
        for _ in range(times):
            down = _refine_gravity(seen, down, np.radians(degrees))
    return down


def _refine_gravity(normals: Vector, down: Vector, threshold: float) -> Vector:
    along = np.abs(down @ normals)
    level, upright = normals[:, along > np.cos(threshold)], normals[:, along < np.sin(threshold)]
    if not level.size and not upright.size:
        return down
    best = np.linalg.eigh(upright @ upright.T - level @ level.T)[1][:, 0]  # of the smallest eigenvalue
    return np.asarray(best if best @ down >= 0 else -best)


@dataclass(frozen=True)
class LogDepth:
    """ln(meters along the camera's axis) in all three channels.

    A depth image registered to the label camera is resized. Any other is re-projected from its own camera with a
    z-buffer.

    Attributes:
        nearest, farthest: meters to which depth is clipped.
    """

    modality: ClassVar[Modality] = DEPTH
    name: ClassVar[str] = "log_depth"
    normalization: ClassVar[Normalization] = ((2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    """Chosen here: 7.4 m, and a factor of e. Measured pixels of streets have mean 1.6 to 2.3 and deviation 0.9."""

    nearest: float = 0.1
    farthest: float = 200.0

    def __call__(
        self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: FrameContext | None = None
    ) -> Image:
        """Convert a depth `RawImage` or `CompressedImage`; see `Preprocessor`. Holes are 0."""
        meters = (context or FrameContext(frame.time)).depth_image(frame, rig, size)
        pixels = np.nonzero(meters > 0)
        logs = np.log(np.clip(meters[pixels], self.nearest, self.farthest))
        return scatter_to_image(np.broadcast_to(logs, (3, len(logs))), pixels, size, self.normalization)


_TF, _DOWN = "tf", "down"
_MIN_DEPTH_CM = 100.0
"""Centimeters; nearer depths have the disparity of this one."""
_DISPARITY = 31000.0
_UPRIGHT = 128.0
"""Count of an upright surface; a level one seen from above has 38, from below 218."""
_GROUND_PERCENT = 1.0
"""Percent of the pixels that may lie below the ground: noise, and holes in the road."""


@dataclass(frozen=True)
class HHA:
    """Integer counts from 0 to 255, divided by 255, as in DELIVER's `hha` folder, which Depth2HHA-python generated.

    Red: 31000 / depth in centimeters. Green: centimeters above the ground. Blue: degrees between the surface's normal,
    away from the camera, and gravity, plus 38. Source: S. Gupta, R. Girshick, P. Arbeláez, J. Malik, "Learning rich
    features from RGB-D images", ECCV 2014; constants from https://github.com/charlesCXK/Depth2HHA-python.

    Gravity is -z of the fixed frame or the robot's base frame if the transform tree has one, else `down`, else the
    estimate from surface normals; `gravity` selects one of the three. The ground is the height below which 1 % of the
    measured pixels lie (Depth2HHA: the lowest pixel). If the ground is less than `least_height` below the camera, the
    camera is assumed to be `usual_height` above the ground, as in Depth2HHA.

    Attributes:
        down: gravity in the label camera's optical frame, of any length; None if unknown.
        gravity: source of the direction: `auto` as above, `tf` for the transform tree, `down` for that direction,
            `normals` for the surface normals. Without a transform, `tf` falls back to the normals and adds a note.
        radius: pixels to every side of the window in which a normal is fitted.
        least_height, usual_height: meters.
    """

    modality: ClassVar[Modality] = DEPTH
    name: ClassVar[str] = "hha"
    normalization: ClassVar[Normalization] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    """As CMNeXt for DELIVER: counts divided by 255, without further normalization."""

    down: tuple[float, float, float] | None = field(default=None, metadata=SENSOR)
    gravity: str = field(default=AUTO, metadata=SENSOR)
    radius: int = 3
    least_height: float = 0.9
    usual_height: float = 1.3

    def __post_init__(self) -> None:
        """Check the direction and its source.

        Raises:
            ConfigError: down is not a finite vector of nonzero length, or the source of gravity is not accepted.
        """
        if self.gravity not in (*GRAVITY, _DOWN) or (self.gravity == _DOWN and self.down is None):
            raise ConfigError(f"gravity is {self.gravity!r}; accepted are {', '.join(GRAVITY)}, and {_DOWN} with one.")
        if self.down is not None and not (np.shape(self.down) == (3,) and 0 < np.linalg.norm(self.down) < np.inf):
            raise ConfigError(
                f"down is {self.down}; it must be a direction in the camera's optical frame, as (0, 1, 0)."
            )

    def __call__(
        self, frame: SensorFrame, rig: Rig, size: tuple[int, int], context: FrameContext | None = None
    ) -> Image:
        """Convert a depth `RawImage` or `CompressedImage`; see `Preprocessor`. Holes and object edges are 0."""
        context = context or FrameContext(frame.time)
        meters = context.depth_image(frame, rig, size)
        camera = rig.camera.scaled(*size)
        normals = surface_normals(meters, camera, self.radius)
        down = self._down(normals, camera, rig, context)
        with np.errstate(invalid="ignore"):
            cosine = np.einsum("chw,c->hw", normals, down.astype(np.float32))
            red = _DISPARITY / np.maximum(100 * meters, _MIN_DEPTH_CM)
            green = 100 * self._height(meters, camera, down)
            blue = np.degrees(np.arccos(np.clip(cosine, -1, 1))) + (_UPRIGHT - 90)
            image = np.rint(np.clip(np.stack([red, green, blue]), 0, 255))
        image[:, ~np.isfinite(image).all(axis=0)] = 0
        return np.asarray(image / 255, np.float32)

    def _down(self, normals: Normals, camera: CameraModel, rig: Rig, context: FrameContext) -> Vector:
        """Gravity in the image's frame, which differs from the optical frame by the rectifying rotation."""
        down = None
        if self.gravity in (AUTO, _TF):
            down = gravity_from_tf(rig, context.time)
            if down is None and self.gravity == _TF:
                context.note(
                    DEPTH,
                    "gravity is estimated from surface normals: no transform to a fixed or base frame.",
                )
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
        ground = float(np.percentile(some, 100 - _GROUND_PERCENT)) if some.size else 0.0
        height = (ground if ground >= self.least_height else self.usual_height) - below
        return np.asarray(height, np.float32)
