"""Check CameraInfo messages and extrinsics, the latter by the edges of images and depth."""

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
from mlesam_ros.errors import CalibrationError, Problem
from mlesam_ros.findings import WARNING, Finding
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.geometry.transforms import Transform
from mlesam_ros.geometry.validation import mounting_findings
from mlesam_ros.messages import stamp_ns
from mlesam_ros.types import CAMERA, LIDAR, NANOSECONDS, Modality, SensorFrame

_UNPLACED = 0.05
"""Share of look-ups that fail, beyond which a finding tells."""
_UNCONNECTED = "no transform connects"
_SILENCE = 0.5
"""Seconds that a gap in a moving transform has at least, besides three periods."""


@dataclass
class CalibrationMessages:
    """What TF said, as far as the rig does not keep it.

    Attributes:
        moving: (parent, child) → nanoseconds of what came on /tf.
    """

    moving: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add_transforms(self, message: Any) -> None:
        """A message on /tf."""
        for stamped in message.transforms:
            edge = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
            self.moving.setdefault(edge, []).append(stamp_ns(stamped.header))


class Lookups:
    """The sensors' transforms, looked up at the times of their frames as the network's inputs are.

    A set waits for its sensors, and transforms come meanwhile: a frame is looked up some time after it came.
    """

    def __init__(self, max_wait: float) -> None:
        """Start without frames; `max_wait` is how long a set waits, in seconds."""
        self._wait = round(max_wait * NANOSECONDS)
        self._pending: deque[tuple[int, Modality, str, int]] = deque()  # due, modality, frame_id, time
        self._total: Counter[Modality] = Counter()
        self._failed: dict[Modality, Counter[Problem]] = {}

    def note(self, frame: SensorFrame, arrived: int) -> None:
        """A frame came."""
        self._pending.append((arrived + self._wait, frame.modality, frame.frame_id, frame.time))

    def advance(self, rig: Rig, now: int | None) -> None:
        """Look up the frames that are due.

        Args:
            rig: as it is known now.
            now: nanoseconds of the clock that frames arrive by; None for the end, when all are due.
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
        """Sensors that are placed, but not at the times of their frames."""
        for modality, reasons in self._failed.items():
            share = reasons.total() / self._total[modality]
            reason = reasons.most_common(1)[0][0]
            if share > _UNPLACED and not reason.startswith(_UNCONNECTED):
                values = {"share": 100 * share, "reason": reason.message.rstrip(".")}
                yield finding("transform_late", modality, **values)


def _rounded(problem: Problem) -> Problem:
    """The reason without its number of seconds, so that equal ones are counted as one."""
    return Problem(re.sub(r" for [0-9.]+ s (?=after|before)", " ", problem.message), problem.remedy)


def calibration_findings(
    records: Mapping[Modality, TopicStats],
    infos: CalibrationMessages,
    rig: Rig,
    problems: Mapping[str, Problem],
    sizes: Mapping[Modality, tuple[int, int]],
    begin: int,
) -> Iterator[Finding]:
    """What is missing or contradicts the messages.

    Args:
        records: of the sensors.
        infos: what was heard of them.
        rig: as it is known in the end.
        problems: topic → what is wrong with its newest message.
        sizes: modality → (height, width) of its pictures.
        begin: nanoseconds that positions in time are told from.
    """
    spoken = {m: record for m, record in records.items() if record.frame_ids}
    pictures = {record.source.topic: m for m, record in records.items()}
    for topic, problem in problems.items():
        yield _problem(topic, problem, pictures.get(topic))
    if not rig.has_camera and not problems:
        yield finding("no_label_camera", CAMERA)
    named, camera = rig.lenses.get(CAMERA), spoken.get(CAMERA)
    stranger = named is not None and camera is not None and _frame_mismatch(camera, named.frame_id)
    if stranger:
        values = {"picture": spoken[CAMERA].frame_id, "info": rig.camera_frame, "modality": CAMERA}
        yield finding("info_frame", CAMERA, **values)
    shared = {rig.camera_frame, *((camera.frame_id,) if camera is not None else ())}
    for modality, record in spoken.items():
        if modality != LIDAR:
            yield from _lens(modality, record, rig, sizes.get(modality), shared)
        if not stranger:
            yield from _place(modality, record, rig)
    yield from _odd_mountings(spoken, rig)
    yield from _transform_gaps(infos, begin)


def _frame_mismatch(record: TopicStats, info_frame: str) -> bool:
    return bool(record.frame_id and info_frame) and record.frame_id != info_frame


def _problem(topic: str, problem: Problem, pictures_of: Modality | None) -> Finding:
    remedy = problem.remedy or "Correct it where it is published."
    values = {"reason": problem.message.rstrip("."), "remedy": remedy}
    if pictures_of is not None:
        return finding("doubtful_lens", pictures_of, **values)
    return finding("bad_transform" if "tf" in topic.rsplit("/", 1)[-1] else "bad_info", topic, **values)


def _lens(
    modality: Modality, record: TopicStats, rig: Rig, size: tuple[int, int] | None, shared: Collection[str]
) -> Iterator[Finding]:
    """Whether its lens is known and fits; one in a `shared` frame, the camera's, may be registered to the camera."""
    own = rig.lenses.get(modality)
    registered = modality != CAMERA and record.frame_id in shared and rig.has_camera
    if registered and (own is None or own.model.shows_as(rig.camera)):
        return  # the camera's lens is told with the camera
    known = rig.cameras.get(record.frame_id) if own is None else own.model
    if known is None:
        if modality == CAMERA and record.frame_id and rig.has_camera:
            yield finding("info_frame", modality, picture=record.frame_id, info=rig.camera_frame, modality=modality)
        elif modality != CAMERA and rig.has_camera:
            yield finding("no_info", modality)
        return
    if size is not None and size != (known.height, known.width):
        values = {"picture": f"{size[1]}x{size[0]}", "info": f"{known.width}x{known.height}"}
        yield finding("info_size", modality, **values)


def _place(modality: Modality, record: TopicStats, rig: Rig) -> Iterator[Finding]:
    """Whether a sensor is connected to the label camera."""
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


def _odd_mountings(records: Mapping[Modality, TopicStats], rig: Rig) -> Iterator[Finding]:
    """What is odd about the sensors' own places; other frames of the robot are its own business."""
    frames = {record.frame_id for record in records.values()} | {rig.camera_frame}
    subjects = {f"{kind} {frame}" for frame in frames for kind in ("camera", "frame")}
    models = {frame: model for frame, model in rig.cameras.items() if frame in frames}
    for found in mounting_findings(rig.camera_frame, models, rig.tree):
        if found.severity == WARNING and found.subject in subjects:
            yield found


def _transform_gaps(infos: CalibrationMessages, begin: int) -> Iterator[Finding]:
    for (parent, child), stamps in infos.moving.items():
        times = np.unique(np.array(stamps, np.int64))
        steps = np.diff(times) / NANOSECONDS
        if len(steps) < 3 or steps.max() <= max(3 * float(np.median(steps)), _SILENCE):
            continue
        at = (times[steps.argmax()] - begin) / NANOSECONDS
        yield finding("transform_gaps", "/tf", parent=parent, child=child, longest=steps.max(), at=at)


Pixels = npt.NDArray[np.intp]

YAWS = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Degrees that a calibration is turned by to see whether it was better before."""
_NEAR = 1.0
"""Meters along the camera's axis from which on points count: nearer ones are the robot itself."""


@dataclass(frozen=True, slots=True)
class DepthSpread:
    """A score.

    Attributes:
        score: median inter-quartile range of ln(meters) inside the segments; NaN without any.
        segments: how many had enough points.
        points: how many landed in the picture.
    """

    score: float
    segments: int
    points: int


class Segments:
    """The things in a picture, of a size that says something.

    Args:
        partitions: each (H, W), either bool, one segment, or integer ids of segments, of which 0 is none.
        smallest: pixels of the smallest segment that counts.
        largest: pixels of the largest: the ground and the sky are no one thing.
        least: points that a segment must have caught.
    """

    def __init__(
        self,
        partitions: Iterable[npt.NDArray[Any]],
        smallest: int = 400,
        largest: int = 150_000,
        least: int = 20,
    ) -> None:
        self._least = least
        self._partitions: list[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]] = []
        for partition in partitions:
            areas = np.bincount(partition.ravel())
            counts = (areas >= smallest) & (areas <= largest)
            counts[0] = False
            if counts.any():
                self._partitions.append((partition, counts))

    def __len__(self) -> int:
        return sum(int(counts.sum()) for _, counts in self._partitions)

    def coherence(self, rows: Pixels, cols: Pixels, depth: npt.NDArray[np.floating[Any]]) -> DepthSpread:
        """Score points that landed.

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
        groups = [group for group in np.split(logs[order], borders) if len(group) >= self._least]
        return [float(np.subtract(*np.percentile(group, (75, 25)))) for group in groups]


def rotate_extrinsic(
    camera_from_sensor: Transform, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
) -> Transform:
    """A mounting with a rotation added in the camera's optical frame, to see what an error looks like.

    Args:
        camera_from_sensor: the mounting.
        yaw: degrees about y, which points down: what was ahead moves right.
        pitch: degrees about x: what was ahead moves up.
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
    """The score with the mounting as it is and turned a little.

    Args:
        points: (N, 3) meters in the sensor's frame; float64 if they are to be counted to the last one.
        camera_from_sensor: the mounting.
        camera: of the picture.
        segments: of the picture.
        yaws: degrees.

    Returns:
        added yaw → score.
    """
    scores = {}
    for yaw in yaws:
        optical = rotate_extrinsic(camera_from_sensor, yaw).apply(points)
        index, u, v = camera.project_visible(optical, near=_NEAR)
        rows, cols = np.floor(v + 0.5).astype(np.intp), np.floor(u + 0.5).astype(np.intp)
        scores[yaw] = segments.coherence(rows, cols, optical[index, 2])
    return scores


def best_yaw(scores: Mapping[float, DepthSpread]) -> float | None:
    """The added yaw with the least score; None where no segment caught enough points."""
    finite = {yaw: coherence.score for yaw, coherence in scores.items() if np.isfinite(coherence.score)}
    return min(finite, key=lambda yaw: (finite[yaw], abs(yaw)), default=None)


Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32]

SHIFTS = (-3, -2, -1, 0, 1, 2, 3)
"""Sweeps by which the LiDAR is moved in time; the outermost only show that one before is a peak."""
_STEP = 0.25
_YAWS = np.arange(-6.0, 6.01, _STEP)
"""Degrees that the mounting is turned by."""
_JUMP = 0.15
"""In ln(meters): what stands out does so by a seventh of its distance."""
_ALIGNMENT_NEAR = 1.5
"""Meters up to which returns may be the robot's own."""
_ROW, _REACH = 0.2, 1.0
"""Degrees of elevation that are one row of a sweep, and of azimuth up to which its points are neighbors."""
_STEEP = 95
"""Percentile of the picture's steepness that counts as an edge in full."""
_WIDTH = 640
"""Pixels that wider pictures are made smaller to: an edge is one of them wide."""
_FINE = 95.0
"""Focal length in pixels, of the picture as it is looked at, from which on a pixel is no more than 0.6 degrees."""
_POINTS = 150
"""Points on outlines in the pictures, over all views, below which nothing is said."""
_APART = 1.5
"""Degrees around the best angle that do not count as elsewhere."""
_CLEAR = 4.0
"""Times the spread elsewhere that the best must stand out by. Measured: docs/doctor.md."""
_HEIGHT = 0.05
"""Share of the points on edges that the best has more than chance, at least."""
_ADVANTAGE = 0.5
"""Part of that height which the mounting as it is must lack."""
_MANY, _MANY_POINTS = 6, 1000
"""Views, no two of them alike, and points, from which on it means something that nothing stands out."""
_CLARITY = 4.0
"""That of pictures with little noise; in others nothing may stand out although all is well."""
_OFF = 0.75
"""Degrees from which on a calibration is called wrong; a quarter is what the angles resolve."""


class Edges(NamedTuple):
    """Where a picture changes from left to right.

    Attributes:
        strength: (h, w) float32 in [0, 1], of the whole picture, at most 640 wide.
        clarity: how much steeper its edges are than the rest of it; that of mere noise is about 2.
    """

    strength: Image
    clarity: float


@dataclass(frozen=True)
class View:
    """One picture and the sweeps around it.

    Attributes:
        edges: of the picture.
        sweeps: shift → (N, 3) points on outlines, in the LiDAR's frame.
        stamps: shift → nanoseconds of the sweep minus the picture's.
    """

    edges: Edges
    sweeps: Mapping[int, Floats]
    stamps: Mapping[int, int]


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        yaw: degrees to add to the mounting, as `mlesam_ros.doctor.calibration_checks.rotate_extrinsic` takes them;
            None where nothing stands out.
        shift: seconds by which the LiDAR's stamps are late; None where they are not clearly so.
        telling: whether there is enough to see for a calibration that is right to stand out.
    """

    yaw: float | None
    shift: float | None
    telling: bool = False

    @property
    def is_off(self) -> bool:
        """Whether the mounting is wrong by more than the measurement."""
        return self.yaw is not None and abs(self.yaw) >= _OFF


def picture_edges(rgb: npt.NDArray[np.uint8]) -> Edges:
    """Where a picture changes from left to right.

    Args:
        rgb: (H, W, 3) uint8.
    """
    scale = min(1.0, _WIDTH / rgb.shape[1])
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), (0, 0), 1.0).astype(np.float32)
    steep = np.abs(cv2.Sobel(smooth, cv2.CV_32F, 1, 0)).max(axis=2)
    usual, full = np.maximum(np.percentile(steep, (50, _STEEP)), (1.0, 1e-6))
    strength = cv2.GaussianBlur(np.minimum(steep / np.float32(full), 1.0), (0, 0), 1.0)
    return Edges(np.asarray(strength, np.float32), float(full / usual))


def sweep_outlines(xyz: npt.NDArray[np.floating[Any]]) -> Floats:
    """The points that are much nearer than a neighbor in their row.

    Args:
        xyz: (N, 3) meters in the LiDAR's frame, z up.

    Returns:
        (M, 3) of them.
    """
    xyz = xyz[np.isfinite(xyz).all(axis=1)].astype(np.float64)
    distance = np.linalg.norm(xyz, axis=1)
    xyz, distance = xyz[distance > _ALIGNMENT_NEAR], distance[distance > _ALIGNMENT_NEAR]
    azimuth = np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
    row = np.round(np.degrees(np.arcsin(xyz[:, 2] / distance)) / _ROW)
    order = np.lexsort((azimuth, row))
    near = (np.diff(row[order]) == 0) & (np.diff(azimuth[order]) < _REACH)
    step = np.diff(np.log(distance[order]))
    nearer = np.concatenate([[False], near & (step < -_JUMP)]) | np.concatenate([near & (step > _JUMP), [False]])
    return xyz[order[nearer[: len(order)]]]


def judge(views: Sequence[View], camera: CameraModel, camera_from_lidar: Transform) -> Verdict:
    """Turn the mounting and move the sweeps in time, and see where the outlines meet.

    Only what both halves of the views say is believed.

    Args:
        views: of moments apart from each other.
        camera: of the pictures.
        camera_from_lidar: the mounting.
    """
    if camera.K[0, 0] * min(1.0, _WIDTH / camera.width) < _FINE:
        return Verdict(None, None)
    turns = [(rotate_extrinsic(camera_from_lidar, yaw=float(yaw)), 0) for yaw in _YAWS]
    shifts = [(camera_from_lidar, shift) for shift in SHIFTS]
    rows, moved = _counts(views, camera, turns), _counts(views, camera, shifts)
    if not len(rows) or rows[..., 1].sum(axis=0).min() < _POINTS:
        return Verdict(None, None)
    by_yaw = _shares(rows)
    shift = _best_shift(_shares(moved), by_yaw) if len(moved) else None
    if shift is not None and _agree(moved, shift, 0):
        offsets = [view.stamps[SHIFTS[shift]] for view in views if SHIFTS[shift] in view.stamps]
        return Verdict(None, float(np.median(offsets)) / NANOSECONDS)
    best = _best_yaw(by_yaw)
    believed = best is not None and _agree(rows, int(by_yaw.argmax()), round(_OFF / _STEP))
    distinct = len(np.unique(rows[:, :, 0].round(6), axis=0))
    enough = distinct >= _MANY and rows[..., 1].sum(axis=0).min() >= _MANY_POINTS
    clear = float(np.median([view.edges.clarity for view in views])) >= _CLARITY
    return Verdict(best if believed else None, None, enough and clear)


def _agree(rows: Floats, best: int, reach: int) -> bool:
    """Whether both halves of the views find the same, within some trials."""
    halves = (rows[::2], rows[1::2])
    return len(rows) < _MANY or all(abs(int(_shares(half).argmax()) - best) <= reach for half in halves)


def _counts(views: Sequence[View], camera: CameraModel, trials: Sequence[tuple[Transform, int]]) -> Floats:
    """(views, trials, 2): sum of the edges under the outlines, and how many land; of views that have every trial."""
    whole = [view for view in views if all(shift in view.sweeps for _, shift in trials)]
    return np.array([_count(view, camera, trials) for view in whole]).reshape(len(whole), len(trials), 2)


def _shares(rows: Floats) -> Floats:
    """(trials,) share of the outlines on edges, over the views."""
    edges, points = rows.sum(axis=0).T
    return np.asarray(edges / np.maximum(points, 1))


def _count(view: View, camera: CameraModel, trials: Sequence[tuple[Transform, int]]) -> Floats:
    """(trials, 2) of one view."""
    out, (height, width) = [], view.edges.strength.shape
    for mounting, shift in trials:
        _, u, v = camera.project_visible(mounting.apply(view.sweeps[shift]), near=1.0)
        rows = np.floor((v + 0.5) * height / camera.height).astype(np.intp).clip(0, height - 1)
        cols = np.floor((u + 0.5) * width / camera.width).astype(np.intp).clip(0, width - 1)
        out.append((float(view.edges.strength[rows, cols].sum(dtype=np.float64)), len(rows)))
    return np.array(out)


def _best_yaw(shares: Floats) -> float | None:
    """The angle that stands out; 0 where the mounting as it is does about as well; None where none does."""
    at = int(shares.argmax())
    elsewhere = shares[np.abs(_YAWS - _YAWS[at]) > _APART]
    level, spread = _middle(elsewhere)
    height = float(shares[at]) - level
    if at in (0, len(_YAWS) - 1) or height < max(_CLEAR * spread, _HEIGHT) or shares[at] <= elsewhere.max():
        return None
    as_it_is = float(shares[np.abs(_YAWS).argmin()])
    return float(_YAWS[at]) if shares[at] - as_it_is > _ADVANTAGE * height else 0.0


def _best_shift(shares: Floats, by_yaw: Floats) -> int | None:
    """Index of the shift whose sweeps clearly fit better; None where those of the same moment do as well."""
    at, here = int(shares.argmax()), SHIFTS.index(0)
    level, spread = _middle(by_yaw)
    height = float(shares[at]) - level
    if at in (0, here, len(SHIFTS) - 1) or height < max(_CLEAR * spread, _HEIGHT):
        return None
    if shares[at] - shares[here] < _ADVANTAGE * height or shares[at] < by_yaw.max():
        return None  # as it is, or turned, it is about as good
    return at


def _middle(values: Floats) -> tuple[float, float]:
    """Median, and the standard deviation that the median distance from it stands for."""
    level = float(np.median(values))
    return level, 1.4826 * float(np.median(np.abs(values - level)))
