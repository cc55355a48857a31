"""Depth pictures compressed with RVL, as `compressedDepth` carries them besides png.

Source: A. Wilson, "Fast lossless depth image compression", ISS 2017: runs of zeros, runs of differences in zigzag
order, all numbers in groups of three bits, lowest first, each group with a bit that says whether another follows. Eight
groups make a little-endian word of 32 bits, the first one on top. `compressed_depth_image_transport` puts the width and
height before it, as two uint32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ImageError

_HEADER = 8
_MOST_PIXELS = 1 << 25
"""A few bytes can claim any number of zeros; no depth sensor has so many pixels."""
_LONGEST = 10
"""Groups of three bits in a number of 29 bits, more than which nothing here needs."""
_SHIFTS = np.arange(28, -1, -4, dtype=np.uint32)


def decode_rvl(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """The counts of a picture.

    Args:
        data: (n,) uint8, from the width on.

    Returns:
        (H, W) uint16.

    Raises:
        ImageError: the size is absurd, or the data end before the picture does.
    """
    if len(data) < _HEADER:
        raise ImageError(f"RVL picture has {len(data)} bytes; its size alone has {_HEADER}.")
    width, height = (int(side) for side in np.ascontiguousarray(data[:_HEADER]).view("<u4"))
    if not 0 < width * height <= _MOST_PIXELS:
        raise ImageError(f"RVL picture claims {width}x{height} pixels; 1 to {_MOST_PIXELS} in all are accepted.")
    numbers = _numbers(data[_HEADER:])
    runs, used = _runs(numbers, width * height)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # (H * W,) which pixels are not zero
    headers = np.concatenate([[0], np.cumsum(runs[1::2] + 2)[:-1]])
    told = np.ones(used, np.bool_)
    told[headers], told[headers + 1] = False, False
    zigzag = numbers[:used][told]
    counts = np.zeros(width * height, np.uint16)
    counts[inside] = np.cumsum((zigzag >> 1) ^ -(zigzag & 1)).astype(np.uint16)
    return counts.reshape(height, width)


def _numbers(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """All whole numbers of the stream; the last one may be padding."""
    words = np.ascontiguousarray(data[: len(data) // 4 * 4]).view("<u4")
    groups = ((words[:, None] >> _SHIFTS) & np.uint32(15)).astype(np.uint8).ravel()
    ends = np.flatnonzero(groups < 8)
    if not len(ends):
        return np.zeros(0, np.int64)
    groups = groups[: ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _LONGEST:
        raise ImageError(f"RVL picture has a number of more than {3 * _LONGEST} bits; its bytes are damaged.")
    place = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((groups & 7).astype(np.int64) << 3 * place, starts)


def _runs(numbers: npt.NDArray[np.int64], pixels: int) -> tuple[npt.NDArray[np.int64], int]:
    """Lengths of the runs, zeros and others by turns, and how many numbers they and their differences take."""
    runs, at, left = [], 0, pixels
    while left > 0:
        if at + 1 >= len(numbers):
            raise ImageError(f"RVL picture ends {left} pixels early; its bytes are cut off.")
        zeros, others = int(numbers[at]), int(numbers[at + 1])
        left -= zeros + others
        at += 2 + others
        if left < 0 or at > len(numbers) or not zeros + others:
            raise ImageError(f"RVL picture has a run of {zeros} zeros and {others} others, which do not fit into it.")
        runs += [zeros, others]
    return np.array(runs, np.int64), at
