# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: its calibration, synchronizer, statistics, publishers and health."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import median
from threading import Condition

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from mlesam_ros.config import NodeParameters, preprocessing, sync_config
from mlesam_ros.errors import CalibrationError, MlesamError, Problem, format_error
from mlesam_ros.mask_messages import MaskReport, MaskTimes, status
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.pipeline import keep_confident
from mlesam_ros.ros.calibration_listener import CalibrationListener
from mlesam_ros.ros.diagnostics import (
    PIPELINE_MESSAGES,
    SENSOR_MESSAGES,
    DiagnosticBuilder,
    PipelineHealth,
    SensorHealth,
)
from mlesam_ros.ros.publishers import MaskPublisher
from mlesam_ros.ros.subscribers import SensorSubscriber, suggest_topics
from mlesam_ros.ros.sync_filter import SyncFilter
from mlesam_ros.sync import Account, BoundedCounter
from mlesam_ros.types import NANOSECONDS, FrameSet, Modality, Segmentation, SensorFrame
from mlesam_ros.view import View

_STATISTICS_WINDOW = 32  # masks in the window of rates, latencies and skews
_GAP_WINDOW = 8  # masks in the window of the longest interval
_ERROR_LIFETIME_S = 1.5  # s for which an error of one mask is reported
_NO_PROBLEM = Problem("")
_FIRST_TOPICS = ("labels", "camera_info")
"""Topics that are published for all cameras before the others."""


class PipelineStatistics:
    """Counters and recent latencies of the pipeline since activation. Written by the worker, read by the reports.

    Args:
        log: called with an error of the pipeline when it begins.

    Attributes:
        sequence: number of masks since activation.
        used: sensors of the newest mask.
        account: frames of sets that were not used for a mask.
        blocked: modality → frames that were not used without a reason of their own, because no mask could be made.
    """

    def __init__(self, log: Callable[[Problem], object]) -> None:
        self._log = log
        self._started = time.monotonic()
        self._masks: deque[tuple[float, float]] = deque(maxlen=_STATISTICS_WINDOW)
        self._skews: dict[Modality, deque[int]] = defaultdict(lambda: deque(maxlen=_STATISTICS_WINDOW))
        self._errors: dict[Modality | None, tuple[float, Problem]] = {}
        self._degradations: Mapping[Modality, str] = {}
        self.sequence = 0
        self.used: tuple[Modality, ...] = ()
        self.account = Account()
        self.blocked: Counter[Modality] = Counter()

    def record_mask(self, segmentation: Segmentation, latency: float, degradations: Mapping[Modality, str]) -> None:
        """Record a published mask.

        Args:
            segmentation: the mask.
            latency: seconds from stamp to mask.
            degradations: modality → input that its image was made without.
        """
        self.sequence += 1
        self.used, self._degradations = segmentation.used, degradations
        self._masks.append((time.monotonic(), latency))
        for modality in segmentation.used:
            self._skews[modality].append(abs(segmentation.skews.get(modality, 0)))

    def record_set(
        self, frame_set: FrameSet, used: Collection[Modality], refusals: Mapping[Modality, Problem], failure: Problem
    ) -> None:
        """Count the frames of a set that were not used for its mask, and record their problems; see `Account.judge`."""
        self.account.judge(frame_set, used, refusals, failure)
        for modality, problem in refusals.items():
            self.record_error(modality, problem)
        self.blocked.update({*frame_set.frames} - {*used} - {*refusals})

    def record_error(self, modality: Modality | None, problem: Problem) -> None:
        """Record an error of a sensor or, for None, of the pipeline, which is also logged when it begins."""
        if modality is None and not self.recent_error(None):
            self._log(problem)
        self._errors[modality] = (time.monotonic(), problem)

    def recent_error(self, modality: Modality | None) -> Problem:
        """Return the error of the last `_ERROR_LIFETIME_S` seconds; empty for none."""
        when, problem = self._errors.get(modality, (0.0, _NO_PROBLEM))
        return problem if time.monotonic() - when < _ERROR_LIFETIME_S else _NO_PROBLEM

    def degradation(self, modality: Modality) -> str:
        """Return the input that the newest image of a sensor was made without; empty for none."""
        return self._degradations.get(modality, "") if modality in self.used else ""

    def skew(self, modality: Modality) -> float | None:
        """Return the median of a sensor's last skews against the masks' stamps in s; None before the first."""
        skews = list(self._skews[modality])
        return median(skews) / NANOSECONDS if skews else None

    @property
    def age(self) -> float:
        """Seconds since activation."""
        return time.monotonic() - self._started

    @property
    def silence(self) -> float:
        """Seconds since the newest mask, or since activation."""
        return time.monotonic() - (self._masks[-1][0] if self._masks else self._started)

    @property
    def gap(self) -> float:
        """Longest interval between the last few masks in s, which follows a lower rate; 0 before the second."""
        times = [time for time, _ in list(self._masks)[-_GAP_WINDOW:]]
        return max((later - time for time, later in pairwise(times)), default=0.0)

    @property
    def rate(self) -> float:
        """Masks per second; 0 before the second."""
        masks = list(self._masks)
        span = masks[-1][0] - masks[0][0] if len(masks) > 1 else 0.0
        return (len(masks) - 1) / span if span else 0.0

    @property
    def latencies(self) -> list[float]:
        """Seconds from stamp to mask of the last few masks."""
        return [latency for _, latency in list(self._masks)]


class CameraView:
    """One camera of a configured node. Its masks are made by the node's `SegmentationRuntime`.

    Args:
        node: node whose topics and clock are used.
        camera: name of the camera; empty for the only one.
        parameters: parameters of the camera at configure.
        config: configuration of the network.
        calibration: of the camera.

    Attributes:
        parameters: current parameters of the camera.
        modalities: sensors that the network can use, enabled or not.
        calibration: argument of the constructor.
        settings: of the sensor data.
        subscribers: modality → subscriber, while active.
        sync: the filter of its frames, while active.

    Raises:
        ConfigError: the parameters do not match the network.
    """

    def __init__(
        self,
        node: LifecycleNode,
        camera: str,
        parameters: NodeParameters,
        config: MLESAMConfig,
        calibration: CalibrationListener,
    ) -> None:
        self._node, self._camera = node, camera
        self.parameters, self.calibration = parameters, calibration
        self.settings = preprocessing(parameters)
        self.modalities = parameters.sensors(config.modalities)
        self._sync_config = sync_config(parameters, self.modalities)
        self._publisher = MaskPublisher(node, config.label_space, camera)
        self.subscribers: dict[Modality, SensorSubscriber] = {}
        self.sync: SyncFilter | None = None
        self._statistics = self._new_statistics()

    def _new_statistics(self) -> PipelineStatistics:
        name = f"{self._camera}/pipeline" if self._camera else "pipeline"
        return PipelineStatistics(lambda problem: self._node.get_logger().warning(f"{name}: {problem}"))

    # Lifecycle

    def activate(
        self, subscribers: dict[Modality, SensorSubscriber], simulated: Callable[[], bool], changed: Condition
    ) -> SyncFilter:
        """Reset the statistics and synchronize the frames of the subscribers.

        Args:
            subscribers: modality → subscriber, which other cameras may share.
            simulated, changed: see `SyncFilter`.
        """
        self._statistics = self._new_statistics()
        self.publish_label_info()
        self.subscribers = subscribers
        self.sync = SyncFilter(self._sync_config, self._now, simulated, self.note, changed)
        for subscriber in subscribers.values():
            subscriber.registerCallback(partial(self._add, self.sync))
        return self.sync

    def _add(self, sync: SyncFilter, frame: SensorFrame) -> None:
        """Pass on a frame of an enabled sensor; another camera may have it enabled alone."""
        if frame.modality in self.parameters.modalities:
            sync.add(frame)

    def deactivate(self) -> None:
        """Forget the subscribers."""
        self.subscribers, self.sync = {}, None

    def close(self) -> None:
        """Destroy the publishers."""
        self._publisher.close()

    def publish_label_info(self) -> None:
        """Publish the latched label space."""
        self._publisher.publish_label_info(self._now(), self.parameters.confidence_threshold)

    # Worker thread

    def note(self, problem: Problem) -> None:
        """Report an error of the worker to the log and /diagnostics."""
        if self._node.context.ok():
            self._statistics.record_error(None, problem)

    def is_blocked(self, frame_set: FrameSet) -> bool:
        """Whether masks cannot be made for lack of calibration; the frames of the set are counted then."""
        if missing := self.calibration.missing:
            self._statistics.record_set(frame_set, (), {}, missing)
        return bool(missing)

    def finish(self, view: View, taken: int) -> Iterator[None]:
        """Count the frames of a set and publish its mask in two steps. Reports errors instead of raising.

        Args:
            view: result of the pipeline.
            taken: nanoseconds at which the set was taken from the synchronizer.

        Yields:
            once, between labels and the other topics, so that those of other cameras need not wait for them.
        """
        try:
            segmentation, error = view.segmentation, view.error
            failure = _NO_PROBLEM if error is None else format_error(error)
            used = () if segmentation is None else segmentation.used
            self._statistics.record_set(view.frame_set, used, view.refusals, failure)
            if segmentation is not None:
                yield from self._publish(view, segmentation, taken)
            elif not (isinstance(error, MlesamError) and view.refusals):  # `refusals` has the reason for each frame
                self.note(failure)
        except Exception as error:
            self.note(format_error(error))

    def _publish(self, view: View, segmentation: Segmentation, taken: int) -> Iterator[None]:
        frame_set, parameters = view.frame_set, self.parameters
        usable = replace(frame_set, frames={m: frame_set.frames[m] for m in segmentation.used})
        segmentation = keep_confident(segmentation, parameters.confidence_threshold)
        begin = time.perf_counter()
        makers = self._publisher.messages(segmentation, usable, view.rig, parameters)
        problems = self._publisher.publish({name: makers.pop(name) for name in _FIRST_TOPICS})
        publishing = time.perf_counter() - begin
        yield
        begin = time.perf_counter()
        problems += self._publisher.publish(makers)
        publishing += time.perf_counter() - begin
        received = self.subscribers[frame_set.primary].received_at(frame_set.time)
        times = MaskTimes(received, taken, self._now(), publishing)
        mask = MaskReport(segmentation, usable, self._statistics.sequence + 1, times)
        self._statistics.record_mask(segmentation, mask.latencies["stamp_to_mask"], view.notes)
        topics = {m: self._topic(m) for m in self.modalities}
        found = {m: subscriber.found for m, subscriber in self.subscribers.items()}
        for problem in problems:
            self.note(problem)
        self._publisher.publish_status(lambda: status(mask, topics, self._counters(), found))

    # Reports

    def health(self, state: str, values: Mapping[str, object]) -> PipelineHealth:
        """Return the state of the camera's masks.

        Args:
            state: label of the lifecycle state.
            values: key-value pairs of the node.
        """
        if self.sync is None:
            return PipelineHealth(state)
        statistics = self._statistics
        return PipelineHealth(
            state,
            blocking_reason=self._blocking_reason(),
            competing_publishers=self.calibration.competing_publishers,
            error=statistics.recent_error(None),
            silence=statistics.silence,
            rate=statistics.rate,
            gap=statistics.gap,
            latencies=statistics.latencies,
            used=statistics.used,
            values={"masks": statistics.sequence, **values, **self.calibration.problems},
        )

    def sensor_statuses(
        self, builder: DiagnosticBuilder, timeout: float, taken: Collection[str]
    ) -> list[DiagnosticStatus]:
        """Return one status per enabled sensor; empty while inactive.

        Args:
            builder: of the camera.
            timeout: seconds without a message after which to warn.
            taken: topics of the sensors of all cameras, which are not suggested in place of a silent one.
        """
        if self.sync is None:
            return []
        counters, refusals = self._counters(), self.sync.refusals()
        return [
            builder.sensor(subscriber, self._sensor_health(subscriber, counters[m], refusals[m], taken), timeout)
            for m, subscriber in self.enabled_subscribers().items()
        ]

    def publish_markers(self, reports: Sequence[DiagnosticStatus]) -> None:
        """Publish the sensors' statuses as markers in their TF frames, if the topic has a subscriber."""
        self._publisher.publish_health(
            zip(reports, (s.frame_id for s in self.enabled_subscribers().values()), strict=False)
        )

    def enabled_subscribers(self) -> dict[Modality, SensorSubscriber]:
        """Return the subscribers of the sensors that the parameters enable."""
        return {m: subscriber for m, subscriber in self.subscribers.items() if m in self.parameters.modalities}

    def _sensor_health(
        self, subscriber: SensorSubscriber, counts: dict[str, int], refusals: dict[str, int], taken: Collection[str]
    ) -> SensorHealth:
        modality, statistics = subscriber.modality, self._statistics
        reasons = BoundedCounter().add(refusals, subscriber.refusals, statistics.account.reasons[modality])
        expected = self.parameters.sensor(modality)
        return SensorHealth(
            counts,
            reasons,
            blocked=statistics.blocked[modality],
            missing_extrinsic=self._missing_extrinsic(subscriber),
            recent_error=statistics.recent_error(modality),
            degradation=statistics.degradation(modality),
            rate=expected.rate,
            skew=statistics.skew(modality),
            expected_skew=expected.skew,
            delay=subscriber.delay,
            suggested_topics=self._suggested_topics(subscriber, taken),
        )

    def _suggested_topics(self, subscriber: SensorSubscriber, taken: Collection[str]) -> list[str]:
        if subscriber.publishers:
            return []
        return suggest_topics(self._node, subscriber.modality, subscriber.topic, taken)

    def _blocking_reason(self) -> tuple[bytes, Problem] | None:
        if self._now() == 0:
            return PIPELINE_MESSAGES["no_time"].format()
        missing = self.calibration.missing
        if not missing:
            return None
        template = PIPELINE_MESSAGES["waiting_calibration" if self._waiting else "no_calibration"]
        return template.format(missing=missing, waited=self._statistics.age)

    def _missing_extrinsic(self, subscriber: SensorSubscriber) -> tuple[bytes, Problem] | None:
        """Return level and reason if the extrinsic of a received sensor frame is missing; None otherwise."""
        if not subscriber.frame_id or self.calibration.missing:
            return None
        try:
            self.calibration.rig.extrinsic(subscriber.frame_id)
        except CalibrationError as error:
            template = SENSOR_MESSAGES["waiting_extrinsic" if self._waiting else "no_extrinsic"]
            return template.format(
                missing_extrinsic=error.problem, waited=self._statistics.age, modality=subscriber.modality
            )
        return None

    @property
    def _waiting(self) -> bool:
        """Whether `calibration_timeout` has not passed since activation."""
        return self._statistics.age < self.parameters.calibration_timeout

    def _counters(self) -> dict[Modality, dict[str, int]]:
        """Return the counters of messages since activation; see `Account.counters`."""
        counters = self.sync.counters() if self.sync is not None else {}
        unreadable = {m: subscriber.refusals.total() for m, subscriber in self.subscribers.items()}
        return self._statistics.account.counters(counters, unreadable)

    def _topic(self, modality: Modality) -> str:
        return self._node.resolve_topic_name(self.parameters.sensor(modality).topic)

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)
