"""A message that stays serialized: what is read from bytes is not unpacked first."""

from __future__ import annotations

import struct
from types import SimpleNamespace

_STAMP = 4


class RawMessage(bytes):
    """The serialized bytes (CDR with encapsulation) of a message that begins with a header."""

    @property
    def header(self) -> SimpleNamespace:
        """Its header's `stamp`, with `sec` and `nanosec`; 0 where the bytes end before it."""
        layout = "<iI" if self[1:2] == b"\x01" else ">iI"
        sec, nanosec = struct.unpack(layout, self[_STAMP : _STAMP + 8].ljust(8, b"\0"))
        return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))
