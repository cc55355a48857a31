# SPDX-License-Identifier: Apache-2.0
"""Nearest-neighbor resizing by pixel centers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt


@lru_cache(maxsize=256)
def nearest_pixels(source: int, target: int, alternate: bool = True) -> npt.NDArray[np.intp]:
    """Nearest-neighbor indices for one axis, resized edge on edge. The array is read-only.

    The center of target pixel i lies at (i + 1/2) · source / target, as in OpenCV's INTER_NEAREST_EXACT and PyTorch's
    `nearest-exact`; INTER_NEAREST uses its upper left corner instead. A center on the edge between two source pixels,
    as all centers are when an axis is halved, is equally near to both.

    Args:
        source: pixels of the sampled axis.
        target: pixels of the resized axis.
        alternate: whether centers on an edge alternate between both neighbors, so that the mean shift is zero; else
            all of them use the higher one, which keeps the steps between samples even.

    Returns:
        (target,) indices from 0 to source - 1, not decreasing.
    """
    centers = (2 * np.arange(target) + 1) * source
    index, rest = np.divmod(centers, 2 * target)
    if alternate:
        on_edge = np.flatnonzero(rest == 0)
        index[on_edge[_thue_morse(len(on_edge))]] -= 1
    index.flags.writeable = False
    return index.astype(np.intp, copy=False)


def _thue_morse(count: int) -> npt.NDArray[np.bool_]:
    """First terms of the Thue-Morse sequence: both values equally often, also at every second, fourth, … term.

    Plain alternation would be in phase with grids that are coarser by a power of two, such as that of the logits.
    """
    parity = np.arange(count, dtype=np.uint32)
    for shift in (16, 8, 4, 2, 1):
        parity ^= parity >> np.uint32(shift)
    return (parity & 1).astype(np.bool_)


def resize_nearest(image: npt.NDArray[Any], size: tuple[int, int], alternate: bool = True) -> npt.NDArray[Any]:
    """Resize (H, W, …) to (h, w, …) by `nearest_pixels`, for labels and measurements, which must not be blended."""
    if image.shape[:2] == size:
        return image
    rows, columns = (nearest_pixels(have, want, alternate) for have, want in zip(image.shape, size, strict=False))
    return image.take(rows, 0).take(columns, 1)
