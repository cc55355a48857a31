"""Someone who speaks: publishes serialized messages, the counterpart of `Observer`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions

from mlesam_ros.errors import ConfigError
from mlesam_ros.ros.compat.interfaces import message_class


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
