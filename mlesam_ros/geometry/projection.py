"""Points of a sensor on the pixels of a camera, the nearest one where several meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.motion import PointTransform

_EMPTY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_SHIFT = np.uint64(32)
_ENTRY = np.uint64(0xFFFF_FFFF)


@dataclass(frozen=True, eq=False)
class Projection:
    """What each hit pixel shows: at most one entry per pixel.

    The nearest point wins; of several that are equally far, as float32 meters, the first in the array.

    Attributes:
        rows, cols: (M,) intp pixel.
        index: (M,) intp row of the point in the array that was projected.
        range: (M,) float32 meters from the camera's center to the point.
        depth: (M,) float32 meters along the camera's axis.
    """

    rows: npt.NDArray[np.intp]
    cols: npt.NDArray[np.intp]
    index: npt.NDArray[np.intp]
    range: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]


def project(
    points_xyz: npt.NDArray[np.floating[Any]],
    target_from_sensor: PointTransform,
    camera: CameraModel,
    size: tuple[int, int],
    near: float = 0.0,
    dilation: int = 0,
) -> Projection:
    """Project points into a picture of any size with a z-buffer.

    Args:
        points_xyz: (N, 3) meters in the sensor's frame; NaN and infinite ones are skipped.
        target_from_sensor: the sensor's frame to the camera's optical frame, a `Transform` or a `Motion`.
        camera: the model of the full picture.
        size: (height, width) of the picture to fill; the camera is scaled to it.
        near: points with z at or below it, in meters, are dropped.
        dilation: each point also covers this many pixels to every side; nearest wins there too.
    """
    return project_points(target_from_sensor.apply(points_xyz), camera, size, near, dilation)


def project_points(
    points: npt.NDArray[np.floating[Any]],
    camera: CameraModel,
    size: tuple[int, int],
    near: float = 0.0,
    dilation: int = 0,
) -> Projection:
    """`project` for points that are in the camera's optical frame already.

    Args:
        points: (N, 3) meters.
        camera: as for `project`.
        size: as for `project`.
        near: as for `project`.
        dilation: as for `project`.
    """
    height, width = size
    index, u, v = camera.scaled(height, width).project_visible(points, near)
    cols = np.floor(u + 0.5).astype(np.intp)
    rows = np.floor(v + 0.5).astype(np.intp)
    x, y, z = points[index].T
    with np.errstate(over="ignore"):  # rubbish coordinates are merely far away
        distance = np.sqrt(x * x + y * y + z * z).astype(np.float32)
    pixel, winner = _nearest(rows, cols, distance, size, dilation)
    row = pixel // width  # by far faster than divmod
    return Projection(row, pixel - row * width, index[winner], distance[winner], z[winner].astype(np.float32))


def _nearest(
    rows: npt.NDArray[np.intp],
    cols: npt.NDArray[np.intp],
    distance: npt.NDArray[np.float32],
    size: tuple[int, int],
    dilation: int,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Flat pixels that are hit, and the entry that is nearest on each; the first one of equals.

    The bits of a positive float32 order as the numbers do, so (distance, entry) packs into one uint64 whose minimum per
    pixel is the answer; a scatter of minima is faster than a sort.
    """
    height, width = size
    pixel = rows * width + cols
    key = distance.view(np.uint32).astype(np.uint64) << _SHIFT | np.arange(len(distance), dtype=np.uint64)
    buffer = np.full(height * width, _EMPTY)
    np.minimum.at(buffer, pixel, key)
    if not dilation:
        won = np.flatnonzero(buffer[pixel] == key)
        return pixel[won], won
    spread = _spread(buffer.reshape(size), dilation).ravel()
    hit = np.flatnonzero(spread != _EMPTY)
    return hit, (spread[hit] & _ENTRY).astype(np.intp)


def _spread(keys: npt.NDArray[np.uint64], reach: int) -> npt.NDArray[np.uint64]:
    """The smallest key within `reach` pixels of each: along rows, then along columns of that."""
    for axis in (1, 0):
        source = np.moveaxis(keys, axis, 0)
        keys = keys.copy()
        smallest = np.moveaxis(keys, axis, 0)
        for shift in range(1, reach + 1):
            np.minimum(smallest[shift:], source[:-shift], out=smallest[shift:])
            np.minimum(smallest[:-shift], source[shift:], out=smallest[:-shift])
    return keys
