"""Sample the content of messages at some times of a recording, and check it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.doctor.calibration_checks import SHIFTS, View, picture_edges, sweep_outlines
from mlesam_ros.doctor.rules import finding
from mlesam_ros.doctor.timing import TopicStats, common_lead, timing_findings
from mlesam_ros.errors import MlesamError, Problem
from mlesam_ros.findings import Finding
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

Rgb = npt.NDArray[np.uint8]

_MOMENTS = 12
"""Number of samples: a single one may have no outline in view of both camera and LiDAR."""
_TOGETHER = 250_000_000
"""Maximum nanoseconds between an image and a sweep of the same sample."""
_TURNS = NANOSECONDS
"""Nanoseconds that are read before a sweep sent in pieces: at least two turns of a LiDAR."""
_APART = 5 * NANOSECONDS
"""Maximum nanoseconds between the arrivals of messages of the same sample."""
_FACTOR = 1.5
"""Maximum factor between depth camera and LiDAR that errors and mountings explain."""
_STEADY = 0.1
"""Maximum spread of a factor that counts as the same in all pixels."""
_COARSE = 256
"""Pixels of the longer side at which the depths of depth camera and LiDAR are compared."""
_SHARED = 30
"""Minimum pixels with depth from both sensors."""
_EVEN = 2.0
"""Standard deviation in gray levels below which an image is blank."""


@dataclass
class ContentSamples:
    """Measurements of the sampled messages.

    Attributes:
        looked: modality → sampled messages.
        blank: modality → blank ones among them: no return, no valid depth, or uniform gray.
        sizes: modality → (height, width) of its decoded images.
        depths: median meters of each depth image with valid pixels.
        landed: share of returns inside the image, per point cloud.
        ratios: median ratio of the depth camera's depth to the LiDAR's, per sample, and its relative spread: half of
            the inter-quartile range of the pixels over their median.
        unit: meters per count of the depth images as they are read.
        refusals: modality → reason why a message could not be decoded, or its sensor has no transform.
        views: for `mlesam_ros.doctor.calibration_checks.judge`.
    """

    looked: dict[Modality, int] = field(default_factory=dict)
    blank: dict[Modality, int] = field(default_factory=dict)
    sizes: dict[Modality, tuple[int, int]] = field(default_factory=dict)
    depths: list[float] = field(default_factory=list)
    landed: list[float] = field(default_factory=list)
    ratios: list[tuple[float, float]] = field(default_factory=list)
    unit: float = 1.0
    refusals: dict[Modality, Problem] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)

    @property
    def depth_factor(self) -> float:
        """Ratio of the depth camera's depth to the LiDAR's: median of the samples with a small spread.

        1 unless most samples have a small spread.
        """
        steady = [ratio for ratio, spread in self.ratios if spread < _STEADY]
        return float(np.median(steady)) if 2 * len(steady) > len(self.ratios) else 1.0

    @property
    def depth_unit(self) -> float | None:
        """Meters per count at which depth camera and LiDAR would agree; None if they agree or cannot be compared."""
        factor = self.depth_factor
        return None if 1 / _FACTOR < factor < _FACTOR else self.unit / factor

    def note(self, modality: Modality, blank: bool) -> None:
        """Count a sampled message."""
        self.looked[modality] = self.looked.get(modality, 0) + 1
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
    looks = ContentSamples()
    lead = next((m for m in (CAMERA, LIDAR, DEPTH) if m in records and len(records[m].moments)), None)
    if lead is None:
        return looks
    leaders = records[lead].moments
    margin = max(SHIFTS) + 1 if len(leaders) > 4 * max(SHIFTS) else 0
    chosen = np.unique(np.linspace(margin, len(leaders) - 1 - margin, _MOMENTS).astype(int))
    for done, at in enumerate(chosen, 1):
        _look_at(_frames_around(reader, records, lead, int(at)), int(leaders[at]), lead, rig, looks)
        progress(done, len(chosen))
    return looks


def _frames_around(
    reader: BagReader, records: Mapping[Modality, TopicStats], lead: Modality, at: int
) -> dict[Modality, list[SensorFrame]]:
    """Read a message of the lead sensor, the nearest one of each other sensor, and the sweeps next to the LiDAR's.

    The frames of each sensor are in the order of their times.
    """
    moment = records[lead].moments[at]
    wanted: dict[str, tuple[FrameReader, set[int]]] = {}
    arrivals: list[int] = []
    for modality in (CAMERA, DEPTH, LIDAR):
        record = records.get(modality)
        if record is None or not len(record.moments):
            continue
        nearest = int(np.abs(record.moments - moment).argmin())
        if abs(record.arrivals[nearest] - records[lead].arrivals[at]) > _APART:
            continue  # inconsistent stamps
        pieces = record.usual_pieces
        reach = max(SHIFTS) * pieces if modality == LIDAR else 0
        chosen = slice(max(nearest - reach, nearest % pieces), nearest + reach + 1, pieces)
        arrivals += record.arrivals[chosen].tolist()
        if pieces > 1:
            arrivals.append(min(arrivals) - _TURNS)  # the reader needs earlier pieces to detect them
        times = set(record.moments[chosen].tolist())
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


def _look_at(
    frames: Mapping[Modality, list[SensorFrame]], moment: int, lead: Modality, rig: Rig, looks: ContentSamples
) -> None:
    rgb = _picture(frames, looks)
    for frame in frames.get(DEPTH, ()):
        _depth(frame, looks)
    sweeps = frames.get(LIDAR, [])
    if not sweeps:
        return
    center = min(range(len(sweeps)), key=lambda at: abs(sweeps[at].time - moment))
    clouds = {at - center: _returns(sweep) for at, sweep in enumerate(sweeps)}
    looks.note(LIDAR, not len(clouds[0]))
    if lead != CAMERA or not len(clouds[0]) or abs(sweeps[center].time - moment) > _TOGETHER:
        return
    for frame in frames.get(DEPTH, ()):
        _compare(frame, sweeps[center], rig, looks)
    try:
        optical = rig.extrinsic(sweeps[center].frame_id, moment).apply(clouds[0].astype(np.float64))
        looks.landed.append(len(rig.camera.project_visible(optical, near=0.1)[0]) / len(clouds[0]))
    except MlesamError as error:
        looks.refusals[LIDAR] = error.problem
        return
    if rgb is not None and rgb.std() >= _EVEN and rgb.shape[:2] == (rig.camera.height, rig.camera.width):
        outlines = {shift: sweep_outlines(xyz) for shift, xyz in clouds.items()}
        stamps = {at - center: sweep.time - moment for at, sweep in enumerate(sweeps)}
        looks.views.append(View(picture_edges(rgb), outlines, stamps))


def _picture(frames: Mapping[Modality, list[SensorFrame]], looks: ContentSamples) -> Rgb | None:
    for frame in frames.get(CAMERA, ()):
        assert isinstance(frame.payload, RawImage | CompressedImage)
        try:
            rgb = to_rgb(frame.payload)
        except MlesamError as error:
            looks.refusals[CAMERA] = error.problem
            continue
        looks.note(CAMERA, float(rgb.std()) < _EVEN)
        looks.sizes[CAMERA] = rgb.shape[0], rgb.shape[1]
        return rgb
    return None


def _depth(frame: SensorFrame, looks: ContentSamples) -> None:
    assert isinstance(frame.payload, RawImage | CompressedImage)
    try:
        samples = parse_depth(frame.payload)
        meters, looks.unit = samples.meters(), samples.meters_per_count
    except MlesamError as error:
        looks.refusals[DEPTH] = error.problem
        return
    valid = meters[np.isfinite(meters)]
    looks.note(DEPTH, not len(valid))
    looks.sizes[DEPTH] = meters.shape[0], meters.shape[1]
    if len(valid):
        looks.depths.append(float(np.median(valid)))


def _compare(frame: SensorFrame, sweep: SensorFrame, rig: Rig, looks: ContentSamples) -> None:
    """Compare the depth camera's depth with the LiDAR's in pixels where both are valid."""
    try:
        height, width = rig.camera.height, rig.camera.width
        size = round(height * _COARSE / max(height, width)), round(width * _COARSE / max(height, width))
        by_camera, by_lidar = depth_from_image(frame, rig, size), depth_from_cloud(sweep, rig, size, dilation=0)
    except MlesamError:
        return
    both = np.isfinite(by_camera) & np.isfinite(by_lidar)
    if np.count_nonzero(both) >= _SHARED:
        low, middle, high = np.percentile(by_camera[both] / by_lidar[both], (25, 50, 75))
        looks.ratios.append((float(middle), float((high - low) / (2 * middle))))


def _returns(sweep: SensorFrame) -> npt.NDArray[np.floating[Any]]:
    """(N, 3) finite points, without the zeros that drivers write for rays without return."""
    assert isinstance(sweep.payload, PointCloud)
    xyz = cloud_xyz(sweep.payload)
    return xyz[np.isfinite(xyz).all(axis=1) & (np.abs(xyz).max(axis=1) > 0)]


_DEPTHS = (0.05, 200.0)
"""Plausible range of the median depth of a robot's depth images, in meters."""
_IN_VIEW = 0.003
"""Minimum share of a sweep's returns inside the image, even of a narrow lens."""
_MANY = 0.25
"""Maximum share of blank samples: a robot may drive through the dark, or up to a wall."""
_DRIVER = "Check the driver's settings and its log."
_BLANK = {CAMERA: "picture_blank", DEPTH: "depth_empty", LIDAR: "cloud_empty"}


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
            yield finding("intensity_missing", modality, words=found.text)
        elif not found.usual:
            yield finding("data_found", modality, name=name.replace("_", " "), words=found.text)
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
    """Report faults in the sampled messages."""
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
