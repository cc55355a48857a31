"""Reading a bag: messages in the order of time, from folders and from bare files, also from damaged folders."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import yaml
from rosbags.interfaces import Connection, ConnectionExtRosbag2, QosDurability
from rosbags.rosbag2 import Reader

from mlesam_ros.bags.typestore import typestore_of
from mlesam_ros.errors import BagError

_SUFFIXES = (".mcap", ".db3")
_LONGEST_REASON = 200


class BagMessage(NamedTuple):
    """One recorded message.

    Attributes:
        topic: where it was recorded.
        type: such as `sensor_msgs/msg/Image`.
        stamp: nanoseconds at which it was recorded.
        message: with the fields of its type, numbers as NumPy arrays.
    """

    topic: str
    type: str
    stamp: int
    message: Any


class BagReader:
    """A recording, to be used in a `with` statement.

    Attributes:
        path: as it was given.
        files: the storage files that are read.
        topics: topic → type.
        counts: topic → number of messages that its files declare.
        latched: the topics that were recorded as transient local.
        types: the types of its messages, as the bag itself defines them where it does.
        warnings: what is wrong with the bag and was got round, one sentence each.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a bag.

        Args:
            path: a rosbag2 folder, or a bare .mcap or .db3 file.

        Raises:
            BagError: there is none, it is empty, or no bag.
        """
        self.path, self.warnings = Path(path), list[str]()
        self.files = self._find_files()
        self._readers = self._open()
        self._connections = [c for reader in self._readers for c in reader.connections]
        self.types = typestore_of(self._connections)
        self.topics = {c.topic: c.msgtype for c in self._connections}
        self.counts = dict.fromkeys(self.topics, 0)
        for connection in self._connections:
            self.counts[connection.topic] += connection.msgcount
        self.latched = {c.topic for c in self._connections if _is_latched(c)}
        self._compare_counts()
        self._name_unknown_types()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[BagMessage]:
        return self.messages()

    @property
    def start(self) -> int:
        """Nanoseconds of the first message; 0 in a bag without any."""
        return min((reader.start_time for reader in self._readers if reader.message_count), default=0)

    @property
    def end(self) -> int:
        """Nanoseconds of the last message; 0 in a bag without any."""
        return max((reader.end_time - 1 for reader in self._readers if reader.message_count), default=0)

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        """The messages in the order of recording.

        Args:
            topics: only these; by default all whose type is known.
            start: nanoseconds; only messages from then on.
            stop: nanoseconds; only messages before.

        Raises:
            BagError: a topic that the bag has not or whose type is not known, or bytes that cannot be read; what came
                before is good.
        """
        if topics is None:
            topics = [topic for topic, kind in self.topics.items() if kind in self.types.fielddefs]
        for topic, kind, stamp, raw in self.raw_messages(topics, start, stop):
            yield BagMessage(topic, kind, stamp, self._guarded(partial(self.types.deserialize_cdr, raw, kind)))

    def raw_messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """(topic, type, stamp, CDR bytes) in the order of recording; arguments and errors as for `messages`."""
        missing = [topic for topic in topics or () if topic not in self.topics]
        if missing:
            raise BagError(f"{self.path} has no topic {', '.join(missing)}; it has {', '.join(self.topics) or 'none'}.")
        streams = [self._stream(reader, topics, start, stop) for reader in self._readers]
        yield from heapq.merge(*streams, key=lambda entry: entry[2])

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()

    def _stream(
        self, reader: Reader, topics: Collection[str] | None, start: int | None, stop: int | None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        wanted = [c for c in reader.connections if topics is None or c.topic in topics]
        messages = reader.messages(wanted, start, stop) if wanted else iter(())
        while (entry := self._guarded(partial(next, messages, None))) is not None:
            connection, stamp, raw = entry
            yield connection.topic, connection.msgtype, stamp, bytes(raw)

    def _guarded(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # rosbags raises whatever its parsers trip over
            raise BagError(f"{self.path} is damaged from here on: {_reason(error)}.") from error

    # Opening

    def _find_files(self) -> list[Path]:
        """The folder itself when its metadata can be believed, else the storage files in it."""
        path = self.path
        if not path.exists():
            raise BagError(f"{path} does not exist; give a rosbag2 folder or a .mcap or .db3 file.")
        if path.is_file():
            if path.suffix not in _SUFFIXES:
                raise BagError(f"{path} is no bag; accepted are rosbag2 folders and files called *.mcap or *.db3.")
            _refuse_empty(path)
            return [path]
        present = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        fault = _metadata_fault(path)
        if fault is None:
            return [path]
        if not present:
            raise BagError(f"{path} is no bag: {fault}, and there is no .mcap or .db3 file in it.")
        for file in present:
            _refuse_empty(file)
        self.warnings.append(f"{path}: {fault}; reading {', '.join(file.name for file in present)} by extension.")
        return present

    def _open(self) -> list[Reader]:
        readers: list[Reader] = []
        try:
            for file in self.files:
                reader = Reader(file)
                reader.open()
                readers.append(reader)
        except Exception as error:  # rosbags raises whatever its parsers trip over
            for reader in readers:
                reader.close()
            raise BagError(f"{self.path} cannot be read as a bag: {_reason(error)}.") from error
        return readers

    def _compare_counts(self) -> None:
        """The metadata's count is a claim; the storage knows."""
        for reader in self._readers:
            storages = getattr(reader.storage, "storages", None)
            if storages is None:
                continue
            claimed, real = reader.message_count, sum(storage.metadata.message_count for storage in storages)
            if claimed != real:
                self.warnings.append(f"{self.path}: metadata.yaml declares {claimed} messages, the files hold {real}.")

    def _name_unknown_types(self) -> None:
        for topic, kind in self.topics.items():
            if kind not in self.types.fielddefs:
                self.warnings.append(
                    f"{self.path}: {topic} is left out, its type {kind} is neither defined in the bag nor known."
                )


def _metadata_fault(folder: Path) -> str | None:
    """What is wrong with a folder's metadata, in words, or None."""
    path = folder / "metadata.yaml"
    try:
        about = yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        if about["storage_identifier"] not in ("mcap", "sqlite3"):
            return f"metadata.yaml names the storage {about['storage_identifier']!r}"
        missing = [name for name in about["relative_file_paths"] if not (folder / Path(name).name).exists()]
    except FileNotFoundError:
        return "it has no metadata.yaml"
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return "its metadata.yaml cannot be read"
    if missing:
        return f"metadata.yaml lists {', '.join(map(str, missing))}, which is not there"
    return None if about["relative_file_paths"] else "metadata.yaml lists no file"


def _refuse_empty(file: Path) -> None:
    if file.stat().st_size == 0:
        raise BagError(f"{file} is empty (0 bytes); the recording was never written.")


def _is_latched(connection: Connection) -> bool:
    extension = connection.ext
    profiles = extension.offered_qos_profiles if isinstance(extension, ConnectionExtRosbag2) else []
    return any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in profiles)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " …"
