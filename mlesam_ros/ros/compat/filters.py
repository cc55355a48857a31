"""`message_filters.SimpleFilter`: the real one where it is installed, else the two calls of it that are made here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


__all__ = ["SimpleFilter"]
