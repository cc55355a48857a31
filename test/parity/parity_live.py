# SPDX-License-Identifier: Apache-2.0
"""Live side: a node in a separate process that receives the messages of a bag over DDS, on the bag's clock."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_process import NodeProcess
from parity_outcome import OUTPUTS, Due, Outcome, milliseconds, outcome
from parity_scene import PERIOD, START
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import iter_parameters
from mlesam_ros.parameter_groups import CONFIGURE, LIVE
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.publishers import OUTPUTS as TYPES

_STEP = PERIOD // 10  # ns of the clock between its messages
_TAIL = 45  # steps after the last message: another sensor may replace the camera after 0.35 s
_LONG = 10.0  # s in which a loaded machine must have made what is waited for
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class LiveNode:
    """A node process and the publishers of its sensors.

    Args:
        log: for the node's output.
        weights: its parameters that name a model.
    """

    def __init__(self, log: Path, weights: Mapping[str, Any]) -> None:
        self.process = NodeProcess(log, None, use_sim_time=True, autostart=False, **weights)
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("robot", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._publishers: dict[str, Any] = {}
        self._clock = self._node.create_publisher(Clock, "/clock", 10)
        self._got: list[tuple[str, Any]] = []
        self._subscriptions = [self._listen(name) for name in OUTPUTS]
        self._state = self._node.create_client(ChangeState, "/mlesam/change_state")
        self._parameters = self._node.create_client(SetParametersAtomically, "/mlesam/set_parameters_atomically")
        known = {n: v for n, e, v in iter_parameters() if e.metadata["change"] in (CONFIGURE, LIVE)}
        self._defaults = {**known, **weights}
        self._set: dict[str, Any] = {}
        assert self._spin_until(lambda: self._state.service_is_ready() and self._parameters.service_is_ready(), 60)

    def close(self) -> None:
        """End the node and destroy the publishers."""
        self.process.kill()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def segment(self, bag: Path, parameters: Mapping[str, Any], unheard: frozenset[str], due: Due) -> Outcome:
        """Configure with parameters, play a bag, clean up.

        Args:
            bag: to be played.
            parameters: that differ from the defaults.
            unheard: sensors' topics that the node will not listen to.
            due: expected messages; the clock waits for each. Further ones are in the outcome nevertheless.

        Raises:
            AssertionError: a due message or a connection did not come within 10 s.
        """
        back = {name: self._defaults[name] for name in self._set if name not in parameters}
        self._change({**back, **parameters})
        self._set = dict(parameters)
        with BagReader(bag) as reader:
            self._tick(reader.start)  # time may jump, but not between activation and the first message
            self._offer(reader)
            self._go(Transition.TRANSITION_CONFIGURE)
            self._go(Transition.TRANSITION_ACTIVATE)
            try:
                self._got.clear()
                self._play(reader, {**self._defaults, **parameters}, unheard, due)
            finally:  # or the entries after one that fails would fail as well
                self._go(Transition.TRANSITION_DEACTIVATE)
                self._go(Transition.TRANSITION_CLEANUP)
        gone = self._spin_until(lambda: not (self._matched or self._offered), _LONG)  # or the next bag would count them
        assert gone, (self._matched, self._offered)
        return outcome(self._got)

    # The bag

    def _offer(self, reader: BagReader) -> None:
        """Create a publisher for every topic of the bag and destroy the others."""
        for topic in set(self._publishers) - set(reader.topics):
            self._node.destroy_publisher(self._publishers.pop(topic))
        new = {*reader.topics} - {*self._publishers}
        for topic, kind in reader.topics.items():
            if topic == "/tf_static" and topic in self._publishers:  # or the last bag's would be heard once more
                self._node.destroy_publisher(self._publishers.pop(topic))
            if topic not in self._publishers:
                qos = _LATCHED if topic in reader.latched else 50
                self._publishers[topic] = self._node.create_publisher(message_class(kind), topic, qos)
        if new:  # a best-effort subscription hears nothing of a publisher that its own process does not know yet
            self._spin(0.3)

    def _play(self, reader: BagReader, parameters: Mapping[str, Any], unheard: frozenset[str], due: Due) -> None:
        messages = [(time, topic, bytes(raw)) for topic, _, time, raw in reader.raw_messages()]
        wanted = {f"/{name}" for key, name in parameters.items() if key.endswith("topic")}
        wanted -= {f"/{parameters[f'{m}.topic']}" for m in ("camera", "depth", "event", "lidar")
                   if m not in parameters["modalities"]}  # fmt: skip
        wanted = ({name.replace("//", "/") for name in wanted} & set(reader.topics)) - unheard | {"/tf", "/tf_static"}
        now = reader.start
        self._tick(now)
        found = self._spin_until(lambda: wanted <= self._matched and self._offered == {*OUTPUTS}, _LONG)
        assert found, (wanted - self._matched, {*OUTPUTS} - self._offered)
        for recorded, topic, raw in messages:
            step = max(_STEP, (recorded - now) // 20)
            while now < recorded:
                self._settle({message for message, end in due.items() if START + end * 10**6 <= now})
                now = min(now + step, recorded)
                self._tick(now)
            self._publishers[topic].publish(raw)
            self._spin(0.002)
        for _ in range(_TAIL):
            now += _STEP
            self._tick(now)
        self._settle(due)

    def _tick(self, now: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now, 10**9)
        self._clock.publish(message)
        self._spin(0.004)

    def _settle(self, messages: Collection[tuple[str, int]]) -> None:
        """Wait for these outputs, so that the clock does not overtake the network."""
        came = self._spin_until(lambda: {*messages} <= self._came, _LONG)
        assert came, f"`evaluate` makes more than the node: {sorted({*messages} - self._came)}"

    @property
    def _came(self) -> set[tuple[str, int]]:
        """Output and milliseconds from `START` of the messages so far."""
        return {(name, milliseconds(message.header.stamp)) for name, message in self._got}

    @property
    def _matched(self) -> set[str]:
        """Topics of the bag to which the node has subscribed."""
        return {topic for topic, publisher in self._publishers.items() if publisher.get_subscription_count()}

    @property
    def _offered(self) -> set[str]:
        """Outputs that the node publishes."""
        return {name for name in OUTPUTS if self._node.count_publishers(f"/mlesam/{name}")}

    # The node

    def _listen(self, name: str) -> Any:
        kind = message_class(TYPES[name].type_name)
        return self._node.create_subscription(kind, f"/mlesam/{name}", lambda m: self._got.append((name, m)), 50)

    def _change(self, parameters: Mapping[str, Any]) -> None:
        request = SetParametersAtomically.Request()
        request.parameters = [Parameter(name, value=_plain(v)).to_parameter_msg() for name, v in parameters.items()]
        result = self._call(self._parameters, request).result
        assert result.successful, result.reason

    def _go(self, transition: int) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        assert self._call(self._state, request).success, (transition, self.process.log.read_text()[-2000:])

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        assert self._spin_until(future.done, 60)
        return future.result()

    def _spin(self, seconds: float) -> None:
        self._spin_until(lambda: False, seconds)

    def _spin_until(self, condition: Any, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            self._executor.spin_once(timeout_sec=min(0.02, max(end - time.monotonic(), 0)))
        return bool(condition())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
