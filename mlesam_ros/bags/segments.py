"""The things in a picture, for `mlesam_ros.geometry.coherence`: masks that lie beside it, or its own outlines."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import BagError
from mlesam_ros.geometry.coherence import Segments

_CELLS = (48, 64, 96)
"""Pixels between the seeds, on a picture 1920 pixels wide: several sizes, since things have several."""
_WIDTH = 1920
_LEAST = 8
"""Points in a cell: it is smaller than a mask."""


def mask_segments(folder: str | Path, size: tuple[int, int]) -> Segments | None:
    """The masks in a folder, one picture each, anything but black inside; None if there is no such folder.

    Args:
        folder: with .png files.
        size: (height, width) of the picture that they are for.

    Raises:
        BagError: a mask cannot be read or has another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    masks = []
    for path in sorted(folder.glob("*.png")):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise BagError(f"{path} is no picture that can be decoded; a mask is a grey png.")
        if mask.shape != size:
            raise BagError(f"{path} is {mask.shape[1]}x{mask.shape[0]}; its picture is {size[1]}x{size[0]}.")
        masks.append(mask > 0)
    return Segments(masks) if masks else None


def outline_segments(rgb: npt.NDArray[np.uint8]) -> Segments:
    """Cells that grow from a grid of seeds and meet on the picture's edges (a watershed).

    They are smaller than things and know nothing of them, so their score is a hint where that of masks is a measure.

    Args:
        rgb: (H, W, 3) uint8.
    """
    smooth = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), (0, 0), 2)
    steepness = cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(axis=2)
    cells = [_cells(steepness, max(cell * rgb.shape[1] // _WIDTH, 8)) for cell in _CELLS]
    return Segments(cells, smallest=1, largest=rgb.shape[0] * rgb.shape[1], least=_LEAST)


def _cells(steepness: npt.NDArray[np.uint8], spacing: int) -> npt.NDArray[np.int32]:
    """(H, W) ids from 1 on; 0 on the lines between."""
    seeds, count, reach = np.zeros(steepness.shape, np.int32), 0, spacing // 3
    for y in range(spacing // 2, steepness.shape[0], spacing):
        for x in range(spacing // 2, steepness.shape[1], spacing):
            top, left = max(y - reach, 0), max(x - reach, 0)
            around = steepness[top : y + reach + 1, left : x + reach + 1]
            row, col = divmod(int(around.argmin()), around.shape[1])
            count += 1
            seeds[top + row, left + col] = count
    return np.asarray(np.maximum(cv2.watershed(cv2.merge([steepness] * 3), seeds), 0), np.int32)
