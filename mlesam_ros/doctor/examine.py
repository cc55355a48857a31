"""A recording, examined: read once, rehearsed, and looked at more closely at a few moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.config import NodeParameters, sync_config
from mlesam_ros.doctor.advice import tune_sync
from mlesam_ros.doctor.alignment import judge
from mlesam_ros.doctor.calibration import CalibrationMessages, Lookups, calibration_findings
from mlesam_ros.doctor.catalogue import finding
from mlesam_ros.doctor.checkup import DoctorReport, sensor_row, set_figures, sorted_findings
from mlesam_ros.doctor.content import message_findings, sample_findings
from mlesam_ros.doctor.record import TopicStats
from mlesam_ros.doctor.rehearsal import simulate_sync, sync_findings
from mlesam_ros.doctor.timing import ahead_of_arrival
from mlesam_ros.doctor.views import ContentSamples, sample_content
from mlesam_ros.errors import BagError
from mlesam_ros.evaluation.calibration import BagRig
from mlesam_ros.evaluation.topics import Topics, find_topics
from mlesam_ros.findings import ERROR, Finding
from mlesam_ros.frame import LIDAR, NANOSECONDS, Modality
from mlesam_ros.rig_learner import is_static


def diagnose_bag(
    bag: str | Path,
    parameters: NodeParameters | None = None,
    reading: Callable[[float], None] = lambda seconds: None,
    looking: Callable[[int, int], None] = lambda done, of: None,
) -> DoctorReport:
    """Say what is wrong with a bag, what the node would make of it, and what would help.

    Args:
        bag: rosbag2 folder or file.
        parameters: of the sensors, as the node is told them.
        reading: told the seconds of the bag that are read.
        looking: after that told how many moments have been looked at more closely, and of how many.

    Raises:
        BagError: it cannot be read, or has not the topic that an override names.
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
        return _Examination(reader, topics, parameters).result(reading, looking)


class _Examination:
    """One bag's."""

    def __init__(self, reader: BagReader, topics: Topics, parameters: NodeParameters) -> None:
        self._reader, self._topics, self._parameters = reader, topics, parameters
        self._known = BagRig(reader, topics, parameters)
        max_wait = max(parameters.max_wait_of(m) for m in topics.sensors)
        self._infos, self._lookups = CalibrationMessages(), Lookups(max_wait)
        sensor, bind = parameters.sensor, self._known.bind
        self._records = {m: TopicStats(m, source, sensor(m), bind) for m, source in topics.sensors.items()}

    def result(self, reading: Callable[[float], None], looking: Callable[[int, int], None]) -> DoctorReport:
        """Everything."""
        reader = self._reader
        self._read(reading)
        spoken = {m: record for m, record in self._records.items() if len(record.moments)}
        looks = sample_content(reader, spoken, self._known.rig, looking)
        config = sync_config(self._parameters, self._records)
        said = [*message_findings(self._records, reader.start, config)]
        aligned, offsets = self._alignment(looks)
        findings = [*self._topic_findings(), *said, *self._fit_findings(looks), *aligned]
        checkup = DoctorReport(str(reader.path), (reader.end - reader.start) / NANOSECONDS, findings)
        plain = simulate_sync(spoken, sync_config(self._parameters, spoken)) if spoken else None
        if plain is not None:
            faulty = {found.subject for found in said if found.severity == ERROR}
            advice = tune_sync(spoken, plain, {**ahead_of_arrival(spoken, config), **offsets}, faulty)
            findings += [*sync_findings(plain, faulty), *advice.findings]
            checkup.parameters, checkup.sets = advice.parameters, set_figures(plain)
        if looks.depth_unit is not None:
            checkup.parameters["depth.unit"] = float(f"{looks.depth_unit:.3g}")
        checkup.sensors = {m: sensor_row(record, plain) for m, record in self._records.items()}
        checkup.findings = sorted_findings([*_bag_findings(reader), *findings])
        return checkup

    def _read(self, reading: Callable[[float], None]) -> None:
        by_topic = {record.source.topic: record for record in self._records.values()}
        begin = self._reader.start
        for topic, _, recorded, message in self._reader.messages({*by_topic, *self._known.topics}):
            self._lookups.advance(self._known.rig, recorded)
            if topic in by_topic:
                if (frame := by_topic[topic].hear(message, recorded)) is not None:
                    self._lookups.note(frame, recorded)
            else:
                self._known.hear(topic, message)
                if topic not in self._topics.infos.values() and not is_static(topic):
                    self._infos.add_transforms(message)
            reading((recorded - begin) / NANOSECONDS)
        self._lookups.advance(self._known.rig, None)

    def _topic_findings(self) -> Iterator[Finding]:
        for sentence in self._topics.notes:
            yield finding("topic_ambiguous", "topics", sentence=sentence)
        for modality in self._parameters.modalities:
            if modality not in self._records:
                yield finding("sensor_missing", modality)

    def _fit_findings(self, looks: ContentSamples) -> Iterator[Finding]:
        """Whether calibration and content fit each other."""
        sizes = {m: record.sizes.most_common(1)[0][0] for m, record in self._records.items() if record.sizes}
        sizes.update(looks.sizes)
        known = self._known
        begin = self._reader.start
        yield from calibration_findings(self._records, self._infos, known.rig, known.problems, sizes, begin)
        yield from self._lookups.findings(known.rig)
        yield from sample_findings(looks)

    def _alignment(self, looks: ContentSamples) -> tuple[list[Finding], dict[Modality, float]]:
        """What LiDAR and picture say about each other, and by how much the LiDAR's stamps are late."""
        rig, lidar = self._known.rig, self._records.get(LIDAR)
        if lidar is None or not looks.views or rig.tree.is_dynamic(rig.camera_frame, lidar.frame_id):
            return [], {}
        verdict = judge(looks.views, rig.camera, rig.extrinsic(lidar.frame_id))
        if verdict.shift is not None:
            side = "before" if verdict.shift > 0 else "after"
            total = verdict.shift + lidar.offset / NANOSECONDS
            values = {"offset": 1e3 * abs(verdict.shift), "side": side, "parameter": total}
            return [finding("shifted", LIDAR, **values)], {LIDAR: verdict.shift}
        if verdict.is_off and verdict.yaw is not None:
            side = "right" if verdict.yaw > 0 else "left"
            return [finding("turned", LIDAR, size=abs(verdict.yaw), side=side, angle=verdict.yaw)], {}
        unclear = "unaligned" if verdict.telling else "alignment_unclear"
        return [finding(unclear, LIDAR)] if verdict.yaw is None else [], {}


def _bag_findings(reader: BagReader) -> Iterator[Finding]:
    for sentence in reader.warnings:
        yield finding("bag_damaged", "recording", sentence=sentence)
