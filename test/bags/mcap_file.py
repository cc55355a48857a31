# SPDX-License-Identifier: Apache-2.0
"""An mcap file written record by record, as the specification has it, with chunks as small as a test wants them."""

from __future__ import annotations

import struct
from zlib import crc32

import lz4.frame
from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
PACKERS = {"": bytes, "zstd": zstd.compress, "lz4": lz4.frame.compress}


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("<BQ", kind, len(body)) + body


def schema(number: int, name: str, definition: str) -> bytes:
    return record(0x03, struct.pack("<H", number) + text(name) + text("ros2msg") + text(definition))


def channel(number: int, topic: str, encoding: str = "cdr", profiles: str = "") -> bytes:
    about = text("offered_qos_profiles") + text(profiles) if profiles else b""
    body = struct.pack("<HH", number, 1) + text(topic) + text(encoding) + struct.pack("<I", len(about)) + about
    return record(0x04, body)


def message(number: int, stamp: int, raw: bytes) -> bytes:
    return record(0x05, struct.pack("<HIQQ", number, 0, stamp, stamp) + raw)


def chunk(records: bytes, start: int, end: int, packing: str) -> bytes:
    packed = PACKERS[packing](records)
    head = struct.pack("<QQQI", start, end, len(records), crc32(records)) + text(packing)
    return record(0x06, head + struct.pack("<Q", len(packed)) + packed)


def header() -> bytes:
    return MAGIC + record(0x01, text("ros2") + text("test"))


def footer() -> bytes:
    """The end of a file without a summary."""
    return record(0x0F, bytes(4)) + record(0x02, bytes(20)) + MAGIC
