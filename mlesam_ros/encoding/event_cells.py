"""Which cell of a picture each event falls into."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import PacketError
from mlesam_ros.frame import EventWindow


def bin_indices(events: EventWindow, part: slice, size: tuple[int, int]) -> npt.NDArray[np.intp]:
    """The cells of some events, as places in a flat (h, w, 2) array: brighter, darker.

    Plain arithmetic on 32-bit numbers, which runs several to an instruction; a table per axis takes twice as long.

    Args:
        events: the events.
        part: which of them.
        size: (h, w) of the picture, at most the sensor's; a sensor pixel belongs to the cell that its center is in.

    Raises:
        PacketError: one of them lies outside the sensor.
    """
    x, y = events.x[part], events.y[part]
    if len(x) and (x.max() >= events.width or y.max() >= events.height):
        raise PacketError(
            f"events reach column {x.max()} and row {y.max()}; the sensor has {events.width}x{events.height} pixels."
        )
    cell = _along(y, events.height, size[0])
    cell *= size[1]
    cell += _along(x, events.width, size[1])
    cell <<= 1
    cell += (~events.polarity[part]).astype(cell.dtype)
    return cell.astype(np.intp)


def pixels_per_bin(pixels: int, cells: int) -> npt.NDArray[np.float32]:
    """How many of a side's pixels each of its cells has, (cells,)."""
    return np.bincount(_along(np.arange(pixels), pixels, cells).astype(np.intp), minlength=cells).astype(np.float32)


def _along(pixel: npt.NDArray[Any], pixels: int, cells: int) -> Any:
    """The cell of each pixel along one side: its center, (pixel + 1/2) · cells / pixels, rounded down."""
    cell: Any = pixel.astype(np.uint32 if 2 * pixels * cells < 1 << 32 else np.uint64)
    if cells != pixels:
        cell *= 2 * cells
        cell += cells
        cell //= 2 * pixels
    return cell
