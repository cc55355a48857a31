# SPDX-License-Identifier: Apache-2.0
"""Runtime of the node: one network for the sets of all cameras, and subscribers that cameras share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from mlesam_ros.config import NodeParameters, naming
from mlesam_ros.errors import format_error
from mlesam_ros.parameter_groups import SensorParameters
from mlesam_ros.pipeline import checkpoint_path, load_pipeline
from mlesam_ros.ros.calibration_listener import CalibrationListener
from mlesam_ros.ros.camera_view import CameraView
from mlesam_ros.ros.diagnostics import DiagnosticBuilder
from mlesam_ros.ros.middleware import memory_problem
from mlesam_ros.ros.snapshot import Snapshot
from mlesam_ros.ros.subscribers import SensorSubscriber
from mlesam_ros.ros.sync_filter import SyncWorker
from mlesam_ros.semantic_points import role_table
from mlesam_ros.types import CAMERA, FrameSet, Modality
from mlesam_ros.view import View


class SegmentationRuntime:
    """Pipeline, subscribers and cameras of a configured node.

    Created by configure and closed by cleanup. Its worker thread makes masks between activate and deactivate.

    Args:
        node: node whose topics and clock are used.
        parameters: parameters at configure.

    Attributes:
        views: camera → its view; the name of the default camera is empty.

    Raises:
        MlesamError: weights, calibration or parameters are invalid.
    """

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self._node = node
        self._parameters = parameters
        self._pipeline = load_pipeline(parameters, log=node.get_logger().info)
        self._pipeline_lock = threading.Lock()
        space = self._pipeline.config.label_space
        if not role_table(space, parameters.navigation).any():
            node.get_logger().info(
                f"label space {space.name} has no default classes for costmaps: ~/obstacle_points and ~/ground_points "
                "are not published without navigation.obstacle_classes and navigation.ground_classes; ground and "
                "obstacles of a label file count only in the shipped ones"
            )
        self.views: dict[str, CameraView] = {}
        with ExitStack() as made:
            self._snapshot = Snapshot(node, parameters)
            made.callback(self._snapshot.close)
            first: CalibrationListener | None = None
            for camera, own in parameters.views.items():
                with naming(camera):
                    calibration = CalibrationListener(node, own, self._snapshot.keep, first)
                    made.callback(calibration.close)
                    first = first or calibration
                    self.views[camera] = CameraView(node, camera, own, self._pipeline.config, calibration)
                    made.callback(self.views[camera].close)
            made.pop_all()
        self._memory_problem = memory_problem()
        self._worker: SyncWorker | None = None
        self._subscribers: dict[object, SensorSubscriber] = {}

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
        changed = threading.Condition()
        filters = [
            view.activate({m: self._subscriber(view, m) for m in view.modalities}, self._simulated, changed)
            for view in self.views.values()
        ]
        self._worker = SyncWorker(filters, self._segment)
        self.poll()
        self._worker.start()

    def _subscriber(self, view: CameraView, modality: Modality) -> SensorSubscriber:
        """Subscriber of a sensor, which cameras with equal parameters for reading it share."""
        sensor = view.parameters.sensor(modality)
        window = self._pipeline.preprocessors(view.settings).settings.event_window
        key = modality, window, reading_parameters(sensor, self._node.resolve_topic_name)
        if key not in self._subscribers:
            self._subscribers[key] = SensorSubscriber(
                self._node, modality, sensor, bind=view.calibration.bind, event_window=window
            )
        return self._subscribers[key]

    def deactivate(self) -> None:
        """Destroy the sensors' subscriptions and join the worker."""
        for subscriber in self._subscribers.values():
            subscriber.close()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        for view in self.views.values():
            view.deactivate()
        self._subscribers.clear()

    def close(self) -> None:
        """Release publishers, subscriptions and the device's memory."""
        self.deactivate()
        for view in self.views.values():
            view.calibration.close()
            view.close()
        self._snapshot.close()
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
        for camera, view in parameters.views.items():
            with naming(camera):
                view.sensors(self._pipeline.config.modalities)
        role_table(self._pipeline.config.label_space, parameters.navigation)

    def update_parameters(self, parameters: NodeParameters) -> None:
        """Apply changed live parameters that have been checked."""
        threshold = self._parameters.confidence_threshold
        self._parameters = parameters
        for camera, own in parameters.views.items():
            self.views[camera].parameters = own
        if self._worker is None:
            return
        self.poll()
        if parameters.confidence_threshold != threshold:
            for view in self.views.values():
                view.publish_label_info()

    def poll(self) -> None:
        """Subscribe to enabled sensors that have a publisher, and close disabled ones. To be called periodically."""
        enabled = {id(s) for view in self.views.values() for s in view.enabled_subscribers().values()}
        for subscriber in self._subscribers.values():
            if id(subscriber) in enabled:
                subscriber.poll()
            else:
                subscriber.close()
        for view in self.views.values():
            view.calibration.poll()
        types: dict[str, str | None] = {}
        for subscriber in self._subscribers.values():  # cameras may read one topic with settings of their own
            types[subscriber.topic] = subscriber.type_name or types.get(subscriber.topic)
        self._snapshot.follow(types)

    # Worker thread

    def _segment(self, sets: Sequence[FrameSet | None]) -> None:
        """Make and publish the masks of the cameras. Reports errors, so that the worker continues."""
        try:
            self._segment_ready(sets)
        except Exception as error:
            for view in self.views.values():
                view.note(format_error(error))

    def _segment_ready(self, sets: Sequence[FrameSet | None]) -> None:
        taken = int(self._node.get_clock().now().nanoseconds)
        ready = [
            (camera, frame_set)
            for camera, frame_set in zip(self.views.values(), sets, strict=True)
            if frame_set is not None and not camera.is_blocked(frame_set)
        ]
        if not ready:
            return
        enlarge = self._parameters.labels_resolution == CAMERA
        cameras = {View(frame_set, c.calibration.rig, c.settings): c for c, frame_set in ready}
        with self._pipeline_lock:
            for batch in self._pipeline.segment_views([*cameras], enlarge):
                steps = [cameras[view].finish(view, taken) for view in batch]
                for _ in range(2):  # the labels of all cameras, then their other topics
                    for step in steps:
                        next(step, None)

    # Reports

    def statuses(
        self, state: str, builders: Sequence[DiagnosticBuilder], timeout: float, namesakes: int
    ) -> list[list[DiagnosticStatus]]:
        """Build the statuses of each camera: that of its masks, and while active those of its enabled sensors.

        Args:
            state: label of the lifecycle state.
            builders: of the cameras.
            timeout: seconds without a message or a mask after which to warn.
            namesakes: nodes with this node's name, itself included.
        """
        memory = {"shared_memory": self._memory_problem} if self._memory_problem else {}
        found, topics = [], {subscriber.topic for subscriber in self._subscribers.values()}
        for view, builder in zip(self.views.values(), builders, strict=True):
            health = view.health(state, {"device": self._pipeline.device, **memory})
            pipeline = builder.pipeline(replace(health, namesakes=namesakes), timeout)
            found.append([pipeline, *view.sensor_statuses(builder, timeout, topics)])
        return found

    def publish_markers(self, statuses: Sequence[Sequence[DiagnosticStatus]]) -> None:
        """Publish the sensors' statuses of each camera as markers in their TF frames, if the topic has a subscriber."""
        for view, status in zip(self.views.values(), statuses, strict=True):
            view.publish_markers(status[1:])

    def _simulated(self) -> bool:
        return bool(self._node.get_parameter("use_sim_time").value)


_NOT_READING = ("required", "tolerance", "max_wait", "rate", "skew", "gravity", "representation")
"""Parameters of sensors that their frames do not depend on."""


def reading_parameters(sensor: SensorParameters, resolve: Callable[[str], str]) -> SensorParameters:
    """Parameters of a sensor that its frames depend on; cameras for which they are equal read it together.

    Args:
        sensor: parameters of the sensor.
        resolve: full name of a topic.
    """
    default = type(sensor)()
    others = {name: getattr(default, name) for name in _NOT_READING if hasattr(default, name)}
    topics: dict[str, Any] = {n: resolve(topic) for n in ("topic", "info_topic") if (topic := getattr(sensor, n, ""))}
    return replace(sensor, **others, **topics)
