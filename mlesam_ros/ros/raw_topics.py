"""Publishers and subscribers of serialized messages of any type."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription

from mlesam_ros.errors import ConfigError
from mlesam_ros.ros.compat import message_class


class RawPublisher:
    """Reliable publishers of serialized messages, with their own rclpy context."""

    def __init__(self, types: Mapping[str, str], latched: Collection[str] = (), depth: int = 10) -> None:
        """Create the node and its publishers.

        Args:
            types: topic → message type, such as `sensor_msgs/msg/Image`.
            latched: topics with transient-local durability.
            depth: queue depth.

        Raises:
            ConfigError: the package of a message type is not installed.
        """
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("mlesam_loudspeaker", context=self._context)
        self._publishers = {
            topic: self._publisher(topic, type_name, topic in latched, depth) for topic, type_name in types.items()
        }

    def __enter__(self) -> RawPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the node and its context."""
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def publish(self, topic: str, raw: bytes) -> None:
        """Publish a message.

        Args:
            topic: a key of `types`.
            raw: serialized message, CDR with encapsulation.
        """
        self._publishers[topic].publish(raw)

    def has_subscribers(self, topic: str) -> bool:
        """Whether a topic has a subscription."""
        return bool(self._publishers[topic].get_subscription_count())

    def _publisher(self, topic: str, type_name: str, latched: bool, depth: int) -> Any:
        message_type = message_class(type_name)
        if message_type is None:
            raise ConfigError(f"{topic} cannot be published: {type_name} is not installed.", "Install its package.")
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        return self._node.create_publisher(message_type, topic, QoSProfile(depth=depth, durability=durability))


MessageCallback = Callable[[str, int, bytes], None]
"""(topic, host time in nanoseconds at which the message arrived, serialized message)."""


class RawSubscriber:
    """Subscriptions to serialized messages, with their own rclpy context.

    The time of arrival is that of the transport, so that the duration of the callback does not count as latency. The
    callback must still return soon: the queues hold a few seconds.
    """

    def __init__(self, ear: MessageCallback) -> None:
        """Create the node, without subscriptions.

        Args:
            ear: callback for every message, called from within `hear`.
        """
        self._ear = ear
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("mlesam_observer", context=self._context)
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

    def listen(self, topic: str, type_name: str, latched: bool = False, reliable: bool = True, depth: int = 30) -> None:
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
            raise ConfigError(f"{topic} cannot be heard: {type_name} is not installed.", "Install its package.")
        qos = QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

        def hear(raw: bytes, info: dict[str, Any]) -> None:
            self._ear(topic, info["received_timestamp"], raw)

        self._subscriptions[topic] = self._node.create_subscription(message_type, topic, hear, qos, raw=True)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Destroy the subscriptions to some topics."""
        for topic in topics:
            subscription = self._subscriptions.pop(topic, None)
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def hear(self, seconds: float) -> None:
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
        client = self._node.create_client(GetState, f"{node}/get_state")
        try:
            if not client.wait_for_service(max_wait):
                return ""
            answer = client.call_async(GetState.Request())
            self._executor.spin_until_future_complete(answer, max_wait)
            response = answer.result() if answer.done() else None
            return str(response.current_state.label) if response else ""
        finally:
            self._node.destroy_client(client)
