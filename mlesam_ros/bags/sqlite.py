"""What is left of an sqlite3 file of a recording: its rows in the order of writing, without the index over time.

Schema: rosbag2_storage_sqlite3. SQLite refuses a file that is shorter than its first page says, unless
`writable_schema` is on; then it reads what there is and fails at the first page that is missing or damaged.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2.metadata import parse_qos

from mlesam_ros.bags.storage import SerializedMessage, pluralize
from mlesam_ros.errors import BagError

_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
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
                ConnectionExtRosbag2(form, _profiles(told)), self,
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


def _profiles(told: str) -> list[Qos]:
    with suppress(Exception):  # damaged, or of a recorder that wrote it in another way
        return parse_qos(told) if told else []
    return []
