"""Collect the masks of the demo and score them."""

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
from mlesam_ros.bags.simulated_bag import LABELS_TOPIC
from mlesam_ros.errors import ConfigError
from mlesam_ros.metrics import Confusion
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES, NANOSECONDS, Modality

PERIOD = NANOSECONDS // 10
"""Nanoseconds between two moments of the street."""
_SHORTEST = 3.0
_SCENES = ("day", "night")
_ACTS: tuple[tuple[float, Modality | None], ...] = ((0.4, None), (0.3, CAMERA), (0.3, LIDAR))
"""Share of a scene, and which sensor is lost in it."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the demo with one light and one set of living sensors.

    Attributes:
        daylight: "day" or "night".
        lost: the sensor that is silent, if any.
        start, end: nanoseconds from the beginning of the playback; the end is not part of it.
    """

    daylight: str
    lost: Modality | None
    start: int
    end: int

    @property
    def name(self) -> str:
        """Such as `night_camera_lost`; names files and keys results."""
        return f"{self.daylight}_{f'{self.lost}_lost' if self.lost else 'all_sensors'}"

    @property
    def title(self) -> str:
        """The name for people."""
        return f"{self.daylight}, {f'{self.lost} lost' if self.lost else 'all sensors'}"

    @property
    def sensors(self) -> list[Modality]:
        """Who is alive."""
        return [modality for modality in MODALITIES if modality != self.lost]

    @property
    def drop(self) -> str | None:
        """The player's option that makes it so."""
        if self.lost is None:
            return None
        return f"{self.lost}@{self.start / NANOSECONDS}..{self.end / NANOSECONDS}"


def write_script(seconds: float) -> list[Phase]:
    """The phases of a demo: by day and by night, with all sensors, without the camera, without the LiDAR.

    Args:
        seconds: length of the whole; phases begin and end on moments of the street.

    Raises:
        ConfigError: too short for six phases.
    """
    if seconds < _SHORTEST:
        raise ConfigError(f"a demo of {seconds} s has no room for six phases.", f"Give at least {_SHORTEST:g} seconds.")
    phases = []
    scene = round(seconds * NANOSECONDS / len(_SCENES) / PERIOD) * PERIOD
    for number, daylight in enumerate(_SCENES):
        begin, share = number * scene, 0.0
        for part, lost in _ACTS:
            start = begin + round(scene * share / PERIOD) * PERIOD
            share += part
            phases.append(Phase(daylight, lost, start, begin + round(scene * share / PERIOD) * PERIOD))
    return phases


def phase_at(phases: Sequence[Phase], offset: int) -> Phase | None:
    """The phase at this many nanoseconds from the beginning, or nothing before and after."""
    return next((phase for phase in phases if phase.start <= offset < phase.end), None)


Labels = npt.NDArray[np.uint8]

_WAITING = 30  # label images of either kind that wait for their partner
_SLACK = PERIOD // 20  # ns by which a stamp may miss its moment's exact time


@dataclass
class PhaseScore:
    """One phase's figures.

    Attributes:
        phase: which.
        confusion: masks against the truth of the same stamp.
        arrivals: host times in nanoseconds at which its masks arrived.
        latencies: nanoseconds from a mask's stamp to its arrival.
        offered: moments that the player offered.
    """

    phase: Phase
    confusion: Confusion
    arrivals: list[int] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)
    offered: int = 0

    @property
    def miou(self) -> float | None:
        """Mean IoU in percent over the classes present in the truth; None before anything was compared."""
        return _percent(self.confusion)


class Score:
    """Counts, times and compares.

    Attributes:
        start: ROS time in nanoseconds at which the playback began, 0 before.
        phases: the script's phases with their figures.
        published: moments that the player says it offered; None until it has said so.
    """

    def __init__(self, phases: Sequence[Phase], classes: int) -> None:
        """Nothing yet.

        Args:
            phases: the script.
            classes: size of the label space.
        """
        self.start = 0
        self.published: int | None = None
        self.phases = [PhaseScore(phase, Confusion(classes)) for phase in phases]
        self._classes = classes
        self._masks: OrderedDict[int, Labels] = OrderedDict()
        self._truths: OrderedDict[int, Labels] = OrderedDict()
        self._early: list[tuple[int, Labels]] = []

    def begin(self, start: int) -> None:
        """The player began at this ROS time in nanoseconds; the news comes late, so truths may have come already."""
        self.start = start
        early, self._early = self._early, []
        for stamp, labels in early:
            self.take_truth(stamp, labels)

    def phase_of(self, stamp: int) -> PhaseScore | None:
        """Where a stamp belongs, if the script covers it."""
        phase = phase_at([score.phase for score in self.phases], stamp - self.start + _SLACK) if self.start else None
        return next((score for score in self.phases if score.phase is phase), None)

    def take_mask(self, stamp: int, arrival: int, labels: Labels) -> None:
        """A mask has arrived."""
        score = self.phase_of(stamp)
        if score is None:
            return
        score.arrivals.append(arrival)
        score.latencies.append(arrival - stamp)
        _keep(self._masks, stamp, labels)
        self._compare(stamp, score)

    def take_truth(self, stamp: int, labels: Labels) -> None:
        """The truth of a moment has arrived, which is also how moments on offer are counted."""
        if not self.start:
            self._early.append((stamp, labels))
            return
        score = self.phase_of(stamp)
        if score is None:
            return
        score.offered += 1
        _keep(self._truths, stamp, labels)
        self._compare(stamp, score)

    def longest_gap(self, score: PhaseScore) -> float:
        """Seconds without a mask, at most, in a phase; the silence that its beginning caused included."""
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
        """The results with the keys that `docs/results.md` documents."""
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
        if stamp in self._masks and stamp in self._truths:
            score.confusion.add(self._truths.pop(stamp), self._masks.pop(stamp))


def latency_ms(latencies: Sequence[int]) -> dict[str, float | None]:
    """Percentiles in milliseconds of latencies in nanoseconds; None without any."""
    if not latencies:
        return {"p50": None, "p95": None, "p99": None}
    values = np.percentile(latencies, (50, 95, 99)) / 1e6
    return {name: round(float(value), 1) for name, value in zip(("p50", "p95", "p99"), values, strict=True)}


def _keep(waiting: OrderedDict[int, Labels], stamp: int, labels: Labels) -> None:
    waiting[stamp] = labels
    while len(waiting) > _WAITING:
        waiting.popitem(last=False)


def _percent(confusion: Confusion) -> float | None:
    return None if np.isnan(confusion.miou_present) else round(100 * confusion.miou_present, 2)


NODE = "/mlesam"
TRUTH = LABELS_TOPIC
IMAGE = "sensor_msgs/msg/Image"
ALWAYS = {
    f"{NODE}/labels": IMAGE,
    f"{NODE}/confidence": IMAGE,
    f"{NODE}/status": "mlesam_ros/msg/Status",
    f"{NODE}/label_info": "mlesam_ros/msg/LabelSpace",
    TRUTH: IMAGE,
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}
"""Topic → type of what is heard from beginning to end."""
NOW_AND_THEN = {f"{NODE}/overlay": IMAGE, f"{NODE}/semantic_points": "sensor_msgs/msg/PointCloud2"}
"""What the node makes only for listeners; heard for a while in the middle of each phase."""
LATCHED = {f"{NODE}/label_info", "/tf_static"}

_RECENT = 3 * NANOSECONDS
_NEWS = NANOSECONDS
_KEEP_EVERY = 2  # masks, for the pictures


class DemoCollector:
    """Takes what the observer hears.

    Attributes:
        score: the figures.
        kept: stamp → mask for the pictures, the first of each phase and then every second one.
        truths: stamp → truth of the masks that were kept.
    """

    def __init__(self, phases: Sequence[Phase], classes: int, record: Callable[[str, int, bytes], None]) -> None:
        """Nothing heard yet.

        Args:
            phases: the script.
            classes: size of the label space.
            record: gets every message: topic, host time of arrival in nanoseconds, serialized message.
        """
        self.score = Score(phases, classes)
        self._status: tuple[int, Any] = (0, None)
        self.kept: dict[int, Labels] = {}
        self.truths: dict[int, Labels] = {}
        self._record = record
        self._types = typestore()
        self._arrivals: deque[tuple[int, int]] = deque()
        self._stages: defaultdict[str, list[float]] = defaultdict(list)

    def hear(self, topic: str, arrival: int, raw: bytes) -> None:
        """One message."""
        self._record(topic, arrival, raw)
        if topic == f"{NODE}/labels":
            self._hear_mask(arrival, raw)
        elif topic == TRUTH:
            stamp, truth = self._image(raw)
            self.truths[stamp] = truth
            self.score.take_truth(stamp, truth)
        elif topic == f"{NODE}/status":
            status: Any = self._types.deserialize_cdr(raw, ALWAYS[topic])
            self._status = arrival, status
            for latency in status.latencies:
                self._stages[latency.stage].append(latency.seconds)

    def status(self, now: int) -> Any | None:
        """The newest status message, with the fields of `msg/Status.msg`; None when it is no news any more."""
        arrival, message = self._status
        return message if now - arrival < _NEWS else None

    def rate(self, now: int) -> float:
        """Masks per second over the last three."""
        while self._arrivals and self._arrivals[0][0] < now - _RECENT:
            self._arrivals.popleft()
        return len(self._arrivals) * NANOSECONDS / _RECENT

    def recent_latencies(self) -> list[int]:
        """Nanoseconds from stamp to arrival of the masks of the last three seconds."""
        return [latency for _, latency in self._arrivals]

    def stages_ms(self) -> dict[str, float]:
        """Median milliseconds of every stage that the node reports, in the order of execution."""
        return {stage: round(1e3 * median(seconds), 2) for stage, seconds in self._stages.items()}

    def _hear_mask(self, arrival: int, raw: bytes) -> None:
        stamp, labels = self._image(raw)
        self._arrivals.append((arrival, arrival - stamp))
        self.score.take_mask(stamp, arrival, labels)
        score = self.score.phase_of(stamp)
        if score is not None and len(score.arrivals) % _KEEP_EVERY == 1:
            self.kept[stamp] = labels
        else:
            self.truths.pop(stamp, None)

    def _image(self, raw: bytes) -> tuple[int, Labels]:
        message: Any = self._types.deserialize_cdr(raw, IMAGE)
        stamp = message.header.stamp
        rows = np.asarray(message.data).reshape(message.height, message.step)
        return stamp.sec * NANOSECONDS + stamp.nanosec, rows[:, : message.width]
