# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to the sensors, and to serialized messages of any topic; names of topics and of their publishers."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import SequenceMatcher
from itertools import islice, pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.clock import ROSClock
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from std_msgs.msg import Header

from mlesam_ros.bags.serialization import deserialize, header
from mlesam_ros.config import AUTO
from mlesam_ros.errors import ConfigError, Problem, format_error
from mlesam_ros.messages import RAW_TYPES, FrameReader, type_problem
from mlesam_ros.parameter_groups import SensorParameters, frame_reader
from mlesam_ros.ros.compat import SimpleFilter, message_class, subscribe, take, with_info
from mlesam_ros.ros.publishers import OUTPUTS, message_from
from mlesam_ros.sync import BoundedCounter
from mlesam_ros.types import CAMERA, EVENT, LIDAR, MESSAGE_TYPES, NANOSECONDS, DetectedProperty, Modality, SensorFrame

if TYPE_CHECKING:
    # rclpy.endpoint_info since rclpy 10.0.2
    from rclpy.topic_endpoint_info import TopicEndpointInfo  # type: ignore[import-not-found]

# Only the newest image is used. A dropped event packet is missing from the window and breaks the decoder, and a dropped
# part of a LiDAR sweep is missing from the sweep.
_QUEUE_DEPTHS = {EVENT: 64, LIDAR: 32}
_RATE_WINDOW = 32
_MIN_PUBLISHER_CHANGES = 2  # changes of publisher among the last arrivals; a restarted driver causes one
_DELAY_WINDOW = 7  # messages in the median; few, so that a change shows within a second
_MAX_RECEIPTS = 4096  # more frames than the synchronizer stores
_INSTALL_REMEDY = "Install it where the node runs, or source the workspace that has it before starting the node."


def endpoint_name(endpoint: TopicEndpointInfo) -> str:
    """Return the full name of the node of a publisher or subscription."""
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def queue_depth(modality: Modality) -> int:
    """Return the queue depth of a sensor's subscription in messages."""
    return _QUEUE_DEPTHS.get(modality, 1)


class StampedFrame(SensorFrame):
    """Frame with a header, as the caches and synchronizers of message_filters require it."""

    __slots__ = ()

    @property
    def header(self) -> Header:
        """The frame's time and TF frame. The driver's stamp is `stamp`."""
        return message_from(Header, header(self.time, self.frame_id))


class SensorSubscriber(SimpleFilter):
    """Filter that emits the `StampedFrame`s of one sensor. The subscription is created by `poll`.

    It does not inherit from `message_filters.Subscriber`, which needs the message type at construction, passes no
    message info and in some releases (PR 226 of message_filters) accepts neither `raw` nor QoS overrides.

    Args:
        node: node that subscribes.
        modality: modality of the sensor.
        sensor: parameters of the sensor.
        depth: queue depth; 0 for the `queue_depth` of the modality.
        bind: adds intrinsics and frame_id to each received frame; see `RigBuilder.bind`.
        event_window: window of events in seconds if the parameters do not set it, as in the checkpoint's training.

    Attributes:
        modality: modality of the sensor.
        topic: resolved topic name.
        type_name: message type of the subscription; None without a publisher of a supported type.
        received: number of received messages.
        lost: number of messages lost in transport, if the middleware reports them.
        refusals: reason why messages could not be read → count.
        problem: problem that prevents reception; None if no problem was detected.
        opened: `time.monotonic()` at construction.
        frame_id: TF frame of the newest frame; before the first, the `frame_id` parameter.
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
        self._arrivals: deque[float] = deque(maxlen=_RATE_WINDOW)
        self._senders: deque[bytes] = deque(maxlen=_RATE_WINDOW)  # GIDs, if the middleware has them
        self._receipts: OrderedDict[int, int] = OrderedDict()  # time of a frame → ROS time of its receipt, ns
        self.modality = modality
        self.topic: str = node.resolve_topic_name(sensor.topic)
        self.type_name: str | None = None
        self.received = 0
        self.lost = 0
        self.refusals = BoundedCounter()
        self.problem: Problem | None = None
        self.opened = time.monotonic()
        self.frame_id = sensor.frame_id

    @property
    def publishers(self) -> int:
        """Number of publishers on the topic, of any message type."""
        return int(self._node.count_publishers(self.topic))

    @property
    def competing_publishers(self) -> list[str]:
        """Nodes of several publishers whose messages alternate on the topic; empty for a single publisher.

        Before Kilted messages do not identify their publisher, so that all publishers on the topic are returned.
        """
        senders, infos = list(self._senders), self._node.get_publishers_info_by_topic(self.topic)
        if not senders:
            several = self.received and len(infos) > 1
            return sorted(map(endpoint_name, infos)) if several else []
        if sum(one != other for one, other in pairwise(senders)) < _MIN_PUBLISHER_CHANGES:
            return []
        known = {bytes(i.endpoint_gid): i for i in infos}
        # The middleware pads or truncates the GID of a message, depending on its version.
        names = [next((i for gid, i in known.items() if gid[:16] == sender[:16]), None) for sender in {*senders}]
        return sorted(endpoint_name(i) if i else "an unknown node" for i in names)

    @property
    def silence(self) -> float:
        """Seconds since the newest message, or since construction."""
        return time.monotonic() - (self._arrivals[-1] if self._arrivals else self.opened)

    @property
    def rate(self) -> float:
        """Messages per second over the last few; 0 before the second."""
        if len(self._arrivals) < 2:
            return 0.0
        return (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-9)

    @property
    def delay(self) -> float | None:
        """Median of the last few delays from a frame's time to its receipt, in s of ROS time; None before the first."""
        delays = [received - time for time, received in islice(reversed(self._receipts.items()), _DELAY_WINDOW)]
        return median(delays) / NANOSECONDS if delays else None

    def received_at(self, time: int) -> int | None:
        """Return the ROS time in ns at which the frame with this time was received; None if no longer stored."""
        return self._receipts.get(time)

    @property
    def found(self) -> dict[str, DetectedProperty]:
        """Properties detected in the data; see `FrameReader.found`."""
        return self._reader.found if self._reader is not None else {}

    @property
    def decoded(self) -> dict[str, int]:
        """Counters of an event camera's decoder; empty for other sensors."""
        return self._reader.counters if self._reader is not None else {}

    def poll(self) -> None:
        """Subscribe with the message type of the topic's publishers. To be called periodically."""
        wanted = self._wanted_type()
        if wanted is None or wanted == self.type_name:
            return
        message = message_class(wanted)
        if message is None:
            package = wanted.partition("/")[0]
            self.problem = Problem(
                f"messages are {wanted}, but package {package} is not installed here", _INSTALL_REMEDY
            )
            return
        self.close()
        self.problem = None
        try:
            self._open(wanted, message)
        except Exception as error:  # an invalid QoS override, or another type on this topic in this process
            self.problem = format_error(error)

    def _open(self, type_name: str, message: type) -> None:
        self._reader = frame_reader(self._sensor, self.modality, type_name, self._event_window)
        self._reader.frame_type = StampedFrame
        keep = HistoryPolicy.KEEP_LAST
        qos = QoSProfile(history=keep, depth=self._depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        topic = self._sensor.topic
        callbacks = self._on_incompatible, self._on_lost
        self._subscription = subscribe(self._node, message, topic, self._receive, qos, *callbacks, raw=True)
        self.type_name = type_name

    def close(self) -> None:
        """Destroy the subscription."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = None
        self.type_name = None

    def _wanted_type(self) -> str | None:
        """Return the message type to subscribe to; None for no change."""
        offered = {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}
        if not offered or self.type_name in offered:
            return None if self._sensor.type == AUTO else self._sensor.type
        accepted = MESSAGE_TYPES[self.modality] if self._sensor.type == AUTO else (self._sensor.type,)
        found = [name for name in accepted if name in offered]
        if not found:
            self.problem = type_problem(f"{self.modality}.topic", offered, accepted)
            return None
        return found[0]

    def _receive(self, raw: bytes, info: Mapping[str, Any]) -> None:
        """Read a message and all others in the queue, so that a busy executor does not cause an overflow."""
        self._read(raw, info)
        for _ in range(self._depth - 1):
            taken = take(self._subscription) if self._subscription is not None else None
            if taken is None:
                return
            self._read(*taken)

    def _read(self, raw: bytes, info: Mapping[str, Any]) -> None:
        assert self._reader is not None
        self._arrivals.append(time.monotonic())
        if sender := info.get("publisher_gid"):
            self._senders.append(bytes(sender["data"]))
        self.received += 1
        self.problem = None
        try:
            type_name = self._reader.type_name
            frame = self._reader.read(raw if type_name in RAW_TYPES else deserialize(raw, type_name))
        except Exception as error:  # an invalid message must not stop the node
            self.refusals.count(format_error(error))
            return
        self._receipts[frame.time] = self._receive_time(info)
        if len(self._receipts) > _MAX_RECEIPTS:
            self._receipts.popitem(last=False)
        frame = self._bind(frame)
        self.frame_id = frame.frame_id
        self.signalMessage(frame)

    def _receive_time(self, info: Mapping[str, Any]) -> int:
        """Return the time of receipt in ns: that of the transport, or with simulated time the current one."""
        clock = self._node.get_clock()
        now, noted = int(clock.now().nanoseconds), info.get("received_timestamp", 0)
        simulated = isinstance(clock, ROSClock) and clock.ros_time_is_active
        return noted if 0 < noted < now and not simulated else now

    def _on_incompatible(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        override = f"qos_overrides.{self.topic}.subscription.{policy}"
        self.problem = Problem(f"QoS incompatible: {policy}", f"Match the publisher's with {override}.")

    def _on_lost(self, event: Any) -> None:
        self.lost += event.total_count_change


_MAX_SUGGESTIONS = 3


def suggest_topics(node: Node, modality: Modality, topic: str, taken: Collection[str]) -> list[str]:
    """Suggest topics of the graph for a sensor.

    Args:
        node: node that queries the graph.
        modality: modality of the sensor.
        topic: configured topic of the sensor.
        taken: topics of other sensors.

    Returns:
        at most three topics that have a publisher and a message type of the modality, except outputs of a perception
        node, the most similar name first.
    """
    images = MESSAGE_TYPES[CAMERA] if modality == EVENT else ()  # images of events are possible, but rare
    types = {*MESSAGE_TYPES[modality]} - {*images}
    found = [
        name
        for name, offered in node.get_topic_names_and_types()
        if types & {*offered}
        and name not in taken
        and not name.endswith(tuple(f"/{output}" for output in OUTPUTS))
        and node.count_publishers(name)
    ]
    return sorted(found, key=lambda name: -SequenceMatcher(None, topic, name).ratio())[:_MAX_SUGGESTIONS]


MessageCallback = Callable[[str, int, bytes], None]
"""(topic, host time in nanoseconds at which the message arrived, serialized message)."""


class RawSubscriber:
    """Subscriptions to serialized messages, with their own rclpy context.

    The time of arrival is that of the transport, so that the duration of the callback does not count as latency. The
    callback must still return soon: the queues hold a few seconds.
    """

    def __init__(self, callback: MessageCallback) -> None:
        """Create the node, without subscriptions.

        Args:
            callback: callback for every message, called from within `spin_for`.
        """
        self._callback = callback
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("mlesam_raw_subscriber", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._subscriptions: dict[str, Subscription[Any]] = {}

    def __enter__(self) -> RawSubscriber:
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the node, its executor and its context."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def subscribe(
        self, topic: str, type_name: str, latched: bool = False, reliable: bool = True, depth: int = 30
    ) -> None:
        """Subscribe to a topic, unless there is a subscription already.

        Args:
            topic: absolute topic name.
            type_name: message type, such as `sensor_msgs/msg/Image`.
            latched: request transient-local durability, to receive earlier messages.
            reliable: request reliable instead of best-effort delivery; the publisher must offer it.
            depth: queue depth.

        Raises:
            ConfigError: the package of the message type is not installed.
        """
        if topic in self._subscriptions:
            return
        message_type = message_class(type_name)
        if message_type is None:
            raise ConfigError(f"{topic} cannot be subscribed: {type_name} is not installed.", "Install its package.")
        qos = QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

        def receive(raw: bytes, info: Mapping[str, Any]) -> None:
            self._callback(topic, info["received_timestamp"], raw)

        self._subscriptions[topic] = self._node.create_subscription(
            message_type, topic, with_info(receive), qos, raw=True
        )

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Destroy the subscriptions to some topics."""
        for topic in topics:
            subscription = self._subscriptions.pop(topic, None)
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def spin_for(self, seconds: float) -> None:
        """Spin for some seconds and pass received messages to the callback."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def lifecycle_state(self, node: str, max_wait: float = 1.0) -> str:
        """Return the lifecycle state of a node, such as `active`; empty without a response in time.

        Args:
            node: absolute name, such as `/mlesam`.
            max_wait: seconds to wait for the service, and again for its response.
        """
        response = call_service(self._node, self._executor, GetState, f"{node}/get_state", GetState.Request(), max_wait)
        return str(response.current_state.label) if response else ""


def call_service(
    node: Node, executor: SingleThreadedExecutor, service_type: Any, name: str, request: Any, timeout: float
) -> Any:
    """Call a service and return its response; None without a response in time.

    Args:
        node: node that calls.
        executor: executor that spins `node`.
        service_type: service class.
        name: full name of the service.
        request: the request.
        timeout: seconds to wait for the service, and again for its response.
    """
    client = node.create_client(service_type, name)
    try:
        if not client.wait_for_service(timeout):
            return None
        response = client.call_async(request)
        executor.spin_until_future_complete(response, timeout)
        return response.result() if response.done() else None
    finally:
        node.destroy_client(client)
