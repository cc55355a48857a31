# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of the sensors and the pipeline: message templates, status messages and log entries."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.impl.rcutils_logger import RcutilsLogger

from mlesam_ros.doctor.rules import RULES
from mlesam_ros.errors import Problem, join_problems
from mlesam_ros.ros.middleware import transport_remedy
from mlesam_ros.types import DetectedProperty, Modality

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
TRANSITIONS = {"unconfigured": "configure", "inactive": "activate"}
"""Lifecycle state → transition towards the active state."""
LEVELS = {OK: "OK", WARN: "WARN", ERROR: "ERROR"}


@dataclass(frozen=True, slots=True)
class DiagnosticTemplate:
    """Level, message and remedy of a status, as format strings (`str.format`).

    Attributes:
        level: level of `diagnostic_msgs/DiagnosticStatus`.
        message: message that names the topic and the values.
        cause: cause of the message; only for the documentation.
        remedy: one imperative sentence; empty if no action is required.
    """

    level: bytes
    message: str
    cause: str
    remedy: str = ""

    def format(self, **values: object) -> tuple[bytes, Problem]:
        """Return the level, and message and remedy with the values filled in."""
        return self.level, Problem(self.message.format(**values), self.remedy.format(**values).strip())


def as_problem(text: str) -> Problem:
    """Convert a string to a `Problem` without remedy; return a `Problem` unchanged."""
    return text if isinstance(text, Problem) else Problem(text)


SENSOR_MESSAGES = {
    "no_publisher": DiagnosticTemplate(
        WARN,
        "no publisher on {topic}{last}",
        "The remedy names topics of a matching type that have one.",
        RULES["no_publisher"].remedy,
    ),
    "problem": DiagnosticTemplate(
        ERROR,
        "no message on {topic}, publisher present, {problem.message}",
        "Incompatible QoS, or a message type that is not supported or not installed.",
        "{problem.remedy}",
    ),
    "no_message": DiagnosticTemplate(
        ERROR,
        "no message for {silence:.1f} s on {topic}, publisher present",
        "None ever: the driver sends nothing, or messages larger than the shared-memory segment.",
        RULES["no_message"].remedy,
    ),
    "silent": DiagnosticTemplate(
        WARN,
        "no message for {silence:.1f} s on {topic}, publisher present, sensor_timeout is {timeout:g} s",
        "Silence for longer than `sensor_timeout` and 1.5 periods, measured or set by `rate`.",
        "Check the driver's log, the cable and the power; if the sensor is slow by design, set {modality}.rate or "
        "raise sensor_timeout.",
    ),
    "several_publishers": DiagnosticTemplate(
        WARN,
        "{count} publishers on {topic}: {publishers}",
        "Two drivers, or one that was started twice.",
        RULES["several_publishers"].remedy,
    ),
    "waiting_extrinsic": DiagnosticTemplate(
        WARN,
        "waiting for {waited:.0f} s: {missing_extrinsic.message}",
        "TF does not connect the sensor's frame to the camera's yet; no action is required while the robot starts.",
        "{missing_extrinsic.remedy} If the name of the frame is wrong, set {modality}.frame_id.",
    ),
    "no_extrinsic": DiagnosticTemplate(
        ERROR,
        "waited {waited:.0f} s: {missing_extrinsic.message}",
        "The same after `calibration_timeout`.",
        "{missing_extrinsic.remedy} If the name of the frame is wrong, set {modality}.frame_id.",
    ),
    "unusable": DiagnosticTemplate(
        WARN,
        "{recent_error.message}",
        "The newest frame has no intrinsics, another size or damaged content.",
        "{recent_error.remedy}",
    ),
    "refused": DiagnosticTemplate(
        WARN,
        "{count} messages refused in the last second: {reason.message}",
        "Damaged messages, or stamps of another clock.",
        "{reason.remedy}",
    ),
    "lost": DiagnosticTemplate(
        WARN,
        "{count} messages on {topic} lost in transport in the last second",
        "Messages larger than the publisher's shared-memory segment, or a slow network.",
        RULES["transport_loss"].remedy,
    ),
    "delayed": DiagnosticTemplate(
        WARN,
        "messages on {topic} arrive {delay:.1f} s after their stamps",
        "More than `sensor_timeout`: a slow driver or network, or a clock that is behind.",
        "Check the load of the driver and the network, synchronize the clocks (chrony, PTP), or set {modality}.offset "
        "to the error of the stamps.",
    ),
    "unmatched": DiagnosticTemplate(
        WARN,
        "{late} messages on {topic} too late and {unmatched} without a matching set in the last second",
        "Most messages arrive after `max_wait`, or their stamps differ by more than `tolerance`: compare "
        "`stamp_to_receipt_ms` of the sensors.",
        "Raise max_wait or {modality}.tolerance, or correct the clock of the sensor or {modality}.offset.",
    ),
    "slow": DiagnosticTemplate(
        WARN,
        "{rate:.1f} Hz on {topic}, {expected:g} Hz expected",
        "Below 80 % of `rate`.",
        "Check the settings and the load of the driver, or set {modality}.rate to the actual rate.",
    ),
    "skewed": DiagnosticTemplate(
        WARN,
        "median skew {skew:.0f} ms to the masks' stamps, {expected:.0f} ms expected",
        "More than `skew`; `mlesam doctor` measures the offset.",
        "Synchronize the clocks (chrony, PTP), or set {modality}.offset or {modality}.skew.",
    ),
    "degraded": DiagnosticTemplate(
        OK,
        "{rate:.1f} Hz on {topic}; {degradation.message}",
        "It is used, but without an input such as the motion of the robot.",
        "{degradation.remedy}",
    ),
    "ok": DiagnosticTemplate(OK, "{rate:.1f} Hz on {topic}", "It is used."),
}
"""Messages of a sensor's status. The first that applies is reported."""

PIPELINE_MESSAGES = {
    "failed": DiagnosticTemplate(
        ERROR,
        "configure failed: {failure.message}",
        "Invalid weights, calibration file, device or parameter.",
        "{failure.remedy} Then: ros2 lifecycle set {node} configure && ros2 lifecycle set {node} activate",
    ),
    "idle": DiagnosticTemplate(
        OK,
        "{state}, no masks are made",
        "The node is not active.",
        RULES["node_inactive"].remedy,
    ),
    "state": DiagnosticTemplate(OK, "{state}", "The node is shutting down."),
    "no_time": DiagnosticTemplate(
        ERROR,
        "no time: use_sim_time is true and no message on /clock",
        "No simulator or player publishes the time.",
        RULES["no_clock"].remedy,
    ),
    "waiting_calibration": DiagnosticTemplate(
        WARN,
        "waiting for {waited:.0f} s: {missing.message}",
        "Size and intrinsics of the label camera are unknown; no action is required while the driver starts.",
        "{missing.remedy}",
    ),
    "no_calibration": DiagnosticTemplate(
        ERROR,
        "waited {waited:.0f} s: {missing.message}",
        "The same after `calibration_timeout`.",
        "{missing.remedy}",
    ),
    "error": DiagnosticTemplate(
        ERROR,
        "{error.message}",
        "The last mask failed, as for lack of GPU memory.",
        "{error.remedy}",
    ),
    "several_infos": DiagnosticTemplate(
        WARN,
        "{competing_publishers.message}",
        "The newest CameraInfo is used, or that with the image's frame.",
        "{competing_publishers.remedy}",
    ),
    "two_nodes": DiagnosticTemplate(
        WARN,
        "{count} nodes are named {node}",
        "They publish masks on the same topics.",
        RULES["two_nodes"].remedy,
    ),
    "no_mask": DiagnosticTemplate(
        ERROR,
        "no mask for {silence:.1f} s, sensor_timeout is {timeout:g} s: no sensor delivers usable messages",
        "Longer than `sensor_timeout` and 1.5 times the recent interval.",
        "See the statuses of the sensors; if all of them are slow by design, raise sensor_timeout.",
    ),
    "waiting": DiagnosticTemplate(OK, "waiting for the first mask", "The node is active."),
    "ok": DiagnosticTemplate(
        OK, "{rate:.1f} masks/s from {used}, {delay:.0f} ms from stamp to mask", "Masks are being published."
    ),
}
"""Messages of the pipeline's status. The first that applies is reported."""


_MIN_REPORTS = 2
"""Consecutive reports at a new level before the change is logged, so that transients under one second are not."""


@dataclass
class _LoggedLevel:
    """Logged level of one status, its current level, and the number of consecutive reports at the current level."""

    logged: bytes = OK
    level: bytes = OK
    times: int = 0


class DiagnosticLogger:
    """Logs the status of a sensor or the pipeline when its level changes and stays changed.

    Args:
        logger: logger of the node.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._parts: dict[str, _LoggedLevel] = {}

    def update(self, reports: Iterable[DiagnosticStatus], at_once: bool = False) -> None:
        """Process one round of reports; a status that is absent from it is reset to OK.

        Args:
            reports: the statuses.
            at_once: log all of them, whether or not their level changed.
        """
        previous, self._parts = self._parts, {}
        for status in reports:
            part = self._parts[status.name] = previous.get(status.name) or _LoggedLevel()
            part.times = part.times + 1 if status.level == part.level else 1
            part.level = status.level
            if at_once or (part.level != part.logged and part.times >= _MIN_REPORTS):
                part.logged = part.level
                self._log(status)

    def _log(self, status: DiagnosticStatus) -> None:
        entry = f"{status.name.rpartition(': ')[2]}: {status.message}"
        # One call site per severity: rclpy raises if the severity of a call site changes.
        if status.level == ERROR:
            self._logger.error(entry)
        elif status.level == OK:
            self._logger.info(entry)
        else:
            self._logger.warning(entry)


_MIN_RATE_RATIO = 0.8  # of the expected rate
_DELTA_WINDOW_S = 1.0  # s over which counter increments are reported
_OVERDUE_PERIODS = 1.5  # usual periods after which a slow sensor counts as silent
_MAX_UNMATCHED = 3  # messages without a set that are tolerated
REMEDY = "remedy"
"""Key of the remedy among the values of a status; the message ends with the same remedy."""


class SubscriptionStats(Protocol):
    """State of a sensor's subscription that a report reads; implemented by `SensorSubscriber`."""

    modality: Modality
    topic: str
    type_name: str | None
    received: int
    lost: int
    problem: Problem | None

    @property
    def publishers(self) -> int:
        """Number of publishers on the topic."""

    @property
    def competing_publishers(self) -> Sequence[str]:
        """Nodes of several publishers whose messages alternate; empty for a single publisher."""

    @property
    def silence(self) -> float:
        """Seconds since the newest message."""

    @property
    def rate(self) -> float:
        """Messages per second."""

    @property
    def found(self) -> Mapping[str, DetectedProperty]:
        """Properties detected in the data, such as field and scale of a LiDAR's intensity."""

    @property
    def decoded(self) -> Mapping[str, int]:
        """Counters of the decoder, such as lost packets and unknown words of an event camera."""


@dataclass(frozen=True)
class SensorHealth:
    """State of a sensor that a report reads beyond its subscription.

    Attributes:
        counts: counter → messages since activation, unreadable ones included.
        reasons: reason why messages or frames were dropped → count.
        blocked: refused frames for lack of the label camera, which the pipeline's status reports.
        missing_extrinsic: level and reason of a missing extrinsic; None when the extrinsic is available.
        recent_error: reason why the newest frame could not be used; empty when it was used.
        degradation: input that the newest image was made without; empty for none.
        rate: expected rate in Hz; 0 for no expectation.
        skew: median of the last few differences between its stamps and the masks' in s; None before the first.
        expected_skew: accepted skew in s; 0 for no expectation.
        delay: median of the last few delays from stamp to receipt in s; None before the first.
        suggested_topics: suggested topics if the configured one has no publisher.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, int] = field(default_factory=dict)
    blocked: int = 0
    missing_extrinsic: tuple[bytes, Problem] | None = None
    recent_error: str = ""
    degradation: str = ""
    rate: float = 0.0
    skew: float | None = None
    expected_skew: float = 0.0
    delay: float | None = None
    suggested_topics: Sequence[str] = ()


@dataclass(frozen=True)
class PipelineHealth:
    """State of the pipeline that a report reads.

    Attributes:
        state: label of the lifecycle state.
        failure: reason why the last configure failed; empty when it succeeded.
        blocking_reason: level and reason why no mask can be made; None when masks can be made.
        competing_publishers: several publishers of one CameraInfo; None for a single publisher.
        error: recent error of a mask; empty for none.
        silence: seconds since the newest mask, or since activation.
        rate: masks per second.
        gap: longest interval between two of the last few masks, in seconds.
        latencies: seconds from stamp to mask of the last few masks.
        used: sensors of the newest mask.
        namesakes: nodes with this node's name, itself included.
        values: further key-value pairs.
    """

    state: str
    failure: str = ""
    blocking_reason: tuple[bytes, Problem] | None = None
    competing_publishers: Problem | None = None
    error: str = ""
    silence: float = 0.0
    rate: float = 0.0
    gap: float = 0.0
    latencies: Sequence[float] = ()
    used: Sequence[Modality] = ()
    namesakes: int = 1
    values: Mapping[str, object] = field(default_factory=dict)


class CounterDelta:
    """Increments of counters over the last second. Counters that fall, as after an activation, restart the window.

    Args:
        clock: function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, Mapping[str, int]]] = deque()

    def since(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Record the counters and return their increments over the last second."""
        now = self._clock()
        if self._seen and any(count < self._seen[-1][1].get(name, 0) for name, count in counts.items()):
            self._seen.clear()
        while len(self._seen) > 1 and self._seen[1][0] <= now - _DELTA_WINDOW_S:
            self._seen.popleft()
        old = bool(self._seen) and self._seen[0][0] <= now - _DELTA_WINDOW_S
        before = self._seen[0][1] if old else {}
        self._seen.append((now, dict(counts)))
        return {name: count - before.get(name, 0) for name, count in counts.items()}


class DiagnosticBuilder:
    """Builds a `DiagnosticStatus` per sensor of a camera and one for its masks.

    Args:
        name: the node's full name, the first part of each status name and the hardware id.
        clock: function that returns the time in seconds.
        camera: name of the camera, before that of the sensor; empty for the only camera.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic, camera: str = "") -> None:
        self._name = name
        self._prefix = f"{camera}/" if camera else ""
        self._clock = clock
        self._deltas: dict[Modality, CounterDelta] = {}

    def sensor(self, subscription: SubscriptionStats, health: SensorHealth, timeout: float) -> DiagnosticStatus:
        """Build the status of one sensor.

        Args:
            subscription: subscription of the sensor.
            health: state of the sensor.
            timeout: seconds without a message after which to warn.
        """
        refused = health.counts["refused"] - health.blocked
        counts = {**health.counts, "refused": refused, "lost": subscription.lost, **health.reasons}
        delta = self._deltas.setdefault(subscription.modality, CounterDelta(self._clock)).since(counts)
        content = _check_content(health, delta)
        level, problem = (
            _check_messages(subscription, health, timeout, delta["lost"])
            or (content if content is not None and content[0] == ERROR else None)  # an error before any warning
            or _check_publishers(subscription)
            or content
            or _check_transport(subscription, delta["lost"])
            or _check_latency(subscription, health, timeout)
            or _check_matching(subscription, delta)
            or _check_rate(subscription, health)
        )
        values: dict[str, object] = {
            "topic": subscription.topic,
            "type": subscription.type_name or "not known yet",
            "rate_hz": f"{subscription.rate:.2f}",
            "silence_s": f"{subscription.silence:.3f}",
            "publishers": subscription.publishers,
            **({} if health.delay is None else {"stamp_to_receipt_ms": f"{1e3 * health.delay:.1f}"}),
            **({} if health.skew is None else {"skew_ms": f"{1e3 * health.skew:.1f}"}),
            **({"expected_rate_hz": f"{health.rate:g}"} if health.rate else {}),
            **({"expected_skew_ms": f"{1e3 * health.expected_skew:g}"} if health.expected_skew else {}),
            **health.counts,
            "lost_on_the_way": subscription.lost,
            **{f"refused: {reason}": count for reason, count in health.reasons.items()},
            **{name: fact.text for name, fact in subscription.found.items()},
            **{f"decoded: {what}": count for what, count in subscription.decoded.items()},
        }
        return self._status(subscription.modality, level, problem, values)

    def pipeline(self, health: PipelineHealth, timeout: float) -> DiagnosticStatus:
        """Build the status of the pipeline.

        Args:
            health: state of the pipeline.
            timeout: seconds without a mask after which to report an error.
        """
        level, problem = self._pipeline_problem(health, timeout)
        values: dict[str, object] = {"state": health.state, "rate_hz": f"{health.rate:.2f}", **health.values}
        if health.latencies:
            values["stamp_to_mask_ms"] = f"{1e3 * median(health.latencies):.1f}"
        return self._status("pipeline", level, problem, values)

    def _pipeline_problem(self, health: PipelineHealth, timeout: float) -> tuple[bytes, Problem]:
        if health.failure:
            return PIPELINE_MESSAGES["failed"].format(failure=as_problem(health.failure), node=self._name)
        if health.state in TRANSITIONS:
            return PIPELINE_MESSAGES["idle"].format(
                state=health.state, node=self._name, transition=TRANSITIONS[health.state]
            )
        if health.state != "active":
            return PIPELINE_MESSAGES["state"].format(state=health.state)
        if health.blocking_reason is not None:
            return health.blocking_reason
        if health.error:
            return PIPELINE_MESSAGES["error"].format(error=as_problem(health.error))
        if _overdue(health.silence, max(health.gap, _period(health.rate)), timeout):
            return PIPELINE_MESSAGES["no_mask"].format(silence=health.silence, timeout=timeout)
        if health.competing_publishers is not None:
            return PIPELINE_MESSAGES["several_infos"].format(competing_publishers=health.competing_publishers)
        if health.namesakes > 1:
            return PIPELINE_MESSAGES["two_nodes"].format(count=health.namesakes, node=self._name)
        if not health.latencies:
            return PIPELINE_MESSAGES["waiting"].format()
        delay = 1e3 * median(health.latencies)
        return PIPELINE_MESSAGES["ok"].format(rate=health.rate, used=", ".join(health.used), delay=delay)

    def _status(self, part: str, level: bytes, problem: Problem, values: Mapping[str, object]) -> DiagnosticStatus:
        remedy = {REMEDY: problem.remedy} if problem.remedy else {}
        pairs = [KeyValue(key=key, value=str(value)) for key, value in {**values, **remedy}.items()]
        name = f"{self._name.lstrip('/')}: {self._prefix}{part}"
        return DiagnosticStatus(level=level, name=name, message=problem, hardware_id=self._name, values=pairs)


def message_of(status: DiagnosticStatus) -> Problem:
    """Return message and remedy of a status made by a `DiagnosticBuilder`."""
    remedy = next((pair.value for pair in status.values if pair.key == REMEDY), "")
    return Problem(status.message.removesuffix(remedy).rstrip(), remedy)


def _overdue(silence: float, period: float, timeout: float) -> bool:
    """Whether the silence exceeds both the timeout and `_OVERDUE_PERIODS` periods; all in seconds."""
    return silence > max(timeout, _OVERDUE_PERIODS * period)


def _period(rate: float) -> float:
    return 1 / rate if rate else 0.0  # s


def _check_messages(
    subscription: SubscriptionStats, health: SensorHealth, timeout: float, lost: int
) -> tuple[bytes, Problem] | None:
    """Check for missing publishers and messages; None if messages arrive, are lost in transport or are not overdue."""
    topic, silence = subscription.topic, subscription.silence
    if subscription.publishers == 0:
        last = f"; last message {silence:.1f} s ago" if subscription.received else ""
        advice = {"modality": subscription.modality, "instead": instead(health.suggested_topics)}
        return SENSOR_MESSAGES["no_publisher"].format(topic=topic, last=last, **advice)
    if subscription.problem:
        return SENSOR_MESSAGES["problem"].format(topic=topic, problem=subscription.problem)
    if lost or not _overdue(silence, max(_period(subscription.rate), _period(health.rate)), timeout):
        return None
    values = {"silence": silence, "topic": topic, "timeout": timeout, "modality": subscription.modality}
    return SENSOR_MESSAGES["silent" if subscription.received else "no_message"].format(
        **values, transport=transport_remedy()
    )


def _check_publishers(subscription: SubscriptionStats) -> tuple[bytes, Problem] | None:
    """Check for several publishers on one topic, whose messages would be mixed; None for a single publisher."""
    if not subscription.competing_publishers:
        return None
    names = subscription.competing_publishers
    values = {"count": len(names), "topic": subscription.topic, "publishers": ", ".join(names)}
    return SENSOR_MESSAGES["several_publishers"].format(**values)


def _check_content(health: SensorHealth, delta: Mapping[str, int]) -> tuple[bytes, Problem] | None:
    """Check for received messages that cannot be used; None if they can."""
    if health.missing_extrinsic is not None:
        return health.missing_extrinsic
    if health.recent_error:
        return SENSOR_MESSAGES["unusable"].format(recent_error=as_problem(health.recent_error))
    if delta["refused"] > 0:
        reasons = [reason for reason in health.reasons if delta[reason] > 0]
        problems = [as_problem(reason) for reason in reasons] or [Problem("the reasons are in ~/status")]
        reason = join_problems(problems, ", ")
        return SENSOR_MESSAGES["refused"].format(count=delta["refused"], reason=reason)
    return None


def _check_transport(subscription: SubscriptionStats, lost: int) -> tuple[bytes, Problem] | None:
    """Check for messages that the transport lost; None if there are none."""
    if not lost:
        return None
    return SENSOR_MESSAGES["lost"].format(count=lost, topic=subscription.topic, transport=transport_remedy())


def _check_latency(
    subscription: SubscriptionStats, health: SensorHealth, timeout: float
) -> tuple[bytes, Problem] | None:
    """Check for messages whose delay from stamp to receipt exceeds the timeout; None if it does not."""
    if health.delay is None or health.delay <= timeout:
        return None
    return SENSOR_MESSAGES["delayed"].format(
        delay=health.delay, topic=subscription.topic, modality=subscription.modality
    )


def _check_matching(subscription: SubscriptionStats, delta: Mapping[str, int]) -> tuple[bytes, Problem] | None:
    """Check for messages most of which belong to no set; None if most belong to one."""
    late, unmatched = delta["late"], delta["unmatched"]
    if late + unmatched <= max(_MAX_UNMATCHED, delta["used"] + delta["superseded"]):
        return None
    return SENSOR_MESSAGES["unmatched"].format(
        late=late, unmatched=unmatched, topic=subscription.topic, modality=subscription.modality
    )


def _check_rate(subscription: SubscriptionStats, health: SensorHealth) -> tuple[bytes, Problem]:
    """Compare the rate and skew of a sensor in use with the expected values."""
    values = {"topic": subscription.topic, "modality": subscription.modality, "rate": subscription.rate}
    if subscription.received > 1 and subscription.rate < _MIN_RATE_RATIO * health.rate:
        return SENSOR_MESSAGES["slow"].format(**values, expected=health.rate)
    if health.skew is not None and 0 < health.expected_skew < health.skew:
        return SENSOR_MESSAGES["skewed"].format(**values, skew=1e3 * health.skew, expected=1e3 * health.expected_skew)
    if health.degradation:
        return SENSOR_MESSAGES["degraded"].format(**values, degradation=as_problem(health.degradation))
    return SENSOR_MESSAGES["ok"].format(**values)


def instead(found: Sequence[str]) -> str:
    """Format suggested topics as the end of a remedy, such as ` to /points`; empty for none."""
    return f" to {' or '.join(found)}" if found else ""
