# SPDX-License-Identifier: Apache-2.0
"""Diagnose a bag: statistics, rules, and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters, sync_config
from mlesam_ros.doctor.calibration_checks import (
    DynamicTransforms,
    TransformLookups,
    calibration_findings,
    check_alignment,
)
from mlesam_ros.doctor.content import ContentSamples, message_findings, sample_content, sample_findings
from mlesam_ros.doctor.rules import finding
from mlesam_ros.doctor.timing import TopicStats, ahead_of_arrival, rate_stats
from mlesam_ros.doctor.tuning import SyncSimulation, simulate_sync, sync_findings, tune_sync
from mlesam_ros.errors import ERROR, NOTE, SEVERITIES, WARNING, BagError, Finding, worst
from mlesam_ros.evaluation.bag_sensors import BagRig, Topics, find_topics
from mlesam_ros.rig_builder import is_static
from mlesam_ros.sync import Account
from mlesam_ros.types import LIDAR, NANOSECONDS, Modality

VERDICTS = {None: "healthy", NOTE: "healthy", WARNING: "usable", ERROR: "faulty"}
"""Highest severity of the findings → verdict."""


@dataclass
class DoctorReport:
    """Result of a diagnosis.

    Attributes:
        name: of the recording or the node.
        seconds: its duration.
        findings: the most severe first.
        sensors: modality → its figures; see `sensor_row`.
        sets: figures of the simulated synchronizer, see `set_figures`; empty without readable messages.
        parameters: proposed values of the node's parameters.
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
        """Convert to JSON types, with the keys documented in `docs/results.md`."""
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
    """Remove duplicates and sort by severity, then in the order given."""
    return sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))


def sensor_row(record: TopicStats, simulation: SyncSimulation | None) -> dict[str, Any]:
    """Figures of a sensor with JSON types; None where there is nothing to measure."""
    measured = rate_stats(record)
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
        **{name: found.text for name, found in record.found.items()},
    }
    if simulation is not None and record.modality in simulation.counters:
        unreadable = {record.modality: record.received - len(record.times)}
        row.update(Account().counters(simulation.counters, unreadable)[record.modality])
    return row


def set_figures(simulation: SyncSimulation) -> dict[str, Any]:
    """Figures of the simulated sets, with JSON types."""
    skews = {m: np.abs(values) / 1e6 for m, values in simulation.skews.items() if len(values)}
    return {
        "sets": simulation.sets,
        "rate_hz": _number(simulation.rate, 3),
        "complete": simulation.complete,
        "wait_ms": _number(1e3 * simulation.wait, 2),
        "parts": simulation.parts,
        "skew_ms": {m: {"p50": _percentile(v, 50), "p99": _percentile(v, 99)} for m, v in skews.items()},
    }


def _longest_gap(record: TopicStats) -> float | None:
    arrivals = np.sort(record.arrivals)
    return _number(float(np.diff(arrivals).max()) / 1e9, 3) if len(arrivals) > 1 else None


def _percentile(values: np.ndarray, percent: float) -> float | None:
    return _number(float(np.percentile(values, percent)), 3)


def _number(value: float, digits: int) -> float | None:
    return None if np.isnan(value) else round(float(value), digits)


def diagnose_bag(
    bag: str | Path,
    parameters: NodeParameters | None = None,
    reading: Callable[[float], None] = lambda seconds: None,
    sampling: Callable[[int, int], None] = lambda done, of: None,
) -> DoctorReport:
    """Diagnose a bag: report faults, simulate the node's synchronizer, and propose parameters.

    Args:
        bag: rosbag2 folder or file.
        parameters: of the sensors, as for the node.
        reading: called with the seconds of the bag that are read.
        sampling: called afterwards with the numbers of finished content samples and of all samples.

    Raises:
        BagError: the bag cannot be read, or lacks a topic that an override names.
        CalibrationError, ConfigError: the calibration file is not usable.
    """
    parameters = parameters or NodeParameters()
    with BagReader(bag) as reader:
        seconds = (reader.end - reader.start) / NANOSECONDS
        try:
            topics = find_topics(reader.topics, parameters)
        except BagError as error:
            if any(name.endswith("topic") for name in parameters.overridden):
                raise
            return DoctorReport(
                str(bag), seconds, [*_bag_findings(reader), finding("no_sensor", "topics", sentence=error)]
            )
        return _BagDiagnosis(reader, topics, parameters).result(reading, sampling)


class _BagDiagnosis:
    """State of one bag's diagnosis."""

    def __init__(self, reader: BagReader, topics: Topics, parameters: NodeParameters) -> None:
        self._reader, self._topics, self._parameters = reader, topics, parameters
        self._bag_rig = BagRig(reader, topics, parameters)
        max_wait = max(parameters.max_wait_of(m) for m in topics.sensors)
        self._transforms, self._lookups = DynamicTransforms(), TransformLookups(max_wait)
        sensor, bind = parameters.sensor, self._bag_rig.bind
        self._records = {m: TopicStats(m, source, sensor(m), bind) for m, source in topics.sensors.items()}

    def result(self, reading: Callable[[float], None], sampling: Callable[[int, int], None]) -> DoctorReport:
        """Read the bag, run all checks and collect the report."""
        reader = self._reader
        self._read(reading)
        received = {m: record for m, record in self._records.items() if len(record.times)}
        samples = sample_content(reader, received, self._bag_rig.rig, sampling)
        config = sync_config(self._parameters, self._records)
        message_faults = [*message_findings(self._records, reader.start, config)]
        aligned, offsets = self._alignment(samples)
        findings = [*self._topic_findings(), *message_faults, *self._fit_findings(samples), *aligned]
        report = DoctorReport(str(reader.path), (reader.end - reader.start) / NANOSECONDS, findings)
        current = simulate_sync(received, sync_config(self._parameters, received)) if received else None
        if current is not None:
            faulty = {found.subject for found in message_faults if found.severity == ERROR}
            tuning = tune_sync(received, current, {**ahead_of_arrival(received, config), **offsets}, faulty)
            findings += [*sync_findings(current, faulty), *tuning.findings]
            report.parameters, report.sets = tuning.parameters, set_figures(current)
        if samples.depth_unit is not None:
            report.parameters["depth.unit"] = float(f"{samples.depth_unit:.3g}")
        report.sensors = {m: sensor_row(record, current) for m, record in self._records.items()}
        report.findings = sorted_findings([*_bag_findings(reader), *findings])
        return report

    def _read(self, reading: Callable[[float], None]) -> None:
        by_topic = {record.source.topic: record for record in self._records.values()}
        begin = self._reader.start
        for topic, _, recorded, message in self._reader.messages({*by_topic, *self._bag_rig.topics}):
            self._lookups.advance(self._bag_rig.rig, recorded)
            if topic in by_topic:
                if (frame := by_topic[topic].read(message, recorded)) is not None:
                    self._lookups.add(frame, recorded)
            else:
                self._bag_rig.on_message(topic, message)
                if topic not in self._topics.infos.values() and not is_static(topic):
                    self._transforms.add_transforms(message)
            reading((recorded - begin) / NANOSECONDS)
        self._lookups.advance(self._bag_rig.rig, None)

    def _topic_findings(self) -> Iterator[Finding]:
        for sentence in self._topics.notes:
            yield finding("topic_ambiguous", "topics", sentence=sentence)
        for modality in self._parameters.modalities:
            if modality not in self._records:
                yield finding("sensor_missing", modality)

    def _fit_findings(self, samples: ContentSamples) -> Iterator[Finding]:
        """Check calibration and content, and whether they fit each other."""
        sizes = {m: record.sizes.most_common(1)[0][0] for m, record in self._records.items() if record.sizes}
        sizes.update(samples.sizes)
        bag_rig = self._bag_rig
        begin = self._reader.start
        yield from calibration_findings(self._records, self._transforms, bag_rig.rig, bag_rig.problems, sizes, begin)
        yield from self._lookups.findings(bag_rig.rig)
        yield from sample_findings(samples)

    def _alignment(self, samples: ContentSamples) -> tuple[list[Finding], dict[Modality, float]]:
        """Check the alignment of LiDAR and image; also return the seconds by which the LiDAR's stamps are late."""
        rig, lidar = self._bag_rig.rig, self._records.get(LIDAR)
        if lidar is None or not samples.views or rig.tree.is_dynamic(rig.camera_frame, lidar.frame_id):
            return [], {}
        alignment = check_alignment(samples.views, rig.camera, rig.extrinsic(lidar.frame_id))
        if alignment.shift is not None:
            side = "before" if alignment.shift > 0 else "after"
            total = alignment.shift + lidar.offset / NANOSECONDS
            values = {"offset": 1e3 * abs(alignment.shift), "side": side, "parameter": total}
            return [finding("shifted", LIDAR, **values)], {LIDAR: alignment.shift}
        if alignment.is_off and alignment.yaw is not None:
            side = "right" if alignment.yaw > 0 else "left"
            return [finding("rotated", LIDAR, size=abs(alignment.yaw), side=side, angle=alignment.yaw)], {}
        rule = "unaligned" if alignment.is_conclusive else "alignment_unclear"
        return [finding(rule, LIDAR)] if alignment.yaw is None else [], {}


def _bag_findings(reader: BagReader) -> Iterator[Finding]:
    for sentence in reader.warnings:
        yield finding("bag_damaged", "recording", sentence=sentence)
