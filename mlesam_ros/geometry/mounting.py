"""Where cameras sit on robots, and how a wrong transform gives itself away.

REP-103: a body has x forward, y left, z up; a camera's optical frame has z forward, x right, y down. So a camera that
looks along the ground is turned against its body, about the body's z by wherever it looks, like `_AHEAD`. Two mistakes
leave a rotation of their own: a camera frame taken for a body's, and a transform written down the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CalibrationError
from mlesam_ros.findings import ERROR, NOTE, WARNING, Finding
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transform_tree import TransformTree

Floats = npt.NDArray[np.float64]

_AHEAD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""body_from_optical of a camera that looks forward."""
_LIKE, _UNLIKE = 20.0, 45.0
"""Degrees within which a rotation is taken for a mistake's, and from which on it is not a sensible mounting's."""
_FAR = 20.0
"""Meters. No sensor sits farther from the camera on a robot; in millimeters nearly every one does."""


def mounting_findings(camera: str, models: Mapping[str, CameraModel], tree: TransformTree) -> Iterator[Finding]:
    """What is odd about where the sensors sit.

    Args:
        camera: frame of the label camera.
        models: frame → its camera, as far as they are good.
        tree: the transforms, as far as they are good.
    """
    sizes = {f"{frame} {model.width}x{model.height}": (model.width, model.height) for frame, model in models.items()}
    if len(set(sizes.values())) > 1:
        yield Finding(NOTE, "cameras", f"they have different sizes: {', '.join(sizes)}.")
    frames = tree.frames
    if not frames:
        yield Finding(WARNING, "transforms", "there are none: only the camera's own pictures can be used.", "Add them.")
        return
    if camera in frames or camera in models:
        yield from _disconnected(camera, [*frames, *(frame for frame in models if frame not in frames)], tree)
    for frame in models:
        yield from _rotated(frame, [other for other in frames if other not in models], tree)


def _disconnected(camera: str, frames: list[str], tree: TransformTree) -> Iterator[Finding]:
    """Frames that are not connected to the label camera, or implausibly far from it."""
    for frame in frames:
        try:
            offset = tree.lookup(camera, frame).translation
        except CalibrationError:
            message = f"it is not connected to {camera}: what is measured in it cannot be used."
            yield Finding(ERROR, f"frame {frame}", message, "Add the transform that is missing between the two.")
            continue
        distance = float(np.linalg.norm(offset))
        if distance > _FAR:
            message = f"it sits {distance:.1f} m from {camera}."
            yield Finding(WARNING, f"frame {frame}", message, "Check that translations are metres, not millimetres.")


def _rotated(camera: str, bodies: list[str], tree: TransformTree) -> Iterator[Finding]:
    """A camera whose rotation against a body's or a LiDAR's frame is that of a mistake; the first such."""
    for body in bodies:
        if "optical" in body:
            continue
        try:
            turn = tree.lookup(body, camera).rotation
        except CalibrationError:
            continue
        if _angle_error(turn, _AHEAD) < _UNLIKE:
            continue
        if _angle_error(turn, np.eye(3)) < _LIKE:
            yield Finding(
                WARNING,
                f"camera {camera}",
                f"against {body} it is turned like a body, with z up: an optical frame has z forward, x right, y down.",
                "Turn it, for a camera that looks forward by the quaternion [-0.5, 0.5, -0.5, 0.5], or let it look up.",
            )
            return
        if _angle_error(turn.T, _AHEAD) < _LIKE:
            yield Finding(
                WARNING,
                f"camera {camera}",
                f"its transform against {body} looks inverted: as it stands the camera lies on its side.",
                f"Check that it takes points from child to parent; {body}'s z axis should be up in the picture.",
            )
            return


def _angle_error(turn: Floats, like: Floats) -> float:
    """Degrees between a rotation and the nearest of another's, turned about the z axis of the frame it leads to.

    The trace of Rz(a) M is (m00 + m11) cos a + (m10 - m01) sin a + m22, greatest where the two are in phase.
    """
    m = like @ turn.T
    trace = np.hypot(m[0, 0] + m[1, 1], m[1, 0] - m[0, 1]) + m[2, 2]
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0))))
