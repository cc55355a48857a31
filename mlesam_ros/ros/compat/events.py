"""Subscription events, whose module changed its name after Humble."""

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ModuleNotFoundError:
    from rclpy.qos_event import SubscriptionEventCallbacks  # type: ignore[no-redef]

__all__ = ["SubscriptionEventCallbacks"]
