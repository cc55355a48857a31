# SPDX-License-Identifier: Apache-2.0
"""A ROS graph in this process."""

import gc
import time
from collections.abc import Callable

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter


class Graph:
    """A context with an executor that a test spins by hand."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list = []

    def node(self, name: str = "test", make: Callable | None = None, **options):
        make = make or rclpy.create_node
        node = make(name, context=self.context, **options)
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def perception_node(self, parameters: dict, name: str = "mlesam", **options):
        """Create a `PerceptionNode` with these parameters."""
        from mlesam_ros.ros.node import PerceptionNode

        overrides = [Parameter(parameter, value=value) for parameter, value in parameters.items()]
        return self.node(name, PerceptionNode, parameter_overrides=overrides, **options)

    def spin_until(self, condition: Callable[[], object], timeout: float = 60.0) -> bool:
        """Spin until the condition holds; whether it did."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if condition():
                return True
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def spin_for(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def close(self) -> None:
        self.executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)
        # A node and what it holds refer to each other. Until they are collected Jazzy keeps their participant, and
        # discovery on one machine finds no more than 32 of them.
        self._nodes.clear()
        gc.collect()
