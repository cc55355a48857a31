"""One sensor's subscription: finds out what its publisher sends, reads each message, remembers how it is doing."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from itertools import islice, pairwise
from statistics import median
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.subscription import Subscription

from mlesam_ros.bags.serialization import deserialize
from mlesam_ros.config import AUTO, SensorParameters, frame_reader
from mlesam_ros.errors import Problem, format_error
from mlesam_ros.messages import MESSAGE_TYPES, RAW_TYPES, FrameReader, type_problem
from mlesam_ros.preprocessing.settings import Found
from mlesam_ros.ros.compat import SimpleFilter, message_class, subscribe
from mlesam_ros.sync import BoundedCounter
from mlesam_ros.types import EVENT, LIDAR, NANOSECONDS, Modality, SensorFrame

# The newest image is all that counts; an event packet that is skipped is lost for the window and for the decoder, and a
# piece of a sweep for the turn.
_DEPTH = {EVENT: 64, LIDAR: 32}
_ARRIVALS = 32
_SWITCHES = 2  # from one publisher to another among the last arrivals; a driver that starts again makes one
_DELAYS = 7  # few, so that a change shows within a second
_RECEIPTS = 4096  # more than the synchronizer lets wait
_INSTALL = "Install it where the node runs, or source the workspace that has it before starting the node."


def queue_depth(modality: Modality) -> int:
    """How many messages of a sensor wait at most."""
    return _DEPTH.get(modality, 1)


class SensorSubscriber(SimpleFilter):
    """A filter whose output are the `SensorFrame`s of one sensor. It listens from the first `poll` on.

    Args:
        node: who listens.
        modality: which sensor.
        sensor: its parameters.
        depth: messages that wait at most; 0 for those that a mask has use for.
        bind: gives each frame its lens and frame_id when it comes; see `RigBuilder.bind`.
        event_window: seconds of events where the parameters leave it open, as the checkpoint was trained.

    Attributes:
        modality: which sensor.
        topic: the resolved topic.
        type_name: the message type that is subscribed to; None as long as nobody publishes one that can be read.
        received: messages that arrived.
        lost: messages that the transport lost on the way, as far as the middleware tells.
        refusals: why messages could not be read → how many.
        obstacle: what stands between publisher and subscription; None when nothing is known to.
        opened: `time.monotonic()` at which listening began.
        frame_id: the TF frame of its newest frame; empty before the first.
    """

    def __init__(
        self,
        node: Node,
        modality: Modality,
        sensor: SensorParameters,
        depth: int = 0,
        bind: Callable[[SensorFrame], SensorFrame] = lambda frame: frame,
        event_window: float = 0.0,
    ) -> None:
        super().__init__()
        self._bind, self._event_window = bind, event_window
        self._depth = depth or queue_depth(modality)
        self._node = node
        self._sensor = sensor
        self._subscription: Subscription[Any] | None = None
        self._reader: FrameReader | None = None
        self._arrivals: deque[float] = deque(maxlen=_ARRIVALS)
        self._senders: deque[bytes] = deque(maxlen=_ARRIVALS)  # endpoints, as far as the middleware names them
        self._receipts: OrderedDict[int, int] = OrderedDict()  # a frame's time → ROS time of its receipt, ns
        self.modality = modality
        self.topic: str = node.resolve_topic_name(sensor.topic)
        self.type_name: str | None = None
        self.received = 0
        self.lost = 0
        self.refusals = BoundedCounter()
        self.obstacle: Problem | None = None
        self.opened = time.monotonic()
        self.frame_id = sensor.frame_id

    @property
    def publishers(self) -> int:
        """How many publish on the topic, whatever they send."""
        return int(self._node.count_publishers(self.topic))

    @property
    def rivals(self) -> list[str]:
        """Nodes of the publishers whose messages take turns on the topic; none where one alone sends.

        Before Kilted a message does not tell its publisher: there everyone that publishes on the topic counts.
        """
        senders, infos = list(self._senders), self._node.get_publishers_info_by_topic(self.topic)
        if not senders:
            several = self.received and len(infos) > 1
            return sorted(f"{i.node_namespace.rstrip('/')}/{i.node_name}" for i in infos) if several else []
        if sum(one != other for one, other in pairwise(senders)) < _SWITCHES:
            return []
        known = {bytes(i.endpoint_gid): i for i in infos}
        # A GID of a message is padded or cut, depending on the version of the middleware.
        names = [next((i for gid, i in known.items() if gid[:16] == sender[:16]), None) for sender in {*senders}]
        return sorted(f"{i.node_namespace.rstrip('/')}/{i.node_name}" if i else "an unknown node" for i in names)

    @property
    def silence(self) -> float:
        """Seconds since the newest message, or since listening began."""
        return time.monotonic() - (self._arrivals[-1] if self._arrivals else self.opened)

    @property
    def rate(self) -> float:
        """Messages per second over the last few; 0 before the second one."""
        if len(self._arrivals) < 2:
            return 0.0
        return (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-9)

    @property
    def delay(self) -> float | None:
        """Seconds of ROS time from a frame's time to its receipt, median of the last few; None before the first."""
        delays = [received - time for time, received in islice(reversed(self._receipts.items()), _DELAYS)]
        return median(delays) / NANOSECONDS if delays else None

    def received_at(self, time: int) -> int | None:
        """ROS time in nanoseconds at which the frame of that time was received; None where that is forgotten."""
        return self._receipts.get(time)

    @property
    def found(self) -> dict[str, Found]:
        """What its data turned out to be; see `FrameReader.found`."""
        return self._reader.found if self._reader is not None else {}

    @property
    def decoded(self) -> dict[str, int]:
        """What the decoder of an event camera counted; empty for other sensors."""
        return self._reader.counters if self._reader is not None else {}

    def poll(self) -> None:
        """Look at what the topic's publishers send and subscribe to it. Call it now and then."""
        wanted = self._wanted_type()
        if wanted is None or wanted == self.type_name:
            return
        message = message_class(wanted)
        if message is None:
            package = wanted.partition("/")[0]
            self.obstacle = Problem(f"messages are {wanted}, but package {package} is not installed here", _INSTALL)
            return
        self.close()
        self.obstacle = None
        try:
            self._open(wanted, message)
        except Exception as error:  # an override that makes no sense, another type under this name in this process
            self.obstacle = format_error(error)

    def _open(self, type_name: str, message: type) -> None:
        self._reader = frame_reader(self._sensor, self.modality, type_name, self._event_window)
        keep = HistoryPolicy.KEEP_LAST
        qos = QoSProfile(history=keep, depth=self._depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        topic = self._sensor.topic
        told = self._on_incompatible, self._on_lost
        self._subscription = subscribe(self._node, message, topic, self._receive, qos, *told, raw=True)
        self.type_name = type_name

    def close(self) -> None:
        """Stop listening."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = None
        self.type_name = None

    def _wanted_type(self) -> str | None:
        """The type to subscribe to; None to leave things as they are."""
        offered = {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}
        if not offered or self.type_name in offered:
            return None if self._sensor.type == AUTO else self._sensor.type
        accepted = MESSAGE_TYPES[self.modality] if self._sensor.type == AUTO else (self._sensor.type,)
        found = [name for name in accepted if name in offered]
        if not found:
            self.obstacle = type_problem(f"{self.modality}.topic", offered, accepted)
            return None
        return found[0]

    def _receive(self, raw: bytes, info: Mapping[str, Any]) -> None:
        """Read a message and whatever else waits, so that a queue never stands in front of a busy executor."""
        self._read(raw, info)
        subscription = self._subscription
        for _ in range(self._depth - 1):
            taken = subscription and subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if not taken:
                return
            self._read(*taken)

    def _read(self, raw: bytes, info: Mapping[str, Any]) -> None:
        assert self._reader is not None
        self._arrivals.append(time.monotonic())
        if sender := info.get("publisher_gid"):
            self._senders.append(bytes(sender["data"]))
        self.received += 1
        self.obstacle = None
        try:
            kind = self._reader.type_name
            frame = self._reader.read(raw if kind in RAW_TYPES else deserialize(raw, kind))
        except Exception as error:  # whatever is in a message, the node lives on
            self.refusals.count(format_error(error))
            return
        self._receipts[frame.time] = self._receive_time(info)
        if len(self._receipts) > _RECEIPTS:
            self._receipts.popitem(last=False)
        frame = self._bind(frame)
        self.frame_id = frame.frame_id
        self.signalMessage(frame)

    def _receive_time(self, info: Mapping[str, Any]) -> int:
        """When the transport had the message, which a busy executor reads later; simulated time knows only now."""
        clock = self._node.get_clock()
        now, noted = int(clock.now().nanoseconds), info.get("received_timestamp", 0)
        return noted if 0 < noted < now and not clock.ros_time_is_active else now

    def _on_incompatible(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        override = f"qos_overrides.{self.topic}.subscription.{policy}"
        self.obstacle = Problem(f"QoS incompatible: {policy}", f"Match the publisher's with {override}.")

    def _on_lost(self, event: Any) -> None:
        self.lost += event.total_count_change
