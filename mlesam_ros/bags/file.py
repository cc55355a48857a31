"""One storage file of a recording: read with its index while that holds, and without it from where it does not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from mlesam_ros.bags.mcap import McapRecoveryReader
from mlesam_ros.bags.sqlite import SqliteRecoveryReader, has_journal, is_cut_off
from mlesam_ros.bags.storage import COMPRESSED_SUFFIX, SerializedMessage, Storage, pluralize, refuse_foreign
from mlesam_ros.bags.unpack import decompress_file
from mlesam_ros.errors import BagError

_FAULTS = 3  # that are told
_LONGEST_REASON = 200


class BagFile:
    """A storage file.

    Attributes:
        path: as it was given.
        warnings: what is wrong with it and was got round, one sentence each; it grows while messages are read.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            BagError: nothing in it can be read.
        """
        self.path, self.warnings = path, list[str]()
        self._folder: TemporaryDirectory[str] | None = None
        self._real = self._expanded() if path.suffix == COMPRESSED_SUFFIX else path
        if self._real.stat().st_size == 0:
            self._forget()
            raise BagError(f"{path} is empty (0 bytes); the recording was never written.")
        try:
            refuse_foreign(self._real)
        except BagError:
            self._forget()
            raise
        try:
            self._storage = self._open()
        except BagError:
            self._forget()
            raise
        self.connections = list(self._storage.connections)

    @property
    def start(self) -> int | None:
        """Nanoseconds of the first message, None without any."""
        return self._storage.start_time if self._storage.message_count else None

    @property
    def end(self) -> int | None:
        """Nanoseconds of the last message, None without any."""
        return self._storage.end_time - 1 if self._storage.message_count else None

    def _open(self) -> Storage:
        if has_journal(self._real) or (self._real.suffix == ".db3" and is_cut_off(self._real)):
            return self._recover((), "")
        try:
            reader = Reader(self._real)
            reader.open()
        except Exception as error:  # rosbags raises whatever its parsers trip over
            return self._recover((), _reason(error))
        return reader

    def close(self) -> None:
        """Close it."""
        self._storage.close()
        self._forget()

    def messages(
        self, connections: Collection[Connection], start: int | None, stop: int | None
    ) -> Iterator[SerializedMessage]:
        """Some topics' messages in the order of time; see `Storage.messages`.

        Where the file turns out to be damaged, what can be read without its index follows.
        """
        if not connections:
            return
        newest: list[SerializedMessage] = []  # those with the latest stamp so far
        told, declared = 0, sum(connection.msgcount for connection in connections)
        try:
            for connection, stamp, raw in self._storage.messages(connections, start, stop):
                entry = SerializedMessage(connection, stamp, bytes(raw))
                newest = [*newest, entry] if newest and newest[0].stamp == stamp else [entry]
                told += 1
                yield entry
            if start is None and stop is None and told < declared:
                raise BagError(f"its index leads to {told} of {pluralize(declared, 'message')}")
        except Exception as error:  # as above
            yield from self._resume_after(newest, error, connections, newest[0].stamp if newest else start, stop)

    def _resume_after(
        self,
        told: list[SerializedMessage],
        error: Exception,
        connections: Collection[Connection],
        start: int | None,
        stop: int | None,
    ) -> Iterator[SerializedMessage]:
        """What comes after the entries that were told last, all of which have the stamp `start`."""
        try:
            remains = self._recover(self.connections, _reason(error))
        except BagError as failure:
            self.warnings.append(str(failure))
            return
        known = [(entry.connection.id, entry.stamp, entry.raw) for entry in told]
        try:
            for entry in remains.messages(connections, start, stop):
                if (here := (entry.connection.id, entry.stamp, entry.raw)) in known:
                    known.remove(here)
                else:
                    yield entry
        finally:
            remains.close()

    def _recover(self, known: Collection[Connection], reason: str) -> McapRecoveryReader | SqliteRecoveryReader:
        is_mcap = self._real.suffix == ".mcap"
        remains = McapRecoveryReader(self._real, known) if is_mcap else SqliteRecoveryReader(self._real)
        faults = remains.faults or [reason]
        more = [f"{len(faults) - _FAULTS} faults more"] if len(faults) > _FAULTS else []
        found = pluralize(remains.message_count, "message")
        self.warnings.append(f"{self.path}: {', '.join([*faults[:_FAULTS], *more])}; {found} can be read.")
        return remains

    def _expanded(self) -> Path:
        """A file that is compressed as a whole, in a temporary folder."""
        self._folder = TemporaryDirectory(prefix="mlesam_")
        target = Path(self._folder.name) / self.path.stem
        try:
            fault = decompress_file(self.path, target)
        except OSError as error:
            self._forget()
            raise BagError(
                f"{self.path} cannot be unpacked: {error.strerror}.", "Set TMPDIR to a roomy folder."
            ) from error
        if fault:
            self.warnings.append(f"{self.path}: it can be unpacked in part only, {fault}.")
        return target

    def _forget(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " …"
