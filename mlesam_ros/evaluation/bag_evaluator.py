# SPDX-License-Identifier: Apache-2.0
"""Evaluate a bag: replay it as the node would receive it, segment every set, notify listeners."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlesam_ros.bags.reader import BagReader, Outage
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import BagError, ConfigError, FileError, MlesamError, Problem, format_error
from mlesam_ros.evaluation.bag_sensors import (
    BagRig,
    Topics,
    choose_reference_camera,
    find_topics,
    with_ground_truth,
)
from mlesam_ros.evaluation.ground_truth import GroundTruth, LabelFolder
from mlesam_ros.evaluation.label_folder import CLASSES
from mlesam_ros.evaluation.replay import Replay
from mlesam_ros.evaluation.scores import MAX_LABEL_OFFSET_NS, MaskListener, MaskRecord, RobustnessEvaluator, Scores
from mlesam_ros.label_map import RawLabels, make_label_map
from mlesam_ros.labels import ForeignLabelError
from mlesam_ros.pipeline import Pipeline, keep_confident
from mlesam_ros.types import CAMERA, GROUND_TRUTH, NANOSECONDS, FrameSet, Modality


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation.

    Attributes:
        parameters: of the sensors and the network, as for the node.
        ground_truth: topic with ground-truth labels; None to guess it.
        labels: folder of ground-truth labels, with stamps as file names.
        raw_labels: description of ground truth that is not in the label space of the checkpoint.
        start: seconds from the bag's beginning.
        duration: seconds from `start`; None for the rest of the bag.
        every: segment only every n-th set.
        stamps: segment only the sets with these stamps, in nanoseconds; None for all.
        real_time: skip the sets that this machine would skip with live sensors.
        outages: outages of sensors to simulate.
        robustness: also segment every subset of each set's sensors, and corrupted images.
    """

    parameters: NodeParameters = field(default_factory=NodeParameters)
    ground_truth: str | None = None
    labels: Path | None = None
    raw_labels: RawLabels = field(default_factory=RawLabels)
    start: float = 0.0
    duration: float | None = None
    every: int = 1
    stamps: frozenset[int] | None = None
    real_time: bool = False
    outages: tuple[Outage, ...] = ()
    robustness: bool = False

    def __post_init__(self) -> None:
        """Validate the values.

        Raises:
            ConfigError: a value is out of range.
        """
        if not (math.isfinite(self.start) and self.start >= 0):
            raise ConfigError(f"start is {self.start:g} s; it must be 0 or more.")
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration > 0):
            raise ConfigError(f"duration is {self.duration:g} s; it must be more than 0.")
        if self.every < 1:
            raise ConfigError(f"every is {self.every}; 1 segments every set, 2 every other one.")

    def span(self, seconds: float) -> float:
        """Seconds that are evaluated of a bag with a duration of `seconds`.

        Raises:
            ConfigError: the bag ends before `start`.
        """
        if self.start > seconds:
            raise ConfigError(
                f"start is {self.start:g} s, but the bag lasts {seconds:.1f} s.", "Give an earlier start."
            )
        rest = seconds - self.start
        return rest if self.duration is None else min(self.duration, rest)


@dataclass
class Evaluation:
    """Result of an evaluation.

    Attributes:
        bag: its path.
        topics: topics that the sensors and the ground truth were read from.
        sets: sets given to the pipeline, without those skipped by `every`.
        scores: scores of the masks.
        counters: modality → outcome → messages; `used` counts those that a mask was made from.
        refusals: modality → reason for refusal → messages.
        warnings: one sentence each.
        rejected: modality → frames that were in a set, but not used for its mask.
        interrupted: whether Ctrl-C, a BagError or a FileError ended the evaluation early, such as a full disk.
    """

    bag: Path
    topics: Topics
    sets: int
    scores: Scores
    counters: dict[Modality, dict[str, int]]
    refusals: Mapping[Modality, Mapping[str, int]]
    warnings: list[str]
    rejected: Mapping[Modality, int]
    interrupted: bool = False


class NoMasksError(MlesamError):
    """No mask could be made from a bag."""


def check_bag(bag: str | Path, pipeline: Pipeline, options: EvaluationOptions) -> float:
    """Check that a bag can be evaluated with these options, before anything is written.

    Returns:
        Seconds of the bag that will be evaluated.

    Raises:
        MlesamError: it cannot be evaluated; for the same reasons as in `evaluate`.
    """
    with BagReader(bag) as reader:
        seconds = options.span((reader.end - reader.start) / NANOSECONDS)
        _BagEvaluation(reader, pipeline, options)
        return seconds


def evaluate(
    bag: str | Path,
    pipeline: Pipeline,
    options: EvaluationOptions | None = None,
    listeners: Sequence[MaskListener] = (),
    progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Make the masks that the live node would make from this bag.

    Ctrl-C, a BagError or a FileError ends the evaluation early with the scores so far. Before the first mask Ctrl-C
    raises KeyboardInterrupt.

    Args:
        bag: rosbag2 folder or file.
        pipeline: segments the sets.
        options: see `EvaluationOptions`.
        listeners: notified of every mask, and of every comparison with ground truth.
        progress: called with the seconds of the bag that are done, counted from `options.start`.

    Raises:
        BagError: no bag, or no sensor in it.
        CalibrationError, ConfigError: an option does not fit the bag.
        LabelError: ground truth outside the label space, or that the map lacks.
        NoMasksError: no mask could be made; the message has the reasons.
    """
    options = options or EvaluationOptions()
    with BagReader(bag) as reader:
        options.span((reader.end - reader.start) / NANOSECONDS)
        run = _BagEvaluation(reader, pipeline, options, listeners)
        interrupted = False
        try:
            for step in run.replay.steps(options.start, options.duration):
                run.process(step)
                if progress is not None:
                    progress(run.replay.elapsed - options.start)
        except KeyboardInterrupt:
            if not run.mask_count:
                raise
            interrupted = True
        except (BagError, FileError) as error:  # reading or writing cannot continue
            run.warn(str(error))
            interrupted = True
        return run.result(interrupted)


def find_evaluation_topics(reader: BagReader, pipeline: Pipeline, options: EvaluationOptions) -> Topics:
    """Find the topics of a bag for the network's sensors and the ground truth.

    Raises:
        BagError, ConfigError: see `find_topics`, `with_ground_truth` and `NodeParameters.sensors`.
    """
    wanted = options.parameters.sensors(pipeline.config.modalities)
    found = find_topics(reader.topics, options.parameters, wanted)
    return with_ground_truth(found, reader.topics, options.ground_truth, f"--topic {GROUND_TRUTH}:=TOPIC")


class _BagEvaluation:
    """State of one bag's evaluation."""

    def __init__(
        self, reader: BagReader, pipeline: Pipeline, options: EvaluationOptions, listeners: Sequence[MaskListener] = ()
    ) -> None:
        self._reader, self._pipeline, self._options, self._listeners = reader, pipeline, options, tuple(listeners)
        config = pipeline.config
        parameters, space = options.parameters, config.label_space
        self.topics = find_evaluation_topics(reader, pipeline, options)
        self._bag_rig = BagRig(reader, self.topics, parameters)
        window = pipeline.preprocessing.event_window
        raw = options.raw_labels
        if raw and raw.raw_space is None and options.labels and (options.labels / CLASSES).exists():
            raw = replace(raw, raw_space=options.labels / CLASSES)
        self._map = make_label_map(space, raw, merge=True) if raw else None
        self.replay = Replay(reader, self.topics, self._bag_rig, space, parameters, options.outages, window, self._map)
        self._at_camera_size = parameters.labels_resolution == CAMERA
        self._folder = LabelFolder(options.labels, space, reader.path, label_map=self._map) if options.labels else None
        self._robustness = RobustnessEvaluator(pipeline) if options.robustness else None
        self._scores = Scores(len(space), [listener.on_match for listener in self._listeners], self._map)
        self._warnings: dict[str, None] = {}
        self._set_count = self._ready_count = 0

    def process(self, step: FrameSet | GroundTruth) -> None:
        """Process a ready set, or ground-truth labels."""
        if isinstance(step, GroundTruth):
            if self._folder is None:
                self._scores.add_ground_truth(step)
            return
        self._ready_count += 1
        stamps = self._options.stamps
        if (self._ready_count - 1) % self._options.every == 0 and (stamps is None or step.stamp in stamps):
            self._segment(step)
        else:
            self.replay.account.skip(step)

    @property
    def mask_count(self) -> int:
        """Number of masks so far."""
        return len(self._scores.masks)

    def warn(self, warning: str) -> None:
        """Add a warning once."""
        self._warnings.setdefault(warning)

    def result(self, interrupted: bool) -> Evaluation:
        """Collect the result at the end of the replay.

        Raises:
            NoMasksError: no mask could be made.
        """
        problems = {**self._bag_rig.problems, **self.replay.problems}
        warnings = [
            *self._reader.warnings,
            *self.topics.notes,
            *self.replay.warnings,
            *(f"{topic}: {problem}" for topic, problem in problems.items()),
            *self._scores.warnings,
            *self._warnings,
        ]
        if interrupted:
            warnings.append(f"interrupted after {self.replay.elapsed:.1f} s of the bag; the rest was not evaluated.")
        if not self.mask_count:
            raise NoMasksError(
                f"no mask could be made from {self._reader.path}: {' '.join(warnings) or 'no complete set.'}"
            )
        if self._scores.has_other_classes:
            warnings.append(
                f"masks and ground truth agree well only after classes are renamed: is the ground truth in label space "
                f"{self._pipeline.config.label_space.name}? Give --map FILE if it is in another one."
            )
        self._scores.finish()
        path, replay = self._reader.path, self.replay
        return Evaluation(
            path, self.topics, self._set_count, self._scores, replay.counters, replay.refusals, warnings,
            replay.account.rejected, interrupted,
        )  # fmt: skip

    def _segment(self, frame_set: FrameSet) -> None:
        self._set_count += 1
        rig = self.replay.rig
        if (note := choose_reference_camera(rig, frame_set, self.topics.infos)) is not None:
            self._warnings.setdefault(note)
        rig = rig.of_set(frame_set)
        used: Collection[Modality] = ()
        failure = Problem("")
        try:
            mask = self._pipeline.segment(frame_set, rig, self._at_camera_size)
            used = mask.used
        except Exception as error:  # as in the node, an error skips one mask
            failure = format_error(error)
            self._warnings.setdefault(failure)
            return
        finally:
            self.replay.account.judge(frame_set, used, self._pipeline.refusals, failure)
            self._warn_of_pipeline()
        mask = keep_confident(mask, self._options.parameters.confidence_threshold)
        if self._options.real_time:
            self.replay.set_busy(sum(mask.timings.values()))
        usable = replace(frame_set, frames={m: frame_set.frames[m] for m in mask.used})
        images = dict(self._pipeline.images)
        corrupted = self._robustness(usable, mask.used, rig) if self._robustness is not None else None
        metrics = self._scores.add_mask(frame_set, mask, corrupted, (rig.camera.height, rig.camera.width))
        record = MaskRecord(
            usable, images, mask, rig, metrics, self.replay.counters, self.mask_count, self.replay.found
        )
        for listener in self._listeners:
            listener.on_mask(record)
        self._scores.match(frame_set.time)
        self._add_folder_labels(frame_set.time)

    def _add_folder_labels(self, time: int) -> None:
        if self._folder is None:
            return
        try:
            labels = self._folder.nearest(time, MAX_LABEL_OFFSET_NS, self.replay.label_offset)
        except ForeignLabelError:
            raise
        except MlesamError as error:
            self._warnings.setdefault(str(error))
            return
        if labels is not None:
            self._scores.add_ground_truth(labels)

    def _warn_of_pipeline(self) -> None:
        for modality, reason in self._pipeline.refusals.items():
            self._warnings.setdefault(f"{modality}: {reason}")
        for modality, note in self._pipeline.notes.items():
            self._warnings.setdefault(f"{modality}: {note}")
