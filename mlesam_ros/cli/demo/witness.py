"""What the demo hears: unpacked as far as its figures and its view need, and recorded as it came."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from mlesam_ros.bags.street import LABELS_TOPIC
from mlesam_ros.bags.typestore import typestore
from mlesam_ros.cli.demo.score import Labels, Score
from mlesam_ros.cli.demo.script import Phase
from mlesam_ros.frame import NANOSECONDS

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
