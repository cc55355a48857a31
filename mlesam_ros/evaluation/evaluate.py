"""`evaluate`: one bag through the pipeline, everything counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from mlesam_ros.bags.drops import Drop
from mlesam_ros.bags.reader import BagReader
from mlesam_ros.errors import MlesamError
from mlesam_ros.evaluation.calibration import BagRig
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.evaluation.scores import Labels, Scores, Subset, Trace
from mlesam_ros.evaluation.topics import Topics, find_topics
from mlesam_ros.evaluation.truth import LabelFolder, Truth
from mlesam_ros.frame import EVENT, Events, FrameSet, Modality, Segmentation
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig, load_rig
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.sync import SyncConfig

_ASSUMED_VIEW = 70.0
"""Degrees that a camera without any calibration is taken to see from side to side."""
_SLACK = 5_000_000
"""Nanoseconds by which a label picture's name may miss the stamp of the picture it labels."""


@dataclass(frozen=True)
class Options:
    """How a bag is evaluated.

    Attributes:
        topics: modality or `truth` → topic, where guessing is not wanted.
        calibration: rig file for what the bag does not say.
        labels: folder of true labels, called by stamp.
        start, duration: seconds from the bag's beginning; None for all of it.
        every: only every n-th set is segmented.
        real_time: skip what this machine would skip if the bag were live.
        drops: sensors to silence.
        robustness: segment each set with every subset of its sensors as well.
        rectified: modalities whose pictures are rectified.
        sync: changes to the synchroniser's configuration.
    """

    topics: dict[str, str] = field(default_factory=dict)
    calibration: Path | None = None
    labels: Path | None = None
    start: float = 0.0
    duration: float | None = None
    every: int = 1
    real_time: bool = False
    drops: tuple[Drop, ...] = ()
    robustness: bool = False
    rectified: tuple[Modality, ...] = ()
    sync: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """One mask and all that belongs to it.

    Attributes:
        frame_set: what it was made from, frames that could not be used left out.
        mask: the mask.
        rig: as it is known by now.
        trace: its figures; a truth that comes later is added to it.
        counters: modality → fate → messages so far.
        sequence: 1 for the first mask.
    """

    frame_set: FrameSet
    mask: Segmentation
    rig: Rig
    trace: Trace
    counters: dict[Modality, dict[str, int]]
    sequence: int


Listener = Callable[[Made], None]
"""Whoever wants to see the masks as they are made: the result bag, the report."""


@dataclass
class Evaluation:
    """What came out.

    Attributes:
        bag: its path.
        topics: what was read from where.
        sets: moments that the synchroniser made; those skipped by `every` are not among them.
        scores: everything that was counted.
        counters: modality → fate → messages.
        warnings: one sentence each.
        rejected: modality → frames that the pipeline could not use.
    """

    bag: Path
    topics: Topics
    sets: int
    scores: Scores
    counters: dict[Modality, dict[str, int]]
    warnings: list[str]
    rejected: dict[Modality, int]


def evaluate(
    bag: str | Path,
    pipeline: Pipeline,
    options: Options | None = None,
    listeners: Sequence[Listener] = (),
    progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Make the masks that the live node would make of this bag.

    Args:
        bag: rosbag2 folder or file.
        pipeline: makes them.
        options: see `Options`.
        listeners: told about every mask.
        progress: told the seconds of the bag that are done.

    Raises:
        BagError: no bag, or no sensor in it.
        CalibrationError, ConfigError: an option does not fit.
        MlesamError: not one mask could be made; with the reasons.
    """
    options = options or Options()
    with BagReader(bag) as reader:
        run = _Run(reader, pipeline, options)
        for step in run.replay.steps(options.start, options.duration):
            if isinstance(step, Truth):
                run.scores.take_truth(step)
                continue
            made = run.segment(step)
            for listener in listeners if made is not None else ():
                listener(made)
            if progress is not None:
                progress((step.stamp - reader.start) / 1e9)
        return run.conclude()


class _Run:
    """One bag's evaluation under way."""

    def __init__(self, reader: BagReader, pipeline: Pipeline, options: Options) -> None:
        self._reader, self._pipeline, self._options = reader, pipeline, options
        config = pipeline.config
        self.topics = find_topics(reader.topics, options.topics, config.modalities)
        rig = load_rig(options.calibration) if options.calibration else None
        self._calibration = BagRig(reader, self.topics, rig, options.rectified)
        sync = replace(SyncConfig(tuple(self.topics.sensors)), **options.sync)  # type: ignore[arg-type]
        self.replay = Replay(reader, self.topics, self._calibration, config.label_space, sync, options.drops)
        self._folder = LabelFolder(options.labels, config.label_space) if options.labels else None
        self.scores = Scores(len(config.label_space))
        self._notes: dict[str, None] = {}
        self._rejected: dict[Modality, int] = {}
        self._sets = self._seen = 0

    def segment(self, frame_set: FrameSet) -> Made | None:
        """The mask of a set; None where it is skipped or cannot be made."""
        self._seen += 1
        if (self._seen - 1) % self._options.every:
            return None
        self._sets += 1
        rig = self.replay.rig
        self._know_a_camera(rig, frame_set)
        try:
            mask = self._pipeline.segment(frame_set, rig)
        except MlesamError as error:
            self._notes.setdefault(str(error))
            return None
        finally:
            self._note_refusals()
        if self._options.real_time:
            self.replay.busy(sum(mask.timings.values()))
        others = self._alone(frame_set, mask, rig) if self._options.robustness else {}
        trace = self.scores.take_mask(frame_set, mask, others)
        if self._folder is not None and (truth := self._folder.near(mask.stamp, _SLACK)) is not None:
            self.scores.take_truth(truth)
        usable = replace(frame_set, frames={m: frame_set.frames[m] for m in mask.used})
        return Made(usable, mask, rig, trace, self.replay.counters, len(self.scores.traces))

    def conclude(self) -> Evaluation:
        """Everything, in the end."""
        problems = {**self._calibration.problems, **self.replay.problems}
        warnings = [
            *self._reader.warnings,
            *self.topics.notes,
            *self.replay.warnings,
            *(f"{topic}: {problem}" for topic, problem in problems.items()),
            *self._notes,
        ]
        if not self.scores.traces:
            raise MlesamError(
                f"not one mask could be made of {self._reader.path}: {' '.join(warnings) or 'no set came about.'}"
            )
        path, counters = self._reader.path, self.replay.counters
        return Evaluation(path, self.topics, self._sets, self.scores, counters, warnings, self._rejected)

    def _alone(self, frame_set: FrameSet, mask: Segmentation, rig: Rig) -> dict[Subset, Labels]:
        """The labels that every subset of the used sensors would have given."""
        out: dict[Subset, Labels] = {mask.used: mask.labels}
        for count in range(1, len(mask.used)):
            for subset in combinations(mask.used, count):
                frames = {m: frame_set.frames[m] for m in subset}
                out[subset] = self._pipeline.segment(replace(frame_set, frames=frames), rig).labels
        return out

    def _note_refusals(self) -> None:
        for modality, reason in self._pipeline.refusals.items():
            self._rejected[modality] = self._rejected.get(modality, 0) + 1
            self._notes.setdefault(f"{modality}: {reason}")

    def _know_a_camera(self, rig: Rig, frame_set: FrameSet) -> None:
        """A bag without any calibration still has a picture: it becomes the label camera, its lens assumed."""
        if rig.camera_frame in rig.models:
            return
        known = [m for m in self.topics.infos if m in frame_set.frames and frame_set.frames[m].frame_id in rig.models]
        if known:
            rig.camera_frame = frame_set.frames[known[0]].frame_id
            self._notes.setdefault(f"no calibrated camera; masks are made in the view of {known[0]}.")
            return
        events = frame_set.frames.get(EVENT)
        if events is not None and isinstance(events.payload, Events):
            width, height = events.payload.width, events.payload.height
            rig.models[events.frame_id] = _assumed(width, height)
            rig.camera_frame = events.frame_id
            self._notes.setdefault(
                f"no CameraInfo at all: masks are made in the event camera's view, its lens taken to see "
                f"{_ASSUMED_VIEW:g} degrees; give --calibration for anything that must be right."
            )


def _assumed(width: int, height: int) -> CameraModel:
    focal = width / 2 / np.tan(np.radians(_ASSUMED_VIEW / 2))
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return CameraModel(width, height, intrinsics, np.zeros(0), "pinhole")
