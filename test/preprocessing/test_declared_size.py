# SPDX-License-Identifier: Apache-2.0
"""Sizes that a compressed picture announces, against what OpenCV writes, and announcements that cost memory."""

import resource
import struct

import cv2
import numpy as np
import pytest

from mlesam_ros.errors import ImageError
from mlesam_ros.preprocessing.images import MAX_PIXELS, check_declared_size, decode_compressed

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
FLAGS = {
    ".png": [[], [cv2.IMWRITE_PNG_COMPRESSION, 0]],
    ".jpg": [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2], [cv2.IMWRITE_JPEG_OPTIMIZE, 1]],
}
KINDS = [(suffix, flags) for suffix, several in FLAGS.items() for flags in several]


def encoded(suffix: str, flags: list[int] | None = None, pixels=PIXELS) -> bytes:
    return cv2.imencode(suffix, pixels, flags or [])[1].tobytes()


def sized(data: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its header."""
    if data.startswith(b"\x89PNG"):
        return data[:16] + struct.pack(">II", width, height) + data[24:]
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize(("suffix", "flags"), KINDS)
def test_files_of_opencv_are_accepted(suffix, flags):
    data = encoded(suffix, flags)
    check_declared_size(data)
    assert decode_compressed(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == PIXELS.shape
    check_declared_size(sized(data, 8192, MAX_PIXELS // 8192))
    with pytest.raises(ImageError, match="declares 8193x8192 pixels"):
        check_declared_size(sized(data, 8193, 8192))


def test_garbage_between_segments_is_skipped():
    """libjpeg goes on at the next marker, and so must whoever looks first."""
    data = encoded(".jpg")
    at = data.index(b"\xff\xc0")
    for junk in (b"\0" * 15, b"\xff\xff\xff", b"\xff\0\xff\x01", b"abc\xff"):
        assert cv2.imdecode(np.frombuffer(data[:at] + junk + data[at:], np.uint8), cv2.IMREAD_COLOR) is not None
        hidden = data[:at] + junk + sized(data, 60_000, 60_000)[at:]
        with pytest.raises(ImageError, match="60000x60000"):
            check_declared_size(hidden)


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".tiff", ".pgm", ".hdr"])
def test_other_file_types_are_rejected(suffix):
    pixels = PIXELS[..., 0] if suffix == ".pgm" else PIXELS.astype(np.float32) if suffix == ".hdr" else PIXELS
    with pytest.raises(ImageError, match="is neither JPEG nor PNG"):
        decode_compressed(np.frombuffer(encoded(suffix, pixels=pixels), np.uint8), cv2.IMREAD_COLOR)


def test_chunk_longer_than_file_is_rejected():
    data = bytearray(encoded(".png"))
    at = data.index(b"IDAT") - 4
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for length in (0x10000071, 0x7FFFFFFF, len(data)):
        data[at : at + 4] = struct.pack(">I", length)
        with pytest.raises(ImageError, match="its chunk b'IDAT' ends at byte"):
            decode_compressed(np.frombuffer(bytes(data), np.uint8), cv2.IMREAD_COLOR)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


@pytest.mark.parametrize("suffix", list(FLAGS))
def test_damaged_files_raise_image_error_only(suffix):
    data = encoded(suffix)
    for length in range(len(data)):
        try:
            check_declared_size(data[:length])
        except ImageError:
            continue
    rng = np.random.default_rng(1)
    for _ in range(2_000):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 4):
            damaged[at] = rng.integers(256)
        try:
            check_declared_size(bytes(damaged))
        except ImageError:
            continue
