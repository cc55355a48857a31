"""Rigid transforms.

A transform is named after what it does: `target_from_source.apply(points_in_source)` gives points in target. The pose
that TF publishes for (parent, child) is parent_from_child.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError
from mlesam_ros.geometry import quaternion

Floats = npt.NDArray[np.float64]

_FARTHEST = 1e9
"""Meters. Nothing on a robot's map is farther away, and sums of what is still are numbers."""


@dataclass(frozen=True, eq=False)
class Transform:
    """A rotation followed by a translation.

    Attributes:
        rotation: (3, 3) float64 rotation matrix.
        translation: (3,) float64 meters.
    """

    rotation: Floats
    translation: Floats

    def __post_init__(self) -> None:
        """Refuse what is not a rigid motion.

        Raises:
            CalibrationError: not finite or absurdly far, or the matrix is no rotation.
        """
        rotation = np.asarray(self.rotation, np.float64)
        translation = np.asarray(self.translation, np.float64).ravel()
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)
        if rotation.shape != (3, 3) or not np.isfinite(rotation).all():
            raise CalibrationError(f"a rotation must be 3x3 finite numbers, not {rotation.tolist()}.")
        if translation.shape != (3,) or not (np.abs(translation) < _FARTHEST).all():
            raise CalibrationError(
                f"a translation must be 3 finite numbers in metres, none beyond {_FARTHEST:g}, "
                f"not {translation.tolist()}."
            )
        wild = np.abs(rotation).max() > 2
        if wild or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
            rows = [[float(f"{number:.4g}") for number in row] for row in rotation]
            raise CalibrationError(
                f"{rows} is not a rotation: its rows must be perpendicular unit vectors, right-handed."
            )

    @classmethod
    def identity(cls) -> Transform:
        """The transform that moves nothing."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_quaternion(cls, translation: npt.ArrayLike, rotation: npt.ArrayLike) -> Transform:
        """From meters and a unit quaternion (x, y, z, w).

        Raises:
            CalibrationError: not finite, or the quaternion's length is not 1 within 1 %.
        """
        q = np.asarray(rotation, np.float64).ravel()
        if q.shape != (4,) or not (np.abs(q) < 2).all() or abs(np.linalg.norm(q) - 1.0) > 0.01:
            raise CalibrationError(f"{q.tolist()} is not a rotation: a quaternion is x, y, z, w with length 1.")
        return cls(quaternion.to_matrix(q), np.asarray(translation, np.float64))

    def to_quaternion(self) -> Floats:
        """(4,) unit quaternion (x, y, z, w) of the rotation."""
        return quaternion.from_matrix(self.rotation)

    def inverse(self) -> Transform:
        """The way back."""
        return _unchecked(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Transform) -> Transform:
        """a_from_b @ b_from_c = a_from_c."""
        return _unchecked(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Move points.

        Args:
            points: (N, 3) meters.

        Returns:
            (N, 3) meters of the same floating type.
        """
        moved = points @ self.rotation.T.astype(points.dtype)
        for axis, offset in enumerate(self.translation.astype(points.dtype)):
            moved[..., axis] += offset  # one by one; with rows of three NumPy takes three times as long
        return moved

    def interpolate(self, other: Transform, t: float) -> Transform:
        """The motion a fraction t of the way to `other`: translation linear, rotation at constant angular velocity."""
        q = quaternion.slerp(self.to_quaternion(), other.to_quaternion(), t)
        return _unchecked(quaternion.to_matrix(q), (1 - t) * self.translation + t * other.translation)


def _unchecked(rotation: Floats, translation: Floats) -> Transform:
    """A transform made of such that have been checked: the tree is asked many times for a sweep."""
    made = object.__new__(Transform)
    object.__setattr__(made, "rotation", rotation)
    object.__setattr__(made, "translation", translation)
    return made
