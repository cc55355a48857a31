"""The live graph, examined: through the node's own inputs, with the settings of the node that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.signals import SignalHandlerOptions

from mlesam_ros.doctor.advice import advise
from mlesam_ros.doctor.calibration import Infos, calibration_findings
from mlesam_ros.doctor.catalogue import finding
from mlesam_ros.doctor.checkup import Checkup, sensor_row, set_figures, sorted_findings
from mlesam_ros.doctor.content import spoken_findings
from mlesam_ros.doctor.record import Record
from mlesam_ros.doctor.rehearsal import rehearse, sync_findings
from mlesam_ros.doctor.timing import ahead_of_arrival
from mlesam_ros.evaluation.topics import Source
from mlesam_ros.findings import ERROR, Finding
from mlesam_ros.frame import Events, Modality, Picture, SensorFrame
from mlesam_ros.ros import parameters as declared
from mlesam_ros.ros.inputs import SensorInput
from mlesam_ros.ros.parameters import NodeParameters, PictureParameters, sync_config
from mlesam_ros.ros.params_file import read_params_file
from mlesam_ros.ros.qos_check import qos_findings
from mlesam_ros.ros.rig_feed import RigFeed

NAME = "mlesam_doctor"
_DISCOVERY = 1.5
"""Seconds after which those who are on this machine have found each other, as a rule."""
_ANSWER = 3.0
"""Seconds to wait for a service of a node that is there."""
_REPORT = 2.5
"""Seconds in which a node that runs has told its diagnostics."""
_TRANSITIONS = {"unconfigured": "configure", "inactive": "activate"}


def examine_live(
    node: str,
    settings: Mapping[str, str],
    params_file: Path | None,
    seconds: float,
    progress: Callable[[float], None] = lambda done: None,
) -> Checkup:
    """Listen for a while as the node does, and say what is in the way.

    Args:
        node: full name of the perception node; its settings count where it runs.
        settings: parameter → value, before all others.
        params_file: where the node does not run.
        seconds: how long to listen.
        progress: told how many seconds have been listened.

    Raises:
        ConfigError: a setting or the file is not accepted.
        CalibrationError: the calibration file is not usable.
    """
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor(context=context)
    nodes: list[Node] = []
    try:
        probe = _Probe(_join(nodes, executor, f"{NAME}_probe", context=context), executor, node)
        from_file = read_params_file(params_file, node) if params_file else {}
        overrides = {**from_file, **probe.parameters(), **settings}
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        space = node.rpartition("/")[0] or "/"
        own = _join(nodes, executor, NAME, context=context, namespace=space, parameter_overrides=given)
        return _Visit(own, executor, probe).result(seconds, progress)
    finally:
        executor.shutdown()
        for made in nodes:
            made.destroy_node()
        rclpy.try_shutdown(context=context)


def _join(nodes: list[Node], executor: SingleThreadedExecutor, name: str, **options: Any) -> Node:
    nodes.append(rclpy.create_node(name, **options))
    executor.add_node(nodes[-1])
    return nodes[-1]


class _Probe:
    """What there is to know of the perception node from outside.

    Attributes:
        name: its full name.
        runs: whether it is there.
        state: its lifecycle state; empty when it does not answer.
        reports: part → its newest diagnostic status.
    """

    def __init__(self, node: Node, executor: SingleThreadedExecutor, name: str) -> None:
        self.node, self._executor, self.name = node, executor, name
        self.reports: dict[str, DiagnosticStatus] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 10)
        deadline = time.monotonic() + _DISCOVERY
        while time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
        here = {f"{space.rstrip('/')}/{found}" for found, space in node.get_node_names_and_namespaces()}
        self.runs = name in here
        answer = self._ask(GetState, "get_state", GetState.Request()) if self.runs else None
        self.state = str(answer.current_state.label) if answer else ""
        deadline = time.monotonic() + _REPORT
        while self.runs and "pipeline" not in self.reports and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)

    def parameters(self) -> dict[str, Any]:
        """Its settings, with its topics as they are remapped; nothing when it does not run or answer."""
        names = ["use_sim_time", *(name for name, _, _ in declared.flat())]
        answer = self._ask(GetParameters, "get_parameters", GetParameters.Request(names=names)) if self.runs else None
        if answer is None or len(answer.values) != len(names):
            return {}
        found = {n: parameter_value_to_python(v) for n, v in zip(names, answer.values, strict=True)}
        for part, status in self.reports.items():
            topics = [pair.value for pair in status.values if pair.key == "topic"]
            if topics and f"{part}.topic" in found:
                found[f"{part}.topic"] = topics[0]
        return {name: value for name, value in found.items() if value is not None}

    def _ask(self, kind: Any, service: str, request: Any) -> Any:
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


class _Visit:
    """One examination."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor, probe: _Probe) -> None:
        self._node, self._executor, self._probe = node, executor, probe
        self._parameters: NodeParameters = declared.declare(node)
        self._feed = RigFeed(node, self._parameters)
        self._inputs = {m: SensorInput(node, m, self._parameters.sensor(m)) for m in self._parameters.modalities}
        self._records: dict[Modality, Record] = {}
        for modality, source in self._inputs.items():
            source.registerCallback(partial(self._hear, modality))

    def result(self, seconds: float, progress: Callable[[float], None]) -> Checkup:
        """Listen, then judge."""
        self._listen(seconds, progress)
        for modality, source in self._inputs.items():
            if source.received:
                self._record(modality).received = source.received
            if source.refused:
                self._record(modality).refusals[source.refusal] = source.refused
        begin = min((int(r.arrivals[0]) for r in self._records.values() if len(r.arrivals)), default=0)
        said = [*spoken_findings(self._records, begin)]
        findings = [*self._node_findings(), *self._transport(seconds), *said, *self._calibration_findings(begin)]
        findings += self._reports({found.subject for found in findings})
        spoken = {m: record for m, record in self._records.items() if len(record.moments)}
        checkup = Checkup(self._probe.name, seconds, [])
        plain = rehearse(spoken, sync_config(self._parameters, tuple(spoken))) if spoken else None
        if plain is not None:
            ill = {found.subject for found in said if found.severity == ERROR}
            advice = advise(spoken, plain, ahead_of_arrival(spoken), ill)
            findings += [*sync_findings(plain, ill), *advice.findings]
            checkup.parameters, checkup.sets = advice.parameters, set_figures(plain)
        checkup.sensors = {m: sensor_row(record, plain) for m, record in self._records.items()}
        checkup.findings = sorted_findings(findings)
        self._feed.close()
        return checkup

    def _listen(self, seconds: float, progress: Callable[[float], None]) -> None:
        begin = time.monotonic()
        polled = 0.0
        while (passed := time.monotonic() - begin) < seconds:
            if passed >= polled:
                polled += 0.25
                for source in self._inputs.values():
                    source.poll()
                progress(passed)
            self._executor.spin_once(timeout_sec=0.05)

    def _hear(self, modality: Modality, frame: SensorFrame) -> None:
        record = self._record(modality)
        record.note(frame.stamp, frame.stamp, self._now(), frame.frame_id)
        if isinstance(frame.payload, Picture | Events):
            record.sizes[frame.payload.height, frame.payload.width] += 1

    def _record(self, modality: Modality) -> Record:
        if modality not in self._records:
            source = self._inputs[modality]
            self._records[modality] = Record(modality, Source(source.topic, source.type_name or ""))
        return self._records[modality]

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    # Findings

    def _node_findings(self) -> Iterator[Finding]:
        probe, name = self._probe, self._probe.name
        if not probe.runs:
            yield finding("node_absent", name)
        elif probe.state in _TRANSITIONS:
            yield finding("node_inactive", name, state=probe.state, node=name, transition=_TRANSITIONS[probe.state])
        simulated = bool(self._node.get_parameter("use_sim_time").value)
        if simulated and self._now() == 0:
            yield finding("no_clock", "/clock")
        elif not simulated and self._node.count_publishers("/clock"):
            yield finding("clock_unused", "/clock")

    def _reports(self, told: Collection[str]) -> Iterator[Finding]:
        """What the node says of itself, but for sensors that enough is told of."""
        for part, status in self._probe.reports.items():
            kind = {DiagnosticStatus.ERROR: "node_fails", DiagnosticStatus.WARN: "node_warns"}.get(status.level)
            if kind is not None and part not in told:
                words, _, remedy = status.message.rstrip(".").partition("; ")
                yield finding(kind, self._probe.name, part=part, words=words, remedy=remedy)

    def _transport(self, seconds: float) -> Iterator[Finding]:
        """Publishers, types and quality of service of every topic that the node listens to."""
        subscribers = {self._probe.name.rpartition("/")[2]} if self._probe.runs else {NAME}
        for modality, source in self._inputs.items():
            mismatches = [*qos_findings(self._node, source.topic, modality, subscribers)]
            yield from mismatches
            if not source.publishers:
                yield finding("no_publisher", modality, topic=source.topic, name=f"{modality}.topic")
            elif source.obstacle and not source.received and not mismatches:
                reason, _, remedy = source.obstacle.rpartition("; ")
                values = {"reason": reason or remedy, "remedy": remedy if reason else "change one of the two"}
                yield finding("not_understood", modality, topic=source.topic, **values)
            elif not source.received and not mismatches:
                yield finding("no_message", modality, topic=source.topic, seconds=seconds)
            sensor = self._parameters.sensor(modality)
            if isinstance(sensor, PictureParameters) and sensor.info_topic:
                info = self._node.resolve_topic_name(sensor.info_topic)
                yield from qos_findings(self._node, info, modality, subscribers)
        for topic in ("/tf", "/tf_static"):
            yield from qos_findings(self._node, self._node.resolve_topic_name(topic), topic, subscribers)

    def _calibration_findings(self, begin: int) -> Iterator[Finding]:
        sizes = {m: record.sizes.most_common(1)[0][0] for m, record in self._records.items() if record.sizes}
        yield from calibration_findings(self._records, Infos(), self._feed.rig, self._feed.problems, sizes, begin)
