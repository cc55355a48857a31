"""`/diagnostics`: per sensor and for the pipeline, what is wrong and what to do about it, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from mlesam_ros.frame import Modality

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

_TRANSPORT_HINT = (
    "messages over half a megabyte need a larger shared-memory segment in the publisher too: set "
    "FASTDDS_DEFAULT_PROFILES_FILE there (FASTRTPS_DEFAULT_PROFILES_FILE before Kilted) to this package's "
    "config/dds/fastdds.xml"
)


class Listening(Protocol):
    """What a report needs to know of a sensor's subscription; `inputs.SensorInput` has it."""

    modality: Modality
    topic: str
    type_name: str | None
    received: int
    refusal: str
    obstacle: str | None

    @property
    def publishers(self) -> int:
        """How many publish on the topic."""

    @property
    def silence(self) -> float:
        """Seconds since the newest message."""

    @property
    def rate(self) -> float:
        """Messages per second."""

    @property
    def decoded(self) -> Mapping[str, int]:
        """What happened inside the messages, such as lost packets and unknown words of an event camera."""


@dataclass(frozen=True)
class PipelineHealth:
    """What a report needs to know of the pipeline.

    Attributes:
        state: the lifecycle state's label.
        failure: why the last configure failed, in words; empty when it did not.
        hindrance: why there can be no mask at the moment, in words; empty when nothing is in the way.
        error: what went wrong with a mask since the last report, in words; empty when nothing did.
        silence: seconds since the newest mask, or since activation.
        rate: masks per second.
        latencies: seconds from stamp to mask of the last few masks.
        used: the sensors of the newest mask.
        values: further key-value pairs.
    """

    state: str
    failure: str = ""
    hindrance: str = ""
    error: str = ""
    silence: float = 0.0
    rate: float = 0.0
    latencies: Sequence[float] = ()
    used: Sequence[Modality] = ()
    values: Mapping[str, object] = field(default_factory=dict)


class Reporter:
    """Words the reports, and remembers the last one to tell what is new.

    Args:
        name: the node's full name, the first part of each status name and the hardware id.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._refused: dict[Modality, int] = {}

    def sensor(
        self, listening: Listening, counts: Mapping[str, int], reasons: Mapping[str, int], timeout: float, trouble: str
    ) -> DiagnosticStatus:
        """One sensor's status.

        Args:
            listening: its subscription.
            counts: what became of its messages so far, unreadable ones included.
            reasons: why the synchroniser refused frames of it → how many.
            timeout: seconds of silence that are worth a warning.
            trouble: why its newest frame could not be used, in words; empty when it could.
        """
        fresh = counts["refused"] - self._refused.get(listening.modality, 0)
        self._refused[listening.modality] = counts["refused"]
        level, words = _silence(listening, timeout) or (OK, "")
        if not words and trouble:
            level, words = WARN, trouble
        if not words and fresh > 0:
            level, words = WARN, f"{fresh} messages refused since the last report: {_reason(listening, reasons)}"
        values = {
            "topic": listening.topic,
            "type": listening.type_name or "not known yet",
            "rate_hz": f"{listening.rate:.2f}",
            "silence_s": f"{listening.silence:.3f}",
            "publishers": listening.publishers,
            **counts,
            **{f"refused: {reason}": count for reason, count in reasons.items()},
            **{f"decoded: {what}": count for what, count in listening.decoded.items()},
        }
        return self._status(listening.modality, level, words or f"{listening.rate:.1f} Hz on {listening.topic}", values)

    def pipeline(self, health: PipelineHealth, timeout: float) -> DiagnosticStatus:
        """The pipeline's status.

        Args:
            health: how it is doing.
            timeout: seconds without a mask that are worth an error.
        """
        level, words = self._pipeline_words(health, timeout)
        values: dict[str, object] = {"state": health.state, "rate_hz": f"{health.rate:.2f}", **health.values}
        if health.latencies:
            values["stamp_to_mask_ms"] = f"{1e3 * median(health.latencies):.1f}"
        return self._status("pipeline", level, words, values)

    def _pipeline_words(self, health: PipelineHealth, timeout: float) -> tuple[bytes, str]:
        if health.failure:
            return ERROR, f"configure failed: {health.failure} Then: ros2 lifecycle set {self._name} configure"
        if health.state != "active":
            return OK, health.state
        if health.hindrance:
            return ERROR, health.hindrance
        if health.error:
            return ERROR, health.error
        if health.silence > timeout:
            return ERROR, f"no mask for {health.silence:.1f} s: no sensor delivers anything usable; see their statuses"
        if not health.latencies:
            return OK, "waiting for the first mask"
        delay = 1e3 * median(health.latencies)
        return OK, f"{health.rate:.1f} masks/s from {', '.join(health.used)}, {delay:.0f} ms from stamp to mask"

    def _status(self, part: str, level: bytes, words: str, values: Mapping[str, object]) -> DiagnosticStatus:
        pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        name = f"{self._name.lstrip('/')}: {part}"
        return DiagnosticStatus(level=level, name=name, message=words, hardware_id=self._name, values=pairs)


def _silence(listening: Listening, timeout: float) -> tuple[bytes, str] | None:
    """What there is to say about a sensor that sends nothing; None when it does send, or is not overdue."""
    topic, silence = listening.topic, listening.silence
    if listening.publishers == 0:
        last = f"; the last message came {silence:.1f} s ago" if listening.received else ""
        if listening.received and silence <= timeout:
            return None
        remedy = f"start its driver, or set {listening.modality}.topic"
        return WARN, f"no publisher on {topic}{last}; {remedy}"
    if listening.obstacle:
        return ERROR, f"no message on {topic}, publisher present, {listening.obstacle}"
    if silence <= timeout:
        return None
    words = f"no message for {silence:.1f} s on {topic}, publisher present"
    return (WARN, words) if listening.received else (ERROR, f"{words}; {_TRANSPORT_HINT}")


def _reason(listening: Listening, reasons: Mapping[str, int]) -> str:
    return listening.refusal or ", ".join(reasons) or "see ~/status"
