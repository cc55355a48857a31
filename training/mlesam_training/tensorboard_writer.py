"""Writer of scalars in the event file format of TensorBoard, without a dependency.

A file is a sequence of records (tensorflow/core/lib/io/record_writer.h): length as uint64, its masked CRC-32C, the
payload, its masked CRC-32C. The payload is an `Event` message (tensorflow/core/util/event.proto) in protobuf wire
format with these field numbers: wall_time 1, step 2, file_version 3, summary 5; in Summary: value 1; in Value: tag 1,
simple_value 2.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path

_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected


def _row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(_row(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class ScalarFile:
    """An event file. Every call opens the file, appends a record and closes it."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Create a file. A resumed run creates its own file; TensorBoard shows the last value of a step.

        Args:
            folder: log directory of TensorBoard; created if missing.
            first_step: first step of the run; part of the file name.
        """
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.from_step_{first_step}"
        self._append(now, 0, _bytes(3, b"brain.Event:2"))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append the scalars of a step."""
        values = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in scalars.items())
        self._append(time.time(), step, _bytes(5, values))

    def _append(self, now: float, step: int, content: bytes) -> None:
        event = b"\x09" + struct.pack("<d", now) + b"\x10" + _varint(step) + content
        length = struct.pack("<Q", len(event))
        with self._path.open("ab") as file:
            file.write(length + _masked(length) + event + _masked(event))


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
