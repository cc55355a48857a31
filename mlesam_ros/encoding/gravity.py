"""Which way is down for the label camera."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry.rig import Rig

Vector = npt.NDArray[np.float64]
Normals = npt.NDArray[np.float32]

_BASES = ("base_link", "base_footprint")
_ROUNDS = ((45.0, 5), (15.0, 5))
"""Degrees within which a surface counts as level or upright, and how often the direction is sought with them."""
_MOST = 10_000
"""Surfaces that are asked; more bring nothing."""


def gravity_from_tf(rig: Rig, stamp: int) -> Vector | None:
    """Down by the transform tree: against z of the fixed frame, or of the robot's base where that is not known.

    Odom and map have z up (REP 105); a base has it upright on level ground (REP 103).

    Args:
        rig: knows how the label camera hangs on either.
        stamp: nanoseconds.

    Returns:
        (3,) float64 unit vector in the label camera's optical frame; None if the tree knows neither.
    """
    for frame in (rig.fixed_frame_or_default, *_BASES):
        if frame is not None:
            try:
                return -rig.tree.lookup(rig.camera_frame, frame, stamp).rotation[:, 2]
            except CalibrationError:
                continue  # the next one may be known
    return None


def gravity_from_normals(normals: Normals, start: npt.ArrayLike = (0.0, 1.0, 0.0)) -> Vector:
    """Down by the surfaces themselves: what most of them are level with or upright to.

    Each round splits surfaces into level and upright ones by the direction so far, and then takes the direction that is
    most parallel to the normals of the level ones and most perpendicular to those of the upright ones.
    Source: S. Gupta, P. Arbeláez, J. Malik, CVPR 2013, section 4.1.

    Args:
        normals: (3, ...) unit vectors; NaN ones are passed over.
        start: (3,) where to begin, within 45 degrees of the truth; by default the picture's own down.

    Returns:
        (3,) float64 unit vector; the start where no surface tells.
    """
    flat = normals.reshape(3, -1)
    some = np.asarray(flat[:, :: max(flat.shape[1] // _MOST, 1)], np.float64)
    seen = some[:, np.isfinite(some[0])]
    down = np.asarray(start, np.float64) / np.linalg.norm(start)
    for degrees, times in _ROUNDS:
        for _ in range(times):
            down = _refined(seen, down, np.radians(degrees))
    return down


def _refined(normals: Vector, down: Vector, threshold: float) -> Vector:
    along = np.abs(down @ normals)
    level, upright = normals[:, along > np.cos(threshold)], normals[:, along < np.sin(threshold)]
    if not level.size and not upright.size:
        return down
    best = np.linalg.eigh(upright @ upright.T - level @ level.T)[1][:, 0]  # of the smallest eigenvalue
    return np.asarray(best if best @ down >= 0 else -best)
