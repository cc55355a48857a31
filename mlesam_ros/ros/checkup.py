"""The live graph, examined: through the node's own inputs, with the settings of the node that runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from mlesam_ros.config import CameraParameters, NodeParameters, sync_config
from mlesam_ros.doctor.advice import tune_sync
from mlesam_ros.doctor.calibration import CalibrationMessages, Lookups, calibration_findings
from mlesam_ros.doctor.catalogue import finding
from mlesam_ros.doctor.checkup import DoctorReport, sensor_row, set_figures, sorted_findings
from mlesam_ros.doctor.content import content_findings, message_findings
from mlesam_ros.doctor.record import TopicStats
from mlesam_ros.doctor.rehearsal import simulate_sync, sync_findings
from mlesam_ros.doctor.timing import ahead_of_arrival
from mlesam_ros.evaluation.topics import TopicSource
from mlesam_ros.findings import ERROR, Finding
from mlesam_ros.frame import EventWindow, Modality, RawImage, SensorFrame
from mlesam_ros.parameter_file import read_parameter_file
from mlesam_ros.ros import parameters as declared
from mlesam_ros.ros.candidates import instead, suggest_topics
from mlesam_ros.ros.diagnostics import message_of
from mlesam_ros.ros.inputs import SensorSubscriber
from mlesam_ros.ros.middleware import transport_remedy
from mlesam_ros.ros.probe import NodeClient
from mlesam_ros.ros.qos_check import qos_findings
from mlesam_ros.ros.rig_feed import CalibrationListener
from mlesam_ros.ros.words import TRANSITIONS, as_problem

NAME = "mlesam_doctor"
_DISCOVERY_VARIABLES = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "RMW_IMPLEMENTATION"
_QUEUE = 20
"""Messages of a sensor that wait, so that what the doctor is too busy for does not look like a gap."""
_LOSS = 0.05
"""Share of lost messages that is worth a word."""


def diagnose_live(
    node: str,
    settings: Mapping[str, Any],
    params: Path | None,
    seconds: float,
    progress: Callable[[float], None] = lambda done: None,
) -> DoctorReport:
    """Listen for a while as the node does, and say what is in the way.

    Args:
        node: full name of the perception node; its settings count where it runs.
        settings: parameter → value, before all others.
        params: parameter file, for what a node that runs does not answer.
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
        probe = NodeClient(_join(nodes, executor, f"{NAME}_probe", context=context), executor, node)
        from_file = read_parameter_file(params, node)[0] if params else {}
        overrides = {**from_file, **probe.parameters(), **settings}
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        space = node.rpartition("/")[0] or "/"
        own = _join(nodes, executor, NAME, context=context, namespace=space, parameter_overrides=given)
        return _LiveDiagnosis(own, executor, probe).result(seconds, progress)
    finally:
        executor.shutdown()
        for made in nodes:
            made.destroy_node()
        rclpy.try_shutdown(context=context)


def _join(nodes: list[Node], executor: SingleThreadedExecutor, name: str, **options: Any) -> Node:
    nodes.append(rclpy.create_node(name, **options))
    executor.add_node(nodes[-1])
    return nodes[-1]


def _discovery_range() -> str:
    """As far as this process looks for others, in the words of its environment."""
    told = [f"{name}={os.environ[name]}" for name in _DISCOVERY_VARIABLES if os.environ.get(name)]
    return f" and {', '.join(told)}" if told else ""


class _LiveDiagnosis:
    """One examination."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor, probe: NodeClient) -> None:
        self._node, self._executor, self._probe = node, executor, probe
        self._parameters: NodeParameters = declared.declare(node)
        self._feed = CalibrationListener(node, self._parameters)
        listed = self._parameters.modalities
        self._inputs = {
            m: SensorSubscriber(node, m, self._parameters.sensor(m), _QUEUE, self._feed.bind) for m in listed
        }
        self._records: dict[Modality, TopicStats] = {}
        self._lookups = Lookups(max(self._parameters.max_wait_of(m) for m in listed))
        for modality, source in self._inputs.items():
            source.registerCallback(partial(self._hear, modality))

    def result(self, seconds: float, progress: Callable[[float], None]) -> DoctorReport:
        """Listen, then judge."""
        self._listen(seconds, progress)
        for modality, source in self._inputs.items():
            if source.received:
                self._record(modality).received = source.received
                self._record(modality).found = source.found
            for words, times in source.refusals.items():
                self._record(modality).refusals[as_problem(words)] += times
        begin = min((int(r.arrivals[0]) for r in self._records.values() if len(r.arrivals)), default=0)
        torn = {m: record for m, record in self._records.items() if self._loss(m)}
        untimed = self._records if self._stands_still else torn
        said = [found for record in untimed.values() for found in content_findings(record)]
        config = sync_config(self._parameters, self._inputs)
        said += message_findings({m: record for m, record in self._records.items() if m not in untimed}, begin, config)
        findings = [*self._node_findings(), *self._transport(seconds), *said, *self._calibration_findings(begin)]
        findings += self._reports({found.subject for found in findings})
        spoken = {m: record for m, record in self._records.items() if len(record.moments)}
        checkup = DoctorReport(self._probe.name, seconds, [])
        plain = simulate_sync(spoken, sync_config(self._parameters, tuple(spoken))) if spoken else None
        if plain is not None:
            faulty = {found.subject for found in said if found.severity == ERROR}
            checkup.sets = set_figures(plain)
            if not self._stands_still:
                findings += sync_findings(plain, faulty)
            if not untimed:  # no setting makes up for what does not arrive
                advice = tune_sync(spoken, plain, ahead_of_arrival(spoken, config), faulty)
                findings += advice.findings
                checkup.parameters = advice.parameters
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
                self._feed.poll()
                self._lookups.advance(self._feed.rig, self._now())
                for source in self._inputs.values():
                    source.poll()
                progress(passed)
            self._executor.spin_once(timeout_sec=0.05)

    def _hear(self, modality: Modality, frame: SensorFrame) -> None:
        record = self._record(modality)
        arrived = self._inputs[modality].received_at(frame.time) or self._now()
        record.note(frame.stamp, frame.time, arrived, frame.frame_id)
        self._lookups.note(frame, self._now())
        if isinstance(frame.payload, RawImage | EventWindow):
            record.sizes[frame.payload.height, frame.payload.width] += 1

    def _record(self, modality: Modality) -> TopicStats:
        if modality not in self._records:
            source = self._inputs[modality]
            topic = TopicSource(source.topic, source.type_name or "")
            self._records[modality] = TopicStats(modality, topic, self._parameters.sensor(modality))
        return self._records[modality]

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    @property
    def _simulated(self) -> bool:
        return bool(self._node.get_parameter("use_sim_time").value)

    @property
    def _stands_still(self) -> bool:
        """Whether simulated time was asked for and nobody tells it; then nothing can be said about stamps."""
        return self._simulated and self._now() == 0

    def _loss(self, modality: Modality) -> int:
        """How many messages the transport lost, where that is more than now and then."""
        source = self._inputs[modality]
        return source.lost if source.lost > _LOSS * (source.lost + source.received) else 0

    # Findings

    def _node_findings(self) -> Iterator[Finding]:
        probe, name = self._probe, self._probe.name
        if not probe.runs and not probe.reports:
            yield finding("node_absent", name)
        elif probe.state in TRANSITIONS:
            yield finding("node_inactive", name, state=probe.state, node=name, transition=TRANSITIONS[probe.state])
        if probe.namesakes > 1:
            yield finding("two_nodes", name, count=probe.namesakes)
        if self._stands_still:
            yield finding("no_clock", "/clock")
        elif not self._simulated and self._node.count_publishers("/clock"):
            yield finding("clock_unused", "/clock")

    def _reports(self, told: Collection[str]) -> Iterator[Finding]:
        """What the node says of itself, but for sensors that enough is told of."""
        for part, status in self._probe.reports.items():
            kind = {DiagnosticStatus.ERROR: "node_fails", DiagnosticStatus.WARN: "node_warns"}.get(status.level)
            if kind is not None and part not in told:
                said = message_of(status)
                values = {"words": said.message.rstrip("."), "remedy": said.remedy or "See the node's log."}
                yield finding(kind, self._probe.name, part=part, **values)

    def _transport(self, seconds: float) -> Iterator[Finding]:
        """Publishers, types and quality of service of every topic that the node listens to."""
        if not any(source.publishers for source in self._inputs.values()):
            yield finding("alone", "graph", domain=self._node.context.get_domain_id(), range=_discovery_range())
        subscribers = {self._probe.name.rpartition("/")[2]} if self._probe.runs else {NAME}
        for modality, source in self._inputs.items():
            mismatches = [*qos_findings(self._node, source.topic, modality, subscribers)]
            yield from mismatches
            if not source.publishers:
                found = suggest_topics(self._node, modality, source.topic, {s.topic for s in self._inputs.values()})
                yield finding("no_publisher", modality, topic=source.topic, modality=modality, instead=instead(found))
            elif rivals := source.rivals:
                values = {"count": len(rivals), "topic": source.topic, "publishers": ", ".join(rivals)}
                yield finding("several_publishers", modality, **values)
            elif lost := self._loss(modality):
                values = {"lost": lost, "total": lost + source.received, "transport": transport_remedy()}
                yield finding("lost_on_the_way", modality, **values)
            elif source.obstacle and not source.received and not mismatches:
                values = {"reason": source.obstacle.message, "remedy": source.obstacle.remedy}
                yield finding("not_understood", modality, topic=source.topic, **values)
            elif not source.received and not mismatches:
                values = {"topic": source.topic, "seconds": seconds, "transport": transport_remedy()}
                yield finding("no_message", modality, **values)
            sensor = self._parameters.sensor(modality)
            if isinstance(sensor, CameraParameters) and sensor.info_topic:
                info = self._node.resolve_topic_name(sensor.info_topic)
                yield from qos_findings(self._node, info, modality, subscribers)
        for topic in ("/tf", "/tf_static"):
            name = self._node.resolve_topic_name(topic)
            silent = topic == "/tf_static" and name not in self._feed.heard
            yield from qos_findings(self._node, name, topic, subscribers, each=silent)

    def _calibration_findings(self, begin: int) -> Iterator[Finding]:
        sizes = {m: record.sizes.most_common(1)[0][0] for m, record in self._records.items() if record.sizes}
        yield from calibration_findings(
            self._records, CalibrationMessages(), self._feed.rig, self._feed.problems, sizes, begin
        )
        yield from self._lookups.findings(self._feed.rig)
