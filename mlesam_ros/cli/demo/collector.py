# SPDX-License-Identifier: Apache-2.0
"""The demo's script of phases, its scores and the collector of the node's messages.

`Phase` is an interval with one lighting and one set of sensors, `Score` compares masks with ground truth labels per
phase, and `DemoCollector` feeds it from serialized messages.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.bags.serialization import typestore
from mlesam_ros.errors import ConfigError
from mlesam_ros.mask_messages import LABEL_SPACE, STATUS
from mlesam_ros.messages import CAMERA_INFO, TF_MESSAGE
from mlesam_ros.metrics import Confusion
from mlesam_ros.simulation.export import LABELS_TOPIC
from mlesam_ros.types import CAMERA, IMAGE, LIDAR, MODALITIES, NANOSECONDS, NODE, POINT_CLOUD, Modality

STEP_NS = NANOSECONDS // 10
"""Nanoseconds between two simulation steps."""
_MIN_SECONDS = 3.0
_SCENES = ("day", "night")
_ACTS: tuple[tuple[float, Modality | None], ...] = ((0.4, None), (0.3, CAMERA), (0.3, LIDAR))
"""(share of a scene's duration, sensor that is dropped in it)."""


@dataclass(frozen=True)
class Phase:
    """An interval of the demo with one lighting condition and one set of active sensors.

    Attributes:
        daylight: "day" or "night".
        dropped: the dropped sensor; None if all sensors are active.
        start, end: nanoseconds from the start of the playback; `end` is exclusive.
    """

    daylight: str
    dropped: Modality | None
    start: int
    end: int

    @property
    def name(self) -> str:
        """Identifier for files and results, such as `night_camera_lost`."""
        return f"{self.daylight}_{f'{self.dropped}_lost' if self.dropped else 'all_sensors'}"

    @property
    def title(self) -> str:
        """The name for display, such as `night, camera lost`."""
        return f"{self.daylight}, {f'{self.dropped} lost' if self.dropped else 'all sensors'}"

    @property
    def sensors(self) -> list[Modality]:
        """The active sensors."""
        return [modality for modality in MODALITIES if modality != self.dropped]

    @property
    def drop(self) -> str | None:
        """Value of the player's `--drop` option for this phase; None if no sensor is dropped."""
        if self.dropped is None:
            return None
        return f"{self.dropped}@{self.start / NANOSECONDS}..{self.end / NANOSECONDS}"


def make_phases(seconds: float) -> list[Phase]:
    """Return the phases of a demo: by day and by night, with all sensors, without the camera, without the LiDAR.

    Args:
        seconds: total duration; phases start and end on simulation steps.

    Raises:
        ConfigError: `seconds` is too short for six phases.
    """
    if seconds < _MIN_SECONDS:
        raise ConfigError(
            f"seconds is {seconds}; a demo of six phases takes at least {_MIN_SECONDS:g}.", "Increase --seconds."
        )
    phases = []
    scene = round(seconds * NANOSECONDS / len(_SCENES) / STEP_NS) * STEP_NS
    for number, daylight in enumerate(_SCENES):
        begin, share = number * scene, 0.0
        for part, dropped in _ACTS:
            start = begin + round(scene * share / STEP_NS) * STEP_NS
            share += part
            phases.append(Phase(daylight, dropped, start, begin + round(scene * share / STEP_NS) * STEP_NS))
    return phases


def phase_at(phases: Sequence[Phase], offset: int) -> Phase | None:
    """Return the phase at `offset` nanoseconds from the start; None before the first and after the last phase."""
    return next((phase for phase in phases if phase.start <= offset < phase.end), None)


Labels = npt.NDArray[np.uint8]

_MAX_UNPAIRED = 30
"""Maximum number of masks, and of ground truth images, that are kept until their counterpart arrives."""
_STAMP_TOLERANCE_NS = STEP_NS // 20
"""Tolerance between a stamp and its exact simulation time."""


@dataclass
class PhaseScore:
    """Measurements of one phase.

    Attributes:
        phase: the phase.
        confusion: confusion matrix of masks against the ground truth of the same stamp.
        arrivals: host times in nanoseconds at which the masks arrived.
        latencies: nanoseconds from a mask's stamp to its arrival.
        offered: number of ground truth images received, one per simulation step.
    """

    phase: Phase
    confusion: Confusion
    arrivals: list[int] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)
    offered: int = 0

    @property
    def miou(self) -> float | None:
        """Mean IoU in percent over the classes present in the ground truth; None before the first comparison."""
        return _percent(self.confusion)


class Score:
    """Scores of all phases: mask counts, latencies, gaps and mean IoU.

    Attributes:
        start: ROS time in nanoseconds at which the playback started; 0 before.
        phases: one score per phase of the script.
        published: number of ground truth images that the player published; None until its final report is read.
    """

    def __init__(self, phases: Sequence[Phase], classes: int) -> None:
        """Initialize an empty score.

        Args:
            phases: the script.
            classes: number of classes of the label space.
        """
        self.start = 0
        self.published: int | None = None
        self.phases = [PhaseScore(phase, Confusion(classes)) for phase in phases]
        self._classes = classes
        self._masks: OrderedDict[int, Labels] = OrderedDict()
        self._ground_truths: OrderedDict[int, Labels] = OrderedDict()
        self._early: list[tuple[int, Labels]] = []

    def begin(self, start: int) -> None:
        """Set the ROS time in nanoseconds at which the playback started and process the labels received before."""
        self.start = start
        early, self._early = self._early, []
        for stamp, labels in early:
            self.add_ground_truth(stamp, labels)

    def phase_of(self, stamp: int) -> PhaseScore | None:
        """Return the score of the phase that contains the stamp; None outside the script."""
        if not self.start:
            return None
        phase = phase_at([score.phase for score in self.phases], stamp - self.start + _STAMP_TOLERANCE_NS)
        return next((score for score in self.phases if score.phase is phase), None)

    def add_mask(self, stamp: int, arrival: int, labels: Labels) -> None:
        """Add a mask of the node."""
        score = self.phase_of(stamp)
        if score is None:
            return
        score.arrivals.append(arrival)
        score.latencies.append(arrival - stamp)
        _add_unpaired(self._masks, stamp, labels)
        self._compare(stamp, score)

    def add_ground_truth(self, stamp: int, labels: Labels) -> None:
        """Add the ground truth labels of a simulation step and count the step as offered."""
        if not self.start:
            self._early.append((stamp, labels))
            return
        score = self.phase_of(stamp)
        if score is None:
            return
        score.offered += 1
        _add_unpaired(self._ground_truths, stamp, labels)
        self._compare(stamp, score)

    def longest_gap(self, score: PhaseScore) -> float:
        """Longest interval without a mask in a phase, in seconds.

        It includes the interval from the last mask of the previous phases to the first mask of this phase.
        """
        end = self.start + score.phase.end
        before = [time for other in self.phases for time in other.arrivals if other.phase.start < score.phase.start]
        times = [*before[-1:], *score.arrivals]
        if not score.arrivals:
            return (end - (times[-1] if times else self.start + score.phase.start)) / NANOSECONDS
        return max((b - a for a, b in pairwise(times)), default=0) / NANOSECONDS

    @property
    def miou(self) -> float | None:
        """Mean IoU in percent over the whole demo."""
        total = Confusion(self._classes)
        for score in self.phases:
            total.merge(score.confusion)
        return _percent(total)

    def summary(self) -> dict[str, Any]:
        """The results with the keys documented in `docs/results.md`."""
        arrivals = [time for score in self.phases for time in score.arrivals]
        seconds = (max(arrivals) - min(arrivals)) / NANOSECONDS if len(arrivals) > 1 else 0.0
        return {
            "sets_offered": self.published or sum(score.offered for score in self.phases),
            "masks": len(arrivals),
            "rate_hz": round((len(arrivals) - 1) / seconds, 2) if seconds else 0.0,
            "latency_ms": latency_ms([value for score in self.phases for value in score.latencies]),
            "miou": self.miou,
            "phases": [self._phase_summary(score) for score in self.phases],
        }

    def _phase_summary(self, score: PhaseScore) -> dict[str, Any]:
        return {
            "name": score.phase.name,
            "sensors": score.phase.sensors,
            "miou": score.miou,
            "longest_gap_s": round(self.longest_gap(score), 3),
            "sets_offered": score.offered,
            "masks": len(score.arrivals),
            "latency_ms": latency_ms(score.latencies),
        }

    def _compare(self, stamp: int, score: PhaseScore) -> None:
        if stamp in self._masks and stamp in self._ground_truths:
            score.confusion.add(self._ground_truths.pop(stamp), self._masks.pop(stamp))


def latency_ms(latencies: Sequence[int]) -> dict[str, float | None]:
    """Convert latencies in nanoseconds to percentiles in milliseconds; the percentiles are None without latencies."""
    if not latencies:
        return {"p50": None, "p95": None, "p99": None}
    values = np.percentile(latencies, (50, 95, 99)) / 1e6
    return {name: round(float(value), 1) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}


def _add_unpaired(waiting: OrderedDict[int, Labels], stamp: int, labels: Labels) -> None:
    waiting[stamp] = labels
    while len(waiting) > _MAX_UNPAIRED:
        waiting.popitem(last=False)


def _percent(confusion: Confusion) -> float | None:
    return None if np.isnan(confusion.miou_present) else round(100 * confusion.miou_present, 2)


GROUND_TRUTH = LABELS_TOPIC
GROUND_POINTS, OBSTACLE_POINTS = f"{NODE}/ground_points", f"{NODE}/obstacle_points"
RECORDED_TOPICS = {
    f"{NODE}/labels": IMAGE,
    f"{NODE}/confidence": IMAGE,
    f"{NODE}/status": STATUS,
    f"{NODE}/label_info": LABEL_SPACE,
    GROUND_POINTS: POINT_CLOUD,
    OBSTACLE_POINTS: POINT_CLOUD,
    GROUND_TRUTH: IMAGE,
    "/camera/camera_info": CAMERA_INFO,
    "/tf": TF_MESSAGE,
    "/tf_static": TF_MESSAGE,
}
"""Topic → type of the topics that are subscribed throughout the demo."""
ON_DEMAND = {f"{NODE}/overlay": IMAGE, f"{NODE}/semantic_points": POINT_CLOUD}
"""Topic → type of outputs that the node computes only while subscribed; subscribed around the middle of each phase."""
LATCHED = {f"{NODE}/label_info", "/tf_static"}

_WINDOW_NS = 3 * NANOSECONDS
_MAX_STATUS_AGE_NS = NANOSECONDS
_KEEP_EVERY = 2  # every n-th mask of a phase is kept for the images


class DemoCollector:
    """Processes the messages that the demo subscribes to.

    Attributes:
        score: the scores.
        masks: stamp → mask for the images: the first mask of each phase and every second one after it.
        ground_truths: stamp → ground truth labels of these masks.
    """

    def __init__(self, phases: Sequence[Phase], classes: int, record: Callable[[str, int, bytes], None]) -> None:
        """Initialize without messages.

        Args:
            phases: the script.
            classes: number of classes of the label space.
            record: called with every message: topic, host time of arrival in nanoseconds, serialized message.
        """
        self.score = Score(phases, classes)
        self._status: tuple[int, Any] = (0, None)
        self.masks: dict[int, Labels] = {}
        self.ground_truths: dict[int, Labels] = {}
        self._record = record
        self._types = typestore()
        self._arrivals: deque[tuple[int, int]] = deque()
        self._stages: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, topic: str, arrival: int, raw: bytes) -> None:
        """Process one serialized message."""
        self._record(topic, arrival, raw)
        if topic == f"{NODE}/labels":
            self._add_mask(arrival, raw)
        elif topic == GROUND_TRUTH:
            stamp, labels = self._decode(raw)
            self.ground_truths[stamp] = labels
            self.score.add_ground_truth(stamp, labels)
        elif topic == f"{NODE}/status":
            status: Any = self._types.deserialize_cdr(raw, RECORDED_TOPICS[topic])
            self._status = arrival, status
            for latency in status.latencies:
                self._stages[latency.stage].append(latency.seconds)

    def status(self, now: int) -> Any | None:
        """The newest status message, with the fields of `msg/Status.msg`; None if it is older than one second."""
        arrival, message = self._status
        return message if now - arrival < _MAX_STATUS_AGE_NS else None

    def rate(self, now: int) -> float:
        """Masks per second, averaged over the last three seconds."""
        while self._arrivals and self._arrivals[0][0] < now - _WINDOW_NS:
            self._arrivals.popleft()
        return len(self._arrivals) * NANOSECONDS / _WINDOW_NS

    def recent_latencies(self) -> list[int]:
        """Latencies from stamp to arrival, in nanoseconds, of the masks of the last three seconds."""
        return [latency for _, latency in self._arrivals]

    def stages_ms(self) -> dict[str, float]:
        """Median duration in milliseconds of every stage that the node reports, in the order of execution."""
        return {stage: round(1e3 * median(seconds), 2) for stage, seconds in self._stages.items()}

    def _add_mask(self, arrival: int, raw: bytes) -> None:
        stamp, labels = self._decode(raw)
        self._arrivals.append((arrival, arrival - stamp))
        self.score.add_mask(stamp, arrival, labels)
        score = self.score.phase_of(stamp)
        if score is not None and len(score.arrivals) % _KEEP_EVERY == 1:
            self.masks[stamp] = labels
        else:
            self.ground_truths.pop(stamp, None)

    def _decode(self, raw: bytes) -> tuple[int, Labels]:
        message: Any = self._types.deserialize_cdr(raw, IMAGE)
        stamp = message.header.stamp
        rows = np.asarray(message.data).reshape(message.height, message.step)
        return stamp.sec * NANOSECONDS + stamp.nanosec, rows[:, : message.width]
