# SPDX-License-Identifier: Apache-2.0
"""Differences between ROS 2 distributions and optional message packages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import (  # type: ignore[import-not-found]
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import (  # type: ignore[import-not-found,no-redef]
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )


InfoCallback = Callable[[Any, Mapping[str, Any]], None]
"""Called with a message and its info from the middleware, such as `received_timestamp`."""


def with_info(callback: InfoCallback) -> Callable[..., None]:
    """Adapt a callback to what rclpy passes: message and info, or before rclpy 3.4 (Humble) the message alone.

    The time of receipt is then that of the call, and no publisher is identified.
    """
    if hasattr(Subscription, "CallbackType"):
        return callback
    return lambda message: callback(message, {"received_timestamp": time.time_ns()})


def take(subscription: Subscription[Any]) -> tuple[Any, Mapping[str, Any]] | None:
    """Take the next message from the queue, with the info that `with_info` gives the callback; None if it is empty."""
    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
    if taken is None or hasattr(Subscription, "CallbackType"):
        return taken
    return taken[0], {"received_timestamp": time.time_ns()}


def subscribe(
    node: Node,
    message: type,
    topic: str,
    callback: InfoCallback,
    qos: QoSProfile,
    on_incompatible: Callable[[Any], None],
    on_lost: Callable[[Any], None],
    raw: bool = False,
) -> Subscription[Any]:
    """Create a subscription with overridable QoS.

    Args:
        node: node that subscribes.
        message: message class.
        topic: topic name, relative or absolute.
        callback: called with each message and its info; see `with_info`.
        qos: QoS profile; `qos_overrides.<topic>.subscription.*` take precedence.
        on_incompatible: called with the event of a publisher with incompatible QoS, if the middleware supports it.
        on_lost: called with the event of lost messages, if the middleware supports it.
        raw: pass serialized bytes instead of messages.
    """
    options = QoSOverridingOptions.with_default_policies()
    adapted = with_info(callback)
    create = partial(node.create_subscription, message, topic, adapted, qos, qos_overriding_options=options, raw=raw)
    for events in (
        {"incompatible_qos": on_incompatible, "message_lost": on_lost},
        {"incompatible_qos": on_incompatible},
    ):
        try:
            return create(event_callbacks=SubscriptionEventCallbacks(**events))
        except UnsupportedEventTypeError:
            continue
    return create()


try:
    from message_filters import SimpleFilter
except ModuleNotFoundError:

    class SimpleFilter:  # type: ignore[no-redef]
        """Filter that passes each message to the registered callbacks."""

        def __init__(self) -> None:
            self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

        def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:  # noqa: N802 (upstream's name)
            """Call `cb(*message, *args)` for every message from now on.

            Returns:
                a number that identifies the connection.
            """
            connection = len(self.callbacks)
            self.callbacks[connection] = (cb, args)
            return connection

        def signalMessage(self, *msg: Any) -> None:  # noqa: N802 (upstream's name)
            """Pass a message to every callback, in the order of registration."""
            for callback, args in self.callbacks.values():
                callback(*msg, *args)


def message_class(name: str) -> type | None:
    """Return the Python class of a message type.

    Args:
        name: message type, such as `sensor_msgs/msg/Image`.

    Returns:
        the class, or None if its package is not installed or has no such message.
    """
    package, _, message = name.partition("/msg/")
    try:
        module = import_module(f"{package}.msg")
    except ModuleNotFoundError:
        return None
    found = getattr(module, message, None)
    return found if isinstance(found, type) else None
