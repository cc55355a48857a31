"""What a doctor hands over: findings, figures and a verdict, the same for recordings and for living robots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlesam_ros.doctor.record import TopicStats
from mlesam_ros.doctor.rehearsal import Rehearsal
from mlesam_ros.doctor.timing import rhythm
from mlesam_ros.findings import ERROR, NOTE, SEVERITIES, WARNING, Finding, worst
from mlesam_ros.frame import Modality
from mlesam_ros.sync import Account

HEALTHY, USABLE, FAULTY, UNREADABLE = "healthy", "usable", "faulty", "unreadable"
VERDICTS = {None: HEALTHY, NOTE: HEALTHY, WARNING: USABLE, ERROR: FAULTY}
"""Gravest finding → verdict."""


@dataclass
class DoctorReport:
    """The result.

    Attributes:
        name: of the recording or the node.
        seconds: how long it lasted.
        findings: the gravest first.
        sensors: modality → its figures; see `sensor_row`.
        sets: figures of what the node makes of it; empty where nothing came about.
        parameters: of the node, with values that would help.
    """

    name: str
    seconds: float
    findings: list[Finding]
    sensors: dict[Modality, dict[str, Any]] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, float | list[str]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return VERDICTS[worst(self.findings)]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, keys as documented in `docs/results.md`."""
        return {
            "verdict": self.verdict,
            "findings": [finding.to_dict() for finding in self.findings],
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "sensors": self.sensors,
            "sets": self.sets,
            "parameters": self.parameters,
        }


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Each once, the gravest first, otherwise in the order given."""
    return sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))


def sensor_row(record: TopicStats, rehearsal: Rehearsal | None) -> dict[str, Any]:
    """A sensor's figures with JSON types; None where there is nothing to measure."""
    measured = rhythm(record)
    sizes = record.sizes.most_common(1)
    row: dict[str, Any] = {
        "topic": record.source.topic,
        "type": record.source.type,
        "messages": record.received,
        "rate_hz": _number(measured.rate, 3),
        "period_ms": _number(1e3 * measured.period, 2),
        "jitter_ms": _number(1e3 * measured.jitter, 2),
        "delay_ms": _number(1e3 * measured.delay, 2),
        "longest_gap_s": _longest_gap(record),
        "frame_id": record.frame_id,
        "size": f"{sizes[0][0][1]}x{sizes[0][0][0]}" if sizes else None,
        **{name: found.words for name, found in record.found.items()},
    }
    if rehearsal is not None and record.modality in rehearsal.counters:
        unreadable = {record.modality: record.received - len(record.moments)}
        row.update(Account().counters(rehearsal.counters, unreadable)[record.modality])
    return row


def set_figures(rehearsal: Rehearsal) -> dict[str, Any]:
    """What comes about, with JSON types."""
    skews = {m: np.abs(values) / 1e6 for m, values in rehearsal.skews.items() if len(values)}
    return {
        "sets": rehearsal.sets,
        "rate_hz": _number(rehearsal.rate, 3),
        "complete": rehearsal.complete,
        "wait_ms": _number(1e3 * rehearsal.wait, 2),
        "parts": rehearsal.parts,
        "skew_ms": {m: {"p50": _percentile(v, 50), "p99": _percentile(v, 99)} for m, v in skews.items()},
    }


def words_of(values: Mapping[str, float | list[str]]) -> list[str]:
    """Parameters as lines of YAML."""
    return [f"{k}: [{', '.join(v)}]" if isinstance(v, list) else f"{k}: {v:g}" for k, v in values.items()]


def _longest_gap(record: TopicStats) -> float | None:
    arrivals = np.sort(record.arrivals)
    return _number(float(np.diff(arrivals).max()) / 1e9, 3) if len(arrivals) > 1 else None


def _percentile(values: np.ndarray, percent: float) -> float | None:
    return _number(float(np.percentile(values, percent)), 3)


def _number(value: float, digits: int) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)
