"""What a file of a recording must be able to do, whoever reads it: rosbags a whole one, ours what is left of one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rosbags.interfaces import Connection

SUFFIXES = (".mcap", ".db3")
PACKED = ".zstd"
"""What compression of whole files adds to a name."""


class Entry(NamedTuple):
    """One serialised message: its connection, nanoseconds of its recording, CDR bytes."""

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
    return (Path(path.stem) if path.suffix == PACKED else path).suffix in SUFFIXES


def count(number: int, noun: str) -> str:
    """`1 message`, `3 messages`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
