# SPDX-License-Identifier: Apache-2.0
"""Check CameraInfo messages, transforms and extrinsics.

The extrinsic of a LiDAR is checked in two ways: by the spread of depth inside image segments, and by the alignment of
depth outlines with image edges.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mlesam_ros.doctor.rules import finding
from mlesam_ros.doctor.timing import TopicStats
from mlesam_ros.errors import WARNING, CalibrationError, Finding, Problem
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.geometry.validation import mounting_findings
from mlesam_ros.messages import stamp_ns
from mlesam_ros.types import CAMERA, LIDAR, NANOSECONDS, Modality, SensorFrame

_MAX_FAILED_SHARE = 0.05
"""Share of failed transform look-ups above which they are reported."""
_NOT_CONNECTED = "no transform connects"
_MIN_GAP_S = 0.5
"""Minimum duration of a gap in a dynamic transform; it also exceeds three periods."""


@dataclass
class DynamicTransforms:
    """Timestamps of dynamic transforms, which the rig does not keep.

    Attributes:
        stamps: (parent, child) → stamps in nanoseconds of its transforms on /tf.
    """

    stamps: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add_transforms(self, message: Any) -> None:
        """Add a message on /tf."""
        for stamped in message.transforms:
            edge = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
            self.stamps.setdefault(edge, []).append(stamp_ns(stamped.header))


class TransformLookups:
    """Looks up the sensors' transforms at the times of their frames, as for the network's inputs.

    A frame is looked up `max_wait` after its arrival: transforms may arrive while a set waits for its sensors.
    """

    def __init__(self, max_wait: float) -> None:
        """Start without frames; `max_wait` is the longest wait of a set, in seconds."""
        self._wait = round(max_wait * NANOSECONDS)
        self._pending: deque[tuple[int, Modality, str, int]] = deque()  # due, modality, frame_id, time
        self._total: Counter[Modality] = Counter()
        self._failed: dict[Modality, Counter[Problem]] = {}

    def add(self, frame: SensorFrame, arrival: int) -> None:
        """Add a frame that arrived at `arrival`, in nanoseconds."""
        self._pending.append((arrival + self._wait, frame.modality, frame.frame_id, frame.time))

    def advance(self, rig: Rig, now: int | None) -> None:
        """Look up the frames that are due.

        Args:
            rig: learned so far.
            now: nanoseconds of the clock of arrival; None at the end, when all frames are due.
        """
        while self._pending and (now is None or self._pending[0][0] <= now):
            _, modality, frame_id, time = self._pending.popleft()
            if not rig.has_camera or not frame_id:
                continue
            self._total[modality] += 1
            try:
                rig.extrinsic(frame_id, time)
            except CalibrationError as error:
                self._failed.setdefault(modality, Counter())[_rounded(error.problem)] += 1

    def findings(self, rig: Rig) -> Iterator[Finding]:
        """Report sensors whose transform exists, but not at the times of their frames."""
        for modality, reasons in self._failed.items():
            share = reasons.total() / self._total[modality]
            reason = reasons.most_common(1)[0][0]
            if share > _MAX_FAILED_SHARE and not reason.startswith(_NOT_CONNECTED):
                values = {"share": 100 * share, "reason": reason.message.rstrip(".")}
                yield finding("transform_late", modality, **values)


def _rounded(problem: Problem) -> Problem:
    """Remove the number of seconds from a reason, so that equal reasons are counted together."""
    return Problem(re.sub(r" for [0-9.]+ s (?=after|before)", " ", problem.message), problem.remedy)


def calibration_findings(
    records: Mapping[Modality, TopicStats],
    transforms: DynamicTransforms,
    rig: Rig,
    problems: Mapping[str, Problem],
    sizes: Mapping[Modality, tuple[int, int]],
    begin: int,
) -> Iterator[Finding]:
    """Report calibration that is missing or contradicts the messages.

    Args:
        records: of the sensors.
        transforms: timestamps of dynamic transforms.
        rig: learned from all messages.
        problems: topic → problem of its newest invalid message.
        sizes: modality → (height, width) of its images.
        begin: nanoseconds of 0 s in the findings.
    """
    received = {m: record for m, record in records.items() if record.frame_ids}
    image_topics = {record.source.topic: m for m, record in records.items()}
    for topic, problem in problems.items():
        yield _invalid_message(topic, problem, image_topics.get(topic))
    if not rig.has_camera and not problems:
        yield finding("no_camera_info", CAMERA)
    named, camera = rig.lenses.get(CAMERA), received.get(CAMERA)
    mismatch = named is not None and camera is not None and _frame_mismatch(camera, named.frame_id)
    if mismatch:
        values = {"image": received[CAMERA].frame_id, "info": rig.camera_frame, "modality": CAMERA}
        yield finding("info_frame", CAMERA, **values)
    shared = {rig.camera_frame, *((camera.frame_id,) if camera is not None else ())}
    for modality, record in received.items():
        if modality != LIDAR:
            yield from _check_camera_info(modality, record, rig, sizes.get(modality), shared)
        if not mismatch:
            yield from _check_transform(modality, record, rig)
    yield from _implausible_mountings(received, rig)
    yield from _transform_gaps(transforms, begin)


def _frame_mismatch(record: TopicStats, info_frame: str) -> bool:
    return bool(record.frame_id and info_frame) and record.frame_id != info_frame


def _invalid_message(topic: str, problem: Problem, image_of: Modality | None) -> Finding:
    remedy = problem.remedy or "Correct it where it is published."
    values = {"reason": problem.message.rstrip("."), "remedy": remedy}
    if image_of is not None:
        return finding("doubtful_info", image_of, **values)
    return finding("bad_transform" if "tf" in topic.rsplit("/", 1)[-1] else "bad_info", topic, **values)


def _check_camera_info(
    modality: Modality, record: TopicStats, rig: Rig, size: tuple[int, int] | None, shared: Collection[str]
) -> Iterator[Finding]:
    """Check that a sensor has a CameraInfo of its image size.

    An image in a `shared` frame, the camera's, may be registered to the camera and use its CameraInfo.
    """
    own = rig.lenses.get(modality)
    registered = modality != CAMERA and record.frame_id in shared and rig.has_camera
    if registered and (own is None or own.model.shows_as(rig.camera)):
        return  # the camera's CameraInfo is checked with the camera
    known = rig.cameras.get(record.frame_id) if own is None else own.model
    if known is None:
        if modality == CAMERA and record.frame_id and rig.has_camera:
            yield finding("info_frame", modality, image=record.frame_id, info=rig.camera_frame, modality=modality)
        elif modality != CAMERA and rig.has_camera:
            yield finding("no_sensor_info", modality)
        return
    if size is not None and size != (known.height, known.width):
        values = {"image": f"{size[1]}x{size[0]}", "info": f"{known.width}x{known.height}"}
        yield finding("info_size", modality, **values)


def _check_transform(modality: Modality, record: TopicStats, rig: Rig) -> Iterator[Finding]:
    """Check that a transform connects a sensor to the label camera."""
    frame = record.frame_id
    if not frame:
        yield finding("no_frame_id", modality, modality=modality)
        return
    if modality == CAMERA or not rig.camera_frame or frame == rig.camera_frame:
        return
    try:
        rig.extrinsic(frame)
    except CalibrationError:
        yield finding("no_transform", modality, frame=frame, camera=rig.camera_frame)


def _implausible_mountings(records: Mapping[Modality, TopicStats], rig: Rig) -> Iterator[Finding]:
    """Report implausible mountings of the sensors; other frames of the robot are not checked."""
    frames = {record.frame_id for record in records.values()} | {rig.camera_frame}
    subjects = {f"{kind} {frame}" for frame in frames for kind in ("camera", "frame")}
    models = {frame: model for frame, model in rig.cameras.items() if frame in frames}
    for found in mounting_findings(rig.camera_frame, models, rig.tree):
        if found.severity == WARNING and found.subject in subjects:
            yield found


def _transform_gaps(transforms: DynamicTransforms, begin: int) -> Iterator[Finding]:
    for (parent, child), stamps in transforms.stamps.items():
        times = np.unique(np.array(stamps, np.int64))
        steps = np.diff(times) / NANOSECONDS
        if len(steps) < 3 or steps.max() <= max(3 * float(np.median(steps)), _MIN_GAP_S):
            continue
        at = (times[steps.argmax()] - begin) / NANOSECONDS
        yield finding("transform_gaps", "/tf", parent=parent, child=child, longest=steps.max(), at=at)


Pixels = npt.NDArray[np.intp]

YAWS = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Yaw angles in degrees that are added to a calibration; the score is best at 0 if the calibration is right."""
_MIN_DEPTH_M = 1.0
"""Minimum depth of points along the camera's axis; nearer points may be on the robot."""


@dataclass(frozen=True, slots=True)
class DepthSpread:
    """Spread of depth inside image segments.

    Attributes:
        score: median inter-quartile range of ln(meters) inside the segments; NaN without any.
        segments: number of segments with enough points.
        points: number of points inside the image.
    """

    score: float
    segments: int
    points: int


class Segments:
    """Segments of an image, of a size suitable for scoring.

    Args:
        partitions: each (H, W), either bool, one segment, or integer ids of segments, 0 for none.
        min_pixels: minimum area of a segment.
        max_pixels: maximum area of a segment; the ground and the sky are no single objects.
        min_points: minimum points in a segment.
    """

    def __init__(
        self,
        partitions: Iterable[npt.NDArray[Any]],
        min_pixels: int = 400,
        max_pixels: int = 150_000,
        min_points: int = 20,
    ) -> None:
        self._min_points = min_points
        self._partitions: list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] = []
        for partition in partitions:
            areas = np.bincount(partition.ravel())
            counts = (areas >= min_pixels) & (areas <= max_pixels)
            counts[0] = False
            if counts.any():
                self._partitions.append((partition, counts))

    def __len__(self) -> int:
        return sum(int(counts.sum()) for _, counts in self._partitions)

    def depth_spread(self, rows: Pixels, cols: Pixels, depth: npt.NDArray[np.floating[Any]]) -> DepthSpread:
        """Score points inside the image.

        Args:
            rows: (N,) of their pixels.
            cols: (N,) of their pixels.
            depth: (N,) meters along the camera's axis.
        """
        logs = np.log(np.asarray(depth, np.float64))
        ranges = [r for part in self._partitions for r in self._ranges(part, rows, cols, logs)]
        return DepthSpread(float(np.median(ranges)) if ranges else float("nan"), len(ranges), len(rows))

    def _ranges(
        self, part: tuple[npt.NDArray[Any], npt.NDArray[np.bool_]], rows: Pixels, cols: Pixels, logs: Any
    ) -> list[float]:
        partition, counts = part
        ids = partition[rows, cols].astype(np.intp)
        inside = np.flatnonzero(counts[ids])
        order = inside[np.argsort(ids[inside], kind="stable")]
        borders = np.flatnonzero(np.diff(ids[order])) + 1
        groups = [group for group in np.split(logs[order], borders) if len(group) >= self._min_points]
        return [float(np.subtract(*np.percentile(group, (75, 25)))) for group in groups]


def rotate_extrinsic(
    camera_from_sensor: Transform, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
) -> Transform:
    """Add a rotation in the camera's optical frame to an extrinsic, to simulate a calibration error.

    Args:
        camera_from_sensor: the extrinsic.
        yaw: degrees about y, which points down: points ahead move right.
        pitch: degrees about x: points ahead move up.
        roll: degrees about z: the scene turns clockwise.
    """
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return Transform(about_z @ about_x @ about_y, np.zeros(3)) @ camera_from_sensor


def score_by_yaw(
    points: npt.NDArray[np.floating[Any]],
    camera_from_sensor: Transform,
    camera: CameraModel,
    segments: Segments,
    yaws: Sequence[float] = YAWS,
) -> Mapping[float, DepthSpread]:
    """Score an extrinsic with each of several added yaw angles.

    Args:
        points: (N, 3) meters in the sensor's frame; float64 for an exact count of the points inside the image.
        camera_from_sensor: the extrinsic.
        camera: of the image.
        segments: of the image.
        yaws: degrees.

    Returns:
        Added yaw → score.
    """
    scores = {}
    for yaw in yaws:
        optical = rotate_extrinsic(camera_from_sensor, yaw).apply(points)
        index, u, v = camera.project_visible(optical, near=_MIN_DEPTH_M)
        rows, cols = np.floor(v + 0.5).astype(np.intp), np.floor(u + 0.5).astype(np.intp)
        scores[yaw] = segments.depth_spread(rows, cols, optical[index, 2])
    return scores


def best_yaw(scores: Mapping[float, DepthSpread]) -> float | None:
    """Added yaw with the lowest score; None if no segment has enough points."""
    finite = {yaw: spread.score for yaw, spread in scores.items() if np.isfinite(spread.score)}
    return min(finite, key=lambda yaw: (finite[yaw], abs(yaw)), default=None)


Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]

SHIFTS = (-3, -2, -1, 0, 1, 2, 3)
"""Trial shifts of the LiDAR in time, in sweeps; the outermost only confirm that an inner one is a peak."""
_YAW_STEP_DEG = 0.25
_TRIAL_YAWS_DEG = np.arange(-6.0, 6.01, _YAW_STEP_DEG)
"""Trial yaw angles of the mounting."""
_MIN_LOG_STEP = 0.15
"""Minimum step in ln(meters) between neighbors at an outline, about a seventh of the distance."""
_MIN_DISTANCE_M = 1.5
"""Nearer returns may come from the robot itself."""
_ROW_DEG, _MAX_NEIGHBOR_DEG = 0.2, 1.0
"""Height of a sweep's row in elevation, and maximum azimuth between neighbors in a row."""
_FULL_STRENGTH_PERCENTILE = 95
"""Percentile of the image's gradient that gives full edge strength."""
_MAX_WIDTH_PX = 640
"""Wider images are reduced to this width, at which edges are about one pixel wide."""
_MIN_FOCAL_LENGTH_PX = 95.0
"""Minimum focal length of the reduced image: a pixel covers at most 0.6 degrees."""
_MIN_OUTLINE_POINTS = 150
"""Minimum points on outlines in the images, over all views, for any result."""
_PEAK_RADIUS_DEG = 1.5
"""Angles this close to the best one are excluded from the background level."""
_MIN_PEAK_SIGMAS = 4.0
"""Minimum height of a peak in standard deviations of the background. Measured: docs/doctor.md."""
_MIN_PEAK_HEIGHT = 0.05
"""Minimum height of a peak above the background, as share of points on edges."""
_MIN_ADVANTAGE = 0.5
"""Share of the peak's height that the current mounting must lack before a change is proposed."""
_MIN_VIEWS, _MIN_TOTAL_POINTS = 6, 1000
"""Minimum distinct views, and points, for the absence of a peak to be significant."""
_MIN_CLARITY = 4.0
"""Minimum clarity of the images for the absence of a peak to be significant; noise may hide the peak."""
_MIN_YAW_ERROR_DEG = 0.75
"""Minimum reported calibration error; the trial angles are a quarter of a degree apart."""


class Edges(NamedTuple):
    """Horizontal gradient of an image.

    Attributes:
        strength: (h, w) float32 in [0, 1], of the whole image, at most 640 wide.
        clarity: ratio of the gradient's 95th percentile to its median; about 2 for pure noise.
    """

    strength: Image
    clarity: float


@dataclass(frozen=True)
class AlignmentView:
    """One image and the sweeps around it.

    Attributes:
        edges: of the image.
        sweeps: shift → (N, 3) points on outlines, in the LiDAR's frame.
        stamps: shift → nanoseconds from the image to the sweep.
    """

    edges: Edges
    sweeps: Mapping[int, Floats]
    stamps: Mapping[int, int]


@dataclass(frozen=True)
class Alignment:
    """Result of the alignment check.

    Attributes:
        yaw: degrees to add to the mounting, as in `rotate_extrinsic`; None without a clear peak.
        shift: seconds by which the LiDAR's stamps are late; None without a clear shift.
        is_conclusive: whether a correct calibration would show a peak in these views.
    """

    yaw: float | None
    shift: float | None
    is_conclusive: bool = False

    @property
    def is_off(self) -> bool:
        """Whether the error of the mounting exceeds the uncertainty of the check."""
        return self.yaw is not None and abs(self.yaw) >= _MIN_YAW_ERROR_DEG


def image_edges(rgb: npt.NDArray[np.uint8]) -> Edges:
    """Compute the horizontal gradient of an image in CIELAB.

    Args:
        rgb: (H, W, 3) uint8.
    """
    scale = min(1.0, _MAX_WIDTH_PX / rgb.shape[1])
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), (0, 0), 1.0).astype(np.float32)
    steep = np.abs(cv2.Sobel(smooth, cv2.CV_32F, 1, 0)).max(axis=2)
    usual, full = np.maximum(np.percentile(steep, (50, _FULL_STRENGTH_PERCENTILE)), (1.0, 1e-6))
    strength = cv2.GaussianBlur(np.minimum(steep / np.float32(full), 1.0), (0, 0), 1.0)
    return Edges(np.asarray(strength, np.float32), float(full / usual))


def sweep_outlines(xyz: npt.NDArray[np.floating[Any]]) -> Floats:
    """Select the points that are much nearer than a neighbor in their row.

    Args:
        xyz: (N, 3) meters in the LiDAR's frame, z up.

    Returns:
        (M, 3) float64 meters of these points.
    """
    xyz = xyz[np.isfinite(xyz).all(axis=1)].astype(np.float64)
    distance = np.linalg.norm(xyz, axis=1)
    xyz, distance = xyz[distance > _MIN_DISTANCE_M], distance[distance > _MIN_DISTANCE_M]
    azimuth = np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
    row = np.round(np.degrees(np.arcsin(xyz[:, 2] / distance)) / _ROW_DEG)
    order = np.lexsort((azimuth, row))
    near = (np.diff(row[order]) == 0) & (np.diff(azimuth[order]) < _MAX_NEIGHBOR_DEG)
    step = np.diff(np.log(distance[order]))
    behind, ahead = near & (step < -_MIN_LOG_STEP), near & (step > _MIN_LOG_STEP)
    nearer = np.concatenate([[False], behind]) | np.concatenate([ahead, [False]])
    return xyz[order[nearer[: len(order)]]]


def check_alignment(views: Sequence[AlignmentView], camera: CameraModel, camera_from_lidar: Transform) -> Alignment:
    """Try yaw angles of the mounting and shifts of the sweeps in time, and find the best match of outlines and edges.

    A result counts only if both halves of the views agree on it.

    Args:
        views: at distinct times.
        camera: of the images.
        camera_from_lidar: the mounting.
    """
    if camera.K[0, 0] * min(1.0, _MAX_WIDTH_PX / camera.width) < _MIN_FOCAL_LENGTH_PX:
        return Alignment(None, None)
    turns = [(rotate_extrinsic(camera_from_lidar, yaw=float(yaw)), 0) for yaw in _TRIAL_YAWS_DEG]
    shifts = [(camera_from_lidar, shift) for shift in SHIFTS]
    rows, moved = _edge_sums(views, camera, turns), _edge_sums(views, camera, shifts)
    if not len(rows) or rows[..., 1].sum(axis=0).min() < _MIN_OUTLINE_POINTS:
        return Alignment(None, None)
    by_yaw = _mean_strengths(rows)
    shift = _best_shift(_mean_strengths(moved), by_yaw) if len(moved) else None
    if shift is not None and _halves_agree(moved, shift, 0):
        offsets = [view.stamps[SHIFTS[shift]] for view in views if SHIFTS[shift] in view.stamps]
        return Alignment(None, float(np.median(offsets)) / NANOSECONDS)
    best = _best_yaw(by_yaw)
    reach = round(_MIN_YAW_ERROR_DEG / _YAW_STEP_DEG)
    is_confirmed = best is not None and _halves_agree(rows, int(by_yaw.argmax()), reach)
    distinct = len(np.unique(rows[:, :, 0].round(6), axis=0))
    enough = distinct >= _MIN_VIEWS and rows[..., 1].sum(axis=0).min() >= _MIN_TOTAL_POINTS
    clear = float(np.median([view.edges.clarity for view in views])) >= _MIN_CLARITY
    return Alignment(best if is_confirmed else None, None, enough and clear)


def _halves_agree(rows: Floats, best: int, reach: int) -> bool:
    """Whether both halves of the views have their best trial within `reach` trials of `best`; True for few views."""
    halves = (rows[::2], rows[1::2])
    return len(rows) < _MIN_VIEWS or all(abs(int(_mean_strengths(half).argmax()) - best) <= reach for half in halves)


def _edge_sums(views: Sequence[AlignmentView], camera: CameraModel, trials: Sequence[tuple[Transform, int]]) -> Floats:
    """(views, trials, 2): sum of edge strength at the outlines, and their count, of views that have every trial."""
    whole = [view for view in views if all(shift in view.sweeps for _, shift in trials)]
    return np.array([_edge_sums_of_view(view, camera, trials) for view in whole]).reshape(len(whole), len(trials), 2)


def _mean_strengths(rows: Floats) -> Floats:
    """(trials,) mean edge strength at the outlines, over the views."""
    edges, points = rows.sum(axis=0).T
    return np.asarray(edges / np.maximum(points, 1))


def _edge_sums_of_view(view: AlignmentView, camera: CameraModel, trials: Sequence[tuple[Transform, int]]) -> Floats:
    """(trials, 2) of one view; see `_edge_sums`."""
    out, (height, width) = [], view.edges.strength.shape
    for mounting, shift in trials:
        _, u, v = camera.project_visible(mounting.apply(view.sweeps[shift]), near=1.0)
        rows = np.floor((v + 0.5) * height / camera.height).astype(np.intp).clip(0, height - 1)
        cols = np.floor((u + 0.5) * width / camera.width).astype(np.intp).clip(0, width - 1)
        out.append((float(view.edges.strength[rows, cols].sum(dtype=np.float64)), len(rows)))
    return np.array(out)


def _best_yaw(shares: Floats) -> float | None:
    """Yaw angle of a clear peak; 0 if the current mounting scores about as well; None without a peak."""
    at = int(shares.argmax())
    elsewhere = shares[np.abs(_TRIAL_YAWS_DEG - _TRIAL_YAWS_DEG[at]) > _PEAK_RADIUS_DEG]
    level, spread = _median_and_spread(elsewhere)
    height = float(shares[at]) - level
    is_clear = height >= max(_MIN_PEAK_SIGMAS * spread, _MIN_PEAK_HEIGHT) and shares[at] > elsewhere.max()
    if at in (0, len(_TRIAL_YAWS_DEG) - 1) or not is_clear:
        return None
    current = float(shares[np.abs(_TRIAL_YAWS_DEG).argmin()])
    return float(_TRIAL_YAWS_DEG[at]) if shares[at] - current > _MIN_ADVANTAGE * height else 0.0


def _best_shift(shares: Floats, by_yaw: Floats) -> int | None:
    """Index of the shift whose sweeps clearly fit better; None if the unshifted sweeps fit about as well."""
    at, here = int(shares.argmax()), SHIFTS.index(0)
    level, spread = _median_and_spread(by_yaw)
    height = float(shares[at]) - level
    if at in (0, here, len(SHIFTS) - 1) or height < max(_MIN_PEAK_SIGMAS * spread, _MIN_PEAK_HEIGHT):
        return None
    if shares[at] - shares[here] < _MIN_ADVANTAGE * height or shares[at] < by_yaw.max():
        return None  # the unshifted sweeps, or another yaw, fit about as well
    return at


def _median_and_spread(values: Floats) -> tuple[float, float]:
    """Median, and the standard deviation estimated from the median absolute deviation."""
    level = float(np.median(values))
    return level, 1.4826 * float(np.median(np.abs(values - level)))
