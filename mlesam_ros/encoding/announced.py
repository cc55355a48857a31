"""What a compressed picture announces, checked before a decoder takes memory for it.

A hundred bytes can announce a gigabyte: as pixels, or as the length of a chunk. Sources: ISO/IEC 15948 (PNG), 5.3 and
11.2.2; ITU-T T.81 (JPEG), B.1.1 and B.2.2.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import ImageError

MOST_PIXELS = 1 << 26
"""More than the camera of any robot has."""
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""JPEG markers that carry the size."""
_BARE = {0x00, 0x01, 0xFF, *range(0xD0, 0xD9)}
"""What may follow 0xFF in a JPEG and has no content: no marker, filling, markers that stand alone."""
_SCAN = 0xDA
_BIT_DEPTH = 24
"""Byte of a PNG that holds its bit depth: after signature, length and name of IHDR, width and height."""


def check_declared_size(data: bytes) -> None:
    """Refuse what announces more than there is, or than any camera has; the rest is the decoder's to find.

    Args:
        data: the file.

    Raises:
        ImageError: it is neither JPEG nor PNG, announces too many pixels, or a chunk of a PNG ends behind the file.
    """
    if data.startswith(_PNG):
        size = _png_size(data)
    elif data.startswith(_JPEG):
        size = _jpeg_size(data)
    else:
        start = data[:4].hex(" ") or "nothing"
        raise ImageError(f"compressed picture of {len(data)} bytes starting with {start} is neither jpeg nor png.")
    if size[0] * size[1] > MOST_PIXELS:
        raise ImageError(f"compressed picture announces {size[0]}x{size[1]} pixels; at most {MOST_PIXELS} are read.")


def announces_16_bits(data: npt.NDArray[np.uint8]) -> bool:
    """Whether a file is a PNG of 16-bit samples, by its header (ISO/IEC 15948, 11.2.2)."""
    head = data[: _BIT_DEPTH + 1].tobytes()
    return head.startswith(_PNG) and len(head) > _BIT_DEPTH and head[_BIT_DEPTH] == 16


def _png_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the header, which must be the first chunk; (0, 0) without one."""
    at, size = len(_PNG), (0, 0)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ImageError(
                f"png picture has {len(data)} bytes, but its chunk {name!r} ends at byte {at + 12 + length}; it is cut "
                "off or damaged."
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
    while 0 <= (at := data.find(b"\xff", at)) <= len(data) - 4:  # decoders pass over what lies between segments, too
        marker = data[at + 1]
        if marker in _BARE:
            at += 1
            continue
        if marker == _SCAN:
            break
        if marker in _FRAMES and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = max(size, (width, height), key=lambda one: one[0] * one[1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return size
