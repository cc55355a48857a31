"""Pictures of any encoding as RGB or as metres.

Encoding names: `sensor_msgs/image_encodings`. Depth: REP-118 (32FC1 in metres, 16UC1 in millimetres) and REP-117 (NaN
and infinities where nothing was measured). compressedDepth: the layout of `compressed_depth_image_transport`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.rvl import decode_rvl
from mlesam_ros.encoding.samples import Layout, decode_file, view_samples
from mlesam_ros.errors import ImageError
from mlesam_ros.frame import CompressedPicture, Picture

Rgb = npt.NDArray[np.uint8]
Metres = npt.NDArray[np.float32]

MILLIMETRE = 0.001
"""Metres per count of a 16-bit depth picture, after REP-118."""

_COLOR: dict[str, tuple[int, int | None]] = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb": (1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr": (1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg": (1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg": (1, cv2.COLOR_BayerGRBG2RGB),
}
CAMERA_LAYOUTS: dict[str, Layout] = {
    **{f"{name}8": Layout("u1", *rest) for name, rest in _COLOR.items()},
    **{f"{name}16": Layout("u2", *rest) for name, rest in _COLOR.items()},
    # Untyped names mean what cv_bridge takes them for.
    "8UC1": Layout("u1", 1, cv2.COLOR_GRAY2RGB),
    "8UC3": Layout("u1", 3, cv2.COLOR_BGR2RGB),
    "8UC4": Layout("u1", 4, cv2.COLOR_BGRA2RGB),
    "uyvy": Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": Layout("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": Layout("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": Layout("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    # Brightness first, then pairs of U and V (V and U in nv21), for every 2x2 pixels or (nv24) for each.
    "nv12": Layout("u1", 1, cv2.COLOR_YUV2RGB_NV12, 1.5),
    "nv21": Layout("u1", 1, cv2.COLOR_YUV2RGB_NV21, 1.5),
    "nv24": Layout("u1", 1, None, 3),
}
DEPTH_LAYOUTS: dict[str, Layout] = {"16UC1": Layout("u2", 1), "mono16": Layout("u2", 1), "32FC1": Layout("f4", 1)}

_NEAREST, _FARTHEST = 1e-4, 1e5
"""Metres between which a depth is one. Beyond lie zeros, infinities, and huge numbers that mean them."""

_YUV_TO_RGB = np.array([[1.164, 0.0, 1.596, -222.912], [1.164, -0.391, -0.813, 135.488], [1.164, 2.018, 0.0, -276.928]])
"""ITU-R BT.601, studio range (Y 16 to 235), as OpenCV has it; the last column holds the offsets."""

_DEPTH_HEADER = np.dtype([("codec", "<i4"), ("a", "<f4"), ("b", "<f4")])
"""What compressedDepth puts before the file."""


def to_rgb(picture: Picture | CompressedPicture) -> Rgb:
    """A camera's picture as RGB.

    Args:
        picture: any of `CAMERA_LAYOUTS`, or a file that OpenCV reads (jpeg, png). A file's EXIF orientation is
            ignored, since the calibration describes the sensor as it is mounted.

    Returns:
        (H, W, 3) uint8; for rgb8 a view of the picture's bytes. Of 16-bit samples the upper byte.

    Raises:
        ImageError: encoding, size, step or data do not fit each other.
    """
    if isinstance(picture, CompressedPicture):
        if "compressedDepth" in picture.format:
            raise ImageError(f"format {picture.format[:40]!r} is a depth picture; a camera's is jpeg or png.")
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        return np.asarray(cv2.cvtColor(decode_file(picture.data, flags), cv2.COLOR_BGR2RGB), np.uint8)
    samples = view_samples(picture, CAMERA_LAYOUTS, "a camera picture")
    if picture.encoding == "nv24":
        return _from_nv24(picture)
    if samples.dtype.itemsize == 2:
        samples = (samples >> 8).astype(np.uint8)
    code = CAMERA_LAYOUTS[picture.encoding].to_rgb
    if code is None:
        return samples
    try:
        return np.asarray(cv2.cvtColor(samples, code), np.uint8)
    except cv2.error as error:
        raise ImageError(
            f"{picture.encoding} picture of {picture.width}x{picture.height} is not made RGB; YUV needs an even width."
        ) from error


def _from_nv24(picture: Picture) -> Rgb:
    """A row of colour pairs lies in two rows of memory; OpenCV has no code for it."""
    data, size, step = np.ascontiguousarray(picture.data), (picture.height, picture.width), picture.step
    brightness = np.ndarray(size, np.uint8, data, 0, (step, 1))
    colour = np.ndarray((*size, 2), np.uint8, data, picture.height * step, (2 * step, 2, 1))
    return np.asarray(cv2.transform(np.dstack([brightness, colour]), _YUV_TO_RGB), np.uint8)


@dataclass(frozen=True, eq=False)
class DepthSamples:
    """A depth picture before its counts are made metres.

    Attributes:
        counts: (H, W) of any byte order: floats in metres, or uint16.
        unit: metres per count of uint16.
        inverse: (a, b) where uint16 counts hold inverse depth, metres = a / (count - b); else None.
    """

    counts: npt.NDArray[Any]
    unit: float
    inverse: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.counts.shape
        return height, width

    def metres(self, size: tuple[int, int] | None = None) -> Metres:
        """The depth along the camera's axis, NaN where nothing was measured.

        Args:
            size: (h, w) to sample the picture at, pixel by nearest pixel so that no depth is invented; None for all.

        Returns:
            (H, W) or (h, w) float32.
        """
        counts = self.counts
        if size not in (None, self.size):
            rows, cols = (
                (2 * np.arange(n) + 1) * have // (2 * n) for n, have in zip(size or (), self.size, strict=True)
            )
            counts = counts[rows[:, None], cols]
        if counts.dtype.kind == "f":
            metres = counts.astype(np.float32)
        elif self.inverse is None:
            metres = np.multiply(counts, np.float32(self.unit), dtype=np.float32)
        else:
            a, b = self.inverse
            with np.errstate(divide="ignore"):
                metres = np.float32(a) / (counts.astype(np.float32) - np.float32(b))
            metres[counts == 0] = np.nan
        metres[~((metres >= _NEAREST) & (metres <= _FARTHEST))] = np.nan
        return metres


def open_depth(picture: Picture | CompressedPicture, unit: float = MILLIMETRE) -> DepthSamples:
    """A depth picture, checked but not yet converted.

    Args:
        picture: any of `DEPTH_LAYOUTS`, compressedDepth (png or rvl), or a 16-bit grey png.
        unit: metres per count of 16-bit pictures; ignored for 32FC1. The TUM RGB-D files, for one, have 1 / 5000.

    Raises:
        ImageError: encoding, size, step or data do not fit each other.
    """
    if isinstance(picture, Picture):
        return DepthSamples(view_samples(picture, DEPTH_LAYOUTS, "a depth picture"), unit)
    data, inverse = picture.data, None
    if "compressedDepth" in picture.format:
        if len(data) < _DEPTH_HEADER.itemsize:
            raise ImageError(f"compressedDepth has {len(data)} bytes; its header alone has {_DEPTH_HEADER.itemsize}.")
        data = np.ascontiguousarray(data)
        header, data = (data[: _DEPTH_HEADER.itemsize].view(_DEPTH_HEADER)[0], data[_DEPTH_HEADER.itemsize :])
        if picture.format.startswith("32FC1"):
            inverse = float(header["a"]), float(header["b"])
            if not (np.isfinite(inverse).all() and inverse[0] > 0):
                raise ImageError(
                    f"compressedDepth has the parameters {inverse}; they must be finite, the first positive."
                )
    if "compressedDepth rvl" in picture.format:
        return DepthSamples(decode_rvl(data), unit, inverse)
    counts = decode_file(data, cv2.IMREAD_UNCHANGED)
    if counts.dtype != np.uint16 or counts.ndim != 2:
        raise ImageError(f"compressed depth is {counts.dtype} of shape {counts.shape}; it must be 16-bit grey png.")
    return DepthSamples(counts, unit, inverse)


def to_depth(picture: Picture | CompressedPicture, unit: float = MILLIMETRE) -> Metres:
    """A depth picture in metres.

    Args:
        picture: as for `open_depth`.
        unit: as for `open_depth`.

    Returns:
        (H, W) float32 metres along the camera's axis; NaN where nothing was measured.

    Raises:
        ImageError: encoding, size, step or data do not fit each other.
    """
    return open_depth(picture, unit).metres()
