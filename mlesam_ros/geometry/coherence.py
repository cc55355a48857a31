"""How well a LiDAR and a camera agree: inside one thing of the picture the depth is much the same.

Where the calibration is right, the points that land on a segment of the picture (a car, a trunk, a wall) come from one
thing, and their depths lie close together. Where it is wrong, segments catch points of what stands beside or behind
them. The score is the median over the segments of the inter-quartile range of log-depth: the less the better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.transform import Transform

Pixels = npt.NDArray[np.intp]

YAWS = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Degrees that a calibration is turned by to see whether it was better before."""
_NEAR = 1.0
"""Meters along the camera's axis from which on points count: nearer ones are the robot itself."""


@dataclass(frozen=True, slots=True)
class DepthSpread:
    """A score.

    Attributes:
        score: median inter-quartile range of ln(meters) inside the segments; NaN without any.
        segments: how many had enough points.
        points: how many landed in the picture.
    """

    score: float
    segments: int
    points: int


class Segments:
    """The things in a picture, of a size that says something.

    Args:
        partitions: each (H, W), either bool, one segment, or integer ids of segments, of which 0 is none.
        smallest: pixels of the smallest segment that counts.
        largest: pixels of the largest: the ground and the sky are no one thing.
        least: points that a segment must have caught.
    """

    def __init__(
        self,
        partitions: Iterable[npt.NDArray[Any]],
        smallest: int = 400,
        largest: int = 150_000,
        least: int = 20,
    ) -> None:
        self._least = least
        self._partitions: list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] = []
        for partition in partitions:
            areas = np.bincount(partition.ravel())
            counts = (areas >= smallest) & (areas <= largest)
            counts[0] = False
            if counts.any():
                self._partitions.append((partition, counts))

    def __len__(self) -> int:
        return sum(int(counts.sum()) for _, counts in self._partitions)

    def coherence(self, rows: Pixels, cols: Pixels, depth: npt.NDArray[np.floating[Any]]) -> DepthSpread:
        """Score points that landed.

        Args:
            rows: (N,) of their pixels.
            cols: (N,) of their pixels.
            depth: (N,) meters along the camera's axis.
        """
        logs = np.log(np.asarray(depth, np.float64))
        ranges = [r for part in self._partitions for r in self._ranges(part, rows, cols, logs)]
        return DepthSpread(float(np.median(ranges)) if ranges else float("nan"), len(ranges), len(rows))

    def _ranges(
        self, part: tuple[npt.NDArray[Any], npt.NDArray[np.bool_]], rows: Pixels, cols: Pixels, logs: Any
    ) -> list[float]:
        partition, counts = part
        ids = partition[rows, cols].astype(np.intp)
        inside = np.flatnonzero(counts[ids])
        order = inside[np.argsort(ids[inside], kind="stable")]
        borders = np.flatnonzero(np.diff(ids[order])) + 1
        groups = [group for group in np.split(logs[order], borders) if len(group) >= self._least]
        return [float(np.subtract(*np.percentile(group, (75, 25)))) for group in groups]


def rotate_extrinsic(
    camera_from_sensor: Transform, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
) -> Transform:
    """A mounting with a rotation added in the camera's optical frame, to see what an error looks like.

    Args:
        camera_from_sensor: the mounting.
        yaw: degrees about y, which points down: what was ahead moves right.
        pitch: degrees about x: what was ahead moves up.
        roll: degrees about z: the scene turns clockwise.
    """
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return Transform(about_z @ about_x @ about_y, np.zeros(3)) @ camera_from_sensor


def score_by_yaw(
    points: npt.NDArray[np.floating[Any]],
    camera_from_sensor: Transform,
    camera: CameraModel,
    segments: Segments,
    yaws: Sequence[float] = YAWS,
) -> Mapping[float, DepthSpread]:
    """The score with the mounting as it is and turned a little.

    Args:
        points: (N, 3) meters in the sensor's frame; float64 if they are to be counted to the last one.
        camera_from_sensor: the mounting.
        camera: of the picture.
        segments: of the picture.
        yaws: degrees.

    Returns:
        added yaw → score.
    """
    scores = {}
    for yaw in yaws:
        optical = rotate_extrinsic(camera_from_sensor, yaw).apply(points)
        index, u, v = camera.project_visible(optical, near=_NEAR)
        rows, cols = np.floor(v + 0.5).astype(np.intp), np.floor(u + 0.5).astype(np.intp)
        scores[yaw] = segments.coherence(rows, cols, optical[index, 2])
    return scores


def best_yaw(scores: Mapping[float, DepthSpread]) -> float | None:
    """The added yaw with the least score; None where no segment caught enough points."""
    finite = {yaw: coherence.score for yaw, coherence in scores.items() if np.isfinite(coherence.score)}
    return min(finite, key=lambda yaw: (finite[yaw], abs(yaw)), default=None)
