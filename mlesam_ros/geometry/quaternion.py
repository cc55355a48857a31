"""Unit quaternions (x, y, z, w), in the component order of `geometry_msgs/Quaternion`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def to_matrix(q: Floats) -> Floats:
    """(3, 3) rotation matrix of a (4,) quaternion, which is normalized first."""
    x, y, z, w = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def from_matrix(m: Floats) -> Floats:
    """(4,) unit quaternion of a (3, 3) rotation matrix.

    The largest of the four components is computed first, so that no division is by a small number
    (S. W. Shepperd, "Quaternion from rotation matrix", J. Guidance and Control 1(3), 1978).
    """
    diagonal = np.array([m[0, 0], m[1, 1], m[2, 2], np.trace(m)])
    largest = int(diagonal.argmax())
    q = np.empty(4)
    if largest == 3:
        q[:] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1.0 + diagonal[3]
    else:
        i, j, k = largest, (largest + 1) % 3, (largest + 2) % 3
        q[i] = 1.0 + m[i, i] - m[j, j] - m[k, k]
        q[j] = m[j, i] + m[i, j]
        q[k] = m[k, i] + m[i, k]
        q[3] = m[k, j] - m[j, k]
    return q / np.linalg.norm(q)


def slerp(a: Floats, b: Floats, t: float) -> Floats:
    """The rotation a fraction t of the shorter way from a to b, at constant angular velocity.

    Source: K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    angle = np.arccos(min(cosine, 1.0))
    if angle < 1e-6:
        blend = (1 - t) * a + t * b
    else:
        blend = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return np.asarray(blend / np.linalg.norm(blend))
