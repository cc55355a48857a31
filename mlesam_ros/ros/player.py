# SPDX-License-Identifier: Apache-2.0
"""Playback of bags on ROS topics, with the stamps shifted to the present or with the recorded stamps and /clock."""

from __future__ import annotations

import signal
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
import rclpy.node
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosbags.typesys.store import Typestore
from rosgraph_msgs.msg import Clock

from mlesam_ros.bags.reader import BagReader, Outage
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import BagError, ConfigError
from mlesam_ros.messages import TF_MESSAGE, FrameReader, stamp_ns
from mlesam_ros.preprocessing.base import Preprocessing
from mlesam_ros.preprocessing.point_cloud import move_times
from mlesam_ros.ros.compat import message_class
from mlesam_ros.types import AUTO, LIDAR, NANOSECONDS, POINT_CLOUD, PointCloud

Shift = Callable[[int], int]
"""Old stamp in nanoseconds → new stamp in nanoseconds."""
Restamper = Callable[[bytes, Shift], bytes]

_HEADER = "std_msgs/msg/Header"
_STAMP_START, _STAMP_END = 4, 12


def restamper(typestore: Typestore, type_name: str, time_unit: str = AUTO) -> Restamper:
    """Return the cheapest function that shifts the stamps of messages of one type.

    A message that begins with a header has its stamp right after the four bytes of CDR encapsulation, so that eight
    bytes are replaced and the rest is not deserialized. Transforms are deserialized, because each has its own stamp.
    Point clouds are deserialized, because their points may have absolute times. Messages of other types, and messages
    that cannot be shifted, are returned unchanged.

    Args:
        typestore: typestore that contains the type.
        type_name: message type, such as `sensor_msgs/msg/Image`.
        time_unit: unit of the times of points, as parameter `lidar.time_unit`.
    """
    if type_name == TF_MESSAGE:
        return _Transforms(typestore)
    if type_name == POINT_CLOUD:
        return _Clouds(typestore, time_unit)
    _, fields = typestore.fielddefs[type_name]
    starts_with_header = bool(fields) and fields[0][1][1] == _HEADER
    return _patch_header if starts_with_header or type_name == _HEADER else _keep


def _keep(raw: bytes, shift: Shift) -> bytes:
    return raw


def _patch_header(raw: bytes, shift: Shift) -> bytes:
    layout = "<iI" if raw[1:2] and raw[1] & 1 else ">iI"
    try:
        seconds, nanoseconds = struct.unpack_from(layout, raw, _STAMP_START)
        if seconds == 0 and nanoseconds == 0:
            return raw  # a zero stamp means "no time" in latched messages
        stamp = struct.pack(layout, *divmod(shift(seconds * NANOSECONDS + nanoseconds), NANOSECONDS))
    except struct.error:
        return raw  # too short, or a stamp that no header can hold
    return b"".join((raw[:_STAMP_START], stamp, raw[_STAMP_END:]))


class _Clouds:
    """Shifts the stamp of a PointCloud2 and the absolute times of its points."""

    def __init__(self, typestore: Typestore, time_unit: str) -> None:
        self._typestore = typestore
        self._reader = FrameReader(LIDAR, POINT_CLOUD, Preprocessing(gather=0.0, time_unit=time_unit))

    def __call__(self, raw: bytes, shift: Shift) -> bytes:
        moved = _patch_header(raw, shift)
        if moved is raw:
            return raw
        try:
            return self._with_times(raw, shift) or moved
        except Exception:  # play damaged messages, too; the subscriber reports the error
            return moved

    def _with_times(self, raw: bytes, shift: Shift) -> bytes:
        """Return the message with stamp and point times shifted; empty bytes if the points have no absolute times."""
        message: Any = self._typestore.deserialize_cdr(raw, POINT_CLOUD)
        old = stamp_ns(message.header)
        message.data = message.data.copy()
        cloud = self._reader.read(message).payload
        assert isinstance(cloud, PointCloud)
        if not move_times(cloud, old, shift(old) - old):
            return b""
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = divmod(shift(old), NANOSECONDS)
        return bytes(self._typestore.serialize_cdr(message, POINT_CLOUD, little_endian=bool(raw[1] & 1)))


class _Transforms:
    """Shifts the stamp of every transform of a TFMessage."""

    def __init__(self, typestore: Typestore) -> None:
        self._typestore = typestore

    def __call__(self, raw: bytes, shift: Shift) -> bytes:
        try:
            message: Any = self._typestore.deserialize_cdr(raw, TF_MESSAGE)
            for transform in message.transforms:
                stamp = transform.header.stamp
                old = stamp.sec * NANOSECONDS + stamp.nanosec
                if old:
                    stamp.sec, stamp.nanosec = divmod(shift(old), NANOSECONDS)
            return bytes(self._typestore.serialize_cdr(message, TF_MESSAGE))
        except Exception:  # play damaged messages, too; the subscriber reports the error
            return raw


_PAUSE_NS = NANOSECONDS // 10
"""Nanoseconds between the last message of a bag and the first of the next: one period of a 10 Hz sensor."""


@dataclass(frozen=True, slots=True)
class Message:
    """A serialized message and its place in the stream.

    Attributes:
        topic: topic name.
        raw: serialized message as recorded, CDR with encapsulation.
        offset: nanoseconds from the beginning of the stream.
        origin: recorded time in nanoseconds that corresponds to the beginning of the stream.
        restamp: function that shifts its stamps.
    """

    topic: str
    raw: bytes
    offset: int
    origin: int
    restamp: Restamper


class Playlist:
    """Several bags as one stream of messages.

    Latched topics (`/tf_static` and topics recorded as transient local) are read separately, so that they can be
    published before all others.

    Attributes:
        types: topic → message type of every topic that can be played.
        latched: latched topics.
    """

    def __init__(self, paths: Sequence[Path], parameters: NodeParameters | None = None) -> None:
        """Open the bags.

        Args:
            paths: rosbag2 folders or files, played in this order.
            parameters: sensor parameters; `lidar.time_unit` is read, and applies to `lidar.topic` alone if that is set.

        Raises:
            BagError: a bag cannot be opened, or two bags have different types on one topic.
        """
        self._readers = [BagReader(path) for path in paths]
        self._parameters = parameters or NodeParameters()
        self.types: dict[str, str] = {}
        self.latched: set[str] = set()
        for reader in self._readers:
            self.latched |= {topic for topic in reader.topics if topic.endswith("/tf_static")} | reader.latched
            for topic, name in reader.topics.items():
                if topic == "/clock" or name not in reader.types.fielddefs:
                    continue  # the recorded clock, or a type without a definition
                known = self.types.setdefault(topic, name)
                if known != name:
                    raise BagError(
                        f"{reader.path} has {name} on {topic}, the bag before has {known}.", "Play the bags one by one."
                    )

    @property
    def warnings(self) -> list[str]:
        """Recoverable faults of the bags, one sentence each; playback may add more."""
        return [warning for reader in self._readers for warning in reader.warnings]

    @property
    def duration(self) -> int:
        """Length of the stream in nanoseconds, from the first message to the last, pauses between bags included."""
        return sum(self._length(reader) for reader in self._readers) - _PAUSE_NS

    def latched_messages(self) -> Iterator[Message]:
        """Yield the latched messages of all bags with offset 0."""
        for reader in self._readers:
            for topic, recorded, raw, restamp in self._read(reader, latched=True):
                yield Message(topic, raw, 0, recorded, restamp)

    def stream(self, loop: bool = False, topics: Collection[str] | None = None) -> Iterator[Message]:
        """Yield the messages that are not latched in the order of recording.

        Args:
            loop: repeat the bags without end.
            topics: topics to read; all by default.
        """
        elapsed, played = 0, True
        while played:
            played = False
            for reader in self._readers:
                origin = reader.start - elapsed
                for topic, recorded, raw, restamp in self._read(reader, latched=False, topics=topics):
                    yield Message(topic, raw, recorded - origin, origin, restamp)
                    played = loop
                elapsed += self._length(reader)

    def close(self) -> None:
        """Close the bags."""
        for reader in self._readers:
            reader.close()

    def _length(self, reader: BagReader) -> int:
        return reader.end - reader.start + _PAUSE_NS

    def _read(
        self, reader: BagReader, latched: bool, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, int, bytes, Restamper]]:
        known = self.types if topics is None else topics
        wanted = {name for name in reader.topics if name in known and (name in self.latched) == latched}
        restampers = {n: restamper(reader.types, reader.topics[n], self._time_unit(n)) for n in wanted}
        for topic, _, recorded, raw in reader.raw_messages(wanted):
            yield topic, recorded, raw, restampers[topic]

    def _time_unit(self, topic: str) -> str:
        """Return the unit of the times of points on a topic."""
        parameters, lidar = self._parameters, self._parameters.lidar
        is_other_topic = "lidar.topic" in parameters.given and parameters.resolve(lidar.topic) != topic
        return AUTO if is_other_topic else lidar.time_unit


_CLOCK_PERIOD_NS = NANOSECONDS // 100
_READ_AHEAD_NS = NANOSECONDS // 4
_LINGER_S = 0.2  # s for the delivery of the last messages before their publishers are destroyed
_DISCOVERY_QUIET_S = 0.5  # s without a new subscriber after which discovery counts as complete


@dataclass(frozen=True)
class PlayOptions:
    """Options of the playback.

    Attributes:
        rate: speed, 1 is real time.
        loop: start again at the end, until stopped.
        clock: keep the recorded stamps and publish /clock, for nodes with `use_sim_time`; otherwise shift all stamps
            to the present.
        outages: outages of sensors to simulate.
        wait: maximum time in seconds to wait for subscribers before starting.
        listeners: topics that require a subscriber before playback starts; empty: one subscriber on any topic.
    """

    rate: float = 1.0
    loop: bool = False
    clock: bool = False
    outages: tuple[Outage, ...] = ()
    wait: float = 5.0
    listeners: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate the rate.

        Raises:
            ConfigError: the rate is not above 0.
        """
        if not self.rate > 0:
            raise ConfigError(f"rate {self.rate} is not above 0.", "Set a positive number, such as 0.5.")


@dataclass
class PlayReport:
    """Result of a playback.

    Attributes:
        start: system time in nanoseconds at which the playback began.
        seconds: duration of the playback.
        published, dropped: topic → messages published, messages withheld by the outages.
        skipped: message types that cannot be published because their package is not installed.
        warnings: recoverable faults of the bags.
        max_delay: maximum delay of a message behind its due time, in seconds.
    """

    start: int = 0
    seconds: float = 0.0
    published: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    max_delay: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types, with the keys documented in `docs/results.md`."""
        return {
            "start_ns": self.start,
            "seconds": self.seconds,
            "published": dict(self.published),
            "dropped": dict(self.dropped),
            "skipped": self.skipped,
            "warnings": self.warnings,
            "latest_ms": self.max_delay * 1e3,
        }


class Player:
    """Publishes a playlist. Most messages are published as recorded, with only the bytes of the stamp replaced."""

    def __init__(self, node: rclpy.node.Node, playlist: Playlist, options: PlayOptions) -> None:
        """Create a publisher per topic.

        Raises:
            BagError: no topic has an installed message type.
            ConfigError: a drop or a listener matches none of the topics.
        """
        self._playlist = playlist
        self._options = options
        self._stop = threading.Event()
        self.report = PlayReport(warnings=playlist.warnings)
        self._publishers = self._advertise(node)
        self._clock = node.create_publisher(Clock, "/clock", 10) if options.clock else None
        self._start = 0  # ns, monotonic clock
        self._clock_due = 0
        for outage in options.outages:
            if not any(outage.matches(topic) for topic in self._publishers):
                raise ConfigError(
                    f"drop {outage.target} matches no topic; the topics are {', '.join(self._publishers)}."
                )
        for topic in options.listeners:
            if topic not in self._publishers:
                raise ConfigError(f"listener {topic} matches no topic; the topics are {', '.join(self._publishers)}.")

    def stop(self) -> None:
        """Stop the playback. May be called from a signal handler and from any thread."""
        self._stop.set()

    def play(
        self,
        on_start: Callable[[PlayReport], None] = lambda report: None,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> PlayReport:
        """Play to the end, or until stopped.

        Args:
            on_start: called once, before the first message that is not latched.
            progress: called after every message with the seconds of recording that have been played.
        """
        for message in self._playlist.latched_messages():
            self._publish(message)
        self._wait_for_subscribers()
        self._start = time.monotonic_ns()
        self.report.start = time.time_ns()
        on_start(self.report)
        for message in self._when_due():
            self._publish(message)
            progress(message.offset / NANOSECONDS)
        self.report.seconds = (time.monotonic_ns() - self._start) / NANOSECONDS
        self.report.warnings = self._playlist.warnings
        self._stop.wait(_LINGER_S)
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=_LINGER_S))
        return self.report

    def _advertise(self, node: rclpy.node.Node) -> dict[str, Any]:
        publishers = {}
        for topic, type_name in sorted(self._playlist.types.items()):
            message_type = message_class(type_name)
            if message_type is not None:
                publishers[topic] = node.create_publisher(message_type, topic, self._qos(topic))
            elif type_name not in self.report.skipped:
                self.report.skipped.append(type_name)
        if not publishers:
            missing = ", ".join(self.report.skipped) or "no topic at all"
            raise BagError(f"nothing in the bag can be published: {missing}.", "Install the message packages.")
        return publishers

    def _qos(self, topic: str) -> QoSProfile:
        latched = topic in self._playlist.latched
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=100 if latched else 10,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _wait_for_subscribers(self) -> None:
        """Wait for the required subscribers, and until none has been discovered for `_DISCOVERY_QUIET_S` seconds."""
        needed = [self._publishers[topic] for topic in self._options.listeners]
        deadline = time.monotonic() + self._options.wait
        seen, since = 0, time.monotonic()
        while time.monotonic() < deadline and not self._stop.wait(0.05):
            count = sum(publisher.get_subscription_count() for publisher in self._publishers.values())
            if count != seen:
                seen, since = count, time.monotonic()
            complete = all(publisher.get_subscription_count() for publisher in needed)
            if seen and complete and time.monotonic() - since > _DISCOVERY_QUIET_S:
                return

    def _when_due(self) -> Iterator[Message]:
        """Yield every message when it is due; read the next `_READ_AHEAD_NS` nanoseconds in advance."""
        source = self._playlist.stream(self._options.loop)
        read_ahead: deque[Message] = deque()
        for message in source:
            read_ahead.append(message)
            while read_ahead and (message.offset - self._now() > _READ_AHEAD_NS or read_ahead[0].offset <= self._now()):
                if not self._sleep_until(read_ahead[0]):
                    return
                yield read_ahead.popleft()
        while read_ahead and self._sleep_until(read_ahead[0]):
            yield read_ahead.popleft()

    def _now(self) -> int:
        """Return the position in the stream in nanoseconds."""
        return round((time.monotonic_ns() - self._start) * self._options.rate)

    def _sleep_until(self, message: Message) -> bool:
        """Sleep until the message is due and publish /clock if enabled; return False once stopped."""
        while (left := (message.offset - self._now()) / self._options.rate) > 0 and not self._stop.is_set():
            if self._clock:
                left = min(left, _CLOCK_PERIOD_NS)
                self._clock.publish(_clock(self._now() + message.origin))
            self._stop.wait(left / NANOSECONDS)
        self.report.max_delay = max(self.report.max_delay, -left / NANOSECONDS)
        return not self._stop.is_set()

    def _publish(self, message: Message) -> None:
        publisher = self._publishers.get(message.topic)
        if publisher is None:
            return
        seconds = message.offset / NANOSECONDS
        if any(outage.suppresses(message.topic, seconds) for outage in self._options.outages):
            self.report.dropped[message.topic] += 1
            return
        publisher.publish(message.raw if self._clock else message.restamp(message.raw, self._shift(message)))
        self.report.published[message.topic] += 1

    def _shift(self, message: Message) -> Callable[[int], int]:
        begin = self.report.start or time.time_ns()
        if self._options.rate == 1.0:
            return lambda stamp: stamp - message.origin + begin
        return lambda stamp: round((stamp - message.origin) / self._options.rate) + begin


def play(
    playlist: Playlist,
    options: PlayOptions,
    on_start: Callable[[PlayReport], None] = lambda report: None,
    progress: Callable[[float], None] = lambda seconds: None,
) -> PlayReport:
    """Create a node, play bags until the end or a signal, and close them.

    Args:
        playlist: bags to play.
        options: options of the playback.
        on_start, progress: see `Player.play`.

    Raises:
        BagError: no topic has an installed message type, or a bag is damaged; messages before the damage were played.
        ConfigError: a drop or a listener matches no topic.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("mlesam_player")
    try:
        player = Player(node, playlist, options)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: player.stop())
        return player.play(on_start, progress)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
        playlist.close()


def _clock(time: int) -> Clock:
    seconds, nanoseconds = divmod(time, NANOSECONDS)
    return Clock(clock=Time(sec=seconds, nanosec=nanoseconds))
