"""Pixel centers: which pixel of one grid lies under each pixel of another over the same view."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt


@lru_cache(maxsize=256)
def nearest_pixels(source: int, target: int, alternate: bool = True) -> npt.NDArray[np.intp]:
    """Nearest-neighbor indices of one side that is resized edge on edge, read only.

    The center of target pixel i lies at (i + 1/2) · source / target, as in OpenCV's INTER_NEAREST_EXACT and PyTorch's
    `nearest-exact`; INTER_NEAREST takes its upper left corner instead. A center on the edge between two source pixels,
    as all of them are when a side is halved, is as near to the one as to the other.

    Args:
        source: pixels of the side that is sampled.
        target: pixels of the side to fill.
        alternate: whether centers on an edge take the two sides in turns, so that on average nothing is shifted; else
            all of them take the higher one, which keeps the steps between samples even.

    Returns:
        (target,) indices from 0 to source - 1, not decreasing.
    """
    place = (2 * np.arange(target) + 1) * source
    index, rest = np.divmod(place, 2 * target)
    if alternate:
        on_edge = np.flatnonzero(rest == 0)
        index[on_edge[_turns(len(on_edge))]] -= 1
    index.flags.writeable = False
    return index.astype(np.intp, copy=False)


def _turns(count: int) -> npt.NDArray[np.bool_]:
    """The first terms of the Thue-Morse sequence: both values equally often, and so at every second, fourth, … term.

    Plain alternation would be in step with grids that are coarser by a power of two, such as that of the logits.
    """
    parity = np.arange(count, dtype=np.uint32)
    for shift in (16, 8, 4, 2, 1):
        parity ^= parity >> np.uint32(shift)
    return (parity & 1).astype(np.bool_)


def resize_nearest(image: npt.NDArray[Any], size: tuple[int, int], alternate: bool = True) -> npt.NDArray[Any]:
    """(H, W, …) to (h, w, …) by `nearest_pixels`, for labels and measurements, which may be copied but not blended."""
    if image.shape[:2] == size:
        return image
    rows, columns = (nearest_pixels(have, want, alternate) for have, want in zip(image.shape, size, strict=False))
    return image.take(rows, 0).take(columns, 1)
