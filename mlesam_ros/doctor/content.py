# SPDX-License-Identifier: Apache-2.0
"""Sample the content of messages at some times of a recording, and check it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.doctor.calibration_checks import SHIFTS, AlignmentView, image_edges, sweep_outlines
from mlesam_ros.doctor.rules import finding
from mlesam_ros.doctor.timing import TopicStats, common_lead, timing_findings
from mlesam_ros.errors import Finding, MlesamError, Problem
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.messages import FrameReader
from mlesam_ros.preprocessing.images import parse_depth, to_rgb
from mlesam_ros.preprocessing.point_cloud import cloud_xyz
from mlesam_ros.preprocessing.registration import depth_from_cloud, depth_from_image
from mlesam_ros.sync import SyncConfig
from mlesam_ros.types import (
    CAMERA,
    DEPTH,
    LIDAR,
    NANOSECONDS,
    CompressedImage,
    Modality,
    PointCloud,
    RawImage,
    SensorFrame,
)

_NUM_SAMPLES = 12
"""Number of samples: a single one may have no outline in view of both camera and LiDAR."""
_MAX_PAIR_NS = 250_000_000
"""Maximum time between an image and a sweep of the same sample."""
_LEAD_IN_NS = NANOSECONDS
"""Time that is read before a sweep that is split into messages: at least two turns of a LiDAR."""
_MAX_ARRIVAL_SPAN_NS = 5 * NANOSECONDS
"""Maximum time between the arrivals of messages of the same sample."""
_MAX_DEPTH_FACTOR = 1.5
"""Maximum factor between depth camera and LiDAR that errors and mountings explain."""
_MAX_FACTOR_SPREAD = 0.1
"""Maximum spread of a factor that counts as the same in all pixels."""
_COMPARISON_SIDE_PX = 256
"""Longer side at which the depths of depth camera and LiDAR are compared."""
_MIN_SHARED_PIXELS = 30
"""Minimum number of pixels with depth from both sensors."""
_MIN_IMAGE_STD = 2.0
"""Standard deviation in gray levels below which an image is blank."""


@dataclass
class ContentSamples:
    """Measurements of the sampled messages.

    Attributes:
        counts: modality → sampled messages.
        blank: modality → blank ones among them: no return, no valid depth, or uniform gray.
        sizes: modality → (height, width) of its decoded images.
        depths: median meters of each depth image with valid pixels.
        shares_in_image: share of the returns inside the image, per point cloud.
        ratios: median ratio of the depth camera's depth to the LiDAR's, per sample, and its relative spread: half of
            the inter-quartile range of the pixels over their median.
        unit: meters per count of the depth images as they are read.
        refusals: modality → reason why a message could not be decoded, or its sensor has no transform.
        views: for `mlesam_ros.doctor.calibration_checks.check_alignment`.
    """

    counts: dict[Modality, int] = field(default_factory=dict)
    blank: dict[Modality, int] = field(default_factory=dict)
    sizes: dict[Modality, tuple[int, int]] = field(default_factory=dict)
    depths: list[float] = field(default_factory=list)
    shares_in_image: list[float] = field(default_factory=list)
    ratios: list[tuple[float, float]] = field(default_factory=list)
    unit: float = 1.0
    refusals: dict[Modality, Problem] = field(default_factory=dict)
    views: list[AlignmentView] = field(default_factory=list)

    @property
    def depth_factor(self) -> float:
        """Ratio of the depth camera's depth to the LiDAR's: median of the samples with a small spread.

        1 unless most samples have a small spread.
        """
        steady = [ratio for ratio, spread in self.ratios if spread < _MAX_FACTOR_SPREAD]
        return float(np.median(steady)) if 2 * len(steady) > len(self.ratios) else 1.0

    @property
    def depth_unit(self) -> float | None:
        """Meters per count at which depth camera and LiDAR would agree; None if they agree or cannot be compared."""
        factor = self.depth_factor
        return None if 1 / _MAX_DEPTH_FACTOR < factor < _MAX_DEPTH_FACTOR else self.unit / factor

    def count(self, modality: Modality, blank: bool) -> None:
        """Count a sampled message."""
        self.counts[modality] = self.counts.get(modality, 0) + 1
        self.blank[modality] = self.blank.get(modality, 0) + blank


def sample_content(
    reader: BagReader,
    records: Mapping[Modality, TopicStats],
    rig: Rig,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ContentSamples:
    """Read and measure the messages around some times, evenly over the recording.

    Args:
        reader: the open bag.
        records: of its sensors, from a first pass over the bag.
        rig: learned from the whole bag.
        progress: called with the numbers of finished samples and of all samples.
    """
    samples = ContentSamples()
    lead = next((m for m in (CAMERA, LIDAR, DEPTH) if m in records and len(records[m].times)), None)
    if lead is None:
        return samples
    leaders = records[lead].times
    margin = max(SHIFTS) + 1 if len(leaders) > 4 * max(SHIFTS) else 0
    chosen = np.unique(np.linspace(margin, len(leaders) - 1 - margin, _NUM_SAMPLES).astype(int))
    for done, at in enumerate(chosen, 1):
        _measure_sample(_frames_around(reader, records, lead, int(at)), int(leaders[at]), lead, rig, samples)
        progress(done, len(chosen))
    return samples


def _frames_around(
    reader: BagReader, records: Mapping[Modality, TopicStats], lead: Modality, at: int
) -> dict[Modality, list[SensorFrame]]:
    """Read a message of the lead sensor, the nearest one of each other sensor, and the sweeps next to the LiDAR's.

    The frames of each sensor are in the order of their times.
    """
    time = records[lead].times[at]
    wanted: dict[str, tuple[FrameReader, set[int]]] = {}
    arrivals: list[int] = []
    for modality in (CAMERA, DEPTH, LIDAR):
        record = records.get(modality)
        if record is None or not len(record.times):
            continue
        nearest = int(np.abs(record.times - time).argmin())
        if abs(record.arrivals[nearest] - records[lead].arrivals[at]) > _MAX_ARRIVAL_SPAN_NS:
            continue  # inconsistent stamps
        messages = record.messages_per_sweep
        reach = max(SHIFTS) * messages if modality == LIDAR else 0
        chosen = slice(max(nearest - reach, nearest % messages), nearest + reach + 1, messages)
        arrivals += record.arrivals[chosen].tolist()
        if messages > 1:
            arrivals.append(min(arrivals) - _LEAD_IN_NS)  # the reader detects split sweeps from earlier messages
        times = set(record.times[chosen].tolist())
        wanted[record.source.topic] = record.reader(), times
    frames: dict[Modality, list[SensorFrame]] = {}
    for topic, _, _, message in reader.messages(wanted, min(arrivals), max(arrivals) + 1):
        parser, times = wanted[topic]
        try:
            frame = parser.read(message)
            frame = records[frame.modality].bind(frame)
        except Exception:
            continue  # counted in the first pass
        if frame.time in times:
            frames.setdefault(frame.modality, []).append(frame)
    return {modality: sorted(found, key=lambda frame: frame.time) for modality, found in frames.items()}


def _measure_sample(
    frames: Mapping[Modality, list[SensorFrame]], time: int, lead: Modality, rig: Rig, samples: ContentSamples
) -> None:
    rgb = _measure_image(frames, samples)
    for frame in frames.get(DEPTH, ()):
        _measure_depth(frame, samples)
    sweeps = frames.get(LIDAR, [])
    if not sweeps:
        return
    center = min(range(len(sweeps)), key=lambda at: abs(sweeps[at].time - time))
    clouds = {at - center: _valid_points(sweep) for at, sweep in enumerate(sweeps)}
    samples.count(LIDAR, not len(clouds[0]))
    if lead != CAMERA or not len(clouds[0]) or abs(sweeps[center].time - time) > _MAX_PAIR_NS:
        return
    for frame in frames.get(DEPTH, ()):
        _compare_depths(frame, sweeps[center], rig, samples)
    try:
        optical = rig.extrinsic(sweeps[center].frame_id, time).apply(clouds[0].astype(np.float64))
        samples.shares_in_image.append(len(rig.camera.project_visible(optical, near=0.1)[0]) / len(clouds[0]))
    except MlesamError as error:
        samples.refusals[LIDAR] = error.problem
        return
    if rgb is not None and rgb.std() >= _MIN_IMAGE_STD and rgb.shape[:2] == (rig.camera.height, rig.camera.width):
        outlines = {shift: sweep_outlines(xyz) for shift, xyz in clouds.items()}
        stamps = {at - center: sweep.time - time for at, sweep in enumerate(sweeps)}
        samples.views.append(AlignmentView(image_edges(rgb), outlines, stamps))


def _measure_image(
    frames: Mapping[Modality, list[SensorFrame]], samples: ContentSamples
) -> npt.NDArray[np.uint8] | None:
    for frame in frames.get(CAMERA, ()):
        assert isinstance(frame.payload, RawImage | CompressedImage)
        try:
            rgb = to_rgb(frame.payload)
        except MlesamError as error:
            samples.refusals[CAMERA] = error.problem
            continue
        samples.count(CAMERA, float(rgb.std()) < _MIN_IMAGE_STD)
        samples.sizes[CAMERA] = rgb.shape[0], rgb.shape[1]
        return rgb
    return None


def _measure_depth(frame: SensorFrame, samples: ContentSamples) -> None:
    assert isinstance(frame.payload, RawImage | CompressedImage)
    try:
        depth = parse_depth(frame.payload)
        meters, samples.unit = depth.meters(), depth.meters_per_count
    except MlesamError as error:
        samples.refusals[DEPTH] = error.problem
        return
    valid = meters[np.isfinite(meters)]
    samples.count(DEPTH, not len(valid))
    samples.sizes[DEPTH] = meters.shape[0], meters.shape[1]
    if len(valid):
        samples.depths.append(float(np.median(valid)))


def _compare_depths(frame: SensorFrame, sweep: SensorFrame, rig: Rig, samples: ContentSamples) -> None:
    """Compare the depth camera's depth with the LiDAR's in pixels where both are valid."""
    try:
        height, width = rig.camera.height, rig.camera.width
        scale = _COMPARISON_SIDE_PX / max(height, width)
        size = round(height * scale), round(width * scale)
        by_camera, by_lidar = depth_from_image(frame, rig, size), depth_from_cloud(sweep, rig, size, dilation=0)
    except MlesamError:
        return
    both = np.isfinite(by_camera) & np.isfinite(by_lidar)
    if np.count_nonzero(both) >= _MIN_SHARED_PIXELS:
        low, middle, high = np.percentile(by_camera[both] / by_lidar[both], (25, 50, 75))
        samples.ratios.append((float(middle), float((high - low) / (2 * middle))))


def _valid_points(sweep: SensorFrame) -> npt.NDArray[np.floating[Any]]:
    """(N, 3) finite points, without the zeros that drivers write for rays without return."""
    assert isinstance(sweep.payload, PointCloud)
    xyz = cloud_xyz(sweep.payload)
    return xyz[np.isfinite(xyz).all(axis=1) & (np.abs(xyz).max(axis=1) > 0)]


_MIN_DEPTH_M, _MAX_DEPTH_M = 0.05, 200.0
"""Plausible range of the median depth of a robot's depth images."""
_MIN_SHARE_IN_IMAGE = 0.003
"""Minimum share of a sweep's returns inside the image, even of a narrow lens."""
_MAX_BLANK_SHARE = 0.25
"""Maximum share of blank samples: a robot may drive through the dark, or up to a wall."""
_DRIVER_REMEDY = "Check the driver's settings and its log."
_BLANK_RULES = {CAMERA: "image_blank", DEPTH: "depth_empty", LIDAR: "cloud_empty"}


def message_findings(records: Mapping[Modality, TopicStats], begin: int, config: SyncConfig) -> Iterator[Finding]:
    """Report faults in the messages of each sensor, and stamps of all sensors that are ahead of their arrival.

    Args:
        records: of the sensors.
        begin: nanoseconds of 0 s in the findings.
        config: the node's.
    """
    lead = common_lead(records, config)
    if lead:
        yield finding("clock_ahead", "clock", ahead=1e3 * lead)
    for record in records.values():
        yield from content_findings(record)
        yield from timing_findings(record, begin, config, lead)


def content_findings(record: TopicStats) -> Iterator[Finding]:
    """Report unreadable messages, changing sizes and frames, detected data properties, and lost packets."""
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
            yield finding("intensity_missing", modality, reason=found.text)
        elif not found.usual:
            yield finding("data_found", modality, name=name.replace("_", " "), value=found.text)
    if record.messages_per_sweep > 1:
        yield finding("split_sweeps", modality, messages=record.messages_per_sweep)
    if len(record.frame_ids) > 1:
        frames = " and ".join(repr(frame) for frame, _ in record.frame_ids.most_common())
        yield finding("several_frames", modality, frames=frames, topic=topic, modality=modality)
    lost = record.counters.get("lost", 0)
    if lost:
        yield finding("packets_lost", modality, lost=lost, total=lost + record.counters["packets"])


def _refusal(record: TopicStats) -> Finding:
    ((problem, _),) = record.refusals.most_common(1)
    values = {"reason": problem.message.rstrip("."), "remedy": problem.remedy or _DRIVER_REMEDY}
    count = sum(record.refusals.values())
    if count == record.received:
        return finding("all_unreadable", record.modality, total=count, **values)
    return finding("some_unreadable", record.modality, count=count, total=record.received, **values)


def sample_findings(samples: ContentSamples) -> Iterator[Finding]:
    """Report faults in the sampled messages."""
    for modality, problem in samples.refusals.items():
        if modality not in samples.counts:
            values = {"reason": problem.message.rstrip("."), "remedy": problem.remedy or _DRIVER_REMEDY}
            yield finding("all_unreadable", modality, total=1, **values)
    for modality, rule in _BLANK_RULES.items():
        blank, total = samples.blank.get(modality, 0), samples.counts.get(modality, 0)
        if blank > _MAX_BLANK_SHARE * total:
            yield finding(rule, modality, count=blank, total=total)
    if (unit := samples.depth_unit) is not None:
        yield finding("depth_scale", DEPTH, factor=samples.depth_factor, unit=unit)
    elif samples.depths and not _MIN_DEPTH_M <= (meters := float(np.median(samples.depths))) <= _MAX_DEPTH_M:
        yield finding("depth_unit", DEPTH, meters=meters)
    if samples.shares_in_image and (share := float(np.median(samples.shares_in_image))) < _MIN_SHARE_IN_IMAGE:
        yield finding("cloud_out_of_view", LIDAR, share=100 * share)
