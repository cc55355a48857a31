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
from mlesam_ros.ros.topics import instead
from mlesam_ros.types import DetectedProperty, Modality

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
TRANSITIONS = {"unconfigured": "configure", "inactive": "activate"}
"""Lifecycle state → transition towards the active state."""
LEVELS = {OK: "OK", WARN: "WARN", ERROR: "ERROR"}


@dataclass(frozen=True, slots=True)
class DiagnosticTemplate:
    """Level, message and remedy of a status; placeholders in the form of `str.format`.

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
        "The sensor's topic has no publisher. Topics that have one, of a fitting type, are named.",
        RULES["no_publisher"].remedy,
    ),
    "obstacle": DiagnosticTemplate(
        ERROR,
        "no message on {topic}, publisher present, {obstacle.message}",
        "Publisher and node cannot talk: QoS that does not fit, a message type that is not read, or one whose package "
        "is not installed.",
        "{obstacle.remedy}",
    ),
    "never_heard": DiagnosticTemplate(
        ERROR,
        "no message for {silence:.1f} s on {topic}, publisher present",
        "A publisher is there and nothing ever came: the driver sends nothing, or messages that do not fit the "
        "shared-memory segment.",
        RULES["no_message"].remedy,
    ),
    "silent": DiagnosticTemplate(
        WARN,
        "no message for {silence:.1f} s on {topic}, publisher present, sensor_timeout is {timeout:g} s",
        "The sensor was heard and fell silent for longer than `sensor_timeout`, and than one and a half of its periods "
        "or those of its `rate`; masks go on without it.",
        "See the driver's log, its cable and its power; where the sensor is slower by nature, set {modality}.rate or "
        "raise sensor_timeout.",
    ),
    "several_publishers": DiagnosticTemplate(
        WARN,
        "{count} publishers on {topic}: {publishers}",
        "Two drivers, or one that was started twice, publish on one topic; their messages would be mixed.",
        RULES["several_publishers"].remedy,
    ),
    "waiting_place": DiagnosticTemplate(
        WARN,
        "waiting since {waited:.0f} s: {unplaced.message}",
        "TF does not connect the sensor's frame to the camera's yet, and `calibration_timeout` is not over; masks are "
        "made without it. While the robot is still starting nothing need be done.",
        "{unplaced.remedy} A frame with a wrong name is corrected by {modality}.frame_id.",
    ),
    "no_place": DiagnosticTemplate(
        ERROR,
        "waited {waited:.0f} s: {unplaced.message}",
        "TF does not connect the sensor's frame to the camera's after `calibration_timeout`; masks lack it.",
        "{unplaced.remedy} A frame with a wrong name is corrected by {modality}.frame_id.",
    ),
    "unusable": DiagnosticTemplate(
        WARN,
        "{recent_error.message}",
        "The newest frame could not be put into the camera's plane: no lens, a size that does not match, damaged "
        "content. The message is the reason.",
        "{recent_error.remedy}",
    ),
    "refused": DiagnosticTemplate(
        WARN,
        "{count} messages refused in the last second: {reason.message}",
        "Messages could not be read, or carry a stamp of another clock.",
        "{reason.remedy}",
    ),
    "lost": DiagnosticTemplate(
        WARN,
        "{count} messages on {topic} were lost on the way in the last second",
        "They were sent and the transport dropped them: mostly images and clouds that do not fit the publisher's "
        "shared-memory segment, or a network that is too slow for them.",
        RULES["transport_loss"].remedy,
    ),
    "belated": DiagnosticTemplate(
        WARN,
        "messages on {topic} come {delay:.1f} s after their stamps",
        "Their stamps are older on arrival than `sensor_timeout`: the driver or the network is late, or its clock is.",
        "See the driver's load and the network, synchronize the clocks (chrony, PTP), or set {modality}.offset to what "
        "its stamps are off by.",
    ),
    "useless": DiagnosticTemplate(
        WARN,
        "of the last second's messages on {topic} {late} came too late and {unmatched} found no partner",
        "Most of its messages belong to no mask: they come after `max_wait`, or their stamps lie farther from the "
        "others' than `tolerance`. Compare `stamp_to_receipt_ms` of the sensors.",
        "Raise max_wait or {modality}.tolerance, or correct its clock or {modality}.offset.",
    ),
    "slow": DiagnosticTemplate(
        WARN,
        "{rate:.1f} Hz on {topic}, {expected:g} Hz expected",
        "It comes with less than four fifths of the rate that parameter `rate` promises.",
        "See the driver's settings and the load, or set {modality}.rate to what it sends.",
    ),
    "skewed": DiagnosticTemplate(
        WARN,
        "{skew:.0f} ms off the masks' stamps in the median, {expected:.0f} ms expected",
        "Its stamps lie farther from the masks' than parameter `skew` promises. `mlesam doctor` measures the offset.",
        "Synchronize the clocks (chrony, PTP), or set {modality}.offset or {modality}.skew.",
    ),
    "without": DiagnosticTemplate(
        OK,
        "{rate:.1f} Hz on {topic}; {note.message}",
        "It is used, but its image had to be made without something, such as the robot's own motion.",
        "{note.remedy}",
    ),
    "well": DiagnosticTemplate(OK, "{rate:.1f} Hz on {topic}", "It is heard and used."),
}
"""Messages of a sensor's status. The first that applies is reported."""

PIPELINE_MESSAGES = {
    "failed": DiagnosticTemplate(
        ERROR,
        "configure failed: {failure.message}",
        "Weights, calibration file, device or a parameter is not usable; the message says which.",
        "{failure.remedy} Then: ros2 lifecycle set {node} configure, and activate after it",
    ),
    "idle": DiagnosticTemplate(
        OK,
        "{state}, so it makes no masks",
        "The node is not active; this is its lifecycle state. With `autostart` it configures and activates itself.",
        RULES["node_inactive"].remedy,
    ),
    "state": DiagnosticTemplate(OK, "{state}", "The node is about to end; this is its lifecycle state."),
    "no_time": DiagnosticTemplate(
        ERROR,
        "no time yet: use_sim_time is set and nothing came on /clock",
        "Simulated time was asked for and no message came on /clock.",
        RULES["no_clock"].remedy,
    ),
    "waiting_calibration": DiagnosticTemplate(
        WARN,
        "waiting since {waited:.0f} s: {missing.message}",
        "The label camera's size and lens are not known yet, and `calibration_timeout` is not over. While the driver "
        "is still starting nothing need be done.",
        "{missing.remedy}",
    ),
    "no_calibration": DiagnosticTemplate(
        ERROR,
        "waited {waited:.0f} s: {missing.message}",
        "The label camera's size and lens are not known after `calibration_timeout`.",
        "{missing.remedy}",
    ),
    "error": DiagnosticTemplate(
        ERROR,
        "{error.message}",
        "The last mask broke off, for instance for lack of GPU memory. The message is the reason.",
        "{error.remedy}",
    ),
    "several_infos": DiagnosticTemplate(
        WARN,
        "{rivals.message}",
        "Several nodes publish the CameraInfo of one camera; the lens is that of the newest, or of the image's frame.",
        "{rivals.remedy}",
    ),
    "two_nodes": DiagnosticTemplate(
        WARN,
        "{count} nodes are called {node}",
        "A second node of this name runs: both publish masks on the same topics.",
        RULES["two_nodes"].remedy,
    ),
    "no_mask": DiagnosticTemplate(
        ERROR,
        "no mask for {silence:.1f} s, sensor_timeout is {timeout:g} s: no sensor delivers anything usable",
        "Longer than `sensor_timeout` without a mask, and than one and a half of their usual distance.",
        "See the statuses of the sensors; where all of them are slower by nature, raise sensor_timeout.",
    ),
    "waiting": DiagnosticTemplate(OK, "waiting for the first mask", "It is active and has made none yet."),
    "well": DiagnosticTemplate(
        OK, "{rate:.1f} masks/s from {used}, {delay:.0f} ms from stamp to mask", "Masks are being published."
    ),
}
"""Messages of the pipeline's status. The first that applies is reported."""


_STEADY = 2
"""Consecutive reports at a new level before the change is logged, so that transients under one second are not."""


@dataclass
class _Part:
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
        self._parts: dict[str, _Part] = {}

    def hear(self, reports: Iterable[DiagnosticStatus], at_once: bool = False) -> None:
        """Process one round of reports; a status that is absent from it is reset to OK.

        Args:
            reports: the statuses.
            at_once: log all of them, whether or not their level changed.
        """
        known, self._parts = self._parts, {}
        for status in reports:
            part = self._parts[status.name] = known.get(status.name) or _Part()
            part.times = part.times + 1 if status.level == part.level else 1
            part.level = status.level
            if at_once or (part.level != part.logged and part.times >= _STEADY):
                part.logged = part.level
                self._log(status)

    def _log(self, status: DiagnosticStatus) -> None:
        words = f"{status.name.rpartition(': ')[2]}: {status.message}"
        # One call site per severity: rclpy raises if the severity of a call site changes.
        if status.level == ERROR:
            self._logger.error(words)
        elif status.level == OK:
            self._logger.info(words)
        else:
            self._logger.warning(words)


_SLOW = 0.8  # of the expected rate
_NEWS = 1.0  # s over which counter increments are reported
_OVERDUE = 1.5  # usual periods after which a slow sensor counts as silent
_FEW = 3  # messages without a set that are tolerated
REMEDY = "remedy"
"""Key of the remedy among the values of a status; the message ends with the same remedy."""


class SubscriptionStats(Protocol):
    """State of a sensor's subscription that a report reads; implemented by `SensorSubscriber`."""

    modality: Modality
    topic: str
    type_name: str | None
    received: int
    lost: int
    obstacle: Problem | None

    @property
    def publishers(self) -> int:
        """Number of publishers on the topic."""

    @property
    def rivals(self) -> Sequence[str]:
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
        unplaced: level and reason of a missing extrinsic; None when the extrinsic is available.
        recent_error: reason why the newest frame could not be used; empty when it was used.
        note: input that the newest image was made without; empty for none.
        rate: expected rate in Hz; 0 for no expectation.
        skew: median of the last few differences between its stamps and the masks' in s; None before the first.
        expected_skew: accepted skew in s; 0 for no expectation.
        delay: median of the last few delays from stamp to receipt in s; None before the first.
        elsewhere: suggested topics if the configured one has no publisher.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, int] = field(default_factory=dict)
    blocked: int = 0
    unplaced: tuple[bytes, Problem] | None = None
    recent_error: str = ""
    note: str = ""
    rate: float = 0.0
    skew: float | None = None
    expected_skew: float = 0.0
    delay: float | None = None
    elsewhere: Sequence[str] = ()


@dataclass(frozen=True)
class PipelineHealth:
    """State of the pipeline that a report reads.

    Attributes:
        state: label of the lifecycle state.
        failure: reason why the last configure failed; empty when it succeeded.
        blocking_reason: level and reason why no mask can be made; None when masks can be made.
        rivals: several publishers of one CameraInfo; None for a single publisher.
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
    rivals: Problem | None = None
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
        while len(self._seen) > 1 and self._seen[1][0] <= now - _NEWS:
            self._seen.popleft()
        old = bool(self._seen) and self._seen[0][0] <= now - _NEWS
        before = self._seen[0][1] if old else {}
        self._seen.append((now, dict(counts)))
        return {name: count - before.get(name, 0) for name, count in counts.items()}


class DiagnosticBuilder:
    """Builds a `DiagnosticStatus` per sensor and one for the pipeline.

    Args:
        name: the node's full name, the first part of each status name and the hardware id.
        clock: function that returns the time in seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._news: dict[Modality, CounterDelta] = {}

    def sensor(self, listening: SubscriptionStats, health: SensorHealth, timeout: float) -> DiagnosticStatus:
        """Build the status of one sensor.

        Args:
            listening: subscription of the sensor.
            health: state of the sensor.
            timeout: seconds without a message after which to warn.
        """
        refused = health.counts["refused"] - health.blocked
        counts = {**health.counts, "refused": refused, "lost": listening.lost, **health.reasons}
        fresh = self._news.setdefault(listening.modality, CounterDelta(self._clock)).since(counts)
        content = _content(health, fresh)
        level, problem = (
            _silence(listening, health, timeout, fresh["lost"])
            or (content if content is not None and content[0] == ERROR else None)  # an error before any warning
            or _uniqueness(listening)
            or content
            or _transport(listening, fresh["lost"])
            or _check_latency(listening, health, timeout)
            or _check_matching(listening, fresh)
            or _check_rate(listening, health)
        )
        values: dict[str, object] = {
            "topic": listening.topic,
            "type": listening.type_name or "not known yet",
            "rate_hz": f"{listening.rate:.2f}",
            "silence_s": f"{listening.silence:.3f}",
            "publishers": listening.publishers,
            **({} if health.delay is None else {"stamp_to_receipt_ms": f"{1e3 * health.delay:.1f}"}),
            **({} if health.skew is None else {"skew_ms": f"{1e3 * health.skew:.1f}"}),
            **({"expected_rate_hz": f"{health.rate:g}"} if health.rate else {}),
            **({"expected_skew_ms": f"{1e3 * health.expected_skew:g}"} if health.expected_skew else {}),
            **health.counts,
            "lost_on_the_way": listening.lost,
            **{f"refused: {reason}": count for reason, count in health.reasons.items()},
            **{name: fact.text for name, fact in listening.found.items()},
            **{f"decoded: {what}": count for what, count in listening.decoded.items()},
        }
        return self._status(listening.modality, level, problem, values)

    def pipeline(self, health: PipelineHealth, timeout: float) -> DiagnosticStatus:
        """Build the status of the pipeline.

        Args:
            health: state of the pipeline.
            timeout: seconds without a mask after which to report an error.
        """
        level, problem = self._pipeline_words(health, timeout)
        values: dict[str, object] = {"state": health.state, "rate_hz": f"{health.rate:.2f}", **health.values}
        if health.latencies:
            values["stamp_to_mask_ms"] = f"{1e3 * median(health.latencies):.1f}"
        return self._status("pipeline", level, problem, values)

    def _pipeline_words(self, health: PipelineHealth, timeout: float) -> tuple[bytes, Problem]:
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
        if health.rivals is not None:
            return PIPELINE_MESSAGES["several_infos"].format(rivals=health.rivals)
        if health.namesakes > 1:
            return PIPELINE_MESSAGES["two_nodes"].format(count=health.namesakes, node=self._name)
        if not health.latencies:
            return PIPELINE_MESSAGES["waiting"].format()
        delay = 1e3 * median(health.latencies)
        return PIPELINE_MESSAGES["well"].format(rate=health.rate, used=", ".join(health.used), delay=delay)

    def _status(self, part: str, level: bytes, problem: Problem, values: Mapping[str, object]) -> DiagnosticStatus:
        remedy = {REMEDY: problem.remedy} if problem.remedy else {}
        pairs = [KeyValue(key=key, value=str(value)) for key, value in {**values, **remedy}.items()]
        name = f"{self._name.lstrip('/')}: {part}"
        return DiagnosticStatus(level=level, name=name, message=problem, hardware_id=self._name, values=pairs)


def message_of(status: DiagnosticStatus) -> Problem:
    """Return message and remedy of a status made by a `DiagnosticBuilder`."""
    remedy = next((pair.value for pair in status.values if pair.key == REMEDY), "")
    return Problem(status.message.removesuffix(remedy).rstrip(), remedy)


def _overdue(silence: float, period: float, timeout: float) -> bool:
    """Whether the silence exceeds both the timeout and `_OVERDUE` periods; all in seconds."""
    return silence > max(timeout, _OVERDUE * period)


def _period(rate: float) -> float:
    """Return the period in seconds; 0 for an unknown rate."""
    return 1 / rate if rate else 0.0


def _silence(
    listening: SubscriptionStats, health: SensorHealth, timeout: float, lost: int
) -> tuple[bytes, Problem] | None:
    """Check for missing publishers and messages; None if messages arrive, are lost in transport or are not overdue."""
    topic, silence = listening.topic, listening.silence
    if listening.publishers == 0:
        last = f"; the last message came {silence:.1f} s ago" if listening.received else ""
        advice = {"modality": listening.modality, "instead": instead(health.elsewhere)}
        return SENSOR_MESSAGES["no_publisher"].format(topic=topic, last=last, **advice)
    if listening.obstacle:
        return SENSOR_MESSAGES["obstacle"].format(topic=topic, obstacle=listening.obstacle)
    if lost or not _overdue(silence, max(_period(listening.rate), _period(health.rate)), timeout):
        return None
    values = {"silence": silence, "topic": topic, "timeout": timeout, "modality": listening.modality}
    return SENSOR_MESSAGES["silent" if listening.received else "never_heard"].format(
        **values, transport=transport_remedy()
    )


def _uniqueness(listening: SubscriptionStats) -> tuple[bytes, Problem] | None:
    """Check for several publishers on one topic, whose messages would be mixed; None for a single publisher."""
    if not listening.rivals:
        return None
    names = ", ".join(listening.rivals)
    return SENSOR_MESSAGES["several_publishers"].format(
        count=len(listening.rivals), topic=listening.topic, publishers=names
    )


def _content(health: SensorHealth, fresh: Mapping[str, int]) -> tuple[bytes, Problem] | None:
    """Check for received messages that cannot be used; None if they can."""
    if health.unplaced is not None:
        return health.unplaced
    if health.recent_error:
        return SENSOR_MESSAGES["unusable"].format(recent_error=as_problem(health.recent_error))
    if fresh["refused"] > 0:
        reasons = [reason for reason in health.reasons if fresh[reason] > 0]
        known = [as_problem(reason) for reason in reasons] or [Problem("the reasons are in ~/status")]
        reason = join_problems(known, ", ")
        return SENSOR_MESSAGES["refused"].format(count=fresh["refused"], reason=reason)
    return None


def _transport(listening: SubscriptionStats, lost: int) -> tuple[bytes, Problem] | None:
    """Check for messages that the transport lost; None if there are none."""
    return (
        SENSOR_MESSAGES["lost"].format(count=lost, topic=listening.topic, transport=transport_remedy())
        if lost
        else None
    )


def _check_latency(listening: SubscriptionStats, health: SensorHealth, timeout: float) -> tuple[bytes, Problem] | None:
    """Check for messages whose delay from stamp to receipt exceeds the timeout; None if it does not."""
    if health.delay is None or health.delay <= timeout:
        return None
    return SENSOR_MESSAGES["belated"].format(delay=health.delay, topic=listening.topic, modality=listening.modality)


def _check_matching(listening: SubscriptionStats, fresh: Mapping[str, int]) -> tuple[bytes, Problem] | None:
    """Check for messages most of which belong to no set; None if most belong to one."""
    late, unmatched = fresh["late"], fresh["unmatched"]
    if late + unmatched <= max(_FEW, fresh["used"] + fresh["superseded"]):
        return None
    return SENSOR_MESSAGES["useless"].format(
        late=late, unmatched=unmatched, topic=listening.topic, modality=listening.modality
    )


def _check_rate(listening: SubscriptionStats, health: SensorHealth) -> tuple[bytes, Problem]:
    """Compare the rate and skew of a sensor in use with the expected values."""
    values = {"topic": listening.topic, "modality": listening.modality, "rate": listening.rate}
    if listening.received > 1 and listening.rate < _SLOW * health.rate:
        return SENSOR_MESSAGES["slow"].format(**values, expected=health.rate)
    if health.skew is not None and 0 < health.expected_skew < health.skew:
        return SENSOR_MESSAGES["skewed"].format(**values, skew=1e3 * health.skew, expected=1e3 * health.expected_skew)
    if health.note:
        return SENSOR_MESSAGES["without"].format(**values, note=as_problem(health.note))
    return SENSOR_MESSAGES["well"].format(**values)
