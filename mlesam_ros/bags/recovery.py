"""Read damaged bags: MCAP and SQLite files that were cut off, and partly compressed files."""

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
from mlesam_ros.files import foreign_file

SUFFIXES = (".mcap", ".db3")
COMPRESSED_SUFFIX = ".zstd"
"""What compression of whole files adds to a name."""


class SerializedMessage(NamedTuple):
    """One serialized message: its connection, nanoseconds of its recording, CDR bytes."""

    connection: Connection
    stamp: int
    raw: bytes


class Storage(Protocol):
    """One file; `rosbags.rosbag2.Reader` is one as well."""

    @property
    def connections(self) -> list[Connection]:
        """Its topics, with the numbers of messages it knows of."""

    @property
    def start_time(self) -> int:
        """Nanoseconds of the first message."""

    @property
    def end_time(self) -> int:
        """Nanoseconds right after the last message."""

    @property
    def message_count(self) -> int:
        """Messages in all."""

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[Any]:
        """Some topics' messages (connection, stamp, bytes) in the order of time, from `start` to before `stop`."""

    def close(self) -> None:
        """Close the file."""


def is_storage(path: Path) -> bool:
    """Whether a file's name is one of a storage."""
    return (Path(path.stem) if path.suffix == COMPRESSED_SUFFIX else path).suffix in SUFFIXES


def refuse_foreign(path: Path) -> None:
    """Refuse a file that is recognized as something else than a rosbag2 storage.

    Raises:
        BagError: names what it is and the remedy.
    """
    try:
        foreign = foreign_file(path)
    except OSError as error:
        raise BagError(f"{path} cannot be read: {error.strerror}.", "Give another file, or rights to it.") from error
    if foreign is not None:
        raise BagError(f"{path} is {foreign[0]}; accepted are rosbag2 folders and .mcap or .db3 files.", foreign[1])


def refuse_ros1_folder(folder: Path) -> None:
    """Refuse a folder without a rosbag2 storage where there is a ROS 1 bag in it.

    Raises:
        BagError: names the file and the remedy.
    """
    for path in sorted(folder.glob("*.bag")):
        if path.is_file():
            refuse_foreign(path)


def pluralize(number: int, noun: str) -> str:
    """`1 message`, `3 messages`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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


_HEADER = 100
_HOPS = 40
"""Failures in a row, each after a gap twice as wide, after which the rest of the rows is given up."""


class _WholePages(apsw.VFS):
    """The file system with a file's last page left out if it is not all there; SQLite would fill it up with zeros."""

    name = "mlesam_whole_pages"

    def __init__(self) -> None:
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 (apsw's name)
        return _WholePagesFile("", name, flags)


class _WholePagesFile(apsw.VFSFile):
    def xFileSize(self) -> int:  # noqa: N802
        size = super().xFileSize()
        page = int.from_bytes(self.xRead(2, 16), "big") if size >= _HEADER else 0
        return size - size % (page if page > 1 else 1 << 16)


_WHOLE_ROWS = (
    "select timestamp, id, topic_id, data from messages where id > ? and typeof(data) = 'blob' and "
    "typeof(timestamp) || typeof(id) || typeof(topic_id) = 'integerintegerinteger' order by id"
)
"""What a row may hold: SQLite keeps any type in any column, and a page that was zeroed reads as rows of nothing."""

_WHOLE_PAGES = _WholePages()


class SqliteRecoveryReader:
    """An sqlite3 file read row by row, damaged or not.

    Attributes:
        connections: its topics, with the messages found.
        start_time, end_time: nanoseconds of the first and right after the last message.
        message_count: messages found.
        faults: what is wrong with it, one clause each.
    """

    def __init__(self, path: Path) -> None:
        """Read every row once, to know which can be read.

        Args:
            path: the file. With a `-wal` file beside it, a copy of both is read, so that nothing is changed.

        Raises:
            BagError: not even its list of topics can be read.
        """
        self.faults: list[str] = []
        self._folder: TemporaryDirectory[str] | None = None
        self._database = self._opened(path)
        try:
            self._database.execute("pragma writable_schema = on")
            self._measure(path)
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
        self._forget()

    def _forget(self) -> None:
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

    def _opened(self, path: Path) -> apsw.Connection:
        address, flags = self._address(path), apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            return apsw.Connection(address, flags, vfs=None if self._folder else _WHOLE_PAGES.name)
        except apsw.Error as error:
            self._forget()
            raise BagError(f"{path} cannot be opened: {error}.") from error

    def _address(self, path: Path) -> str:
        """Where to read; a journal that was not worked in yet holds messages of its own."""
        journal = _journal(path)
        if has_journal(path):
            with suppress(OSError):
                self._folder = TemporaryDirectory(prefix="mlesam_")
                copy = Path(self._folder.name) / path.name
                for source in (path, journal):
                    shutil.copyfile(source, copy.with_name(source.name))
                self.faults.append(f"its end is still in {journal.name}")
                return copy.as_uri()
            self.faults.append(f"there is no room for a copy to read {journal.name} in")
        return f"{path.absolute().as_uri()}?immutable=1"

    def _measure(self, path: Path) -> None:
        """Compare the file's size with what its first page says."""
        size, expected = _sizes(path)
        if size < expected:
            self.faults.append(f"cut off after {size} of {expected} bytes")

    def _topics(self) -> list[Connection]:
        columns = {row[1] for row in self._database.execute("pragma table_info(topics)")}
        profiles = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        definitions = self._definitions()
        return [
            Connection(
                number, topic, kind, definitions.get(kind, MessageDefinition(MessageDefinitionFormat.NONE, "")), "", 0,
                ConnectionExtRosbag2(form, _sqlite_profiles(told)), self,
            )
            for number, topic, kind, form, told in self._database.execute(
                f"select id, name, type, serialization_format, {profiles} from topics"
            )
        ]  # fmt: skip

    def _definitions(self) -> dict[str, MessageDefinition]:
        """Type → its definition; bags before Iron have none."""
        found = {}
        with suppress(apsw.Error, UnicodeDecodeError):
            for kind, form, text in self._database.execute(
                "select topic_type, encoding, encoded_message_definition from message_definitions"
            ):
                found[kind] = MessageDefinition(_FORMATS.get(form, MessageDefinitionFormat.NONE), text)
        return found

    def _rows(self) -> Iterator[tuple[int, int, int]]:
        """(stamp, id, topic) of every row that can be read whole; over damaged ones in ever wider hops."""
        read, after, hop = 0, -(1 << 62), 1
        for _ in range(_HOPS):
            try:
                for row in self._database.execute(_WHOLE_ROWS, (after,)):
                    after, read, hop = row[1], read + 1, 1
                    yield row[:3]
            except apsw.Error as error:
                if hop == 1:
                    self.faults.append(f"after {pluralize(read, 'message')}: {error}")
            else:
                return
            after, hop = max(after, 0) + hop, hop * 2


def is_cut_off(path: Path) -> bool:
    """Whether a file is shorter than it says; where its last page lacks an end, SQLite would read zeros."""
    size, expected = _sizes(path)
    return size < expected


def _sizes(path: Path) -> tuple[int, int]:
    """Bytes that a file has, and that it should have by its first page."""
    with path.open("rb") as file:
        head = file.read(_HEADER)
    page, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    return path.stat().st_size, pages * (page if page > 1 else 1 << 16)


def has_journal(path: Path) -> bool:
    """Whether there are changes beside a file that its recorder had no time to work into it."""
    journal = _journal(path)
    return journal.exists() and journal.stat().st_size > 0


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _column(rows: list[tuple[int, int, int]], column: int) -> npt.NDArray[np.int64]:
    return np.fromiter((row[column] for row in rows), np.int64, len(rows))


def _sqlite_profiles(told: str) -> list[Qos]:
    with suppress(Exception):  # damaged, or of a recorder that wrote it in another way
        return parse_qos(told) if told else []
    return []
