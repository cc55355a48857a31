# SPDX-License-Identifier: Apache-2.0
"""Diagnosis of a running system: topics, QoS, parameters and state of the perception node."""

from __future__ import annotations

import os
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
from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.signals import SignalHandlerOptions

from mlesam_ros.config import NodeParameters, known_names, sync_config
from mlesam_ros.doctor.calibration_checks import DynamicTransforms, TransformLookups, calibration_findings
from mlesam_ros.doctor.content import content_findings, message_findings
from mlesam_ros.doctor.diagnosis import DoctorReport, sensor_row, set_figures, sorted_findings
from mlesam_ros.doctor.rules import finding
from mlesam_ros.doctor.timing import TopicStats, ahead_of_arrival
from mlesam_ros.doctor.tuning import simulate_sync, sync_findings, tune_sync
from mlesam_ros.errors import ERROR, Finding
from mlesam_ros.evaluation.bag_sensors import TopicSource
from mlesam_ros.parameter_file import read_parameter_file
from mlesam_ros.parameter_groups import CameraParameters
from mlesam_ros.ros.calibration_listener import CalibrationListener
from mlesam_ros.ros.diagnostics import TRANSITIONS, as_problem, instead, message_of
from mlesam_ros.ros.middleware import transport_remedy
from mlesam_ros.ros.parameters import declare_parameters
from mlesam_ros.ros.subscribers import SensorSubscriber, call_service, endpoint_name, suggest_topics
from mlesam_ros.types import EventWindow, Modality, RawImage, SensorFrame


def qos_findings(
    node: Node, topic: str, subject: str, subscribers: Collection[str], each: bool = False
) -> Iterator[Finding]:
    """Yield a finding for every publisher on a topic whose QoS is incompatible with a node's subscriptions.

    Args:
        node: node that queries the graph.
        topic: absolute topic name.
        subject: subject of the findings.
        subscribers: names of the nodes whose subscriptions are checked.
        each: report an incompatible subscription even if another one of the same node is compatible.
    """
    subscriptions = [info for info in node.get_subscriptions_info_by_topic(topic) if info.node_name in subscribers]
    reported = set()
    for publisher in node.get_publishers_info_by_topic(topic):
        verdicts = [(one, *qos_check_compatible(publisher.qos_profile, one.qos_profile)) for one in subscriptions]
        compatible = {endpoint_name(one) for one, verdict, _ in verdicts if verdict != QoSCompatibility.ERROR}
        for subscription, verdict, reason in verdicts:
            pair = endpoint_name(publisher), endpoint_name(subscription)
            if (each or pair[1] not in compatible) and verdict == QoSCompatibility.ERROR and pair not in reported:
                reported.add(pair)
                offered, requested, remedy = _describe_mismatch(
                    topic, publisher.qos_profile, subscription.qos_profile, reason
                )
                values = {"offered": offered, "requested": requested, "remedy": remedy}
                yield finding("qos_mismatch", subject, topic=topic, publisher=pair[0], subscriber=pair[1], **values)


def _describe_mismatch(topic: str, offered: QoSProfile, requested: QoSProfile, reason: str) -> tuple[str, str, str]:
    """Return offered QoS, requested QoS and remedy as phrases."""
    override = f"qos_overrides.{topic}.subscription"
    if requested.reliability == ReliabilityPolicy.RELIABLE and offered.reliability == ReliabilityPolicy.BEST_EFFORT:
        return "best effort", "reliable", f"Publish it reliably, or set {override}.reliability: best_effort"
    if requested.durability == DurabilityPolicy.TRANSIENT_LOCAL and offered.durability == DurabilityPolicy.VOLATILE:
        remedy = (
            "Publish it with durability transient_local; ros2 bag play takes --qos-profile-overrides-path for that."
        )
        return "volatile", "transient local", remedy
    words = " ".join(reason.split()).rstrip(".;") or "another profile"
    return "its profile", f"another ({words})", f"Match the two profiles with {override}.*"


_DISCOVERY_S = 1.5, 3.0
"""Seconds that discovery of nodes on one host takes: usual time, and maximum time on a loaded host."""
_SERVICE_TIMEOUT_S = 3.0
"""Seconds to wait for a service of a running node."""
_DIAGNOSTICS_TIMEOUT_S = 2.5
"""Seconds to wait for the diagnostics of a running node."""


class NodeClient:
    """Client of the perception node's services and diagnostics.

    Args:
        node: node that calls the services.
        executor: executor that spins `node`.
        name: full name of the perception node.

    Attributes:
        node: node that calls the services.
        name: full name of the perception node.
        runs: whether a node with that name exists.
        namesakes: number of nodes with that name.
        state: lifecycle state; empty without a response.
        reports: modality or `pipeline` → newest diagnostic status; of one of several cameras `front/pipeline`.
    """

    def __init__(self, node: Node, executor: SingleThreadedExecutor, name: str) -> None:
        self.node, self._executor, self.name = node, executor, name
        self.reports: dict[str, DiagnosticStatus] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        begin, (usual, latest) = time.monotonic(), _DISCOVERY_S
        while (passed := time.monotonic() - begin) < usual or (passed < latest and not self._exists()):
            executor.spin_once(timeout_sec=0.05)
        self.namesakes = self._names().count(name)
        self.runs = self.namesakes > 0
        response = self._call(GetState, "get_state", GetState.Request()) if self.runs else None
        self.state = str(response.current_state.label) if response else ""
        deadline = time.monotonic() + _DIAGNOSTICS_TIMEOUT_S
        while self.runs and not any(part.endswith("pipeline") for part in self.reports) and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)

    def _exists(self) -> bool:
        return self.name in self._names()

    def _names(self) -> list[str]:
        return [f"{space.rstrip('/')}/{n}" for n, space in self.node.get_node_names_and_namespaces()]

    def parameters(self) -> dict[str, Any]:
        """Return the node's parameters with remapped topics; empty if the node does not run or respond."""
        cameras = self._values(["cameras"]).get("cameras", ())
        found = self._values(["use_sim_time", *known_names(cameras)])
        for part, status in self.reports.items():
            topics, name = [pair.value for pair in status.values if pair.key == "topic"], part.replace("/", ".")
            if topics and f"{name}.topic" in found:
                found[f"{name}.topic"] = topics[0]
        return found

    def _values(self, names: list[str]) -> dict[str, Any]:
        response = (
            self._call(GetParameters, "get_parameters", GetParameters.Request(names=names)) if self.runs else None
        )
        if response is None or len(response.values) != len(names):
            return {}
        found = {n: parameter_value_to_python(v) for n, v in zip(names, response.values, strict=True)}
        return {name: value for name, value in found.items() if value is not None}

    def choose(self, camera: str) -> None:
        """Keep the reports of one camera, without its name; those of the default camera have none."""
        prefix = f"{camera}/" if camera else ""
        own = {part: status for part, status in self.reports.items() if part.startswith(prefix)}
        self.reports = {part.removeprefix(prefix): status for part, status in own.items()}

    def _call(self, kind: Any, service: str, request: Any) -> Any:
        return call_service(self.node, self._executor, kind, f"{self.name}/{service}", request, _SERVICE_TIMEOUT_S)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id == self.name:
                self.reports[status.name.rpartition(": ")[2]] = status


NAME = "mlesam_doctor"
_DISCOVERY_VARIABLES = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "RMW_IMPLEMENTATION"
_QUEUE_DEPTH = 20
"""Queue depth of a subscription, so that a busy doctor does not cause gaps."""
_MAX_LOSS_RATIO = 0.05
"""Fraction of lost messages above which a finding is reported."""


def diagnose_live(
    node: str,
    settings: Mapping[str, Any],
    params: Path | None,
    seconds: float,
    progress: Callable[[float], None] = lambda done: None,
) -> DoctorReport:
    """Subscribe to the topics of the perception node for some time and report findings.

    Args:
        node: full name of the perception node. Parameters of a running node override those of `params`.
        settings: parameter → value; overrides the running node and `params`.
        params: parameter file for parameters that the running node does not return.
        seconds: duration of the recording.
        progress: called with the seconds that have passed.

    Raises:
        ConfigError: a setting or the file is invalid.
        CalibrationError: the calibration file is invalid.
    """
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor(context=context)
    nodes: list[Node] = []
    try:
        client = NodeClient(_create_node(nodes, executor, f"{NAME}_client", context=context), executor, node)
        from_file = read_parameter_file(params, node)[0] if params else {}
        overrides = {**from_file, **client.parameters(), **settings}
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        space = node.rpartition("/")[0] or "/"
        own = _create_node(nodes, executor, NAME, context=context, namespace=space, parameter_overrides=given)
        return _LiveDiagnosis(own, executor, client).result(seconds, progress)
    finally:
        executor.shutdown()
        for made in nodes:
            made.destroy_node()
        rclpy.try_shutdown(context=context)


def _create_node(nodes: list[Node], executor: SingleThreadedExecutor, name: str, **options: Any) -> Node:
    nodes.append(rclpy.create_node(name, **options))
    executor.add_node(nodes[-1])
    return nodes[-1]


def _discovery_range() -> str:
    """Return the environment variables that limit discovery as text; empty if none is set."""
    reported = [f"{name}={os.environ[name]}" for name in _DISCOVERY_VARIABLES if os.environ.get(name)]
    return f" and {', '.join(reported)}" if reported else ""


class _LiveDiagnosis:
    """One run of the live diagnosis."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor, client: NodeClient) -> None:
        self._node, self._executor, self._client = node, executor, client
        declared = declare_parameters(node)
        self._parameters: NodeParameters = declared.alone
        self._calibration = CalibrationListener(node, self._parameters)
        client.choose(next(iter(declared.views)))
        listed = self._parameters.modalities
        self._subscribers = {
            m: SensorSubscriber(node, m, self._parameters.sensor(m), _QUEUE_DEPTH, self._calibration.bind)
            for m in listed
        }
        self._records: dict[Modality, TopicStats] = {}
        self._lookups = TransformLookups(max(self._parameters.max_wait_of(m) for m in listed))
        for modality, source in self._subscribers.items():
            source.registerCallback(partial(self._on_frame, modality))

    def result(self, seconds: float, progress: Callable[[float], None]) -> DoctorReport:
        """Receive messages for some seconds and build the report."""
        self._spin(seconds, progress)
        for modality, source in self._subscribers.items():
            if source.received:
                self._record(modality).received = source.received
                self._record(modality).found = source.found
            for words, times in source.refusals.items():
                self._record(modality).refusals[as_problem(words)] += times
        begin = min((int(r.arrivals[0]) for r in self._records.values() if len(r.arrivals)), default=0)
        lossy = {m: record for m, record in self._records.items() if self._lost_messages(m)}
        untimed = self._records if self._clock_stopped else lossy
        content = [found for record in untimed.values() for found in content_findings(record)]
        config = sync_config(self._parameters, self._subscribers)
        content += message_findings(
            {m: record for m, record in self._records.items() if m not in untimed}, begin, config
        )
        findings = [
            *self._node_findings(),
            *self._transport_findings(seconds),
            *content,
            *self._calibration_findings(begin),
        ]
        findings += self._diagnostic_findings({found.subject for found in findings})
        received = {m: record for m, record in self._records.items() if len(record.times)}
        report = DoctorReport(self._client.name, seconds, [])
        plain = simulate_sync(received, sync_config(self._parameters, tuple(received))) if received else None
        if plain is not None:
            faulty = {found.subject for found in content if found.severity == ERROR}
            report.sets = set_figures(plain)
            if not self._clock_stopped:
                findings += sync_findings(plain, faulty)
            if not untimed:  # no parameter compensates for lost messages
                advice = tune_sync(received, plain, ahead_of_arrival(received, config), faulty)
                findings += advice.findings
                report.parameters = advice.parameters
        report.sensors = {m: sensor_row(record, plain) for m, record in self._records.items()}
        report.findings = sorted_findings(findings)
        self._calibration.close()
        return report

    def _spin(self, seconds: float, progress: Callable[[float], None]) -> None:
        begin = time.monotonic()
        next_poll = 0.0
        while (passed := time.monotonic() - begin) < seconds:
            if passed >= next_poll:
                next_poll += 0.25
                self._calibration.poll()
                self._lookups.advance(self._calibration.rig, self._now())
                for source in self._subscribers.values():
                    source.poll()
                progress(passed)
            self._executor.spin_once(timeout_sec=0.05)

    def _on_frame(self, modality: Modality, frame: SensorFrame) -> None:
        record = self._record(modality)
        arrived = self._subscribers[modality].received_at(frame.time) or self._now()
        record.add(frame.stamp, frame.time, arrived, frame.frame_id)
        self._lookups.add(frame, self._now())
        if isinstance(frame.payload, RawImage | EventWindow):
            record.sizes[frame.payload.height, frame.payload.width] += 1

    def _record(self, modality: Modality) -> TopicStats:
        if modality not in self._records:
            source = self._subscribers[modality]
            topic = TopicSource(source.topic, source.type_name or "")
            self._records[modality] = TopicStats(modality, topic, self._parameters.sensor(modality))
        return self._records[modality]

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    @property
    def _simulated(self) -> bool:
        return bool(self._node.get_parameter("use_sim_time").value)

    @property
    def _clock_stopped(self) -> bool:
        """Whether `use_sim_time` is set and /clock has no message; stamps cannot be checked then."""
        return self._simulated and self._now() == 0

    def _lost_messages(self, modality: Modality) -> int:
        """Return the messages that the transport lost; 0 for a fraction of at most `_MAX_LOSS_RATIO`."""
        source = self._subscribers[modality]
        return source.lost if source.lost > _MAX_LOSS_RATIO * (source.lost + source.received) else 0

    # Findings

    def _node_findings(self) -> Iterator[Finding]:
        client, name = self._client, self._client.name
        if not client.runs and not client.reports:
            yield finding("node_absent", name)
        elif client.state in TRANSITIONS:
            yield finding("node_inactive", name, state=client.state, node=name, transition=TRANSITIONS[client.state])
        if client.namesakes > 1:
            yield finding("two_nodes", name, count=client.namesakes)
        if self._clock_stopped:
            yield finding("no_clock", "/clock")
        elif not self._simulated and self._node.count_publishers("/clock"):
            yield finding("clock_unused", "/clock")

    def _diagnostic_findings(self, reported: Collection[str]) -> Iterator[Finding]:
        """Yield the warnings and errors of the node's diagnostics, except for sensors that already have a finding."""
        for part, status in self._client.reports.items():
            kind = {DiagnosticStatus.ERROR: "node_error", DiagnosticStatus.WARN: "node_warning"}.get(status.level)
            if kind is not None and part not in reported:
                content = message_of(status)
                values = {"message": content.message.rstrip("."), "remedy": content.remedy or "See the node's log."}
                yield finding(kind, self._client.name, part=part, **values)

    def _transport_findings(self, seconds: float) -> Iterator[Finding]:
        """Yield findings on publishers, message types and QoS of every topic that the node subscribes to."""
        if not any(source.publishers for source in self._subscribers.values()):
            yield finding("empty_graph", "graph", domain=self._node.context.get_domain_id(), range=_discovery_range())
        subscribers = {self._client.name.rpartition("/")[2]} if self._client.runs else {NAME}
        for modality, source in self._subscribers.items():
            mismatches = [*qos_findings(self._node, source.topic, modality, subscribers)]
            yield from mismatches
            if not source.publishers:
                found = suggest_topics(
                    self._node, modality, source.topic, {s.topic for s in self._subscribers.values()}
                )
                yield finding("no_publisher", modality, topic=source.topic, modality=modality, instead=instead(found))
            elif competing_publishers := source.competing_publishers:
                values = {
                    "count": len(competing_publishers),
                    "topic": source.topic,
                    "publishers": ", ".join(competing_publishers),
                }
                yield finding("several_publishers", modality, **values)
            elif lost := self._lost_messages(modality):
                values = {"lost": lost, "total": lost + source.received, "transport": transport_remedy()}
                yield finding("transport_loss", modality, **values)
            elif source.problem and not source.received and not mismatches:
                values = {"reason": source.problem.message, "remedy": source.problem.remedy}
                yield finding("unreadable_type", modality, topic=source.topic, **values)
            elif not source.received and not mismatches:
                values = {"topic": source.topic, "seconds": seconds, "transport": transport_remedy()}
                yield finding("no_message", modality, **values)
            sensor = self._parameters.sensor(modality)
            if isinstance(sensor, CameraParameters) and sensor.info_topic:
                info = self._node.resolve_topic_name(sensor.info_topic)
                yield from qos_findings(self._node, info, modality, subscribers)
        for topic in ("/tf", "/tf_static"):
            name = self._node.resolve_topic_name(topic)
            silent = topic == "/tf_static" and name not in self._calibration.received_topics
            yield from qos_findings(self._node, name, topic, subscribers, each=silent)

    def _calibration_findings(self, begin: int) -> Iterator[Finding]:
        sizes = {m: record.sizes.most_common(1)[0][0] for m, record in self._records.items() if record.sizes}
        yield from calibration_findings(
            self._records, DynamicTransforms(), self._calibration.rig, self._calibration.problems, sizes, begin
        )
        yield from self._lookups.findings(self._calibration.rig)
