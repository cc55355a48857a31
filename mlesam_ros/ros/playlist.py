"""Bags, one after the other, as one stream of serialized messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import BagError
from mlesam_ros.frame import AUTO, NANOSECONDS
from mlesam_ros.ros.restamp import Restamper, restamper

_PAUSE = NANOSECONDS // 10
"""Time between the last message of a bag and the first of the next: one period of the usual 10 Hz sensor."""


@dataclass(frozen=True, slots=True)
class Message:
    """A serialized message and its place in the stream.

    Attributes:
        topic: where it goes.
        raw: as it was recorded, CDR with encapsulation.
        offset: nanoseconds from the beginning of the stream.
        origin: what to subtract from a time in this bag to get nanoseconds from the beginning of the stream.
        restamp: moves it to another time.
    """

    topic: str
    raw: bytes
    offset: int
    origin: int
    restamp: Restamper


class Playlist:
    """Recordings as one stream.

    Topics that are latched (`/tf_static`, and what was recorded as transient local) are kept apart, so that they can be
    sent before anything else.

    Attributes:
        types: topic → type of everything that can be played.
        latched: the topics that are kept apart.
    """

    def __init__(self, paths: Sequence[Path], parameters: NodeParameters | None = None) -> None:
        """Open the bags.

        Args:
            paths: rosbag2 folders or files, played in this order.
            parameters: of the sensors; `lidar.time_unit` counts, on the topic that is given for the LiDAR if one is.

        Raises:
            BagError: one cannot be opened, or two disagree about the type of a topic.
        """
        self._readers = [BagReader(path) for path in paths]
        self._parameters = parameters or NodeParameters()
        self.types: dict[str, str] = {}
        self.latched: set[str] = set()
        for reader in self._readers:
            self.latched |= {topic for topic in reader.topics if topic.endswith("/tf_static")} | reader.latched
            for topic, name in reader.topics.items():
                if topic == "/clock" or name not in reader.types.fielddefs:
                    continue  # the recording's time, where the player has its own; or a type that nobody defined
                known = self.types.setdefault(topic, name)
                if known != name:
                    raise BagError(
                        f"{reader.path} has {name} on {topic}, the bag before has {known}.", "Play the bags one by one."
                    )

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the bags and was got round, one sentence each; more may come while they are played."""
        return [warning for reader in self._readers for warning in reader.warnings]

    @property
    def duration(self) -> int:
        """Nanoseconds from the first message of the first bag to the last of the last, pauses between bags included."""
        return sum(self._length(reader) for reader in self._readers) - _PAUSE

    def once(self) -> Iterator[Message]:
        """The latched messages of all bags, all due at once."""
        for reader in self._readers:
            for topic, time, raw, restamp in self._read(reader, latched=True):
                yield Message(topic, raw, 0, time, restamp)

    def stream(self, loop: bool = False, topics: Collection[str] | None = None) -> Iterator[Message]:
        """Everything else in the order of recording, again and again if asked.

        Args:
            loop: never end.
            topics: only these; all by default.
        """
        elapsed, played = 0, True
        while played:
            played = False
            for reader in self._readers:
                origin = reader.start - elapsed
                for topic, time, raw, restamp in self._read(reader, latched=False, topics=topics):
                    yield Message(topic, raw, time - origin, origin, restamp)
                    played = loop
                elapsed += self._length(reader)

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()

    def _length(self, reader: BagReader) -> int:
        return reader.end - reader.start + _PAUSE

    def _read(
        self, reader: BagReader, latched: bool, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, int, bytes, Restamper]]:
        known = self.types if topics is None else topics
        wanted = {name for name in reader.topics if name in known and (name in self.latched) == latched}
        restampers = {n: restamper(reader.types, reader.topics[n], self._time_unit(n)) for n in wanted}
        for topic, _, time, raw in reader.raw_messages(wanted):
            yield topic, time, raw, restampers[topic]

    def _time_unit(self, topic: str) -> str:
        """The unit of the times of points on a topic."""
        parameters, lidar = self._parameters, self._parameters.lidar
        others = "lidar.topic" in parameters.given and parameters.resolve(lidar.topic) != topic
        return AUTO if others else lidar.time_unit
