# SPDX-License-Identifier: Apache-2.0
"""Read rosbag2 bags (MCAP or SQLite, compressed or damaged) as timestamped messages.

`BagReader` reads a bag of one or more storage files, `BagFile` one storage file, `read_metadata` the metadata.yaml. An
`Outage` withholds the messages of one sensor for some seconds of the playback.
"""

from __future__ import annotations

import heapq
import math
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple

from rosbags.interfaces import Connection, ConnectionExtRosbag2, QosDurability
from rosbags.rosbag2 import Reader

from mlesam_ros.bags.recovery import (
    COMPRESSED_SUFFIX,
    ZSTD_MAGIC,
    McapRecoveryReader,
    SerializedMessage,
    SqliteRecoveryReader,
    Storage,
    decompress_file,
    decompress_partial,
    has_journal,
    is_cut_off,
    is_storage,
    pluralize,
    refuse_foreign,
    refuse_ros1_folder,
)
from mlesam_ros.bags.serialization import typestore_of
from mlesam_ros.errors import BagError, ConfigError, shorten
from mlesam_ros.messages import RAW_TYPES
from mlesam_ros.strict_yaml import read_yaml

_STAMP_OFFSET = 4


class RawMessage(bytes):
    """The serialized bytes (CDR with encapsulation) of a message that begins with a header."""

    @property
    def header(self) -> SimpleNamespace:
        """The header's `stamp` with `sec` and `nanosec`; missing bytes read as 0."""
        layout = "<iI" if self[1:2] == b"\x01" else ">iI"
        sec, nanosec = struct.unpack(layout, self[_STAMP_OFFSET : _STAMP_OFFSET + 8].ljust(8, b"\0"))
        return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))


_STORAGES = ("mcap", "sqlite3")


@dataclass(frozen=True)
class Metadata:
    """The entries of a bag's metadata.yaml that the reader uses.

    Attributes:
        fault: description of its first fault; empty when it is valid.
        files: names of the listed storage files, in order.
        messages: declared number of messages; None where it is missing.
    """

    fault: str
    files: tuple[str, ...] = ()
    messages: int | None = None


def read_metadata(folder: Path) -> Metadata:
    """Read a folder's metadata.yaml. A missing, unreadable or inconsistent file sets `fault`."""
    if not (folder / "metadata.yaml").exists():
        return Metadata("it has no metadata.yaml")
    try:
        about = read_yaml(folder / "metadata.yaml", "metadata")["rosbag2_bagfile_information"]
        files = tuple(Path(str(name)).name for name in about["relative_file_paths"])
        return Metadata(_metadata_fault(about, files, folder), files, _optional_int(about.get("message_count")))
    except (ConfigError, KeyError, TypeError, AttributeError, ValueError):
        return Metadata("its metadata.yaml cannot be read")


def _metadata_fault(about: dict[str, Any], files: tuple[str, ...], folder: Path) -> str:
    strange = [name for name in files if not is_storage(Path(name))]
    if strange:
        return f"metadata.yaml lists {', '.join(map(repr, strange))}, which is no .mcap or .db3 file"
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        return f"metadata.yaml lists {', '.join(missing)}, which does not exist"
    if not files:
        return "metadata.yaml lists no file"
    storage = about.get("storage_identifier")
    return "" if storage in _STORAGES else f"metadata.yaml names the storage {storage!r}"


def _optional_int(value: Any) -> int | None:
    return value if isinstance(value, int) else None


_MAX_LISTED_FAULTS = 3  # listed in a warning
_MAX_REASON_CHARS = 200


class BagFile:
    """One storage file of a bag; falls back to recovery where it is damaged.

    Attributes:
        path: path of the file.
        connections: its topics.
        warnings: faults that the reader worked around, one sentence each; the list grows while messages are read.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            BagError: nothing in it can be read.
        """
        self.path, self.warnings = path, list[str]()
        self._folder: TemporaryDirectory[str] | None = None
        self._real = self._decompress() if path.suffix == COMPRESSED_SUFFIX else path
        if self._real.stat().st_size == 0:
            self._delete_copy()
            raise BagError(f"{path} is empty (0 bytes); the recording was never written.")
        try:
            refuse_foreign(self._real)
        except BagError:
            self._delete_copy()
            raise
        try:
            self._storage = self._open()
        except BagError:
            self._delete_copy()
            raise
        self.connections = list(self._storage.connections)

    @property
    def start(self) -> int | None:
        """Timestamp of the first message in nanoseconds; None in a file without messages."""
        return self._storage.start_time if self._storage.message_count else None

    @property
    def end(self) -> int | None:
        """Timestamp of the last message in nanoseconds; None in a file without messages."""
        return self._storage.end_time - 1 if self._storage.message_count else None

    def _open(self) -> Storage:
        if has_journal(self._real) or (self._real.suffix == ".db3" and is_cut_off(self._real)):
            return self._recover((), "")
        try:
            reader = Reader(self._real)
            reader.open()
        except Exception as error:  # rosbags raises arbitrary exceptions on damaged data
            return self._recover((), _reason(error))
        return reader

    def close(self) -> None:
        """Close the file and delete its decompressed copy."""
        self._storage.close()
        self._delete_copy()

    def messages(
        self, connections: Collection[Connection], start: int | None, stop: int | None
    ) -> Iterator[SerializedMessage]:
        """Yield the messages of some topics in order of time; see `Storage.messages`.

        After a read error, or where the index leads to fewer messages than declared, continue without the index.
        """
        if not connections:
            return
        latest: list[SerializedMessage] = []  # messages with the latest timestamp so far
        count, declared = 0, sum(connection.msgcount for connection in connections)
        try:
            for connection, stamp, raw in self._storage.messages(connections, start, stop):
                entry = SerializedMessage(connection, stamp, bytes(raw))
                latest = [*latest, entry] if latest and latest[0].stamp == stamp else [entry]
                count += 1
                yield entry
            if start is None and stop is None and count < declared:
                raise BagError(f"its index leads to {count} of {pluralize(declared, 'message')}")
        except Exception as error:  # rosbags raises arbitrary exceptions on damaged data
            yield from self._resume_after(latest, error, connections, latest[0].stamp if latest else start, stop)

    def _resume_after(
        self,
        yielded: list[SerializedMessage],
        error: Exception,
        connections: Collection[Connection],
        start: int | None,
        stop: int | None,
    ) -> Iterator[SerializedMessage]:
        """Yield the messages from timestamp `start` on without the index, except those already yielded at `start`."""
        try:
            recovered = self._recover(self.connections, _reason(error))
        except BagError as failure:
            self.warnings.append(str(failure))
            return
        known = [(entry.connection.id, entry.stamp, entry.raw) for entry in yielded]
        try:
            for entry in recovered.messages(connections, start, stop):
                if (here := (entry.connection.id, entry.stamp, entry.raw)) in known:
                    known.remove(here)
                else:
                    yield entry
        finally:
            recovered.close()

    def _recover(self, known: Collection[Connection], reason: str) -> McapRecoveryReader | SqliteRecoveryReader:
        is_mcap = self._real.suffix == ".mcap"
        recovered = McapRecoveryReader(self._real, known) if is_mcap else SqliteRecoveryReader(self._real)
        faults = recovered.faults or [reason]
        more = [f"{len(faults) - _MAX_LISTED_FAULTS} more faults"] if len(faults) > _MAX_LISTED_FAULTS else []
        found = pluralize(recovered.message_count, "message")
        self.warnings.append(f"{self.path}: {', '.join([*faults[:_MAX_LISTED_FAULTS], *more])}; {found} can be read.")
        return recovered

    def _decompress(self) -> Path:
        """Decompress the file into a temporary folder; return the path of the copy."""
        self._folder = TemporaryDirectory(prefix="mlesam_")
        target = Path(self._folder.name) / self.path.stem
        try:
            fault = decompress_file(self.path, target)
        except OSError as error:
            self._delete_copy()
            raise BagError(
                f"{self.path} cannot be decompressed: {error.strerror}.", "Set TMPDIR to a folder with more space."
            ) from error
        if fault:
            self.warnings.append(f"{self.path}: decompressed in part only, {fault}.")
        return target

    def _delete_copy(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= _MAX_REASON_CHARS else text[:_MAX_REASON_CHARS] + " …"


_MAX_MESSAGE_BYTES = 1 << 30
"""Maximum size of a decompressed message in bytes."""


class BagMessage(NamedTuple):
    """One recorded message.

    Attributes:
        topic: name of the topic.
        type: such as `sensor_msgs/msg/Image`.
        stamp: recording time in nanoseconds.
        message: deserialized, with numeric arrays as NumPy arrays; a `RawMessage` for types in `messages.RAW_TYPES`.
    """

    topic: str
    type: str
    stamp: int
    message: Any


class BagReader:
    """Reader of a bag, for use in a `with` statement. Reads the intact part of a damaged bag.

    Attributes:
        path: path of the bag.
        files: paths of the storage files.
        topics: topic → type.
        counts: topic → number of messages that the storage files declare.
        latched: topics recorded with transient local durability.
        types: message types, from the definitions in the bag where present.
        damaged: topic → number of messages skipped because deserialization failed; it grows while messages are read.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a bag.

        Args:
            path: a rosbag2 folder, or a single .mcap or .db3 file.

        Raises:
            BagError: there is no bag at `path`, or nothing in it can be read.
        """
        self.path, self._own_warnings = Path(path), list[str]()
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
        self._check_message_count(metadata.messages if metadata else None)
        self._warn_of_unknown_types()

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
        """Faults that the reader worked around, one sentence each; the list grows while messages are read."""
        damaged = [
            f"{self.path}: skipped {pluralize(number, 'damaged message')} on {topic}."
            for topic, number in self.damaged.items()
        ]
        warnings = [*self._own_warnings, *(warning for file in self._files for warning in file.warnings), *damaged]
        return [shorten(warning) for warning in warnings]

    @property
    def start(self) -> int:
        """Timestamp of the first message in nanoseconds; 0 in a bag without messages."""
        return min((file.start for file in self._files if file.start is not None), default=0)

    @property
    def end(self) -> int:
        """Timestamp of the last message in nanoseconds; 0 in a bag without messages."""
        return max((file.end for file in self._files if file.end is not None), default=0)

    def messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield the messages in order of recording time. Skips messages that cannot be deserialized (see `damaged`).

        Args:
            topics: topics to read; all with a known type by default.
            start: first recording time in nanoseconds, inclusive.
            stop: last recording time in nanoseconds, exclusive.

        Raises:
            BagError: the bag does not contain a topic, or the type of a topic is not known.
        """
        if topics is None:
            topics = [topic for topic, kind in self.topics.items() if kind in self.types.fielddefs]
        unknown = [topic for topic in topics if self.topics.get(topic, "") not in ("", *self.types.fielddefs)]
        if unknown:
            raise BagError(f"{self.path}: the message type of {', '.join(unknown)} is unknown; it cannot be read.")
        for topic, kind, stamp, raw in self.raw_messages(topics, start, stop):
            try:
                message = RawMessage(raw) if kind in RAW_TYPES else self.types.deserialize_cdr(raw, kind)
            except Exception:  # rosbags raises arbitrary exceptions on damaged data
                self.damaged[topic] += 1
                continue
            yield BagMessage(topic, kind, stamp, message)

    def raw_messages(
        self, topics: Collection[str] | None = None, start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield (topic, type, stamp, CDR bytes) in order of recording time; arguments and errors as for `messages`."""
        missing = [topic for topic in topics or () if topic not in self.topics]
        if missing:
            raise BagError(f"{self.path} has no topic {', '.join(missing)}; it has {', '.join(self.topics) or 'none'}.")
        wanted = [[c for c in file.connections if topics is None or c.topic in topics] for file in self._files]
        streams = [file.messages(chosen, start, stop) for file, chosen in zip(self._files, wanted, strict=True)]
        for connection, stamp, raw in heapq.merge(*streams, key=lambda entry: entry.stamp):
            # rosbag2 can compress single messages; a CDR encapsulation never starts with the zstd magic.
            content = decompress_partial("zstd", raw, _MAX_MESSAGE_BYTES)[0] if raw.startswith(ZSTD_MAGIC) else raw
            yield connection.topic, connection.msgtype, stamp, content

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    # Opening

    def _find_files(self, metadata: Metadata | None) -> list[Path]:
        """Storage files listed in valid metadata, otherwise the storage files in the folder."""
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
            unlisted = [file.name for file in present if file.name not in metadata.files]
            if unlisted:
                self._own_warnings.append(f"{path}: metadata.yaml does not list {', '.join(unlisted)}; skipped.")
            return [path / name for name in metadata.files]
        if not present:
            refuse_ros1_folder(path)
            raise BagError(f"{path} is no bag: {metadata.fault}, and there is no .mcap or .db3 file in it.")
        self._own_warnings.append(
            f"{path}: {metadata.fault}; reading {', '.join(file.name for file in present)} by extension."
        )
        return present

    def _open(self, paths: list[Path]) -> list[BagFile]:
        """Open the files. A file that cannot be opened adds a warning; raise its error if no file can be opened."""
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
        self._own_warnings.extend(map(str, failures))
        return files

    def _check_message_count(self, claimed: int | None) -> None:
        """Warn if the message count in metadata.yaml differs from the count in the storage files."""
        real = sum(self.counts.values())
        if claimed not in (None, real):
            self._own_warnings.append(
                f"{self.path}: metadata.yaml declares {claimed} messages, the files contain {real}."
            )

    def _warn_of_unknown_types(self) -> None:
        for topic, kind in self.topics.items():
            if kind not in self.types.fielddefs:
                self._own_warnings.append(
                    f"{self.path}: {topic} is skipped: its type {kind} is neither defined in the bag nor known."
                )


def _is_latched(connection: Connection) -> bool:
    extension = connection.ext
    profiles = extension.offered_qos_profiles if isinstance(extension, ConnectionExtRosbag2) else []
    return any(profile.durability == QosDurability.TRANSIENT_LOCAL for profile in profiles)


_OUTAGE_SYNTAX = re.compile(r"(?P<target>[\w/~-]+)(@(?P<start>[\d.]*)\.\.(?P<end>[\d.]*))?")


@dataclass(frozen=True)
class Outage:
    """The outage of one sensor.

    Attributes:
        target: a modality such as `camera`, which matches every topic with that word (or its plural) between its
            slashes; or a topic such as `/camera/image_raw`, which matches itself and all topics below it.
        start, end: seconds from the start of playback, `start` inclusive, `end` exclusive.
    """

    target: str
    start: float = 0.0
    end: float = math.inf

    def suppresses(self, topic: str, seconds: float) -> bool:
        """Whether to withhold a message of this topic at this playback time in seconds."""
        return self.is_active(seconds) and self.matches(topic)

    def is_active(self, seconds: float) -> bool:
        """Whether the sensor is out at this playback time in seconds."""
        return self.start <= seconds < self.end

    def matches(self, topic: str) -> bool:
        """Whether the target matches this topic."""
        if self.target.startswith("/"):
            return topic == self.target or topic.startswith(self.target.rstrip("/") + "/")
        return any(part in (self.target, self.target + "s") for part in topic.split("/"))


def parse_outage(text: str) -> Outage:
    """Parse `TARGET`, `TARGET@FROM..TO`, `TARGET@FROM..` or `TARGET@..TO`, in seconds.

    Raises:
        ConfigError: the text has another form, or the end is not after the start.
    """
    match = _OUTAGE_SYNTAX.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        outage = Outage(match["target"], float(match["start"] or 0), float(match["end"] or math.inf))
    except ValueError:
        raise ConfigError(
            f"drop {text!r} cannot be read.",
            "Write a modality or topic and seconds, such as camera@10..16 or lidar@20..",
        ) from None
    if outage.end <= outage.start:
        raise ConfigError(f"drop {text!r} ends before it starts.", "Write the earlier second first.")
    return outage
