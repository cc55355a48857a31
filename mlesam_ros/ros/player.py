"""Play a bag onto ROS topics with new timestamps."""

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

from mlesam_ros.bags.outage import Outage
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import BagError, ConfigError
from mlesam_ros.messages import FrameReader, stamp_ns
from mlesam_ros.preprocessing.point_cloud import move_times
from mlesam_ros.preprocessing.settings import Preprocessing
from mlesam_ros.ros.compat import message_class
from mlesam_ros.types import AUTO, LIDAR, NANOSECONDS, PointCloud

Shift = Callable[[int], int]
"""Old stamp in nanoseconds → new stamp in nanoseconds."""
Restamper = Callable[[bytes, Shift], bytes]

_HEADER = "std_msgs/msg/Header"
_TRANSFORMS = "tf2_msgs/msg/TFMessage"
_CLOUD = "sensor_msgs/msg/PointCloud2"
_STAMP_START, _STAMP_END = 4, 12


def restamper(typestore: Typestore, type_name: str, time_unit: str = AUTO) -> Restamper:
    """The cheapest way to move messages of one type.

    A message that begins with a header has its stamp right after the four bytes of CDR encapsulation, whatever follows,
    so eight bytes are replaced and megabytes of pixels are never looked at. Transforms are unpacked: they are small,
    and every one of them has a stamp of its own. So are point clouds, whose points may have times that count from the
    stamp's epoch. Other types have no stamp and stay as they are, and so does what cannot be moved.

    Args:
        typestore: knows the type.
        type_name: such as `sensor_msgs/msg/Image`.
        time_unit: of the times of a cloud's points, as parameter `lidar.time_unit`.
    """
    if type_name == _TRANSFORMS:
        return _Transforms(typestore)
    if type_name == _CLOUD:
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
            return raw  # "no time", as latched messages say it; it must stay recognizable
        stamp = struct.pack(layout, *divmod(shift(seconds * NANOSECONDS + nanoseconds), NANOSECONDS))
    except struct.error:
        return raw  # too short, or a stamp that no header can hold
    return b"".join((raw[:_STAMP_START], stamp, raw[_STAMP_END:]))


class _Clouds:
    """Moves a PointCloud2 and the absolute times of its points."""

    def __init__(self, typestore: Typestore, time_unit: str) -> None:
        self._typestore = typestore
        self._reader = FrameReader(LIDAR, _CLOUD, Preprocessing(gather=0.0, time_unit=time_unit))

    def __call__(self, raw: bytes, shift: Shift) -> bytes:
        moved = _patch_header(raw, shift)
        if moved is raw:
            return raw
        try:
            return self._with_times(raw, shift) or moved
        except Exception:  # whatever the bytes are, the message is played; its reader says what is wrong with it
            return moved

    def _with_times(self, raw: bytes, shift: Shift) -> bytes:
        """The message with stamp and points moved; empty where no point's time counts from the epoch."""
        message: Any = self._typestore.deserialize_cdr(raw, _CLOUD)
        old = stamp_ns(message.header)
        message.data = message.data.copy()
        cloud = self._reader.read(message).payload
        assert isinstance(cloud, PointCloud)
        if not move_times(cloud, old, shift(old) - old):
            return b""
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = divmod(shift(old), NANOSECONDS)
        return bytes(self._typestore.serialize_cdr(message, _CLOUD, little_endian=bool(raw[1] & 1)))


class _Transforms:
    """Moves every transform of a TFMessage."""

    def __init__(self, typestore: Typestore) -> None:
        self._typestore = typestore

    def __call__(self, raw: bytes, shift: Shift) -> bytes:
        try:
            message: Any = self._typestore.deserialize_cdr(raw, _TRANSFORMS)
            for transform in message.transforms:
                stamp = transform.header.stamp
                old = stamp.sec * NANOSECONDS + stamp.nanosec
                if old:
                    stamp.sec, stamp.nanosec = divmod(shift(old), NANOSECONDS)
            return bytes(self._typestore.serialize_cdr(message, _TRANSFORMS))
        except Exception:  # whatever the bytes are, the message is played; its reader says what is wrong with it
            return raw


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
            for topic, recorded, raw, restamp in self._read(reader, latched=True):
                yield Message(topic, raw, 0, recorded, restamp)

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
                for topic, recorded, raw, restamp in self._read(reader, latched=False, topics=topics):
                    yield Message(topic, raw, recorded - origin, origin, restamp)
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
        for topic, _, recorded, raw in reader.raw_messages(wanted):
            yield topic, recorded, raw, restampers[topic]

    def _time_unit(self, topic: str) -> str:
        """The unit of the times of points on a topic."""
        parameters, lidar = self._parameters, self._parameters.lidar
        others = "lidar.topic" in parameters.given and parameters.resolve(lidar.topic) != topic
        return AUTO if others else lidar.time_unit


_CLOCK_PERIOD = NANOSECONDS // 100
_READ_AHEAD = NANOSECONDS // 4
_LINGER = 0.2  # s for the last messages to get across before their publisher disappears
_SETTLED = 0.5  # s without a new subscriber after which everyone is taken to have been found


@dataclass(frozen=True)
class PlayOptions:
    """How to play.

    Attributes:
        rate: speed, 1 is real time.
        loop: start again at the end, until stopped.
        clock: keep the recorded stamps and publish /clock, for nodes with `use_sim_time`; otherwise everything is
            stamped as if it happened now.
        drops: sensors that fall silent on the way.
        wait: seconds to wait at most for subscribers before starting.
        listeners: topics that somebody must listen to before it starts; any topic by default.
    """

    rate: float = 1.0
    loop: bool = False
    clock: bool = False
    drops: tuple[Outage, ...] = ()
    wait: float = 5.0
    listeners: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a rate at which nothing moves.

        Raises:
            ConfigError: the rate is not above 0.
        """
        if not self.rate > 0:
            raise ConfigError(f"rate {self.rate} does not play.", "Give a number above 0, such as 0.5.")


@dataclass
class PlayReport:
    """What was played.

    Attributes:
        start: ROS time in nanoseconds at which the playback began.
        seconds: how long it lasted.
        published, dropped: topic → messages sent, messages withheld on schedule.
        skipped: types that this machine cannot publish because their package is missing.
        warnings: what is wrong with the bags and was got round.
        latest: seconds by which the most belated message missed its moment.
    """

    start: int = 0
    seconds: float = 0.0
    published: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    latest: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, keys as documented in `docs/results.md`."""
        return {
            "start_ns": self.start,
            "seconds": self.seconds,
            "published": dict(self.published),
            "dropped": dict(self.dropped),
            "skipped": self.skipped,
            "warnings": self.warnings,
            "latest_ms": self.latest * 1e3,
        }


class Player:
    """Publishes a playlist; serialized messages are passed on as they are, with eight bytes of stamp replaced."""

    def __init__(self, node: rclpy.node.Node, playlist: Playlist, options: PlayOptions) -> None:
        """Create a publisher per topic.

        Raises:
            BagError: not one of the topics has a type that this machine knows.
            ConfigError: a drop or a listener concerns none of the topics.
        """
        self._playlist = playlist
        self._options = options
        self._stop = threading.Event()
        self.report = PlayReport(warnings=playlist.warnings)
        self._publishers = self._advertise(node)
        self._clock = node.create_publisher(Clock, "/clock", 10) if options.clock else None
        self._start = 0  # on the monotonic clock
        self._clock_due = 0
        for drop in options.drops:
            if not any(drop.matches(topic) for topic in self._publishers):
                raise ConfigError(f"drop {drop.target} concerns no topic; there are {', '.join(self._publishers)}.")
        for topic in options.listeners:
            if topic not in self._publishers:
                raise ConfigError(f"nobody can listen to {topic}; there are {', '.join(self._publishers)}.")

    def stop(self) -> None:
        """End the playback; safe from a signal handler and from other threads."""
        self._stop.set()

    def play(
        self,
        begun: Callable[[PlayReport], None] = lambda report: None,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> PlayReport:
        """Play to the end, or until stopped.

        Args:
            begun: called once, when the first message is about to go out.
            progress: told after every message how many seconds of the recordings have been played.
        """
        for message in self._playlist.once():
            self._publish(message)
        self._wait_for_subscribers()
        self._start = time.monotonic_ns()
        self.report.start = time.time_ns()
        begun(self.report)
        for message in self._when_due():
            self._publish(message)
            progress(message.offset / NANOSECONDS)
        self.report.seconds = (time.monotonic_ns() - self._start) / NANOSECONDS
        self.report.warnings = self._playlist.warnings
        self._stop.wait(_LINGER)
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=_LINGER))
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
        """Until those are there who must be, and for half a second nobody new has come."""
        needed = [self._publishers[topic] for topic in self._options.listeners]
        deadline = time.monotonic() + self._options.wait
        seen, since = 0, time.monotonic()
        while time.monotonic() < deadline and not self._stop.wait(0.05):
            count = sum(publisher.get_subscription_count() for publisher in self._publishers.values())
            if count != seen:
                seen, since = count, time.monotonic()
            complete = all(publisher.get_subscription_count() for publisher in needed)
            if seen and complete and time.monotonic() - since > _SETTLED:
                return

    def _when_due(self) -> Iterator[Message]:
        """Every message at its moment; the next quarter of a second is read meanwhile, so reading delays nobody."""
        source = self._playlist.stream(self._options.loop)
        ahead: deque[Message] = deque()
        for message in source:
            ahead.append(message)
            while ahead and (message.offset - self._now() > _READ_AHEAD or ahead[0].offset <= self._now()):
                if not self._sleep_until(ahead[0]):
                    return
                yield ahead.popleft()
        while ahead and self._sleep_until(ahead[0]):
            yield ahead.popleft()

    def _now(self) -> int:
        """Nanoseconds of the stream that have passed."""
        return round((time.monotonic_ns() - self._start) * self._options.rate)

    def _sleep_until(self, message: Message) -> bool:
        """Sleep until it is due, ticking the clock if there is one; false once stopped."""
        while (left := (message.offset - self._now()) / self._options.rate) > 0 and not self._stop.is_set():
            if self._clock:
                left = min(left, _CLOCK_PERIOD)
                self._clock.publish(_clock(self._now() + message.origin))
            self._stop.wait(left / NANOSECONDS)
        self.report.latest = max(self.report.latest, -left / NANOSECONDS)
        return not self._stop.is_set()

    def _publish(self, message: Message) -> None:
        publisher = self._publishers.get(message.topic)
        if publisher is None:
            return
        seconds = message.offset / NANOSECONDS
        if any(drop.suppresses(message.topic, seconds) for drop in self._options.drops):
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
    begun: Callable[[PlayReport], None] = lambda report: None,
    progress: Callable[[float], None] = lambda seconds: None,
) -> PlayReport:
    """Play bags from a process of their own, until the end or a signal; closes them.

    Args:
        playlist: what.
        options: how.
        begun, progress: see `Player.play`.

    Raises:
        BagError: nothing in the bags can be published here, or they are damaged; what came before has been played.
        ConfigError: a drop or a listener concerns no topic.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("mlesam_player")
    try:
        player = Player(node, playlist, options)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: player.stop())
        return player.play(begun, progress)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
        playlist.close()


def _clock(time: int) -> Clock:
    seconds, nanoseconds = divmod(time, NANOSECONDS)
    return Clock(clock=Time(sec=seconds, nanosec=nanoseconds))
