"""Whether lenses and mountings are known, and whether they can be right."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlesam_ros.doctor.catalogue import finding
from mlesam_ros.doctor.record import TopicStats
from mlesam_ros.errors import CalibrationError, Problem
from mlesam_ros.findings import WARNING, Finding
from mlesam_ros.frame import CAMERA, LIDAR, NANOSECONDS, Modality, SensorFrame
from mlesam_ros.geometry.mounting import mounting_findings
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.messages import stamp_ns

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
