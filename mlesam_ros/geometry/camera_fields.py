"""Fields of a camera as files spell them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError
from mlesam_ros.strict_yaml import short_repr


def camera_matrix(value: Any) -> npt.NDArray[np.float64]:
    """(3, 3) from what a file may say: a 3x3 matrix, its 9 numbers, or fx, fy, cx, cy; its values are not checked.

    Raises:
        CalibrationError: not numbers.
    """
    try:
        k = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"K is {short_repr(value)}; it must be 3x3 numbers, or fx, fy, cx, cy.") from error
    if k.shape == (4,):
        return np.array([[k[0], 0.0, k[2]], [0.0, k[1], k[3]], [0.0, 0.0, 1.0]])
    return k.reshape(3, 3) if k.shape == (9,) else k


def picture_size(value: Any) -> tuple[int, int]:
    """(width, height) from a file.

    Raises:
        CalibrationError: not two whole numbers.
    """
    try:
        width, height = (int(side) for side in value)
    except (TypeError, ValueError, OverflowError) as error:
        raise CalibrationError(
            f"picture is {short_repr(value)}; it must be [width, height] of the pictures."
        ) from error
    return width, height
