# SPDX-License-Identifier: Apache-2.0
"""Decode sensor_msgs Image and CompressedImage data, including RVL-compressed depth, into RGB and depth in meters."""

from __future__ import annotations

import difflib
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ImageError
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.types import CompressedImage, RawImage

MAX_PIXELS = 1 << 26
"""Upper limit of the declared pixels, above any robot's camera."""
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_JPEG_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""JPEG frame headers, which hold the size."""
_JPEG_BARE_MARKERS = {0x00, 0x01, 0xFF, *range(0xD0, 0xD9)}
"""Bytes after 0xFF in a JPEG without a segment: byte stuffing, fill bytes, and standalone markers."""
_JPEG_SCAN = 0xDA
_PNG_BIT_DEPTH_BYTE = 24
"""Byte of a PNG that holds its bit depth: after signature, length and name of IHDR, width and height."""


def check_declared_size(data: bytes) -> None:
    """Reject a file that declares more data than it has or more than `MAX_PIXELS`; the decoder finds other damage.

    Args:
        data: the file.

    Raises:
        ImageError: the file is neither JPEG nor PNG, declares too many pixels, or has a PNG chunk beyond its end.
    """
    if data.startswith(_PNG):
        size = _png_size(data)
    elif data.startswith(_JPEG):
        size = _jpeg_size(data)
    else:
        start = data[:4].hex(" ") or "nothing"
        raise ImageError(f"compressed image of {len(data)} bytes starting with {start} is neither JPEG nor PNG.")
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"compressed image declares {size[0]}x{size[1]} pixels; at most {MAX_PIXELS} are accepted.")


def declares_16_bits(data: npt.NDArray[np.uint8]) -> bool:
    """Whether a file is a PNG of 16-bit samples, by its header (ISO/IEC 15948, 11.2.2)."""
    head = data[: _PNG_BIT_DEPTH_BYTE + 1].tobytes()
    return head.startswith(_PNG) and len(head) > _PNG_BIT_DEPTH_BYTE and head[_PNG_BIT_DEPTH_BYTE] == 16


def _png_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the header, which must be the first chunk; (0, 0) without one."""
    at, size = len(_PNG), (0, 0)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ImageError(
                f"PNG image has {len(data)} bytes, but its chunk {name!r} ends at byte {at + 12 + length}; it is "
                "truncated or damaged."
            )
        if name == b"IHDR" and length >= 8:
            sizes = struct.unpack_from(">II", data, at + 8)
            size = max(size, (sizes[0], sizes[1]), key=lambda one: one[0] * one[1])
        if name == b"IEND":
            break
        at += 12 + length
    return size


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the largest frame header before the first scan; (0, 0) without one."""
    at, size = 2, (0, 0)
    while 0 <= (at := data.find(b"\xff", at)) <= len(data) - 4:  # like decoders, skip bytes between segments
        marker = data[at + 1]
        if marker in _JPEG_BARE_MARKERS:
            at += 1
            continue
        if marker == _JPEG_SCAN:
            break
        if marker in _JPEG_FRAME_HEADERS and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = max(size, (width, height), key=lambda one: one[0] * one[1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return size


class PixelFormat(NamedTuple):
    """Memory layout of an encoding.

    Attributes:
        dtype: NumPy type of a sample.
        channels: samples per pixel.
        to_rgb: OpenCV code of the conversion to RGB; None without a conversion.
        lines: rows in memory per row of the image; more than one for separate color planes.
    """

    dtype: str
    channels: int
    to_rgb: int | None = None
    lines: float = 1


def image_view(image: RawImage, layouts: Mapping[str, PixelFormat], what: str) -> npt.NDArray[Any]:
    """View an image's samples without a copy.

    Args:
        image: the image.
        layouts: accepted encoding → layout.
        what: noun phrase in error messages for an image with one of these encodings.

    Returns:
        (H, W, channels), or (H, W) for one channel, in the image's byte order; a view. (H * lines, W) with color
        planes, one below the other.

    Raises:
        ImageError: a field is invalid; the message has its value and the accepted ones.
    """
    layout = layouts.get(image.encoding)
    if layout is None:
        raise ImageError(
            f"encoding {image.encoding[:40]!r} is not {what}; {_accepted_encodings(image.encoding, layouts)}"
        )
    height, width, step = image.height, image.width, image.step
    if height < 1 or width < 1:
        raise ImageError(f"image is {width}x{height} pixels; both must be at least 1.")
    dtype = np.dtype(layout.dtype).newbyteorder(">" if image.is_bigendian else "<")
    pixel = layout.channels * dtype.itemsize
    rows = int(height * layout.lines)
    if rows != height * layout.lines:
        raise ImageError(f"image is {width}x{height} pixels; {image.encoding} needs an even height.")
    if layout.channels == 2 and width % 2:  # two pixels share a U and a V; OpenCV 4.5 does not check it
        raise ImageError(f"image is {width}x{height} pixels; {image.encoding} needs an even width.")
    if len(image.data) == rows * width * pixel:
        step = width * pixel  # rows without padding: step is redundant, and some drivers do not set it
    if step < width * pixel:
        raise ImageError(f"step is {step} bytes; {width} pixels of {image.encoding} need at least {width * pixel}.")
    if len(image.data) != rows * step:
        raise ImageError(f"data has {len(image.data)} bytes; {rows} rows with a step of {step} make {rows * step}.")
    shape: tuple[int, ...] = (rows, width, layout.channels)
    strides: tuple[int, ...] = (step, pixel, dtype.itemsize)
    if layout.channels == 1:
        shape, strides = shape[:2], strides[:2]
    return np.ndarray(shape, dtype, np.ascontiguousarray(image.data), 0, strides)


def _accepted_encodings(encoding: str, layouts: Mapping[str, PixelFormat]) -> str:
    near = difflib.get_close_matches(encoding[:40], layouts, 3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}accepted are {', '.join(layouts)}."


def decode_compressed(data: npt.NDArray[np.uint8], flags: int) -> npt.NDArray[Any]:
    """Decode a compressed image file.

    Args:
        data: (n,) uint8, the JPEG or PNG file.
        flags: OpenCV's `IMREAD_` flags.

    Raises:
        ImageError: the file is of another format, too large, or OpenCV cannot decode it.
    """
    check_declared_size(data.tobytes())
    try:
        decoded = cv2.imdecode(np.ascontiguousarray(data), flags)
    except cv2.error as error:
        raise ImageError(f"compressed image of {len(data)} bytes is rejected by OpenCV: {error.err}.") from error
    if decoded is None:
        raise ImageError(f"compressed image of {len(data)} bytes cannot be decoded; it is truncated or damaged.")
    return np.asarray(decoded)


_RVL_HEADER_BYTES = 8
_MAX_RVL_PIXELS = 1 << 25
"""Upper limit of the declared pixels, above any depth sensor: a few bytes can encode any number of zeros."""
_MAX_RVL_GROUPS = 10
"""Groups of three bits in a number of 29 bits, the longest that a valid image needs."""
_RVL_SHIFTS = np.arange(28, -1, -4, dtype=np.uint32)


def decode_rvl(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Decode the counts of an RVL-compressed depth image.

    Args:
        data: (n,) uint8, starting with the width.

    Returns:
        (H, W) uint16.

    Raises:
        ImageError: the size is not accepted, or the data are truncated or damaged.
    """
    if len(data) < _RVL_HEADER_BYTES:
        raise ImageError(f"RVL image has {len(data)} bytes; its header has {_RVL_HEADER_BYTES}.")
    width, height = (int(side) for side in np.ascontiguousarray(data[:_RVL_HEADER_BYTES]).view("<u4"))
    if not 0 < width * height <= _MAX_RVL_PIXELS:
        raise ImageError(f"RVL image declares {width}x{height} pixels; 1 to {_MAX_RVL_PIXELS} are accepted.")
    numbers = _rvl_numbers(data[_RVL_HEADER_BYTES:])
    runs, used = _rvl_runs(numbers, width * height)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # (H * W,) whether a pixel is nonzero
    headers = np.concatenate([[0], np.cumsum(runs[1::2] + 2)[:-1]])
    is_delta = np.ones(used, np.bool_)
    is_delta[headers], is_delta[headers + 1] = False, False
    zigzag = numbers[:used][is_delta]
    counts = np.zeros(width * height, np.uint16)
    counts[inside] = np.cumsum((zigzag >> 1) ^ -(zigzag & 1)).astype(np.uint16)
    return counts.reshape(height, width)


def _rvl_numbers(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """All integers of the stream; the last one may be padding."""
    words = np.ascontiguousarray(data[: len(data) // 4 * 4]).view("<u4")
    groups = ((words[:, None] >> _RVL_SHIFTS) & np.uint32(15)).astype(np.uint8).ravel()
    ends = np.flatnonzero(groups < 8)
    if not len(ends):
        return np.zeros(0, np.int64)
    groups = groups[: ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _MAX_RVL_GROUPS:
        raise ImageError(f"RVL image has a number of more than {3 * _MAX_RVL_GROUPS} bits; its bytes are damaged.")
    digit = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((groups & 7).astype(np.int64) << 3 * digit, starts)


def _rvl_runs(numbers: npt.NDArray[np.int64], pixels: int) -> tuple[npt.NDArray[np.int64], int]:
    """Lengths of the runs, alternately of zeros and nonzeros, and the count of numbers they and their deltas take."""
    runs, at, left = [], 0, pixels
    while left > 0:
        if at + 1 >= len(numbers):
            raise ImageError(f"RVL image ends {left} pixels early; it is truncated.")
        zeros, others = int(numbers[at]), int(numbers[at + 1])
        left -= zeros + others
        at += 2 + others
        if left < 0 or at > len(numbers) or not zeros + others:
            raise ImageError(f"RVL image has a run of {zeros} zeros and {others} others, which do not fit into it.")
        runs += [zeros, others]
    return np.array(runs, np.int64), at


RGBImage = npt.NDArray[np.uint8]
Meters = npt.NDArray[np.float32]

SIGNIFICANT_BITS = (8, 10, 12, 14, 16)
"""Bit depths of camera converters: significant bits of 16-bit samples."""
MILLIMETER = 0.001
"""Meters per count of a 16-bit depth image (REP 118)."""

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
    # Untyped names have the channel order of OpenCV.
    "8UC1": PixelFormat("u1", 1, cv2.COLOR_GRAY2RGB),
    "8UC3": PixelFormat("u1", 3, cv2.COLOR_BGR2RGB),
    "8UC4": PixelFormat("u1", 4, cv2.COLOR_BGRA2RGB),
    "uyvy": PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": PixelFormat("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    # A plane of Y, then a plane of UV pairs (VU in nv21), one per 2x2 pixels or (nv24) one per pixel.
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
"""Encoding of a Bayer mosaic at the beginning of `format`."""

_MIN_DEPTH_M, _MAX_DEPTH_M = 1e-4, 1e5
"""Smallest and largest valid depth in meters."""

_YUV_TO_RGB = np.array([[1.164, 0.0, 1.596, -222.912], [1.164, -0.391, -0.813, 135.488], [1.164, 2.018, 0.0, -276.928]])
"""ITU-R BT.601, studio range (Y 16 to 235), as in OpenCV; the last column holds the offsets."""

_DEPTH_HEADER = np.dtype([("codec", "<i4"), ("a", "<f4"), ("b", "<f4")])
"""Header of compressedDepth before the file."""


def to_rgb(image: RawImage | CompressedImage) -> RGBImage:
    """Convert a camera image to RGB.

    Args:
        image: an image with one of `CAMERA_LAYOUTS`, or a jpeg or png file; see `decode_camera`.

    Returns:
        (H, W, 3) uint8; for rgb8 a view of the image's bytes. 16-bit samples keep the upper 8 of the significant bits.

    Raises:
        ImageError: encoding, size, step or data are inconsistent.
    """
    if isinstance(image, CompressedImage):
        image = decode_camera(image)
    samples = image_view(image, CAMERA_LAYOUTS, "a camera image")
    if image.encoding == "nv24":
        return _from_nv24(image, samples.strides[0])
    if samples.dtype.itemsize == 2:
        bits = image.significant_bits or find_significant_bits(samples)
        samples = np.minimum(samples >> (bits - 8), 255).astype(np.uint8)
    code = CAMERA_LAYOUTS[image.encoding].to_rgb
    if code is None:
        return samples
    try:
        return np.asarray(cv2.cvtColor(samples, code), np.uint8)
    except cv2.error as error:
        raise ImageError(
            f"{image.encoding} image of {image.width}x{image.height} is not converted to RGB; YUV needs an even width."
        ) from error


def decode_camera(image: CompressedImage) -> RawImage:
    """Decode a compressed camera image and determine the encoding of its samples.

    `compressed_image_transport` writes color images as bgr8 or bgr16 and keeps a Bayer mosaic unchanged, in one
    channel; the first word of `format` is the encoding before compression. The EXIF orientation is ignored, since the
    calibration describes the sensor as mounted.

    Args:
        image: a camera image; format such as `bayer_rggb8; png compressed `, `rgb8; jpeg compressed bgr8` or `jpeg`.

    Raises:
        ImageError: the image is a depth image, or cannot be decoded.
    """
    if "compressedDepth" in image.format:
        raise ImageError(f"format {image.format[:40]!r} is that of a depth image; a camera image is JPEG or PNG.")
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    samples = np.ascontiguousarray(decode_compressed(image.data, flags))
    if samples.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"compressed image has samples of {samples.dtype}; 8 and 16 bits are accepted.")
    bits = 8 * samples.dtype.itemsize
    mosaic = _MOSAIC.match(image.format.strip())
    name = "bgr" if samples.ndim == 3 else mosaic[1].lower() if mosaic else "mono"
    height, width = samples.shape[:2]
    data = samples.reshape(height, -1).view(np.uint8).reshape(-1)
    big = sys.byteorder == "big"
    return RawImage(
        height, width, f"{name}{bits}", len(data) // height, data, big, significant_bits=image.significant_bits
    )


def find_significant_bits(samples: npt.NDArray[Any], least: int = 8) -> int:
    """Number of bits in use in 16-bit samples: 8, 10, 12, 14 or 16, by the largest sample.

    Args:
        samples: samples of one image, uint16 of any byte order.
        least: lower limit of the result.
    """
    largest = int(samples.max(initial=0))
    return next(bits for bits in SIGNIFICANT_BITS if bits >= least and largest < 1 << bits)


def _from_nv24(image: RawImage, step: int) -> RGBImage:
    """Convert nv24, for which OpenCV has no code: a row of UV pairs takes two rows of `step` bytes."""
    data, size = np.ascontiguousarray(image.data), (image.height, image.width)
    brightness = np.ndarray(size, np.uint8, data, 0, (step, 1))
    color = np.ndarray((*size, 2), np.uint8, data, image.height * step, (2 * step, 2, 1))
    return np.asarray(cv2.transform(np.dstack([brightness, color]), _YUV_TO_RGB), np.uint8)


@dataclass(frozen=True, eq=False)
class DepthSamples:
    """A depth image before the conversion of its counts to meters.

    Attributes:
        counts: (H, W) float or uint16 of any byte order.
        unit: meters per count; 0 for millimeters in uint16 and meters in floats.
        inverse: (a, b) if uint16 counts hold inverse depth, meters = a / (count - b); else None.
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
        """The unit, with the default for 0 resolved."""
        is_metric = self.counts.dtype.kind == "f" or self.inverse is not None
        return self.unit or (1.0 if is_metric else MILLIMETER)

    def meters(self, size: tuple[int, int] | None = None) -> Meters:
        """The depth along the camera's axis, NaN in pixels without a measurement.

        Args:
            size: (h, w) to resize to by nearest neighbor, so that depths are not mixed; None for the full size.

        Returns:
            (H, W) or (h, w) float32.
        """
        counts = self.counts
        if size is not None:
            counts = resize_nearest(counts, size, alternate=False)  # uneven steps would ripple slopes
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
        meters[~((meters >= _MIN_DEPTH_M) & (meters <= _MAX_DEPTH_M))] = np.nan
        return meters


def parse_depth(image: RawImage | CompressedImage) -> DepthSamples:
    """Check and decode a depth image without converting its counts.

    Args:
        image: an image with one of `DEPTH_LAYOUTS`, compressedDepth (png or rvl), or a 16-bit gray png.

    Raises:
        ImageError: encoding, size, step or data are inconsistent.
    """
    if isinstance(image, RawImage):
        return DepthSamples(image_view(image, DEPTH_LAYOUTS, "a depth image"), image.unit)
    data, inverse = image.data, None
    if "compressedDepth" in image.format:
        if len(data) < _DEPTH_HEADER.itemsize:
            raise ImageError(f"compressedDepth has {len(data)} bytes; its header has {_DEPTH_HEADER.itemsize}.")
        data = np.ascontiguousarray(data)
        header, data = (data[: _DEPTH_HEADER.itemsize].view(_DEPTH_HEADER)[0], data[_DEPTH_HEADER.itemsize :])
        if image.format.startswith("32FC1"):
            inverse = float(header["a"]), float(header["b"])
            if not (np.isfinite(inverse).all() and inverse[0] > 0):
                raise ImageError(
                    f"compressedDepth has the parameters {inverse}; they must be finite, the first positive."
                )
    if "compressedDepth rvl" in image.format:
        return DepthSamples(decode_rvl(data), image.unit, inverse)
    counts = decode_compressed(data, cv2.IMREAD_UNCHANGED)
    if counts.dtype != np.uint16 or counts.ndim != 2:
        raise ImageError(f"compressed depth is {counts.dtype} of shape {counts.shape}; it must be a 16-bit gray PNG.")
    return DepthSamples(counts, image.unit, inverse)
