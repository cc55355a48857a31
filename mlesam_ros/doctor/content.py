"""Whether what the messages hold can be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from mlesam_ros.doctor.catalogue import finding
from mlesam_ros.doctor.record import TopicStats
from mlesam_ros.doctor.timing import common_lead, timing_findings
from mlesam_ros.doctor.views import ContentSamples
from mlesam_ros.findings import Finding
from mlesam_ros.frame import CAMERA, DEPTH, LIDAR, Modality
from mlesam_ros.sync import SyncConfig

_DEPTHS = (0.05, 200.0)
"""Meters between which the median of a robot's depth pictures lies."""
_IN_VIEW = 0.003
"""Share of a sweep's returns that land in the picture even of a narrow lens."""
_MANY = 0.25
"""Share of the messages looked at that may be blank: a robot drives through the dark, or up to a wall."""
_DRIVER = "Check the driver's settings and its log."
_BLANK = {CAMERA: "picture_blank", DEPTH: "depth_empty", LIDAR: "cloud_empty"}


def message_findings(records: Mapping[Modality, TopicStats], begin: int, config: SyncConfig) -> Iterator[Finding]:
    """What is wrong with the sensors' messages, each sensor by itself.

    Args:
        records: of the sensors.
        begin: nanoseconds that positions in time are told from.
        config: the node's.
    """
    lead = common_lead(records, config)
    if lead:
        yield finding("clock_ahead", "clock", ahead=1e3 * lead)
    for record in records.values():
        yield from content_findings(record)
        yield from timing_findings(record, begin, config, lead)


def content_findings(record: TopicStats) -> Iterator[Finding]:
    """What could not be read, changing sizes, lost packets."""
    modality, topic = record.modality, record.source.topic
    if not record.received:
        yield finding("sensor_silent", modality, topic=topic)
        return
    if record.refusals:
        yield _refusal(record)
    if len(record.sizes) > 1:
        sizes = ", ".join(f"{width}x{height}" for (height, width), _ in record.sizes.most_common())
        yield finding("size_changes", modality, sizes=sizes)
    for name, found in record.found.items():
        if found.absent:
            yield finding("intensity_missing", modality, words=found.words)
        elif not found.usual:
            yield finding("data_found", modality, name=name.replace("_", " "), words=found.words)
    if record.usual_pieces > 1:
        yield finding("sweep_pieces", modality, pieces=record.usual_pieces)
    if len(record.frame_ids) > 1:
        frames = " and ".join(repr(frame) for frame, _ in record.frame_ids.most_common())
        yield finding("several_frames", modality, frames=frames, topic=topic, modality=modality)
    lost = record.counters.get("lost", 0)
    if lost:
        yield finding("packets_lost", modality, lost=lost, total=lost + record.counters["packets"])


def _refusal(record: TopicStats) -> Finding:
    ((newest, _),) = record.refusals.most_common(1)
    values = {"reason": newest.message.rstrip("."), "remedy": newest.remedy or _DRIVER}
    count = sum(record.refusals.values())
    if count == record.received:
        return finding("all_unreadable", record.modality, total=count, **values)
    return finding("some_unreadable", record.modality, count=count, total=record.received, **values)


def sample_findings(looks: ContentSamples) -> Iterator[Finding]:
    """What the closer look at a few moments showed."""
    for modality, problem in looks.refusals.items():
        if modality not in looks.looked:
            values = {"reason": problem.message.rstrip("."), "remedy": problem.remedy or _DRIVER}
            yield finding("all_unreadable", modality, total=1, **values)
    for modality, kind in _BLANK.items():
        blank, total = looks.blank.get(modality, 0), looks.looked.get(modality, 0)
        if blank > _MANY * total:
            yield finding(kind, modality, count=blank, total=total)
    if (unit := looks.depth_unit) is not None:
        yield finding("depth_scale", DEPTH, factor=looks.depth_factor, unit=unit)
    elif looks.depths and not _DEPTHS[0] <= (meters := float(np.median(looks.depths))) <= _DEPTHS[1]:
        yield finding("depth_unit", DEPTH, meters=meters)
    if looks.landed and (share := float(np.median(looks.landed))) < _IN_VIEW:
        yield finding("cloud_out_of_view", LIDAR, share=100 * share)
