"""What is left of an mcap file: its records in the order of writing, without the index that a recorder writes last.

Format: https://mcap.dev/spec. A recorder that is killed leaves no summary, so the file is walked record by record. A
damaged stretch is passed over to the next chunk that can be recognized; of a chunk that is cut off, the messages whose
bytes are all there are used, as far as its compression lets anything out.
"""

from __future__ import annotations

import heapq
import mmap
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2.metadata import parse_qos

from mlesam_ros.bags.storage import SerializedMessage, pluralize
from mlesam_ros.bags.unpack import decompress_partial
from mlesam_ros.errors import BagError

_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _LAST, _PRIVATE = 0x03, 0x04, 0x05, 0x06, 0x0F, 0x80
_RECORD, _CHUNK_HEAD, _MESSAGE_HEAD = struct.Struct("<BQ"), struct.Struct("<QQQII"), struct.Struct("<HIQQ")
_CHUNK_LIKE = re.compile(rb"\x06.{8}.{28}(?:\x04\0\0\0zstd|\x03\0\0\0lz4|\0\0\0\0)", re.DOTALL)
_NONE = MessageDefinitionFormat.NONE
_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
_STRETCH = 1 << 20
"""Bytes of messages outside of chunks that are kept in memory together."""
_LARGEST = 1 << 30
"""Bytes of a chunk that are believed; a damaged size asks for more."""
_END_OF_TIME = 1 << 64
_Turn = tuple[int, SerializedMessage | None]


class _Part(NamedTuple):
    """Messages that are read together: a chunk's body, or messages that lie in the file as they are."""

    start: int
    end: int
    offset: int
    stop: int
    is_chunk: bool


class McapRecoveryReader:
    """An mcap file read without its index, damaged or not.

    Attributes:
        connections: its topics, with the messages found.
        start_time, end_time: nanoseconds of the first and right after the last message.
        message_count: messages found.
        faults: what is wrong with it, one clause each.
    """

    def __init__(self, path: Path, known: Collection[Connection] = ()) -> None:
        """Walk through the whole file once, to know what there is.

        Args:
            path: the file.
            known: topics that an index named, for those whose own record is damaged.

        Raises:
            BagError: not one topic can be read from it.
        """
        self.faults: list[str] = []
        self._parts: list[_Part] = []
        self._counts: Counter[int] = Counter()
        self._schemas: dict[int, tuple[str, MessageDefinition]] = {}
        self._channels = {connection.id: connection for connection in known}
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._walk()
        orphans = sum(number for channel, number in self._counts.items() if channel not in self._channels)
        if orphans:
            self.faults.append(f"{pluralize(orphans, 'message')} of unknown topics")
        self.connections = [c._replace(msgcount=self._counts[c.id], owner=self) for c in self._channels.values()]
        if not self.connections:
            self.close()
            raise BagError(f"{path} cannot be read: {', '.join(self.faults) or 'it has no topic'}.")
        self.message_count = sum(connection.msgcount for connection in self.connections)
        self.start_time = min((part.start for part in self._parts), default=0)
        self.end_time = max((part.end + 1 for part in self._parts), default=0)

    def close(self) -> None:
        """Close the file."""
        self._bytes.close()

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[SerializedMessage]:
        """See `Storage.messages`. Parts are opened when their time has come, so a few are in memory at once."""
        wanted = {connection.id: connection for connection in connections}
        stop = _END_OF_TIME if stop is None else stop
        parts = [self._open_late(part, wanted, start or 0, stop) for part in self._parts]
        yield from (entry for _, entry in heapq.merge(*parts, key=lambda turn: turn[0]) if entry is not None)

    # Walking

    def _walk(self) -> None:
        at, size = len(_MAGIC), len(self._bytes)
        if self._bytes[:at] != _MAGIC:
            self.faults.append("it does not begin like an mcap file")
            at = 0
        while at < size and not (at == size - len(_MAGIC) and self._bytes[at:] == _MAGIC):
            stop = self._take_record(at, size)
            if stop is None:
                stop = self._pass_over(at, size)
            at = stop
        if self._bytes[-len(_MAGIC) :] != _MAGIC and not self.faults:
            self.faults.append("its end is missing")

    def _take_record(self, at: int, size: int) -> int | None:
        """Learn from the record at an offset; where the next one begins, None where this one is damaged."""
        if at + _RECORD.size > size:
            return None
        kind, length = _RECORD.unpack_from(self._bytes, at)
        body, stop = at + _RECORD.size, at + _RECORD.size + length
        if _LAST < kind < _PRIVATE or not kind or stop > size:
            return None
        if kind == _CHUNK:
            fault = self._take_chunk(body, stop)
            self.faults.extend([f"a chunk at byte {at} of {size} is damaged: {fault}"] if fault else [])
        elif kind == _MESSAGE and length >= _MESSAGE_HEAD.size:
            self._take_bare(at, stop)
        else:
            self._learn(kind, memoryview(self._bytes)[body:stop])
        return stop

    def _pass_over(self, at: int, size: int) -> int:
        """What can be had of a damaged record; where the walk can go on."""
        after = next(self._chunks_from(at + 1, size), size)
        self.faults.append(f"cut off after {size} bytes" if after == size else f"damaged at byte {at} of {size}")
        if self._bytes[at] == _CHUNK:
            self._take_chunk(at + _RECORD.size, after)
        return after

    def _chunks_from(self, at: int, size: int) -> Iterator[int]:
        """Offsets of what looks like a whole chunk."""
        for match in _CHUNK_LIKE.finditer(self._bytes, at):
            _, length = _RECORD.unpack_from(self._bytes, match.start())
            packed = length - (match.end() - match.start() - _RECORD.size) - 8
            stated = int.from_bytes(self._bytes[match.end() : match.end() + 8], "little")
            if 0 <= packed == stated and match.end() + 8 + packed <= size:
                yield match.start()

    def _take_chunk(self, body: int, stop: int) -> str:
        """Learn what a chunk holds; what is wrong with it, in words."""
        if stop - body < _CHUNK_HEAD.size:
            return "it ends too early"
        content, fault = self._content(body, stop)
        stamps = []
        for kind, record in self._records(content):
            if kind == _MESSAGE and len(record) >= _MESSAGE_HEAD.size:
                channel, _, stamp, _ = _MESSAGE_HEAD.unpack_from(record)
                self._counts[channel] += 1
                stamps.append(stamp)
            else:
                self._learn(kind, record)
        if stamps:
            self._parts.append(_Part(min(stamps), max(stamps), body, stop, True))
        return fault

    def _take_bare(self, at: int, stop: int) -> None:
        """A message outside of any chunk; neighbors become one part."""
        last = self._parts[-1] if self._parts else None
        channel, _, stamp, _ = _MESSAGE_HEAD.unpack_from(self._bytes, at + _RECORD.size)
        self._counts[channel] += 1
        if last and not last.is_chunk and last.stop == at and stop - last.offset < _STRETCH:
            self._parts[-1] = _Part(min(last.start, stamp), max(last.end, stamp), last.offset, stop, False)
        else:
            self._parts.append(_Part(stamp, stamp, at, stop, False))

    def _learn(self, kind: int, body: memoryview) -> None:
        if kind == _SCHEMA:
            name, encoding, text, *_ = (*_texts(body, 2), "", "", "")
            self._schemas[_number(body, 0)] = name, MessageDefinition(_FORMATS.get(encoding, _NONE), text)
        elif kind == _CHANNEL:
            self._learn_channel(body)

    def _learn_channel(self, body: memoryview) -> None:
        topic, encoding, *_ = (*_texts(body, 4), "", "")
        if encoding != "cdr":
            self.faults.append(f"{topic} is in {encoding!r}, which is not ROS 2's CDR")
            return
        channel = _number(body, 0)
        name, definition = self._schemas.get(_number(body, 2), ("", MessageDefinition(_NONE, "")))
        extension = ConnectionExtRosbag2(encoding, _profiles(body, 4 + 4 + len(topic.encode()) + 4 + len(encoding)))
        self._channels[channel] = Connection(channel, topic, name, definition, "", 0, extension, self)

    # Reading

    def _content(self, body: int, stop: int) -> tuple[bytes, str]:
        """What a chunk's body holds, as far as it can be unpacked, and what is wrong with it."""
        *_, size, checksum, length = _CHUNK_HEAD.unpack_from(self._bytes, body)
        at = body + _CHUNK_HEAD.size + length
        form = self._bytes[body + _CHUNK_HEAD.size : at].decode("ascii", "replace")
        content, fault = decompress_partial(
            form, memoryview(self._bytes)[min(at + 8, stop) : stop], min(size, _LARGEST)
        )
        if fault or len(content) < size:
            return content, fault or "it ends too early"
        return content, "its checksum is wrong" if checksum and crc32(content) != checksum else ""

    def _records(self, content: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
        """(kind, body) of the records that are whole."""
        view, at = memoryview(content), 0
        while at + _RECORD.size <= len(view):
            kind, length = _RECORD.unpack_from(view, at)
            at += _RECORD.size + length
            if not kind or at > len(view):
                return
            yield kind, view[at - length : at]

    def _open_late(self, part: _Part, wanted: dict[int, Connection], start: int, stop: int) -> Iterator[_Turn]:
        """The part's own time first, so that it is not unpacked before that has come."""
        if part.end < start or part.start >= stop:
            return
        yield part.start, None
        content = self._content(part.offset, part.stop)[0] if part.is_chunk else self._bytes[part.offset : part.stop]
        found = []
        for kind, body in self._records(content):
            if kind == _MESSAGE and len(body) >= _MESSAGE_HEAD.size:
                channel, _, stamp, _ = _MESSAGE_HEAD.unpack_from(body)
                if channel in wanted and start <= stamp < stop:
                    found.append(SerializedMessage(wanted[channel], stamp, bytes(body[_MESSAGE_HEAD.size :])))
        yield from ((entry.stamp, entry) for entry in sorted(found, key=lambda entry: entry.stamp))


def _number(body: memoryview, at: int) -> int:
    return int.from_bytes(body[at : at + 2], "little")


def _texts(body: memoryview, at: int) -> Iterator[str]:
    """The strings from an offset on, each behind its length."""
    while at + 4 <= len(body):
        length = int.from_bytes(body[at : at + 4], "little")
        yield bytes(body[at + 4 : at + 4 + length]).decode("utf-8", "replace")
        at += 4 + length


def _profiles(body: memoryview, at: int) -> list[Qos]:
    """What a channel's metadata, a map behind its length in bytes, says about quality of service."""
    pairs = [*_texts(body, at + 4)]
    told = dict(zip(pairs[::2], pairs[1::2], strict=False)).get("offered_qos_profiles")
    with suppress(Exception):  # damaged, or of a recorder that wrote it in another way
        return parse_qos(told) if told else []
    return []
