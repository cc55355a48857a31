# SPDX-License-Identifier: Apache-2.0
"""Projection of points into an image with a z-buffer, and surface normals of a depth image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.camera import CameraModel

_EMPTY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_SHIFT = np.uint64(32)
_ENTRY = np.uint64(0xFFFF_FFFF)


@dataclass(frozen=True, eq=False)
class Projection:
    """The visible point of each hit pixel: at most one entry per pixel.

    The nearest point wins; among points at equal distance, as float32 meters, the first in the array. Entries have the
    order of the points without dilation, and that of the pixels with it.

    Attributes:
        rows, cols: (M,) intp pixel.
        index: (M,) intp row of the point in the projected array.
        range: (M,) float32 meters from the camera's center to the point.
        depth: (M,) float32 meters along the camera's axis.
    """

    rows: npt.NDArray[np.intp]
    cols: npt.NDArray[np.intp]
    index: npt.NDArray[np.intp]
    range: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]


def project_points(
    points: npt.NDArray[np.floating[Any]],
    camera: CameraModel,
    size: tuple[int, int],
    near: float = 0.0,
    dilation: int = 0,
) -> Projection:
    """Project points into an image of any size with a z-buffer.

    Args:
        points: (N, 3) meters in the camera's optical frame; NaN and infinite ones are skipped.
        camera: the model of the full image.
        size: (height, width) of the output image, the camera's image resized.
        near: points with z at or below it, in meters, are dropped.
        dilation: pixels to every side that each point also covers; the nearest point wins there too.
    """
    return VisiblePoints.of(points, camera).nearest(size, near, dilation)


@dataclass(frozen=True, eq=False)
class VisiblePoints:
    """The points inside a camera's image before a z-buffer, projected once for images of any size.

    Attributes:
        size: (height, width) of the camera's image.
        index: (M,) intp, ascending row of the point in the projected array.
        u, v: (M,) float64 pixel coordinates in the camera's image.
        range: (M,) float32 meters from the camera's center to the point.
        depth: (M,) float32 meters along the camera's axis.
    """

    size: tuple[int, int]
    index: npt.NDArray[np.intp]
    u: npt.NDArray[np.float64]
    v: npt.NDArray[np.float64]
    range: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]

    @classmethod
    def of(cls, points: npt.NDArray[np.floating[Any]], camera: CameraModel) -> VisiblePoints:
        """Project (N, 3) meters in the camera's optical frame."""
        index, u, v = camera.project_visible(points)
        x, y, z = points[index].T
        with np.errstate(over="ignore"):  # corrupt coordinates only become infinitely far
            distance = np.sqrt(x * x + y * y + z * z).astype(np.float32)
        return cls((camera.height, camera.width), index, u, v, distance, z.astype(np.float32))

    def pixels(self, size: tuple[int, int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """(M,) rows and columns of the points in the camera's image resized to (height, width)."""
        return _pixels(self.v, self.size[0], size[0]), _pixels(self.u, self.size[1], size[1])

    def nearest(self, size: tuple[int, int], near: float = 0.0, dilation: int = 0) -> Projection:
        """Z-buffer of the camera's image resized to (height, width); see `project_points`."""
        if near > 0 and not (kept := self.depth > near).all():
            return self._select(kept).nearest(size, near, dilation)
        rows, cols = self.pixels(size)
        pixel, winner = _nearest(rows, cols, self.range, size, dilation)
        row = pixel // size[1]  # much faster than divmod
        return Projection(row, pixel - row * size[1], self.index[winner], self.range[winner], self.depth[winner])

    def _select(self, kept: npt.NDArray[np.bool_]) -> VisiblePoints:
        u, v, distance, depth = self.u[kept], self.v[kept], self.range[kept], self.depth[kept]
        return VisiblePoints(self.size, self.index[kept], u, v, distance, depth)


def _pixels(coordinate: npt.NDArray[np.float64], source: int, target: int) -> npt.NDArray[np.intp]:
    """Pixels along one axis of `source` pixels after resizing it to `target`, edge on edge."""
    if source == target:
        return np.floor(coordinate + 0.5).astype(np.intp)
    return np.minimum(np.floor((coordinate + 0.5) * (target / source)).astype(np.intp), target - 1)


def _nearest(
    rows: npt.NDArray[np.intp],
    cols: npt.NDArray[np.intp],
    distance: npt.NDArray[np.float32],
    size: tuple[int, int],
    dilation: int,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Flat indices of the hit pixels, and the nearest entry of each, the first among equals.

    The bits of positive float32 numbers have the order of the numbers. So (distance, entry) packs into one uint64, and
    its minimum per pixel is the nearest entry; a scatter of minima is faster than a sort.
    """
    height, width = size
    pixel = rows * width + cols
    key = distance.view(np.uint32).astype(np.uint64) << _SHIFT | np.arange(len(distance), dtype=np.uint64)
    buffer = np.full(height * width, _EMPTY)
    np.minimum.at(buffer, pixel, key)
    if not dilation:
        won = np.flatnonzero(buffer[pixel] == key)
        return pixel[won], won
    nearest = _min_filter(buffer.reshape(size), dilation).ravel()
    hit = np.flatnonzero(nearest != _EMPTY)
    return hit, (nearest[hit] & _ENTRY).astype(np.intp)


def _min_filter(keys: npt.NDArray[np.uint64], reach: int) -> npt.NDArray[np.uint64]:
    """Smallest key within `reach` pixels of each pixel: first along rows, then along columns."""
    for axis in (1, 0):
        source = np.moveaxis(keys, axis, 0)
        keys = keys.copy()
        smallest = np.moveaxis(keys, axis, 0)
        for shift in range(1, reach + 1):
            np.minimum(smallest[shift:], source[:-shift], out=smallest[shift:])
            np.minimum(smallest[:-shift], source[shift:], out=smallest[:-shift])
    return keys


Floats = npt.NDArray[np.float32]


def surface_normals(meters: Floats, camera: CameraModel, radius: int) -> Floats:
    """Surface normals of a depth image.

    Args:
        meters: (H, W) float32 along z, at the camera's size; NaN where unknown.
        camera: the camera of the depth image.
        radius: half size of the window in pixels; its pixels without depth do not count.

    Returns:
        (3, H, W) float32 unit vectors away from the camera, in the frame of the image (the rectified frame for a
        rectified image); NaN where fewer than three pixels of the window have depth, or all of them lie on one line.
    """
    ones = np.ones(2 * radius + 1, np.float32)
    ramp = np.arange(-radius, radius + 1, dtype=np.float32)
    known = (np.isfinite(meters) & (meters > 0)).astype(np.float32)
    inverse = np.divide(1, meters, out=np.zeros_like(known), where=known > 0)

    def total(values: Floats, across: Floats, down: Floats) -> Floats:
        return np.asarray(cv2.sepFilter2D(values, cv2.CV_32F, across, down, borderType=cv2.BORDER_CONSTANT), np.float32)

    with np.errstate(divide="ignore", invalid="ignore"):
        count = total(known, ones, ones)
        u, v, w = total(known, ramp, ones) / count, total(known, ones, ramp) / count, total(inverse, ones, ones) / count
        uu = total(known, ramp * ramp, ones) - count * u * u
        uv = total(known, ramp, ramp) - count * u * v
        vv = total(known, ones, ramp * ramp) - count * v * v
        uw = total(inverse, ramp, ones) - count * u * w
        vw = total(inverse, ones, ramp) - count * v * w
        determinant = uu * vv - uv * uv
        determinant[(count < 3) | (determinant < 0.2)] = np.nan  # three pixels off one line make at least 1/3
        along_u, along_v = (vv * uw - uv * vw) / determinant, (uu * vw - uv * uw) / determinant
        return _unit(along_u, along_v, w - u * along_u - v * along_v, camera)


def _unit(along_u: Floats, along_v: Floats, center: Floats, camera: CameraModel) -> Floats:
    """(3, H, W) normals from the gradient of inverse depth per pixel, and its value at the pixel."""
    (ux, uy), (vx, vy) = _pixels_per_ray(camera)
    x, y = camera.rays[..., 0], camera.rays[..., 1]
    normals = np.empty((3, *center.shape), np.float32)
    normals[0] = along_u * ux + along_v * vx
    normals[1] = along_u * uy + along_v * vy
    normals[2] = center - normals[0] * x - normals[1] * y
    normals /= np.sqrt(np.einsum("chw,chw->hw", normals, normals))
    return normals


@lru_cache(maxsize=4)
def _pixels_per_ray(camera: CameraModel) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """((du/dx, du/dy), (dv/dx, dv/dy)): pixels per normalized coordinate, each a number or (H, W) float32."""
    if camera.model == "pinhole" or not camera.D.any():
        return (float(camera.K[0, 0]), 0.0), (0.0, float(camera.K[1, 1]))
    (xv, xu), (yv, yu) = (np.gradient(camera.rays[..., axis]) for axis in (0, 1))
    determinant = xu * yv - xv * yu
    return (yv / determinant, -xv / determinant), (-yu / determinant, xu / determinant)
