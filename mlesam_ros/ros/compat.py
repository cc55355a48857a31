"""Differences between ROS 2 distributions and optional message packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ModuleNotFoundError:
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError  # type: ignore[no-redef]


def subscribe(
    node: Node,
    message: type,
    topic: str,
    callback: Callable[[Any, Mapping[str, Any]], None],
    qos: QoSProfile,
    on_incompatible: Callable[[Any], None],
    on_lost: Callable[[Any], None],
    raw: bool = False,
) -> Subscription[Any]:
    """A subscription with overridable QoS.

    Args:
        node: who subscribes.
        message: the message's class.
        topic: its name, relative or absolute.
        callback: called with each message and what the middleware notes of it, such as its `received_timestamp`.
        qos: the profile, unless `qos_overrides.<topic>.subscription.*` say otherwise.
        on_incompatible: called when a publisher's QoS does not fit, with the event; never where the middleware does
            not tell.
        on_lost: called when the transport lost messages, with the event; never where the middleware does not tell.
        raw: hand over serialized bytes instead of messages.
    """
    options = QoSOverridingOptions.with_default_policies()
    create = partial(node.create_subscription, message, topic, callback, qos, qos_overriding_options=options, raw=raw)
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
        """Hands each message on to the callbacks that were registered."""

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
            """Hand a message to every callback, in the order they were registered."""
            for callback, args in self.callbacks.values():
                callback(*msg, *args)


def message_class(name: str) -> type | None:
    """The Python class of a message type.

    Args:
        name: such as `sensor_msgs/msg/Image`.

    Returns:
        the class, or None where its package is not installed or has no such message.
    """
    package, _, message = name.partition("/msg/")
    try:
        module = import_module(f"{package}.msg")
    except ModuleNotFoundError:
        return None
    found = getattr(module, message, None)
    return found if isinstance(found, type) else None
