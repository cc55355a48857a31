"""Whether the LiDAR sees things where and when the camera sees them: outlines of depth against outlines of the picture.

After J. Levinson and S. Thrun, Automatic Online Calibration of Cameras and Lasers, RSS 2013: where a sweep jumps from
a near thing to a far one, the picture mostly has an edge. The share of such points that fall on edges is highest where
the calibration is right; turned by a degree it is down to what chance gives. Most things stand upright, so this tells
left from right, and a sweep of another moment from the right one while the robot moves. It does not tell up from down:
the jumps between a sweep's rows are few and lie on the ground.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.frame import NANOSECONDS
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.coherence import rotate_extrinsic
from mlesam_ros.geometry.transform import Transform

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]

SHIFTS = (-3, -2, -1, 0, 1, 2, 3)
"""Sweeps by which the LiDAR is moved in time; the outermost only show that one before is a peak."""
_STEP = 0.25
_YAWS = np.arange(-6.0, 6.01, _STEP)
"""Degrees that the mounting is turned by."""
_JUMP = 0.15
"""In ln(meters): what stands out does so by a seventh of its distance."""
_NEAR = 1.5
"""Meters up to which returns may be the robot's own."""
_ROW, _REACH = 0.2, 1.0
"""Degrees of elevation that are one row of a sweep, and of azimuth up to which its points are neighbors."""
_STEEP = 95
"""Percentile of the picture's steepness that counts as an edge in full."""
_WIDTH = 640
"""Pixels that wider pictures are made smaller to: an edge is one of them wide."""
_FINE = 95.0
"""Focal length in pixels, of the picture as it is looked at, from which on a pixel is no more than 0.6 degrees."""
_POINTS = 150
"""Points on outlines in the pictures, over all views, below which nothing is said."""
_APART = 1.5
"""Degrees around the best angle that do not count as elsewhere."""
_CLEAR = 4.0
"""Times the spread elsewhere that the best must stand out by. Measured: docs/doctor.md."""
_HEIGHT = 0.05
"""Share of the points on edges that the best has more than chance, at least."""
_ADVANTAGE = 0.5
"""Part of that height which the mounting as it is must lack."""
_MANY, _MANY_POINTS = 6, 1000
"""Views, no two of them alike, and points, from which on it means something that nothing stands out."""
_CLARITY = 4.0
"""That of pictures with little noise; in others nothing may stand out although all is well."""
_OFF = 0.75
"""Degrees from which on a calibration is called wrong; a quarter is what the angles resolve."""


class Edges(NamedTuple):
    """Where a picture changes from left to right.

    Attributes:
        strength: (h, w) float32 in [0, 1], of the whole picture, at most 640 wide.
        clarity: how much steeper its edges are than the rest of it; that of mere noise is about 2.
    """

    strength: Image
    clarity: float


@dataclass(frozen=True)
class View:
    """One picture and the sweeps around it.

    Attributes:
        edges: of the picture.
        sweeps: shift → (N, 3) points on outlines, in the LiDAR's frame.
        stamps: shift → nanoseconds of the sweep minus the picture's.
    """

    edges: Edges
    sweeps: Mapping[int, Floats]
    stamps: Mapping[int, int]


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        yaw: degrees to add to the mounting, as `mlesam_ros.geometry.coherence.rotate_extrinsic` takes them; None where
            nothing stands out.
        shift: seconds by which the LiDAR's stamps are late; None where they are not clearly so.
        telling: whether there is enough to see for a calibration that is right to stand out.
    """

    yaw: float | None
    shift: float | None
    telling: bool = False

    @property
    def is_off(self) -> bool:
        """Whether the mounting is wrong by more than the measurement."""
        return self.yaw is not None and abs(self.yaw) >= _OFF


def picture_edges(rgb: npt.NDArray[np.uint8]) -> Edges:
    """Where a picture changes from left to right.

    Args:
        rgb: (H, W, 3) uint8.
    """
    scale = min(1.0, _WIDTH / rgb.shape[1])
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), (0, 0), 1.0).astype(np.float32)
    steep = np.abs(cv2.Sobel(smooth, cv2.CV_32F, 1, 0)).max(axis=2)
    usual, full = np.maximum(np.percentile(steep, (50, _STEEP)), (1.0, 1e-6))
    strength = cv2.GaussianBlur(np.minimum(steep / np.float32(full), 1.0), (0, 0), 1.0)
    return Edges(np.asarray(strength, np.float32), float(full / usual))


def sweep_outlines(xyz: npt.NDArray[np.floating[Any]]) -> Floats:
    """The points that are much nearer than a neighbor in their row.

    Args:
        xyz: (N, 3) meters in the LiDAR's frame, z up.

    Returns:
        (M, 3) of them.
    """
    xyz = xyz[np.isfinite(xyz).all(axis=1)].astype(np.float64)
    distance = np.linalg.norm(xyz, axis=1)
    xyz, distance = xyz[distance > _NEAR], distance[distance > _NEAR]
    azimuth = np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
    row = np.round(np.degrees(np.arcsin(xyz[:, 2] / distance)) / _ROW)
    order = np.lexsort((azimuth, row))
    near = (np.diff(row[order]) == 0) & (np.diff(azimuth[order]) < _REACH)
    step = np.diff(np.log(distance[order]))
    nearer = np.concatenate([[False], near & (step < -_JUMP)]) | np.concatenate([near & (step > _JUMP), [False]])
    return xyz[order[nearer[: len(order)]]]


def judge(views: Sequence[View], camera: CameraModel, camera_from_lidar: Transform) -> Verdict:
    """Turn the mounting and move the sweeps in time, and see where the outlines meet.

    Only what both halves of the views say is believed.

    Args:
        views: of moments apart from each other.
        camera: of the pictures.
        camera_from_lidar: the mounting.
    """
    if camera.K[0, 0] * min(1.0, _WIDTH / camera.width) < _FINE:
        return Verdict(None, None)
    turns = [(rotate_extrinsic(camera_from_lidar, yaw=float(yaw)), 0) for yaw in _YAWS]
    shifts = [(camera_from_lidar, shift) for shift in SHIFTS]
    rows, moved = _counts(views, camera, turns), _counts(views, camera, shifts)
    if not len(rows) or rows[..., 1].sum(axis=0).min() < _POINTS:
        return Verdict(None, None)
    by_yaw = _shares(rows)
    shift = _best_shift(_shares(moved), by_yaw) if len(moved) else None
    if shift is not None and _agree(moved, shift, 0):
        offsets = [view.stamps[SHIFTS[shift]] for view in views if SHIFTS[shift] in view.stamps]
        return Verdict(None, float(np.median(offsets)) / NANOSECONDS)
    best = _best_yaw(by_yaw)
    believed = best is not None and _agree(rows, int(by_yaw.argmax()), round(_OFF / _STEP))
    distinct = len(np.unique(rows[:, :, 0].round(6), axis=0))
    enough = distinct >= _MANY and rows[..., 1].sum(axis=0).min() >= _MANY_POINTS
    clear = float(np.median([view.edges.clarity for view in views])) >= _CLARITY
    return Verdict(best if believed else None, None, enough and clear)


def _agree(rows: Floats, best: int, reach: int) -> bool:
    """Whether both halves of the views find the same, within some trials."""
    halves = (rows[::2], rows[1::2])
    return len(rows) < _MANY or all(abs(int(_shares(half).argmax()) - best) <= reach for half in halves)


def _counts(views: Sequence[View], camera: CameraModel, trials: Sequence[tuple[Transform, int]]) -> Floats:
    """(views, trials, 2): sum of the edges under the outlines, and how many land; of views that have every trial."""
    whole = [view for view in views if all(shift in view.sweeps for _, shift in trials)]
    return np.array([_count(view, camera, trials) for view in whole]).reshape(len(whole), len(trials), 2)


def _shares(rows: Floats) -> Floats:
    """(trials,) share of the outlines on edges, over the views."""
    edges, points = rows.sum(axis=0).T
    return np.asarray(edges / np.maximum(points, 1))


def _count(view: View, camera: CameraModel, trials: Sequence[tuple[Transform, int]]) -> Floats:
    """(trials, 2) of one view."""
    out, (height, width) = [], view.edges.strength.shape
    for mounting, shift in trials:
        _, u, v = camera.project_visible(mounting.apply(view.sweeps[shift]), near=1.0)
        rows = np.floor((v + 0.5) * height / camera.height).astype(np.intp).clip(0, height - 1)
        cols = np.floor((u + 0.5) * width / camera.width).astype(np.intp).clip(0, width - 1)
        out.append((float(view.edges.strength[rows, cols].sum(dtype=np.float64)), len(rows)))
    return np.array(out)


def _best_yaw(shares: Floats) -> float | None:
    """The angle that stands out; 0 where the mounting as it is does about as well; None where none does."""
    at = int(shares.argmax())
    elsewhere = shares[np.abs(_YAWS - _YAWS[at]) > _APART]
    level, spread = _middle(elsewhere)
    height = float(shares[at]) - level
    if at in (0, len(_YAWS) - 1) or height < max(_CLEAR * spread, _HEIGHT) or shares[at] <= elsewhere.max():
        return None
    as_it_is = float(shares[np.abs(_YAWS).argmin()])
    return float(_YAWS[at]) if shares[at] - as_it_is > _ADVANTAGE * height else 0.0


def _best_shift(shares: Floats, by_yaw: Floats) -> int | None:
    """Index of the shift whose sweeps clearly fit better; None where those of the same moment do as well."""
    at, here = int(shares.argmax()), SHIFTS.index(0)
    level, spread = _middle(by_yaw)
    height = float(shares[at]) - level
    if at in (0, here, len(SHIFTS) - 1) or height < max(_CLEAR * spread, _HEIGHT):
        return None
    if shares[at] - shares[here] < _ADVANTAGE * height or shares[at] < by_yaw.max():
        return None  # as it is, or turned, it is about as good
    return at


def _middle(values: Floats) -> tuple[float, float]:
    """Median, and the standard deviation that the median distance from it stands for."""
    level = float(np.median(values))
    return level, 1.4826 * float(np.median(np.abs(values - level)))
