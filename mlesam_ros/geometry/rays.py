"""The ray of every pixel: a lens turned round for a whole picture at once.

Turning a lens round is an iteration per pixel. But its map is smooth, so it is enough to iterate at every eighth pixel,
draw straight lines between those, and take a Newton step or a few whose slopes are those of the lines. Pixels that
these do not settle, because the lens bends too much or ends there, are iterated after all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.geometry.distortion import Distortion

Floats = npt.NDArray[np.float64]

_STEP = 8  # pixels between two nodes
_STEPS = 4
_CLOSE = 2e-4
"""Pixels by which the ray of a pixel may miss it."""


def all_rays(width: int, height: int, intrinsics: Floats, lens: Distortion) -> npt.NDArray[np.float32]:
    """x/z and y/z of the ray of each pixel.

    Args:
        width: pixels.
        height: pixels.
        intrinsics: (3, 3) camera matrix.
        lens: how rays are bent.

    Returns:
        (height, width, 2) float32; NaN where no ray inside the lens's valid radius arrives.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    u, v = np.arange(width), np.arange(height)
    node_u, node_v = (np.arange(0, size + _STEP, _STEP) for size in (width, height))
    grid_x, grid_y = np.meshgrid((node_u - cx) / fx, (node_v - cy) / fy)
    nodes = np.stack(lens.invert(grid_x, grid_y))  # (2, rows, columns)
    cell, along = np.divmod(u, _STEP)
    slope = (np.diff(nodes, axis=2) / _STEP)[:, :, cell]
    lines = nodes[:, :, cell] + slope * along  # (2, rows, width)
    rays = np.empty((height, width, 2), np.float32)
    bent = np.empty((height, width), np.bool_)
    for row, top in enumerate(range(0, height, _STEP)):  # a band at a time stays in the processor's cache
        band = slice(top, min(top + _STEP, height))
        fall = (lines[:, row + 1] - lines[:, row]) / _STEP
        xy = lines[:, None, row] + fall[:, None] * (v[band] - top)[:, None]
        for step in range(_STEPS + 1):
            bent_x, bent_y = lens.apply(*xy)
            off_u, off_v = u - (fx * bent_x + cx), v[band, None] - (fy * bent_y + cy)
            off = np.maximum(np.abs(off_u), np.abs(off_v))
            if step == _STEPS or not (off > _CLOSE).any():
                break
            xy[0] += slope[0, row] * off_u + fall[0] * off_v
            xy[1] += slope[1, row] * off_u + fall[1] * off_v
        rays[band, :, 0], rays[band, :, 1] = xy
        # A step may also have landed beyond the valid radius, where the lens leads to the same pixel once more.
        bent[band] = ~((off <= _CLOSE) & (xy[0] * xy[0] + xy[1] * xy[1] <= lens.limit**2))
    rows, columns = np.nonzero(bent)
    rays[rows, columns] = np.stack(lens.invert((columns - cx) / fx, (rows - cy) / fy), axis=-1)
    return rays
