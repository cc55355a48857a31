"""Decompression that gives what there is: everything up to where the data ends or is damaged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

_DECOMPRESSORS: dict[str, Callable[[], Any]] = {"zstd": ZstdDecompressor, "lz4": LZ4FrameDecompressor}
_SLICE = 1 << 14
"""Bytes that are lost at most in front of damaged ones, times the compression."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def decompress_partial(form: str, packed: bytes | memoryview, most: int) -> tuple[bytes, str]:
    """Decompress as far as it goes.

    Args:
        form: `zstd`, `lz4`, or empty for data that is not compressed.
        packed: the compressed bytes, or the first part of them.
        most: bytes that are wanted at most.

    Returns:
        what came out, and why it is not all there, in a few words; empty when it is.
    """
    if not form:
        return bytes(packed[:most]), ""
    if form not in _DECOMPRESSORS:
        return b"", f"compression {form[:20]!r} is unknown"
    pieces, size = [], 0
    try:
        for piece in _pieces(_DECOMPRESSORS[form](), packed):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                return b"".join(pieces)[:most], "it holds more than it should"
    except Exception as error:  # either library raises errors of its own
        return b"".join(pieces), " ".join(str(error).split()) or type(error).__name__
    return b"".join(pieces), ""


def _pieces(decompressor: Any, packed: bytes | memoryview) -> Iterator[bytes]:
    for at in range(0, len(packed), _SLICE):
        if decompressor.eof:
            return
        yield decompressor.decompress(packed[at : at + _SLICE])


def decompress_file(source: Path, target: Path) -> str:
    """Unpack a file that is compressed with zstd as a whole.

    Returns:
        why it is not all there, in a few words; empty when it is.

    Raises:
        OSError: the target cannot be written.
    """
    decompressor: Any = ZstdDecompressor()
    with source.open("rb") as packed, target.open("wb") as out:
        while piece := packed.read(_SLICE):
            if decompressor.eof:
                decompressor = ZstdDecompressor()
            try:
                content = decompressor.decompress(piece)
            except Exception as error:  # the library's own
                return " ".join(str(error).split())
            out.write(content)
    return "" if decompressor.eof else "it is cut off"
