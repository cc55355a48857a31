"""The result bag: what was heard, written while it is heard, by a thread that nobody waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from mlesam_ros.bags.writer import BagWriter


class Recorder:
    """Writes serialized messages into an mcap bag, compressed chunk by chunk."""

    def __init__(self, path: Path, types: Mapping[str, str], latched: Collection[str]) -> None:
        """Begin a bag.

        Args:
            path: folder that does not exist yet.
            types: topic → type of everything that may come.
            latched: the topics among them that are transient local.

        Raises:
            BagError: the folder exists or cannot be made.
        """
        self._writer = BagWriter(path)
        self._types = types
        self._latched = latched
        self._queue: queue.SimpleQueue[tuple[str, int, bytes] | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left and finish the file.

        Raises:
            BagError: the disk did not take it.
        """
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def record(self, topic: str, time: int, raw: bytes) -> None:
        """Take a message; returns at once.

        Args:
            topic: one of the types' topics.
            time: nanoseconds, the time of recording.
            raw: CDR with encapsulation.
        """
        self._queue.put((topic, time, raw))

    def _write(self) -> None:
        try:
            with self._writer as writer:
                while (message := self._queue.get()) is not None:
                    topic, time, raw = message
                    writer.add_raw(topic, self._types[topic], time, raw, latched=topic in self._latched)
        except Exception as error:  # whatever it was belongs to the thread that asked for the recording
            self._failure = error
