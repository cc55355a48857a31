"""What a file of a recording must be able to do, whoever reads it: rosbags a whole one, ours what is left of one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rosbags.interfaces import Connection

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
