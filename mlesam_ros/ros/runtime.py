# SPDX-License-Identifier: Apache-2.0
"""Runtime of the node: synchronize frames, segment sets, publish masks, and keep statistics."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from statistics import median

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from mlesam_ros.config import NodeParameters, sync_config
from mlesam_ros.errors import CalibrationError, MlesamError, Problem, format_error
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.mask_messages import MaskReport, MaskTimes, status
from mlesam_ros.pipeline import checkpoint_path, keep_confident, load_pipeline
from mlesam_ros.ros.calibration_listener import CalibrationListener
from mlesam_ros.ros.compat import SimpleFilter
from mlesam_ros.ros.diagnostics import (
    PIPELINE_MESSAGES,
    SENSOR_MESSAGES,
    DiagnosticBuilder,
    PipelineHealth,
    SensorHealth,
)
from mlesam_ros.ros.middleware import memory_problem
from mlesam_ros.ros.publishers import MaskPublisher
from mlesam_ros.ros.snapshot import Snapshot
from mlesam_ros.ros.subscribers import SensorSubscriber, suggest_topics
from mlesam_ros.semantic_points import role_table
from mlesam_ros.sync import Account, BoundedCounter, SyncConfig, Synchronizer
from mlesam_ros.types import CAMERA, NANOSECONDS, FrameSet, Modality, Segmentation, SensorFrame

_STATISTICS_WINDOW = 32  # masks in the window of rates, latencies and skews
_GAP_WINDOW = 8  # masks in the window of the longest interval
_ERROR_LIFETIME_S = 1.5  # s for which an error of one mask is reported
_NO_PROBLEM = Problem("")


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

    def __init__(self, log: Callable[[str], None]) -> None:
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
            self._log(f"pipeline: {problem}")
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


_MAX_SLEEP_S = 0.5  # s, the longest sleep without a notification


class SyncFilter(SimpleFilter):
    """Filter that takes `SensorFrame`s from any thread and emits `FrameSet`s in its worker thread.

    Callbacks may be slow. Frames that arrive meanwhile are stored, and the next call receives the newest set. No lock
    is held during a callback.

    Args:
        config: configuration of the synchronizer.
        clock: returns the time in nanoseconds of the clock of the stamps; 0 before the first time is available.
        simulated: returns whether that clock may run at another rate than the system clock.
        report: called with an error of the synchronizer, after which the stored frames are discarded.
    """

    def __init__(
        self,
        config: SyncConfig,
        clock: Callable[[], int],
        simulated: Callable[[], bool],
        report: Callable[[Problem], None],
    ) -> None:
        super().__init__()
        self._synchronizer = Synchronizer(config)
        self._clock = clock
        self._simulated = simulated
        self._report = report
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def connectInput(self, *inputs: SimpleFilter) -> None:  # noqa: N802 (upstream's name)
        """Register `add` as a callback of these filters."""
        for subscriber in inputs:
            subscriber.registerCallback(self.add)

    def add(self, frame: SensorFrame) -> None:
        """Push a frame to the synchronizer."""
        with self._changed:
            self._synchronizer.push(frame, self._clock())
            self._changed.notify()

    def start(self) -> None:
        """Start the worker thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mlesam_worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and join the worker thread, after the running callback if there is one."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def counters(self) -> dict[Modality, dict[str, int]]:
        """Return a copy of `Synchronizer.counters`."""
        with self._changed:
            return {modality: dict(counts) for modality, counts in self._synchronizer.counters.items()}

    def refusals(self) -> dict[Modality, dict[str, int]]:
        """Return a copy of `Synchronizer.refusals`, the reasons for refused frames."""
        with self._changed:
            return {modality: dict(counts) for modality, counts in self._synchronizer.refusals.items()}

    def _run(self) -> None:
        while (frame_set := self._wait()) is not None:
            self.signalMessage(frame_set)

    def _wait(self) -> FrameSet | None:
        """Wait for the next set; return None when stopped."""
        with self._changed:
            while not self._stopping:
                timeout = _MAX_SLEEP_S
                try:
                    now = self._clock()
                    frame_set = self._synchronizer.take(now) if now else None
                    if frame_set is not None:
                        return frame_set
                    timeout = self._wait_timeout()
                except Exception as error:  # keep the thread alive; the stored frames would fail again
                    self._synchronizer.flush()
                    self._report(format_error(error))
                self._changed.wait(timeout)
        return None

    def _wait_timeout(self) -> float:
        """Return the seconds until `take` may return a set without a new frame."""
        deadline = self._synchronizer.next_deadline()
        if deadline is None:
            return _MAX_SLEEP_S
        if self._simulated():
            return 0.01
        return min(max((deadline - self._clock()) / NANOSECONDS, 0.001), _MAX_SLEEP_S)


class SegmentationRuntime:
    """Pipeline, subscribers and publishers of a configured node.

    Created by configure and closed by cleanup. Its worker thread makes masks between activate and deactivate.

    Args:
        node: node whose topics and clock are used.
        parameters: parameters at configure.

    Raises:
        MlesamError: weights, calibration or parameters are invalid.
    """

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self._node = node
        self._parameters = parameters
        self._pipeline = load_pipeline(parameters, log=node.get_logger().info)
        self._pipeline_lock = threading.Lock()
        self._modalities = parameters.sensors(self._pipeline.config.modalities)
        space = self._pipeline.config.label_space
        if not role_table(space, parameters.navigation).any():
            node.get_logger().info(
                f"label space {space.name} has no default classes for costmaps: ~/obstacle_points and ~/ground_points "
                "are not published without navigation.obstacle_classes and navigation.ground_classes; ground and "
                "obstacles of a label file count only in the shipped ones"
            )
        self._sync_config = sync_config(parameters, self._modalities)
        with ExitStack() as made:
            self._snapshot = Snapshot(node, parameters)
            made.callback(self._snapshot.close)
            self._calibration = CalibrationListener(node, parameters, self._snapshot.keep)
            made.callback(self._calibration.close)
            self._publisher = MaskPublisher(node, self._pipeline.config.label_space)
            made.pop_all()
        self._memory_problem = memory_problem()
        self._sync: SyncFilter | None = None
        self._subscribers: dict[Modality, SensorSubscriber] = {}

    @property
    def summary(self) -> str:
        """One-line description of network and device for the log."""
        config, pipeline = self._pipeline.config, self._pipeline
        return (
            f"{config.backbone} with experts for {', '.join(config.modalities)} on {pipeline.device} by "
            f"{pipeline.runtime}, {len(config.label_space)} classes of {config.label_space.name}"
        )

    # Lifecycle

    def activate(self) -> None:
        """Reset the statistics, subscribe and start the worker."""
        self._statistics = PipelineStatistics(self._node.get_logger().warning)
        self._publisher.publish_label_info(self._now(), self._parameters.confidence_threshold)
        self._sync = SyncFilter(self._sync_config, self._now, self._simulated, self._note)
        self._sync.registerCallback(self._segment)
        bind, sensor = self._calibration.bind, self._parameters.sensor
        window = self._pipeline.preprocessing.event_window
        self._subscribers = {
            m: SensorSubscriber(self._node, m, sensor(m), bind=bind, event_window=window) for m in self._modalities
        }
        self._sync.connectInput(*self._subscribers.values())
        self.poll()
        self._sync.start()

    def deactivate(self) -> None:
        """Destroy the sensors' subscriptions and join the worker."""
        for subscriber in self._subscribers.values():
            subscriber.close()
        if self._sync is not None:
            self._sync.stop()
            self._sync = None
        self._subscribers.clear()

    def close(self) -> None:
        """Release publishers, subscriptions and the device's memory."""
        self.deactivate()
        self._calibration.close()
        self._snapshot.close()
        self._publisher.close()
        self._pipeline.close()

    def swap_checkpoint(self, checkpoint: str) -> None:
        """Use another checkpoint from the next set on. The worker continues while it is loaded.

        Raises:
            MlesamError: the checkpoint does not match the configured pipeline; the current one stays in use.
        """
        model = self._pipeline.load_other(checkpoint_path(checkpoint))
        with self._pipeline_lock:
            self._pipeline.use(model)

    def check(self, parameters: NodeParameters) -> None:
        """Check changed parameters against each other and against the network's experts, as configure does.

        Raises:
            ConfigError: with the parameters, their values and the accepted values.
        """
        parameters.check_together()
        parameters.sensors(self._pipeline.config.modalities)
        role_table(self._pipeline.config.label_space, parameters.navigation)

    def update_parameters(self, parameters: NodeParameters) -> None:
        """Apply changed live parameters that have been checked."""
        threshold = self._parameters.confidence_threshold
        self._parameters = parameters
        if self._sync is None:
            return
        self.poll()
        if parameters.confidence_threshold != threshold:
            self._publisher.publish_label_info(self._now(), parameters.confidence_threshold)

    def poll(self) -> None:
        """Subscribe to enabled sensors that have a publisher, and close disabled ones. To be called periodically."""
        for modality, subscriber in self._subscribers.items():
            if modality in self._parameters.modalities:
                subscriber.poll()
            else:
                subscriber.close()
        self._calibration.poll()
        self._snapshot.follow({s.topic: s.type_name for s in self._subscribers.values()})

    # Worker thread

    def _segment(self, frame_set: FrameSet) -> None:
        """Make and publish the mask of one set. Reports errors instead of raising, so that the worker continues."""
        try:
            self._publish(frame_set, self._now())
        except Exception as error:
            self._note(format_error(error))

    def _note(self, problem: Problem) -> None:
        """Report an error of the worker to the log and /diagnostics."""
        if self._node.context.ok():
            self._statistics.record_error(None, problem)

    def _publish(self, frame_set: FrameSet, taken: int) -> None:
        rig, parameters = self._calibration.rig.of_set(frame_set), self._parameters
        segmentation = self._segment_set(frame_set, rig)
        if segmentation is None:
            return
        usable = replace(frame_set, frames={m: frame_set.frames[m] for m in segmentation.used})
        segmentation = keep_confident(segmentation, parameters.confidence_threshold)
        begin = time.perf_counter()
        problems = self._publisher.publish(segmentation, usable, rig, parameters)
        publishing = time.perf_counter() - begin
        received = self._subscribers[frame_set.primary].received_at(frame_set.time)
        times = MaskTimes(received, taken, self._now(), publishing)
        mask = MaskReport(segmentation, usable, self._statistics.sequence + 1, times)
        self._statistics.record_mask(segmentation, mask.latencies["stamp_to_mask"], self._pipeline.notes)
        topics = {m: self._topic(m) for m in self._modalities}
        found = {m: subscriber.found for m, subscriber in self._subscribers.items()}
        for problem in problems:
            self._note(problem)
        self._publisher.publish_status(lambda: status(mask, topics, self._counters(), found))

    def _segment_set(self, frame_set: FrameSet, rig: Rig) -> Segmentation | None:
        """Make the mask of a set and count the frames that were not used; return None if no frame could be used."""
        if missing := self._calibration.missing:
            self._statistics.record_set(frame_set, (), {}, missing)
            return None
        used: tuple[Modality, ...] = ()
        failure = _NO_PROBLEM
        try:
            with self._pipeline_lock:
                enlarge = self._parameters.labels_resolution == CAMERA
                segmentation = self._pipeline.segment(frame_set, rig, enlarge)
            used = segmentation.used
            return segmentation
        except Exception as error:
            failure = format_error(error)
            if isinstance(error, MlesamError) and self._pipeline.refusals:
                return None  # `refusals` has the reason for each frame
            raise
        finally:
            self._statistics.record_set(frame_set, used, self._pipeline.refusals, failure)

    # Reports

    def health(self, state: str) -> PipelineHealth:
        """Return the state of the pipeline."""
        if self._sync is None:
            return PipelineHealth(state)
        statistics = self._statistics
        return PipelineHealth(
            state,
            blocking_reason=self._blocking_reason(),
            competing_publishers=self._calibration.competing_publishers,
            error=statistics.recent_error(None),
            silence=statistics.silence,
            rate=statistics.rate,
            gap=statistics.gap,
            latencies=statistics.latencies,
            used=statistics.used,
            values={
                "masks": statistics.sequence,
                "device": self._pipeline.device,
                **({"shared_memory": self._memory_problem} if self._memory_problem else {}),
                **self._calibration.problems,
            },
        )

    def sensor_statuses(self, builder: DiagnosticBuilder, timeout: float) -> list[DiagnosticStatus]:
        """Return one status per enabled sensor; empty while inactive."""
        if self._sync is None:
            return []
        counters, refusals = self._counters(), self._sync.refusals()
        return [
            builder.sensor(subscriber, self._sensor_health(subscriber, counters[m], refusals[m]), timeout)
            for m, subscriber in self._enabled_subscribers().items()
        ]

    def publish_markers(self, reports: list[DiagnosticStatus]) -> None:
        """Publish the sensors' statuses as markers in their TF frames, if the topic has a subscriber."""
        self._publisher.publish_health(
            zip(reports, (s.frame_id for s in self._enabled_subscribers().values()), strict=False)
        )

    def _enabled_subscribers(self) -> dict[Modality, SensorSubscriber]:
        return {m: subscriber for m, subscriber in self._subscribers.items() if m in self._parameters.modalities}

    def _sensor_health(
        self, subscriber: SensorSubscriber, counts: dict[str, int], refusals: dict[str, int]
    ) -> SensorHealth:
        modality, statistics = subscriber.modality, self._statistics
        reasons = BoundedCounter().add(refusals, subscriber.refusals, statistics.account.reasons[modality])
        expected = self._parameters.sensor(modality)
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
            suggested_topics=self._suggested_topics(subscriber),
        )

    def _suggested_topics(self, subscriber: SensorSubscriber) -> list[str]:
        if subscriber.publishers:
            return []
        return suggest_topics(
            self._node, subscriber.modality, subscriber.topic, {s.topic for s in self._subscribers.values()}
        )

    def _blocking_reason(self) -> tuple[bytes, Problem] | None:
        if self._now() == 0:
            return PIPELINE_MESSAGES["no_time"].format()
        missing = self._calibration.missing
        if not missing:
            return None
        template = PIPELINE_MESSAGES["waiting_calibration" if self._waiting else "no_calibration"]
        return template.format(missing=missing, waited=self._statistics.age)

    def _missing_extrinsic(self, subscriber: SensorSubscriber) -> tuple[bytes, Problem] | None:
        """Return level and reason if the extrinsic of a received sensor frame is missing; None otherwise."""
        if not subscriber.frame_id or self._calibration.missing:
            return None
        try:
            self._calibration.rig.extrinsic(subscriber.frame_id)
        except CalibrationError as error:
            template = SENSOR_MESSAGES["waiting_extrinsic" if self._waiting else "no_extrinsic"]
            return template.format(
                missing_extrinsic=error.problem, waited=self._statistics.age, modality=subscriber.modality
            )
        return None

    @property
    def _waiting(self) -> bool:
        """Whether `calibration_timeout` has not passed since activation."""
        return self._statistics.age < self._parameters.calibration_timeout

    def _counters(self) -> dict[Modality, dict[str, int]]:
        """Return the counters of messages since activation; see `Account.counters`."""
        counters = self._sync.counters() if self._sync is not None else {}
        unreadable = {m: subscriber.refusals.total() for m, subscriber in self._subscribers.items()}
        return self._statistics.account.counters(counters, unreadable)

    def _topic(self, modality: Modality) -> str:
        return self._node.resolve_topic_name(self._parameters.sensor(modality).topic)

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _simulated(self) -> bool:
        return bool(self._node.get_parameter("use_sim_time").value)
