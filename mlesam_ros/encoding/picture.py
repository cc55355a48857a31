"""Pictures of any encoding as RGB or as meters.

Encoding names: `sensor_msgs/image_encodings`. Depth: REP-118 (32FC1 in meters, 16UC1 in millimeters) and REP-117 (NaN
and infinities where nothing was measured). compressedDepth: the layout of `compressed_depth_image_transport`.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.encoding.rvl import decode_rvl
from mlesam_ros.encoding.samples import PixelFormat, decode_compressed, image_view
from mlesam_ros.errors import ImageError
from mlesam_ros.frame import CompressedImage, RawImage
from mlesam_ros.geometry.pixels import resize_nearest

Rgb = npt.NDArray[np.uint8]
Meters = npt.NDArray[np.float32]

SIGNIFICANT_BITS = (8, 10, 12, 14, 16)
"""Depths of the converters of cameras, whose samples come in 16 bits."""
MILLIMETER = 0.001
"""Meters per count of a 16-bit depth picture, after REP-118."""

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
CAMERA_LAYOUTS: dict[str, PixelFormat] = {
    **{f"{name}8": PixelFormat("u1", *rest) for name, rest in _COLOR.items()},
    **{f"{name}16": PixelFormat("u2", *rest) for name, rest in _COLOR.items()},
    # Untyped names mean what cv_bridge takes them for.
    "8UC1": PixelFormat("u1", 1, cv2.COLOR_GRAY2RGB),
    "8UC3": PixelFormat("u1", 3, cv2.COLOR_BGR2RGB),
    "8UC4": PixelFormat("u1", 4, cv2.COLOR_BGRA2RGB),
    "uyvy": PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    # Brightness first, then pairs of U and V (V and U in nv21), for every 2x2 pixels or (nv24) for each.
    "nv12": PixelFormat("u1", 1, cv2.COLOR_YUV2RGB_NV12, 1.5),
    "nv21": PixelFormat("u1", 1, cv2.COLOR_YUV2RGB_NV21, 1.5),
    "nv24": PixelFormat("u1", 1, None, 3),
}
DEPTH_LAYOUTS: dict[str, PixelFormat] = {
    "16UC1": PixelFormat("u2", 1),
    "mono16": PixelFormat("u2", 1),
    "32FC1": PixelFormat("f4", 1),
}

_MOSAIC = re.compile(r"(bayer_(?:rggb|bggr|gbrg|grbg))(?:8|16)\b", re.IGNORECASE)
"""The encoding of a Bayer mosaic at the beginning of a format."""

_NEAREST, _FARTHEST = 1e-4, 1e5
"""Meters between which a depth is one. Beyond lie zeros, infinities, and huge numbers that mean them."""

_YUV_TO_RGB = np.array([[1.164, 0.0, 1.596, -222.912], [1.164, -0.391, -0.813, 135.488], [1.164, 2.018, 0.0, -276.928]])
"""ITU-R BT.601, studio range (Y 16 to 235), as OpenCV has it; the last column holds the offsets."""

_DEPTH_HEADER = np.dtype([("codec", "<i4"), ("a", "<f4"), ("b", "<f4")])
"""What compressedDepth puts before the file."""


def to_rgb(picture: RawImage | CompressedImage) -> Rgb:
    """A camera's picture as RGB.

    Args:
        picture: any of `CAMERA_LAYOUTS`, or a file that OpenCV reads (jpeg, png), see `decode_camera`.

    Returns:
        (H, W, 3) uint8; for rgb8 a view of the picture's bytes. Of 16-bit samples the upper 8 of the significant bits.

    Raises:
        ImageError: encoding, size, step or data do not fit each other.
    """
    if isinstance(picture, CompressedImage):
        picture = decode_camera(picture)
    samples = image_view(picture, CAMERA_LAYOUTS, "a camera picture")
    if picture.encoding == "nv24":
        return _from_nv24(picture, samples.strides[0])
    if samples.dtype.itemsize == 2:
        bits = picture.significant_bits or find_significant_bits(samples)
        samples = np.minimum(samples >> (bits - 8), 255).astype(np.uint8)
    code = CAMERA_LAYOUTS[picture.encoding].to_rgb
    if code is None:
        return samples
    try:
        return np.asarray(cv2.cvtColor(samples, code), np.uint8)
    except cv2.error as error:
        raise ImageError(
            f"{picture.encoding} picture of {picture.width}x{picture.height} is not made RGB; YUV needs an even width."
        ) from error


def decode_camera(picture: CompressedImage) -> RawImage:
    """The uncompressed image in a file, with the encoding that it had before it was compressed.

    `compressed_image_transport` writes color images as bgr8 or bgr16 and leaves a Bayer mosaic as it is, in one
    channel; the first word of the format is the encoding of the image that was compressed. A file's EXIF orientation
    is ignored, since the calibration describes the sensor as it is mounted.

    Args:
        picture: a camera's; format such as `bayer_rggb8; png compressed `, `rgb8; jpeg compressed bgr8` or `jpeg`.

    Raises:
        ImageError: it is a depth picture, or cannot be decoded.
    """
    if "compressedDepth" in picture.format:
        raise ImageError(f"format {picture.format[:40]!r} is a depth picture; a camera's is jpeg or png.")
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    samples = np.ascontiguousarray(decode_compressed(picture.data, flags))
    if samples.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"compressed picture has samples of {samples.dtype}; 8 and 16 bits are read.")
    bits = 8 * samples.dtype.itemsize
    mosaic = _MOSAIC.match(picture.format.strip())
    name = "bgr" if samples.ndim == 3 else mosaic[1].lower() if mosaic else "mono"
    height, width = samples.shape[:2]
    data = samples.reshape(height, -1).view(np.uint8).reshape(-1)
    big = sys.byteorder == "big"
    return RawImage(
        height, width, f"{name}{bits}", len(data) // height, data, big, significant_bits=picture.significant_bits
    )


def find_significant_bits(samples: npt.NDArray[Any], least: int = 8) -> int:
    """How many bits of 16-bit samples are in use: 8, 10, 12, 14 or 16, by the largest of them.

    Args:
        samples: of one image, uint16 of any byte order.
        least: bits that are known to be in use.
    """
    largest = int(samples.max(initial=0))
    return next(bits for bits in SIGNIFICANT_BITS if bits >= least and largest < 1 << bits)


def _from_nv24(picture: RawImage, step: int) -> Rgb:
    """A row of color pairs lies in two rows of memory, each `step` bytes long; OpenCV has no code for it."""
    data, size = np.ascontiguousarray(picture.data), (picture.height, picture.width)
    brightness = np.ndarray(size, np.uint8, data, 0, (step, 1))
    color = np.ndarray((*size, 2), np.uint8, data, picture.height * step, (2 * step, 2, 1))
    return np.asarray(cv2.transform(np.dstack([brightness, color]), _YUV_TO_RGB), np.uint8)


@dataclass(frozen=True, eq=False)
class DepthSamples:
    """A depth picture before its counts are made meters.

    Attributes:
        counts: (H, W) of any byte order: floats or uint16.
        unit: meters per count; 0 for millimeters in uint16 and meters in floats.
        inverse: (a, b) where uint16 counts hold inverse depth, meters = a / (count - b); else None.
    """

    counts: npt.NDArray[Any]
    unit: float
    inverse: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.counts.shape
        return height, width

    @property
    def meters_per_count(self) -> float:
        """The unit that is in use."""
        is_metric = self.counts.dtype.kind == "f" or self.inverse is not None
        return self.unit or (1.0 if is_metric else MILLIMETER)

    def meters(self, size: tuple[int, int] | None = None) -> Meters:
        """The depth along the camera's axis, NaN where nothing was measured.

        Args:
            size: (h, w) to sample the picture at, pixel by nearest pixel so that no depth is invented; None for all.

        Returns:
            (H, W) or (h, w) float32.
        """
        counts = self.counts
        if size is not None:
            counts = resize_nearest(counts, size, alternate=False)  # uneven steps would make a slope look rippled
        if self.inverse is not None:
            a, b = self.inverse
            with np.errstate(divide="ignore"):
                meters = np.float32(a) / (counts.astype(np.float32) - np.float32(b))
            meters[counts == 0] = np.nan
        else:
            meters = counts.astype(np.float32)
        if self.meters_per_count != 1.0:
            with np.errstate(over="ignore"):
                meters *= np.float32(self.meters_per_count)
        meters[~((meters >= _NEAREST) & (meters <= _FARTHEST))] = np.nan
        return meters


def parse_depth(picture: RawImage | CompressedImage) -> DepthSamples:
    """A depth picture, checked but not yet converted.

    Args:
        picture: any of `DEPTH_LAYOUTS`, compressedDepth (png or rvl), or a 16-bit gray png.

    Raises:
        ImageError: encoding, size, step or data do not fit each other.
    """
    if isinstance(picture, RawImage):
        return DepthSamples(image_view(picture, DEPTH_LAYOUTS, "a depth picture"), picture.unit)
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
        return DepthSamples(decode_rvl(data), picture.unit, inverse)
    counts = decode_compressed(data, cv2.IMREAD_UNCHANGED)
    if counts.dtype != np.uint16 or counts.ndim != 2:
        raise ImageError(f"compressed depth is {counts.dtype} of shape {counts.shape}; it must be 16-bit grey png.")
    return DepthSamples(counts, picture.unit, inverse)


def depth_to_meters(picture: RawImage | CompressedImage) -> Meters:
    """A depth picture in meters.

    Args:
        picture: as for `parse_depth`.

    Returns:
        (H, W) float32 meters along the camera's axis; NaN where nothing was measured.

    Raises:
        ImageError: encoding, size, step or data do not fit each other.
    """
    return parse_depth(picture).meters()
