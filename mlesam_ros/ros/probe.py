"""What there is to know of the perception node from outside."""

from __future__ import annotations

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

from mlesam_ros.config import iter_parameters

_DISCOVERY = 1.5, 3.0
"""Seconds after which those who are on this machine have found each other, as a rule, and on a busy one."""
_ANSWER = 3.0
"""Seconds to wait for a service of a node that is there."""
_REPORT = 2.5
"""Seconds in which a node that runs has told its diagnostics."""


class NodeClient:
    """Asks it; where it does not run, nothing is known.

    Args:
        node: who asks.
        executor: that spins it.
        name: the perception node's full name.

    Attributes:
        node: who asks.
        name: its full name.
        runs: whether it is there.
        namesakes: how many nodes have that name.
        state: its lifecycle state; empty when it does not answer.
        reports: part → its newest diagnostic status.
    """

    def __init__(self, node: Node, executor: SingleThreadedExecutor, name: str) -> None:
        self.node, self._executor, self.name = node, executor, name
        self.reports: dict[str, DiagnosticStatus] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 10)
        begin, (usual, latest) = time.monotonic(), _DISCOVERY
        while (passed := time.monotonic() - begin) < usual or (passed < latest and not self._is_there()):
            executor.spin_once(timeout_sec=0.05)
        self.namesakes = self._names().count(name)
        self.runs = self.namesakes > 0
        answer = self._call(GetState, "get_state", GetState.Request()) if self.runs else None
        self.state = str(answer.current_state.label) if answer else ""
        deadline = time.monotonic() + _REPORT
        while self.runs and "pipeline" not in self.reports and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)

    def _is_there(self) -> bool:
        return self.name in self._names()

    def _names(self) -> list[str]:
        return [f"{space.rstrip('/')}/{n}" for n, space in self.node.get_node_names_and_namespaces()]

    def parameters(self) -> dict[str, Any]:
        """Its settings, with its topics as they are remapped; nothing when it does not run or answer."""
        names = ["use_sim_time", *(name for name, _, _ in iter_parameters())]
        answer = self._call(GetParameters, "get_parameters", GetParameters.Request(names=names)) if self.runs else None
        if answer is None or len(answer.values) != len(names):
            return {}
        found = {n: parameter_value_to_python(v) for n, v in zip(names, answer.values, strict=True)}
        for part, status in self.reports.items():
            topics = [pair.value for pair in status.values if pair.key == "topic"]
            if topics and f"{part}.topic" in found:
                found[f"{part}.topic"] = topics[0]
        return {name: value for name, value in found.items() if value is not None}

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, f"{self.name}/{service}")
        try:
            if not client.wait_for_service(_ANSWER):
                return None
            answer = client.call_async(request)
            self._executor.spin_until_future_complete(answer, _ANSWER)
            return answer.result() if answer.done() else None
        finally:
            self.node.destroy_client(client)

    def _hear(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id == self.name:
                self.reports[status.name.rpartition(": ")[2]] = status
