"""Surface normals of a depth picture, by fitting a plane in a window around each pixel.

A plane in space is a plane in (x/z, y/z, 1/z) as well: a x/z + b y/z + c = 1/z, with (a, b, c) along its normal and
always away from the camera. So the fit is a line fit in two directions on inverse depth, and box sums do it.
Source: S. Gupta, P. Arbeláez, J. Malik, "Perceptual organization and recognition of indoor scenes from RGB-D images",
CVPR 2013, who fit the same plane in square windows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.camera import CameraModel

Floats = npt.NDArray[np.float32]


def surface_normals(meters: Floats, camera: CameraModel, radius: int) -> Floats:
    """Normals of what a depth picture shows.

    Args:
        meters: (H, W) float32 along z, at the camera's size; NaN where unknown.
        camera: whose picture it is.
        radius: pixels to every side that the window reaches; pixels without depth in it do not count.

    Returns:
        (3, H, W) float32 unit vectors away from the camera, in the frame of the picture (the rectified one, where it
        is); NaN where fewer than three pixels of the window, or none off one line, tell.
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
    """(3, H, W) normals from how inverse depth changes per pixel, and its value at the pixel itself."""
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
