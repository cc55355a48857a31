"""What a configured node has: weights on a device, calibration, inputs, the synchroniser and the outputs."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from mlesam_ros.errors import ConfigError, MlesamError, sentence
from mlesam_ros.frame import FrameSet, Modality, Segmentation
from mlesam_ros.labels import IGNORE
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.ros.diagnostics import PipelineHealth, Reporter
from mlesam_ros.ros.inputs import SensorInput
from mlesam_ros.ros.outputs import Outputs
from mlesam_ros.ros.parameters import AUTO, NodeParameters, sync_config
from mlesam_ros.ros.rig_feed import RigFeed
from mlesam_ros.ros.status import Provenance, status_message
from mlesam_ros.ros.sync_filter import SyncFilter
from mlesam_ros.share import share

_RECENT = 32  # masks that rates and latencies are taken over
_FRESH = 1.5  # s for which a trouble with one mask is still news


class Perception:
    """Made by configure, unmade by cleanup; between activate and deactivate its worker turns sets into masks.

    Args:
        node: whose topics and clock are used.
        parameters: as configured.

    Raises:
        MlesamError: weights, calibration or parameters are not usable.
    """

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self._node = node
        self._parameters = parameters
        self._pipeline = _load(parameters)
        self._modalities = _known_modalities(parameters, self._pipeline.config.modalities)
        self._sync_config = sync_config(parameters, self._modalities)
        self._rig_feed = RigFeed(node, parameters)
        try:
            self._outputs = Outputs(node, self._pipeline.config.label_space)
        except Exception:
            self._rig_feed.close()
            raise
        self._sync: SyncFilter | None = None
        self._inputs: dict[Modality, SensorInput] = {}

    @property
    def summary(self) -> str:
        """One line for the log."""
        config, pipeline = self._pipeline.config, self._pipeline
        return (
            f"{config.backbone} with experts for {', '.join(config.modalities)} on {pipeline.device} in "
            f"{pipeline.precision}, {len(config.label_space)} classes of {config.label_space.name}"
        )

    # Lifecycle

    def activate(self) -> None:
        """Count from zero, subscribe, start the worker."""
        self._started = time.monotonic()
        self._sequence = 0
        self._masks: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._used: tuple[Modality, ...] = ()
        self._rejected: Counter[Modality] = Counter()
        self._troubles: dict[Modality | None, tuple[float, str]] = {}
        self._outputs.announce(self._now(), self._parameters.confidence_threshold)
        self._sync = SyncFilter(self._sync_config, self._now, self._simulated)
        self._sync.registerCallback(self._segment)
        self._inputs = {m: SensorInput(self._node, m, self._parameters.sensor(m)) for m in self._modalities}
        self._sync.connectInput(*self._inputs.values())
        self.poll()
        self._sync.start()

    def deactivate(self) -> None:
        """Stop listening and join the worker."""
        for source in self._inputs.values():
            source.close()
        if self._sync is not None:
            self._sync.stop()
            self._sync = None
        self._inputs.clear()

    def close(self) -> None:
        """Give back topics, subscriptions and the device's memory."""
        self.deactivate()
        self._rig_feed.close()
        self._outputs.close()
        self._pipeline.close()

    def adopt(self, parameters: NodeParameters) -> None:
        """Take over changed live parameters, already checked."""
        threshold = self._parameters.confidence_threshold
        self._parameters = parameters
        if self._sync is None:
            return
        self.poll()
        if parameters.confidence_threshold != threshold:
            self._outputs.announce(self._now(), parameters.confidence_threshold)

    def poll(self) -> None:
        """Listen to the sensors that are enabled, and to no other, once somebody publishes them; call it often."""
        for modality, source in self._inputs.items():
            if modality in self._parameters.modalities:
                source.poll()
            else:
                source.close()

    # The worker's thread

    def _segment(self, frame_set: FrameSet) -> None:
        """Turn one set into a mask and publish it. Never raises: a bad frame must not end the worker."""
        try:
            self._publish(frame_set, self._now())
        except Exception as error:
            if self._node.context.ok():
                self._note(None, sentence(error))

    def _publish(self, frame_set: FrameSet, taken: int) -> None:
        rig, parameters = self._rig_feed.rig, self._parameters
        segmentation = self._mask(frame_set)
        if segmentation is None:
            return
        usable = replace(frame_set, frames={m: frame_set.frames[m] for m in segmentation.used})
        if parameters.confidence_threshold > 0:
            segmentation = _unlabel(segmentation, parameters.confidence_threshold)
        begin = time.perf_counter()
        self._outputs.publish(segmentation, usable, rig, parameters.overlay_alpha)
        publishing = time.perf_counter() - begin
        self._sequence += 1
        self._used = segmentation.used
        mask = Provenance(segmentation, usable, self._sequence, taken, self._now(), publishing)
        self._masks.append((time.monotonic(), mask.latencies["stamp_to_mask"]))
        topics = {m: self._topic(m) for m in self._modalities}
        self._outputs.publish_status(lambda: status_message(mask, topics, self._counters()))

    def _mask(self, frame_set: FrameSet) -> Segmentation | None:
        """The mask, and a note of every frame that had no part in it; None when none of them had."""
        if self._rig_feed.missing:
            self._rejected.update(list(frame_set.frames))
            return None
        try:
            return self._pipeline.segment(frame_set, self._rig_feed.rig)
        except MlesamError:
            return None  # each frame's reason is among the refusals
        finally:
            for modality, reason in self._pipeline.refusals.items():
                self._note(modality, reason)
                self._rejected[modality] += 1

    def _note(self, modality: Modality | None, words: str) -> None:
        """Remember what went wrong for the next report; log it when it begins."""
        if not self._trouble(modality):
            self._node.get_logger().warning(f"{modality or 'pipeline'}: {words}")
        self._troubles[modality] = (time.monotonic(), words)

    # Reports

    def health(self, state: str) -> PipelineHealth:
        """How the pipeline is doing."""
        if self._sync is None:
            return PipelineHealth(state)
        now, masks = time.monotonic(), list(self._masks)
        span = masks[-1][0] - masks[0][0] if len(masks) > 1 else 0.0
        return PipelineHealth(
            state,
            hindrance=self._hindrance(),
            error=self._trouble(None),
            silence=now - (masks[-1][0] if masks else self._started),
            rate=(len(masks) - 1) / span if span else 0.0,
            latencies=[latency for _, latency in masks],
            used=self._used,
            values={"masks": self._sequence, "device": self._pipeline.device, **self._rig_feed.problems},
        )

    def sensor_reports(self, reporter: Reporter, timeout: float) -> list[DiagnosticStatus]:
        """One status per sensor that is listened to."""
        if self._sync is None:
            return []
        counters, refusals = self._counters(), self._sync.refusals()
        return [
            reporter.sensor(source, counters[m], refusals[m], timeout, self._trouble(m))
            for m, source in self._inputs.items()
            if m in self._parameters.modalities
        ]

    def _hindrance(self) -> str:
        if self._now() == 0:
            return "no time yet: use_sim_time is set and nothing came on /clock; publish it or unset use_sim_time"
        return self._rig_feed.missing or ""

    def _trouble(self, modality: Modality | None) -> str:
        when, words = self._troubles.get(modality, (0.0, ""))
        return words if time.monotonic() - when < _FRESH else ""

    def _counters(self) -> dict[Modality, dict[str, int]]:
        """The synchroniser's counters, with what was refused before it and after it."""
        counters = self._sync.counters() if self._sync is not None else {}
        for modality, counts in counters.items():
            unreadable, rejected = self._inputs[modality].refused, self._rejected[modality]
            counts["received"] += unreadable
            counts["refused"] += unreadable + rejected
            counts["used"] -= rejected
        return counters

    def _topic(self, modality: Modality) -> str:
        return self._node.resolve_topic_name(self._parameters.sensor(modality).topic)

    def _now(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _simulated(self) -> bool:
        return bool(self._node.get_parameter("use_sim_time").value)


def _load(parameters: NodeParameters) -> Pipeline:
    pipeline = Pipeline.from_checkpoint(
        parameters.checkpoint or share("weights/street.safetensors"),
        base_weights=parameters.base_weights or None,
        device=None if parameters.device == AUTO else parameters.device,
        precision=parameters.precision,
        threads=parameters.threads or None,
    )
    pipeline.warm_up()
    return pipeline


def _known_modalities(parameters: NodeParameters, experts: tuple[Modality, ...]) -> tuple[Modality, ...]:
    known = tuple(m for m in experts if hasattr(parameters, m))
    if not set(known) & set(parameters.modalities):
        raise ConfigError(
            f"modalities is {list(parameters.modalities)}; the checkpoint has experts for {', '.join(experts)} only."
        )
    return known


def _unlabel(segmentation: Segmentation, threshold: float) -> Segmentation:
    unsure = segmentation.confidence < round(255 * threshold)
    return replace(segmentation, labels=np.where(unsure, np.uint8(IGNORE), segmentation.labels))
