"""Reading a bag: messages in the order of time, from folders and from bare files, also from damaged ones."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rosbags.interfaces import Connection, ConnectionExtRosbag2, QosDurability

from mlesam_ros.bags.file import BagFile
from mlesam_ros.bags.metadata import Metadata, read_metadata
from mlesam_ros.bags.raw import RawMessage
from mlesam_ros.bags.storage import is_storage, pluralize, refuse_foreign, refuse_ros1_folder
from mlesam_ros.bags.typestore import typestore_of
from mlesam_ros.bags.unpack import ZSTD_MAGIC, decompress_partial
from mlesam_ros.errors import BagError, shorten
from mlesam_ros.messages import RAW_TYPES

_LARGEST = 1 << 30
"""Bytes of a message at most."""


class BagMessage(NamedTuple):
    """One recorded message.

    Attributes:
        topic: where it was recorded.
        type: such as `sensor_msgs/msg/Image`.
        stamp: nanoseconds at which it was recorded.
        message: with the fields of its type, numbers as NumPy arrays; a `RawMessage` for one of `messages.RAW_TYPES`.
    """

    topic: str
    type: str
    stamp: int
    message: Any


class BagReader:
    """A recording, to be used in a `with` statement. Whatever of it can be read is read.

    Attributes:
        path: as it was given.
        files: the storage files that are read.
        topics: topic → type.
        counts: topic → number of messages that its files declare.
        latched: the topics that were recorded as transient local.
        types: the types of its messages, as the bag itself defines them where it does.
        damaged: topic → messages passed over because their bytes are not what their type says; it grows with reading.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a bag.

        Args:
            path: a rosbag2 folder, or a bare .mcap or .db3 file.

        Raises:
            BagError: there is none, or nothing in it can be read.
        """
        self.path, self._notes = Path(path), list[str]()
        self.damaged: Counter[str] = Counter()
        metadata = read_metadata(self.path) if self.path.is_dir() else None
        self._files = self._open(self._find_files(metadata))
        self.files = [file.path for file in self._files]
        connections = [c for file in self._files for c in file.connections]
        self.types = typestore_of(connections)
        self.topics = {c.topic: c.msgtype for c in connections}
        self.counts = dict.fromkeys(self.topics, 0)
        for connection in connections:
            self.counts[connection.topic] += connection.msgcount
        self.latched = {c.topic for c in connections if _is_latched(c)}
        self._compare_counts(metadata.messages if metadata else None)
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
    def warnings(self) -> list[str]:
        """What is wrong with the bag and was got round, one sentence each; more may come while messages are read."""
        passed_over = [
            f"{self.path}: {pluralize(number, 'message')} on {topic} passed over, damaged."
            for topic, number in self.damaged.items()
        ]
        told = [*self._notes, *(warning for file in self._files for warning in file.warnings), *passed_over]
        return [shorten(warning) for warning in told]

    @property
    def start(self) -> int:
        """Nanoseconds of the first message; 0 in a bag without any."""
        return min((file.start for file in self._files if file.start is not None), default=0)

    @property
    def end(self) -> int:
        """Nanoseconds of the last message; 0 in a bag without any."""
        return max((file.end for file in self._files if file.end is not None), default=0)

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        """The messages in the order of recording, without those that are `damaged`.

        Args:
            topics: only these; by default all whose type is known.
            start: nanoseconds; only messages from then on.
            stop: nanoseconds; only messages before.

        Raises:
            BagError: a topic that the bag has not or whose type is not known.
        """
        if topics is None:
            topics = [topic for topic, kind in self.topics.items() if kind in self.types.fielddefs]
        unknown = [topic for topic in topics if self.topics.get(topic, "") not in ("", *self.types.fielddefs)]
        if unknown:
            raise BagError(f"{self.path}: the type of {', '.join(unknown)} is not known, so nothing can be read there.")
        for topic, kind, stamp, raw in self.raw_messages(topics, start, stop):
            try:
                message = RawMessage(raw) if kind in RAW_TYPES else self.types.deserialize_cdr(raw, kind)
            except Exception:  # rosbags raises whatever its parsers trip over
                self.damaged[topic] += 1
                continue
            yield BagMessage(topic, kind, stamp, message)

    def raw_messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """(topic, type, stamp, CDR bytes) in the order of recording; arguments and errors as for `messages`."""
        missing = [topic for topic in topics or () if topic not in self.topics]
        if missing:
            raise BagError(f"{self.path} has no topic {', '.join(missing)}; it has {', '.join(self.topics) or 'none'}.")
        wanted = [[c for c in file.connections if topics is None or c.topic in topics] for file in self._files]
        streams = [file.messages(few, start, stop) for file, few in zip(self._files, wanted, strict=True)]
        for connection, stamp, raw in heapq.merge(*streams, key=lambda entry: entry.stamp):
            # Recorders can compress each message; CDR never begins like that.
            content = decompress_partial("zstd", raw, _LARGEST)[0] if raw.startswith(ZSTD_MAGIC) else raw
            yield connection.topic, connection.msgtype, stamp, content

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    # Opening

    def _find_files(self, metadata: Metadata | None) -> list[Path]:
        """The storage files, as the metadata lists them where it can be believed."""
        path = self.path
        if not path.exists():
            raise BagError(f"{path} does not exist.", "Give a rosbag2 folder or a .mcap or .db3 file.")
        if metadata is None:
            if not is_storage(path):
                refuse_foreign(path)
                raise BagError(f"{path} is no bag; accepted are rosbag2 folders and files called *.mcap or *.db3.")
            return [path]
        present = sorted(file for file in path.iterdir() if is_storage(file) and file.is_file())
        if not metadata.fault:
            strangers = [file.name for file in present if file.name not in metadata.files]
            if strangers:
                self._notes.append(f"{path}: metadata.yaml does not list {', '.join(strangers)}; left out.")
            return [path / name for name in metadata.files]
        if not present:
            refuse_ros1_folder(path)
            raise BagError(f"{path} is no bag: {metadata.fault}, and there is no .mcap or .db3 file in it.")
        self._notes.append(
            f"{path}: {metadata.fault}; reading {', '.join(file.name for file in present)} by extension."
        )
        return present

    def _open(self, paths: list[Path]) -> list[BagFile]:
        """Those that can be opened; a file that cannot is a warning as long as there is another."""
        files, failures = list[BagFile](), list[BagError]()
        for path in paths:
            try:
                files.append(BagFile(path))
            except BagError as error:
                failures.append(error)
            except OSError as error:
                failures.append(BagError(str(error)))
        if not files:
            raise failures[0]
        self._notes.extend(map(str, failures))
        return files

    def _compare_counts(self, claimed: int | None) -> None:
        """The metadata's count is a claim; the files know."""
        real = sum(self.counts.values())
        if claimed not in (None, real):
            self._notes.append(f"{self.path}: metadata.yaml declares {claimed} messages, the files hold {real}.")

    def _name_unknown_types(self) -> None:
        for topic, kind in self.topics.items():
            if kind not in self.types.fielddefs:
                self._notes.append(
                    f"{self.path}: {topic} is left out, its type {kind} is neither defined in the bag nor known."
                )


def _is_latched(connection: Connection) -> bool:
    extension = connection.ext
    profiles = extension.offered_qos_profiles if isinstance(extension, ConnectionExtRosbag2) else []
    return any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in profiles)
