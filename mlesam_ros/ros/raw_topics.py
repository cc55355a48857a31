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
    """Reliable publishers in a process of their own; nothing is packed here."""

    def __init__(self, types: Mapping[str, str], latched: Collection[str] = (), depth: int = 10) -> None:
        """Join the graph.

        Args:
            types: topic → type, such as `sensor_msgs/msg/Image`.
            latched: the topics that late listeners hear as well (transient local).
            depth: messages that are kept for listeners who are busy.

        Raises:
            ConfigError: a type's package is not installed.
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
        """Leave the graph."""
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def publish(self, topic: str, raw: bytes) -> None:
        """Publish a message.

        Args:
            topic: one of the announced ones.
            raw: CDR with encapsulation.
        """
        self._publishers[topic].publish(raw)

    def has_subscribers(self, topic: str) -> bool:
        """Whether somebody listens to a topic."""
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
    """Listens from a process of its own.

    Nothing is unpacked here, and the moment of arrival is the transport's, so what the listener does with a message
    does not count as latency. It must still return soon: the queues hold a few seconds.
    """

    def __init__(self, ear: MessageCallback) -> None:
        """Join the graph, listening to nothing yet.

        Args:
            ear: gets every message, in this thread, from within `hear`.
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
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def listen(self, topic: str, type_name: str, latched: bool = False, reliable: bool = True, depth: int = 30) -> None:
        """Begin to hear a topic; nothing happens when it is heard already.

        Args:
            topic: absolute name.
            type_name: such as `sensor_msgs/msg/Image`.
            latched: also hear what was said before (transient local).
            reliable: ask for what got lost; the publisher must offer it.
            depth: messages kept while the listener is busy.

        Raises:
            ConfigError: the type's package is not installed.
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
        """Stop hearing some topics."""
        for topic in topics:
            subscription = self._subscriptions.pop(topic, None)
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def hear(self, seconds: float) -> None:
        """Hand on what arrives during this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def lifecycle_state(self, node: str, max_wait: float = 1.0) -> str:
        """How a lifecycle node describes its state, such as `active`; empty when it does not answer in time.

        Args:
            node: absolute name, such as `/mlesam`.
            max_wait: seconds to wait for the answer.
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
