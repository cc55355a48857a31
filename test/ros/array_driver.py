# SPDX-License-Identifier: Apache-2.0
"""Driver process that publishes event arrays: `array_driver.py PACKAGE TOPIC COUNT`.

It waits for a word on standard input and for a listener, and sends: an event per millisecond, ten to a message.
"""

import sys
import time
from importlib import import_module

import rclpy
from builtin_interfaces.msg import Time


def arrays(types, count):
    """Messages that follow one another without a gap."""
    begin = time.time_ns()
    for index in range(count):
        message = types.EventArray(height=48, width=64)
        message.header.frame_id = "dvs"
        for n in range(10 * index, 10 * index + 10):
            sec, nanosec = divmod(begin + n * 1_000_000, 10**9)
            message.events.append(
                types.Event(x=n % 64, y=n % 48, ts=Time(sec=sec, nanosec=nanosec), polarity=n % 2 == 0)
            )
        message.header.stamp = message.events[0].ts
        yield message


def main() -> None:
    package, topic, count = sys.argv[1:]
    types = import_module(f"{package}.msg")
    rclpy.init()
    node = rclpy.create_node("array_driver")
    publisher = node.create_publisher(types.EventArray, topic, 100)
    sys.stdin.read(1)
    while not publisher.get_subscription_count():
        time.sleep(0.01)
    time.sleep(0.3)  # a best-effort listener is matched a little before it hears
    for message in arrays(types, int(count)):
        publisher.publish(message)
    time.sleep(1.0)  # the middleware sends on behalf of a process that lives
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
