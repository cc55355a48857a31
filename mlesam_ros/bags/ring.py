"""The last seconds of what was said, in memory: a ring of serialized messages, bounded in time and in bytes."""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.errors import BagError
from mlesam_ros.frame import NANOSECONDS

_LATCHED = 1000
"""Latched messages that are kept for ever: a robot's static transforms come in one or in hundreds. More are kept like
others, such as those that come again and again with new stamps."""


@dataclass(frozen=True, slots=True)
class BufferedMessage:
    """One message.

    Attributes:
        topic, type_name: as `BagWriter` takes them.
        stamp: nanoseconds at which it was received.
        raw: serialized (CDR).
        latched: what it says holds until somebody says otherwise.
    """

    topic: str
    type_name: str
    stamp: int
    raw: bytes
    latched: bool = False


class RingBuffer:
    """Keeps the newest messages. Any thread may call it.

    Latched messages, and the newest one of the topics that are `lasting`, outlive the window: without the lens and the
    mounting of the sensors a bag is of little use.

    Args:
        seconds: how far back it reaches.
        most_bytes: of messages that are neither latched nor lasting.
        lasting: topics whose newest message is kept however old it is.
    """

    def __init__(self, seconds: float, most_bytes: int, lasting: Sequence[str] = ()) -> None:
        self._window = round(seconds * NANOSECONDS)
        self._most = most_bytes
        self._lasting = frozenset(lasting)
        self._messages: deque[BufferedMessage] = deque()
        self._bytes = 0
        self._latched: dict[tuple[str, bytes], BufferedMessage] = {}
        self._newest: dict[str, BufferedMessage] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._messages) + len(self._latched)

    @property
    def bytes(self) -> int:
        """Of the messages within the window."""
        return self._bytes

    def add(self, message: BufferedMessage) -> None:
        """Keep a message and let go of what is too old or too much. Stamps that jump back start the window anew."""
        with self._lock:
            known = (message.topic, message.raw) in self._latched
            if message.latched and (known or len(self._latched) < _LATCHED):
                self._latched.setdefault((message.topic, message.raw), message)
                return
            if self._messages and message.stamp < self._messages[-1].stamp - self._window:
                self._messages.clear()
                self._bytes = 0
            self._messages.append(message)
            self._bytes += len(message.raw)
            while self._messages and (
                self._bytes > self._most or message.stamp - self._messages[0].stamp > self._window
            ):
                self._evict()

    def contents(self) -> list[BufferedMessage]:
        """What is kept, in the order of receipt; what outlived the window is stamped with its beginning.

        A topic whose type changed begins with the new one: a bag knows one type per topic.
        """
        with self._lock:
            recent = list(self._messages)
            within = {message.topic for message in recent}
            old = [*self._latched.values(), *(m for topic, m in self._newest.items() if topic not in within)]
        if not recent:
            return []
        newest = {message.topic: message.type_name for message in recent}
        recent = [message for message in recent if message.type_name == newest[message.topic]]
        begin = min(message.stamp for message in recent)
        moved = [BufferedMessage(m.topic, m.type_name, max(m.stamp, begin), m.raw, m.latched) for m in old]
        return sorted([*moved, *recent], key=lambda message: message.stamp)

    def _evict(self) -> None:
        message = self._messages.popleft()
        self._bytes -= len(message.raw)
        if message.topic in self._lasting:
            self._newest[message.topic] = message
        if not self._messages:
            self._bytes = 0


def write_snapshot(ring: RingBuffer, path: Path, given_up: Callable[[], bool] = lambda: False) -> int:
    """Write what a ring holds as a bag, which appears whole or not at all.

    Args:
        ring: which goes on listening meanwhile.
        path: of the bag's folder, which must not exist.
        given_up: asked before every message whether to stop.

    Returns:
        how many messages were written.

    Raises:
        BagError: there is nothing to write, the folder exists, the disk is full or it was given up.
    """
    contents = ring.contents()
    if not contents:
        raise BagError("no message was kept yet.", "Wait until the sensors have been heard.")
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.mkdir(parents=True, exist_ok=True)
        _write(contents, draft / path.name, given_up)
        if path.exists():
            raise BagError(f"{path} exists already; bags are never overwritten.", f"Remove {path} first.")
        (draft / path.name).rename(path)
    except (OSError, BagError) as error:
        full = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(full, OSError):
            raise
        raise BagError(f"{path} cannot be made: {full.strerror}.", "Set snapshot_folder to another.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return len(contents)


def _write(contents: Sequence[BufferedMessage], path: Path, given_up: Callable[[], bool]) -> None:
    with BagWriter(path) as bag:
        for message in contents:
            if given_up():
                raise BagError("the snapshot was given up: the node ends.")
            bag.add_raw(message.topic, message.type_name, message.stamp, message.raw, message.latched)
