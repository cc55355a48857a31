"""Point Cloud Library files as structured arrays, every column kept.

Format: "The PCD (Point Cloud Data) file format", pointclouds.org; `binary_compressed` holds one LZF block in which the
columns lie one after the other. LZF: the stream format of LibLZF (Marc Lehmann).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import CloudError

_KEYS = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_LONGEST_HEADER = 4096
_MOST_POINTS = 100_000_000


def read_pcd(path: str | Path) -> npt.NDArray[np.void]:
    """Read a .pcd file of any of the three encodings.

    Returns:
        (points,) or, organized, (height, width) structured array, packed, in the file's own field order and types.

    Raises:
        CloudError: it cannot be read, or is not what it claims to be.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CloudError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        head, body = _split(data)
        layout, height, width = _layout(head)
        points = _decode(head["DATA"][0], body, layout, height * width)
    except (KeyError, ValueError, IndexError, TypeError, struct.error) as error:
        what = f"its header has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise CloudError(f"{path} is no usable PCD file: {what}.") from error
    return points if height == 1 else points.reshape(height, width)


def _split(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    head: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in head:
        end = data.find(b"\n", position, _LONGEST_HEADER)
        if end < 0:
            raise CloudError("it has no DATA line in its first bytes")
        words = data[position:end].decode("ascii", "replace").split()
        if words and words[0] in _KEYS:
            head[words[0]] = words[1:]
        position = end + 1
    return head, data[position:]


def _layout(head: dict[str, list[str]]) -> tuple[np.dtype[Any], int, int]:
    names, sizes, kinds = head["FIELDS"], head["SIZE"], head["TYPE"]
    counts = head.get("COUNT", ["1"] * len(names))
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts):
        raise CloudError("FIELDS, SIZE, TYPE and COUNT do not list the same number of columns")
    columns: list[Any] = []
    for number, (name, size, kind, count) in enumerate(zip(names, sizes, kinds, counts, strict=True)):
        code = {"F": "f", "I": "i", "U": "u"}[kind] + str(int(size))
        # PCL names its padding "_"; NumPy wants every name once.
        label = f"_{number}" if name == "_" else name
        columns.append((label, "<" + code) if int(count) == 1 else (label, "<" + code, (int(count),)))
    width, height = int(head["WIDTH"][0]), int(head.get("HEIGHT", ["1"])[0])
    if width < 0 or height < 1 or not width * height <= _MOST_POINTS:
        raise CloudError(f"its size {width}x{height} is impossible")
    return np.dtype(columns), height, width


def _decode(encoding: str, body: bytes, layout: np.dtype[Any], count: int) -> npt.NDArray[np.void]:
    if encoding == "ascii":
        return _from_text(body, layout, count)
    if encoding == "binary":
        return np.frombuffer(_enough(body, count * layout.itemsize), layout, count).copy()
    if encoding == "binary_compressed":
        packed, unpacked = struct.unpack_from("<II", body)
        if unpacked != count * layout.itemsize:
            raise CloudError(f"it unpacks to {unpacked} bytes where {count} points need {count * layout.itemsize}")
        return _from_columns(decompress_lzf(_enough(body[8:], packed), unpacked), layout, count)
    raise CloudError(f"DATA is {encoding!r}; known are ascii, binary and binary_compressed")


def _enough(body: bytes, size: int) -> bytes:
    if len(body) < size:
        raise CloudError(f"it holds {len(body)} bytes of points where {size} are declared; it is truncated")
    return body[:size]


def _from_text(body: bytes, layout: np.dtype[Any], count: int) -> npt.NDArray[np.void]:
    lines = body.decode("ascii", "replace").split("\n", count)[:count]
    values = [line.split() for line in lines if line.strip()]
    if len(values) != count:
        raise CloudError(f"it holds {len(values)} lines of points where {count} are declared; it is truncated")
    table = np.array(values, np.float64).reshape(count, -1)
    points = np.zeros(count, layout)
    column = 0
    for name in layout.names or ():
        width = int(np.prod(layout[name].shape))
        points[name] = table[:, column : column + width].reshape(points[name].shape)
        column += width
    if column != table.shape[1]:
        raise CloudError(f"its lines have {table.shape[1]} numbers where the header declares {column}")
    return points


def _from_columns(data: bytes, layout: np.dtype[Any], count: int) -> npt.NDArray[np.void]:
    points = np.zeros(count, layout)
    offset = 0
    for name in layout.names or ():
        column = np.frombuffer(data, layout[name], count, offset)
        points[name] = column
        offset += column.nbytes
    return points


def decompress_lzf(data: bytes, size: int) -> bytes:
    """Unpack one LZF block to exactly `size` bytes.

    Raises:
        CloudError: the block is damaged.
    """
    out = bytearray()
    position, end = 0, len(data)
    while position < end and len(out) <= size:
        control = data[position]
        position += 1
        if control < 32:  # literals: control + 1 bytes follow
            out += data[position : position + control + 1]
            position += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[position]
            position += 1
        start = len(out) - ((control & 31) << 8) - data[position] - 1
        position += 1
        if start < 0:
            raise CloudError("its compressed block refers to bytes before its beginning")
        # A copy may run into what it has just written: then the bytes from `start` on repeat.
        pattern, wanted = bytes(out[start : start + length + 2]), length + 2
        out += pattern if len(pattern) == wanted else (pattern * (wanted // len(pattern) + 1))[:wanted]
    if len(out) != size:
        raise CloudError(f"its compressed block unpacks to {len(out)} bytes where {size} are declared")
    return bytes(out)
