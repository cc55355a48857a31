# SPDX-License-Identifier: Apache-2.0
"""The installed rclpy with the rules of another distribution's: python rclpy_rules.py DISTRIBUTION MODULE [ARGUMENT]...

Each rule is as in rclpy's sources: 3.3.21 for Humble, 10.0.10 for Lyrical.
"""

import runpy
import sys

import pytest
import rclpy.event_handler
import rclpy.lifecycle
import rclpy.topic_endpoint_info  # noqa: F401
from rclpy.executors import Executor, await_or_execute
from rclpy.subscription import Subscription


def callbacks_get_the_message_alone(patch: pytest.MonkeyPatch) -> None:
    """Before rclpy 3.4 the executor drops the message info, whatever the callback accepts."""

    def take(self, subscription):
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        if taken is None:
            return None

        async def execute() -> None:
            await await_or_execute(subscription.callback, taken[0])

        return execute

    callback = property(lambda self: self._callback, lambda self, value: setattr(self, "_callback", value))
    patch.setattr(Subscription, "callback", callback)
    patch.setattr(Executor, "_take_subscription", take)
    patch.delattr(Subscription, "CallbackType")


def _move(patch: pytest.MonkeyPatch, old: str, new: str) -> None:
    patch.setitem(sys.modules, new, sys.modules[old])
    patch.setitem(sys.modules, old, None)  # importing it raises ModuleNotFoundError


def force(distribution: str, patch: pytest.MonkeyPatch) -> None:
    """Force the rules of a distribution on this process."""
    if distribution == "humble":
        callbacks_get_the_message_alone(patch)
        _move(patch, "rclpy.event_handler", "rclpy.qos_event")
    else:
        _move(patch, "rclpy.topic_endpoint_info", "rclpy.endpoint_info")


if __name__ == "__main__":
    distribution, module = sys.argv[1:3]
    force(distribution, pytest.MonkeyPatch())
    del sys.argv[:2]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
