"""Message types by name: which of them this machine has is known at run time only."""

from __future__ import annotations

from importlib import import_module


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
