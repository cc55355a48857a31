# SPDX-License-Identifier: Apache-2.0
"""Read damaged storage files: truncated or corrupted MCAP, SQLite and compressed files.

`McapRecoveryReader` and `SqliteRecoveryReader` read every intact message and list the faults of the file.
"""

from __future__ import annotations

import heapq
import mmap
import re
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import apsw
import numpy as np
import numpy.typing as npt
from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2.metadata import parse_qos

from mlesam_ros.errors import BagError
from mlesam_ros.files import detect_file_type

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

SUFFIXES = (".mcap", ".db3")
COMPRESSED_SUFFIX = ".zstd"
"""Suffix of a storage file that is compressed as a whole."""


class SerializedMessage(NamedTuple):
    """One serialized message: its connection, recording time in nanoseconds, and CDR bytes."""

    connection: Connection
    stamp: int
    raw: bytes


class Storage(Protocol):
    """Interface of an open storage file; `rosbags.rosbag2.Reader` implements it as well."""

    @property
    def connections(self) -> list[Connection]:
        """Topics with their numbers of messages."""

    @property
    def start_time(self) -> int:
        """Timestamp of the first message in nanoseconds."""

    @property
    def end_time(self) -> int:
        """Timestamp of the last message plus 1, in nanoseconds."""

    @property
    def message_count(self) -> int:
        """Total number of messages."""

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[Any]:
        """Yield (connection, stamp, bytes) of some topics in order of time, `start` inclusive, `stop` exclusive."""

    def close(self) -> None:
        """Close the file."""


def is_storage(path: Path) -> bool:
    """Whether a file name is that of a storage file, compressed or not."""
    return (Path(path.stem) if path.suffix == COMPRESSED_SUFFIX else path).suffix in SUFFIXES


def refuse_foreign(path: Path) -> None:
    """Refuse a file that is recognized as another format than a rosbag2 storage file.

    Raises:
        BagError: the file has another format, which the message names, or it cannot be read.
    """
    try:
        foreign = detect_file_type(path)
    except OSError as error:
        raise BagError(f"{path} cannot be read: {error.strerror}.", "Give another file, or rights to it.") from error
    if foreign is not None:
        raise BagError(f"{path} is {foreign[0]}; accepted are rosbag2 folders and .mcap or .db3 files.", foreign[1])


def refuse_ros1_folder(folder: Path) -> None:
    """Refuse a folder that contains a ROS 1 bag.

    Raises:
        BagError: the folder contains a ROS 1 bag; the message names the file.
    """
    for path in sorted(folder.glob("*.bag")):
        if path.is_file():
            refuse_foreign(path)


def pluralize(number: int, noun: str) -> str:
    """Number and noun, such as `1 message` or `3 messages`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {"zstd": ZstdDecompressor, "lz4": LZ4FrameDecompressor}
_SLICE_BYTES = 1 << 14
"""Compressed bytes per decompressor call; at most one slice is lost before a damaged byte."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def decompress_partial(form: str, packed: bytes | memoryview, max_size: int) -> tuple[bytes, str]:
    """Decompress as many bytes as possible.

    Args:
        form: `zstd`, `lz4`, or empty for uncompressed data.
        packed: the compressed bytes, possibly truncated.
        max_size: maximum number of bytes to return.

    Returns:
        The decompressed bytes, and the reason why they are incomplete in a few words; empty when they are complete.
    """
    if not form:
        return bytes(packed[:max_size]), ""
    if form not in _DECOMPRESSORS:
        return b"", f"unknown compression {form[:20]!r}"
    pieces, size = [], 0
    try:
        for piece in _pieces(_DECOMPRESSORS[form](), packed):
            pieces.append(piece)
            size += len(piece)
            if size > max_size:
                return b"".join(pieces)[:max_size], "more data than declared"
    except Exception as error:  # both libraries raise their own exceptions
        return b"".join(pieces), " ".join(str(error).split()) or type(error).__name__
    return b"".join(pieces), ""


def _pieces(decompressor: Any, packed: bytes | memoryview) -> Iterator[bytes]:
    for at in range(0, len(packed), _SLICE_BYTES):
        if decompressor.eof:
            return
        yield decompressor.decompress(packed[at : at + _SLICE_BYTES])


def decompress_file(source: Path, target: Path) -> str:
    """Decompress a zstd file as far as possible.

    Returns:
        The reason why the target is incomplete in a few words; empty when it is complete.

    Raises:
        OSError: the target cannot be written.
    """
    decompressor: Any = ZstdDecompressor()
    with source.open("rb") as packed, target.open("wb") as out:
        while piece := packed.read(_SLICE_BYTES):
            if decompressor.eof:
                decompressor = ZstdDecompressor()
            try:
                content = decompressor.decompress(piece)
            except Exception as error:  # the library raises its own exceptions
                return " ".join(str(error).split())
            out.write(content)
    return "" if decompressor.eof else "it is truncated"


_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _LAST, _PRIVATE = 0x03, 0x04, 0x05, 0x06, 0x0F, 0x80
_RECORD, _CHUNK_HEAD, _MESSAGE_HEAD = struct.Struct("<BQ"), struct.Struct("<QQQII"), struct.Struct("<HIQQ")
_CHUNK_LIKE = re.compile(rb"\x06.{8}.{28}(?:\x04\0\0\0zstd|\x03\0\0\0lz4|\0\0\0\0)", re.DOTALL)
_NONE = MessageDefinitionFormat.NONE
_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
_MAX_PART_BYTES = 1 << 20
"""Maximum size in bytes of a part of messages outside of chunks, which is read into memory at once."""
_MAX_CHUNK_BYTES = 1 << 30
"""Maximum decompressed size of a chunk in bytes; a damaged size field can declare more."""
_MAX_STAMP = 1 << 64
_MergeItem = tuple[int, SerializedMessage | None]


class _Part(NamedTuple):
    """Messages that are read together: one chunk, or adjacent messages outside of chunks; times in ns, byte offsets."""

    start: int
    end: int
    offset: int
    stop: int
    is_chunk: bool


class McapRecoveryReader:
    """Reader of an MCAP file, damaged or not, without use of its index.

    Attributes:
        connections: topics with the number of messages found.
        start_time, end_time: timestamps of the first message, and of the last message plus 1, in nanoseconds.
        message_count: number of messages found.
        faults: faults of the file, one clause each.
    """

    def __init__(self, path: Path, known: Collection[Connection] = ()) -> None:
        """Scan the whole file once for topics and messages.

        Args:
            path: the file.
            known: topics from the index, used where the Channel record of a topic is damaged.

        Raises:
            BagError: no topic can be read.
        """
        self.faults: list[str] = []
        self._parts: list[_Part] = []
        self._counts: Counter[int] = Counter()
        self._schemas: dict[int, tuple[str, MessageDefinition]] = {}
        self._channels = {connection.id: connection for connection in known}
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._scan()
        unknown = sum(number for channel, number in self._counts.items() if channel not in self._channels)
        if unknown:
            self.faults.append(f"{pluralize(unknown, 'message')} of unknown topics")
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
        """See `Storage.messages`. Decompresses each part at its start time, so that few are in memory at once."""
        wanted = {connection.id: connection for connection in connections}
        stop = _MAX_STAMP if stop is None else stop
        parts = [self._part_messages(part, wanted, start or 0, stop) for part in self._parts]
        yield from (entry for _, entry in heapq.merge(*parts, key=lambda turn: turn[0]) if entry is not None)

    # Scan of the file

    def _scan(self) -> None:
        at, size = len(_MAGIC), len(self._bytes)
        if self._bytes[:at] != _MAGIC:
            self.faults.append("it does not begin with the MCAP magic bytes")
            at = 0
        while at < size and not (at == size - len(_MAGIC) and self._bytes[at:] == _MAGIC):
            stop = self._read_record(at, size)
            if stop is None:
                stop = self._skip_damage(at, size)
            at = stop
        if self._bytes[-len(_MAGIC) :] != _MAGIC and not self.faults:
            self.faults.append("its end is missing")

    def _read_record(self, at: int, size: int) -> int | None:
        """Process the record at an offset; return the offset of the next one, or None if this one is damaged."""
        if at + _RECORD.size > size:
            return None
        kind, length = _RECORD.unpack_from(self._bytes, at)
        body, stop = at + _RECORD.size, at + _RECORD.size + length
        if _LAST < kind < _PRIVATE or not kind or stop > size:
            return None
        if kind == _CHUNK:
            fault = self._index_chunk(body, stop)
            self.faults.extend([f"a chunk at byte {at} of {size} is damaged: {fault}"] if fault else [])
        elif kind == _MESSAGE and length >= _MESSAGE_HEAD.size:
            self._index_message(at, stop)
        else:
            self._read_definition(kind, memoryview(self._bytes)[body:stop])
        return stop

    def _skip_damage(self, at: int, size: int) -> int:
        """Recover part of a damaged record if it is a chunk; return the offset of the next chunk, or the file size."""
        after = next(self._find_chunks(at + 1, size), size)
        self.faults.append(f"cut off after {size} bytes" if after == size else f"damaged at byte {at} of {size}")
        if self._bytes[at] == _CHUNK:
            self._index_chunk(at + _RECORD.size, after)
        return after

    def _find_chunks(self, at: int, size: int) -> Iterator[int]:
        """Yield the offsets of byte sequences that look like a complete chunk."""
        for match in _CHUNK_LIKE.finditer(self._bytes, at):
            _, length = _RECORD.unpack_from(self._bytes, match.start())
            packed = length - (match.end() - match.start() - _RECORD.size) - 8
            stated = int.from_bytes(self._bytes[match.end() : match.end() + 8], "little")
            if 0 <= packed == stated and match.end() + 8 + packed <= size:
                yield match.start()

    def _index_chunk(self, body: int, stop: int) -> str:
        """Index the messages, schemas and channels of a chunk; return its fault in words, empty if there is none."""
        if stop - body < _CHUNK_HEAD.size:
            return "it is truncated"
        content, fault = self._chunk_content(body, stop)
        stamps = []
        for kind, record in self._records(content):
            if kind == _MESSAGE and len(record) >= _MESSAGE_HEAD.size:
                channel, _, stamp, _ = _MESSAGE_HEAD.unpack_from(record)
                self._counts[channel] += 1
                stamps.append(stamp)
            else:
                self._read_definition(kind, record)
        if stamps:
            self._parts.append(_Part(min(stamps), max(stamps), body, stop, True))
        return fault

    def _index_message(self, at: int, stop: int) -> None:
        """Index a message outside of chunks; adjacent messages become one part."""
        last = self._parts[-1] if self._parts else None
        channel, _, stamp, _ = _MESSAGE_HEAD.unpack_from(self._bytes, at + _RECORD.size)
        self._counts[channel] += 1
        if last and not last.is_chunk and last.stop == at and stop - last.offset < _MAX_PART_BYTES:
            self._parts[-1] = _Part(min(last.start, stamp), max(last.end, stamp), last.offset, stop, False)
        else:
            self._parts.append(_Part(stamp, stamp, at, stop, False))

    def _read_definition(self, kind: int, body: memoryview) -> None:
        if kind == _SCHEMA:
            name, encoding, text, *_ = (*_strings(body, 2), "", "", "")
            self._schemas[_uint16(body, 0)] = name, MessageDefinition(_FORMATS.get(encoding, _NONE), text)
        elif kind == _CHANNEL:
            self._read_channel(body)

    def _read_channel(self, body: memoryview) -> None:
        topic, encoding, *_ = (*_strings(body, 4), "", "")
        if encoding != "cdr":
            self.faults.append(f"{topic} is encoded as {encoding!r}, not as ROS 2's CDR")
            return
        channel = _uint16(body, 0)
        name, definition = self._schemas.get(_uint16(body, 2), ("", MessageDefinition(_NONE, "")))
        extension = ConnectionExtRosbag2(encoding, _channel_qos(body, 4 + 4 + len(topic.encode()) + 4 + len(encoding)))
        self._channels[channel] = Connection(channel, topic, name, definition, "", 0, extension, self)

    # Reading

    def _chunk_content(self, body: int, stop: int) -> tuple[bytes, str]:
        """Content of a chunk as far as it can be decompressed, and its fault in words, empty if there is none."""
        *_, size, checksum, length = _CHUNK_HEAD.unpack_from(self._bytes, body)
        at = body + _CHUNK_HEAD.size + length
        form = self._bytes[body + _CHUNK_HEAD.size : at].decode("ascii", "replace")
        content, fault = decompress_partial(
            form, memoryview(self._bytes)[min(at + 8, stop) : stop], min(size, _MAX_CHUNK_BYTES)
        )
        if fault or len(content) < size:
            return content, fault or "it is truncated"
        return content, "its checksum is wrong" if checksum and crc32(content) != checksum else ""

    def _records(self, content: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
        """Yield (kind, body) of the complete records."""
        view, at = memoryview(content), 0
        while at + _RECORD.size <= len(view):
            kind, length = _RECORD.unpack_from(view, at)
            at += _RECORD.size + length
            if not kind or at > len(view):
                return
            yield kind, view[at - length : at]

    def _part_messages(self, part: _Part, wanted: dict[int, Connection], start: int, stop: int) -> Iterator[_MergeItem]:
        """Yield the start time of the part, then its messages; the first item delays decompression in `heapq.merge`."""
        if part.end < start or part.start >= stop:
            return
        yield part.start, None
        if part.is_chunk:
            content, _ = self._chunk_content(part.offset, part.stop)
        else:
            content = self._bytes[part.offset : part.stop]
        found = []
        for kind, body in self._records(content):
            if kind == _MESSAGE and len(body) >= _MESSAGE_HEAD.size:
                channel, _, stamp, _ = _MESSAGE_HEAD.unpack_from(body)
                if channel in wanted and start <= stamp < stop:
                    found.append(SerializedMessage(wanted[channel], stamp, bytes(body[_MESSAGE_HEAD.size :])))
        yield from ((entry.stamp, entry) for entry in sorted(found, key=lambda entry: entry.stamp))


def _uint16(body: memoryview, at: int) -> int:
    return int.from_bytes(body[at : at + 2], "little")


def _strings(body: memoryview, at: int) -> Iterator[str]:
    """Yield the length-prefixed strings from an offset on."""
    while at + 4 <= len(body):
        length = int.from_bytes(body[at : at + 4], "little")
        yield bytes(body[at + 4 : at + 4 + length]).decode("utf-8", "replace")
        at += 4 + length


def _channel_qos(body: memoryview, at: int) -> list[Qos]:
    """QoS profiles in a channel's metadata, a length-prefixed map of strings."""
    pairs = [*_strings(body, at + 4)]
    return _parse_qos(dict(zip(pairs[::2], pairs[1::2], strict=False)).get("offered_qos_profiles", ""))


def _parse_qos(profiles: str) -> list[Qos]:
    """QoS profiles in YAML; none if they are damaged or in the format of another recorder."""
    with suppress(Exception):
        return parse_qos(profiles) if profiles else []
    return []


_SQLITE_HEADER_BYTES = 100
_MAX_QUERIES = 40
"""Maximum number of reads of the row table; after each failure in a row the gap in ids doubles."""


class _WholePagesVFS(apsw.VFS):
    """VFS that hides an incomplete last page, which SQLite would fill up with zeros."""

    name = "mlesam_whole_pages"

    def __init__(self) -> None:
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 (apsw's name)
        return _WholePagesFile("", name, flags)


class _WholePagesFile(apsw.VFSFile):
    def xFileSize(self) -> int:  # noqa: N802
        size = super().xFileSize()
        page = int.from_bytes(self.xRead(2, 16), "big") if size >= _SQLITE_HEADER_BYTES else 0
        return size - size % (page if page > 1 else 1 << 16)


_VALID_ROWS = (
    "select timestamp, id, topic_id, data from messages where id > ? and typeof(data) = 'blob' and "
    "typeof(timestamp) || typeof(id) || typeof(topic_id) = 'integerintegerinteger' order by id"
)
"""Rows with valid types only: SQLite stores any type in any column, and a zeroed page reads as empty rows."""

_WHOLE_PAGES = _WholePagesVFS()


class SqliteRecoveryReader:
    """Reader of an SQLite storage file, damaged or not, row by row.

    Attributes:
        connections: topics with the number of messages found.
        start_time, end_time: timestamps of the first message, and of the last message plus 1, in nanoseconds.
        message_count: number of messages found.
        faults: faults of the file, one clause each.
    """

    def __init__(self, path: Path) -> None:
        """Scan all rows once for readable messages.

        Args:
            path: the file. With a `-wal` file beside it, a copy of both is read, so that neither is changed.

        Raises:
            BagError: the file cannot be opened, or its table of topics cannot be read.
        """
        self.faults: list[str] = []
        self._folder: TemporaryDirectory[str] | None = None
        self._database = self._open(path)
        try:
            self._database.execute("pragma writable_schema = on")
            self._check_size(path)
            topics = self._topics()
        except (apsw.Error, UnicodeDecodeError) as error:
            self.close()
            raise BagError(f"{path} cannot be read: {error}.") from error
        rows = sorted(self._rows())
        self._stamps, self._ids, self._owners = (_column(rows, column) for column in range(3))
        counts = Counter(self._owners.tolist())
        self.connections = [c._replace(msgcount=counts[c.id], owner=self) for c in topics]
        self.message_count = len(rows)
        self.start_time = int(self._stamps[0]) if rows else 0
        self.end_time = int(self._stamps[-1]) + 1 if rows else 0

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        self._delete_copy()

    def _delete_copy(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[SerializedMessage]:
        """See `Storage.messages`."""
        wanted = {connection.id: connection for connection in connections}
        first = 0 if start is None else int(np.searchsorted(self._stamps, start))
        last = len(self._stamps) if stop is None else int(np.searchsorted(self._stamps, stop))
        for at in range(first, last):
            connection = wanted.get(int(self._owners[at]))
            if connection is not None:
                for (raw,) in self._database.execute("select data from messages where id = ?", (int(self._ids[at]),)):
                    yield SerializedMessage(connection, int(self._stamps[at]), raw)

    def _open(self, path: Path) -> apsw.Connection:
        address, flags = self._file_uri(path), apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            return apsw.Connection(address, flags, vfs=None if self._folder else _WHOLE_PAGES.name)
        except apsw.Error as error:
            self._delete_copy()
            raise BagError(f"{path} cannot be opened: {error}.") from error

    def _file_uri(self, path: Path) -> str:
        """URI of the file, or of a copy together with its write-ahead log, which can contain further messages."""
        journal = _journal_path(path)
        if has_journal(path):
            with suppress(OSError):
                self._folder = TemporaryDirectory(prefix="mlesam_")
                copy = Path(self._folder.name) / path.name
                for source in (path, journal):
                    shutil.copyfile(source, copy.with_name(source.name))
                self.faults.append(f"its newest messages are in {journal.name}")
                return copy.as_uri()
            self.faults.append(f"no disk space for the copy that reading {journal.name} takes")
        return f"{path.absolute().as_uri()}?immutable=1"

    def _check_size(self, path: Path) -> None:
        """Compare the file size with the size that the SQLite header declares."""
        size, expected = _file_sizes(path)
        if size < expected:
            self.faults.append(f"cut off after {size} of {expected} bytes")

    def _topics(self) -> list[Connection]:
        columns = {row[1] for row in self._database.execute("pragma table_info(topics)")}
        qos_column = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        definitions = self._definitions()
        return [
            Connection(
                number, topic, kind, definitions.get(kind, MessageDefinition(MessageDefinitionFormat.NONE, "")), "", 0,
                ConnectionExtRosbag2(form, _parse_qos(profiles)), self,
            )
            for number, topic, kind, form, profiles in self._database.execute(
                f"select id, name, type, serialization_format, {qos_column} from topics"
            )
        ]  # fmt: skip

    def _definitions(self) -> dict[str, MessageDefinition]:
        """Type → message definition; empty for bags recorded before Iron."""
        found = {}
        with suppress(apsw.Error, UnicodeDecodeError):
            for kind, form, text in self._database.execute(
                "select topic_type, encoding, encoded_message_definition from message_definitions"
            ):
                found[kind] = MessageDefinition(_FORMATS.get(form, MessageDefinitionFormat.NONE), text)
        return found

    def _rows(self) -> Iterator[tuple[int, int, int]]:
        """Yield (stamp, id, topic) of every intact row; skip damaged rows with gaps that double at each failure."""
        count, last_id, gap = 0, -(1 << 62), 1
        for _ in range(_MAX_QUERIES):
            try:
                for row in self._database.execute(_VALID_ROWS, (last_id,)):
                    last_id, count, gap = row[1], count + 1, 1
                    yield row[:3]
            except apsw.Error as error:
                if gap == 1:
                    self.faults.append(f"after {pluralize(count, 'message')}: {error}")
            else:
                return
            last_id, gap = max(last_id, 0) + gap, gap * 2


def is_cut_off(path: Path) -> bool:
    """Whether an SQLite file is shorter than its header declares. SQLite would read zeros for a partial last page."""
    size, expected = _file_sizes(path)
    return size < expected


def _file_sizes(path: Path) -> tuple[int, int]:
    """Size of an SQLite file in bytes, and the size that its header declares (page size times number of pages)."""
    with path.open("rb") as file:
        head = file.read(_SQLITE_HEADER_BYTES)
    page, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    return path.stat().st_size, pages * (page if page > 1 else 1 << 16)


def has_journal(path: Path) -> bool:
    """Whether a nonempty write-ahead log (`-wal`) lies beside an SQLite file."""
    journal = _journal_path(path)
    return journal.exists() and journal.stat().st_size > 0


def _journal_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _column(rows: list[tuple[int, int, int]], column: int) -> npt.NDArray[np.int64]:
    return np.fromiter((row[column] for row in rows), np.int64, len(rows))
