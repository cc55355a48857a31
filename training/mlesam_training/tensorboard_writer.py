"""Scalars in the file format that TensorBoard reads, so that looking at a run takes no package at training time.

A file is a sequence of records (tensorflow/core/lib/io/record_writer.h): length as uint64, its masked CRC-32C, the
bytes, their masked CRC-32C. The bytes are an `Event` message (tensorflow/core/util/event.proto) in protobuf's wire
format, of which these few fields are used: wall_time 1, step 2, file_version 3, summary 5; in the summary value 1; in
the value tag 1, simple_value 2.
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
    """An event file; every call appends and is on its way to the disk at once."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Begin a file. A resumed run begins one of its own; TensorBoard shows what it wrote last of a step.

        Args:
            folder: where TensorBoard is to look.
            first_step: the step that this run begins with; part of the file's name, and so of the order.
        """
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.from_step_{first_step}"
        self._append(now, 0, _bytes(3, b"brain.Event:2"))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write what is true at a step."""
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
