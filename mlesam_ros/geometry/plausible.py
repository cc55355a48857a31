"""Values that no real camera's calibration has, one problem per fault."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import Problem

Floats = npt.NDArray[np.float64]

_FOCAL = (0.05, 200)
"""Focal lengths in pictures' sides: from a fisheye of 180 degrees on a long picture to a telescope."""
_FULL = "Give K in pixels of the full picture."


def intrinsics_faults(k: Floats) -> Iterator[Problem]:
    """Why a matrix is no camera matrix.

    Args:
        k: what should be (3, 3) in pixels.
    """
    if k.shape != (3, 3) or not np.isfinite(k).all():
        yield Problem(f"K must be 3x3 finite numbers, not {k.tolist()}.")
        return
    if k[0, 0] <= 0 or k[1, 1] <= 0:
        yield Problem(f"the focal lengths in K are {k[0, 0]:g} and {k[1, 1]:g} px; they must be positive.")
    rest = [k[0, 1], k[1, 0], k[2, 0], k[2, 1], k[2, 2] - 1.0]
    if np.abs(rest).max() > 1e-9 * abs(k[0, 0]):
        yield Problem(f"K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], not {k.tolist()}.")


def picture_faults(k: Floats, width: int, height: int) -> Iterator[Problem]:
    """Why a camera matrix cannot be that of a whole sensor: it was given in meters, or for another size.

    Args:
        k: (3, 3) camera matrix without `intrinsics_faults`.
        width: pixels of the calibrated picture.
        height: pixels of the calibrated picture.
    """
    for axis, size, name in ((0, width, "width"), (1, height, "height")):
        focal, center = k[axis, axis], k[axis, 2]
        if not _FOCAL[0] * size <= focal <= _FOCAL[1] * size:
            yield Problem(f"a focal length of {focal:g} px with a {name} of {size} px is absurd.", _FULL)
        if not 0 <= center <= size:
            yield Problem(f"the principal point {center:g} px lies outside the {name} of {size} px.", _FULL)
