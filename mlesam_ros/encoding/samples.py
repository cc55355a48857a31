"""Views of a picture's bytes, once its size, step, encoding and length have been found to fit each other."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.announced import check_declared_size
from mlesam_ros.errors import ImageError
from mlesam_ros.frame import RawImage


class PixelFormat(NamedTuple):
    """Sample type, channels, and the OpenCV code that makes RGB of it; None where it needs none.

    `lines` is how many rows lie in memory per row of the picture: more than one where color has planes of its own.
    """

    dtype: str
    channels: int
    to_rgb: int | None = None
    lines: float = 1


def image_view(picture: RawImage, layouts: Mapping[str, PixelFormat], what: str) -> npt.NDArray[Any]:
    """A picture's samples where they lie.

    Args:
        picture: the picture.
        layouts: encoding → layout, the encodings that are accepted.
        what: how the message calls a picture with one of these encodings.

    Returns:
        (H, W, channels), or (H, W) for one channel, in the picture's own byte order; a view. With color planes
        (H * lines, W), the planes one below the other.

    Raises:
        ImageError: with the field at fault, its value and what is accepted.
    """
    layout = layouts.get(picture.encoding)
    if layout is None:
        raise ImageError(f"encoding {picture.encoding[:40]!r} is not {what}; {_accepted(picture.encoding, layouts)}")
    height, width, step = picture.height, picture.width, picture.step
    if height < 1 or width < 1:
        raise ImageError(f"image is {width}x{height} pixels; both must be at least 1.")
    dtype = np.dtype(layout.dtype).newbyteorder(">" if picture.is_bigendian else "<")
    pixel = layout.channels * dtype.itemsize
    rows = int(height * layout.lines)
    if rows != height * layout.lines:
        raise ImageError(f"image is {width}x{height} pixels; {picture.encoding} needs an even height.")
    if len(picture.data) == rows * width * pixel:
        step = width * pixel  # rows without padding: the field is redundant, and not set by every driver
    if step < width * pixel:
        raise ImageError(f"step is {step} bytes; {width} pixels of {picture.encoding} need at least {width * pixel}.")
    if len(picture.data) != rows * step:
        raise ImageError(f"data has {len(picture.data)} bytes; {rows} rows with a step of {step} make {rows * step}.")
    shape: tuple[int, ...] = (rows, width, layout.channels)
    strides: tuple[int, ...] = (step, pixel, dtype.itemsize)
    if layout.channels == 1:
        shape, strides = shape[:2], strides[:2]
    return np.ndarray(shape, dtype, np.ascontiguousarray(picture.data), 0, strides)


def _accepted(encoding: str, layouts: Mapping[str, PixelFormat]) -> str:
    near = difflib.get_close_matches(encoding[:40], layouts, 3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}accepted are {', '.join(layouts)}."


def decode_compressed(data: npt.NDArray[np.uint8], flags: int) -> npt.NDArray[Any]:
    """The picture in a compressed file.

    Args:
        data: (n,) uint8, the file: JPEG or PNG.
        flags: OpenCV's `IMREAD_` flags.

    Raises:
        ImageError: it is of another kind, too large, or OpenCV can make nothing of it.
    """
    check_declared_size(data.tobytes())
    try:
        decoded = cv2.imdecode(np.ascontiguousarray(data), flags)
    except cv2.error as error:
        raise ImageError(f"compressed picture of {len(data)} bytes is refused by OpenCV: {error.err}.") from error
    if decoded is None:
        raise ImageError(f"compressed picture of {len(data)} bytes cannot be decoded; it is cut off or damaged.")
    return np.asarray(decoded)
