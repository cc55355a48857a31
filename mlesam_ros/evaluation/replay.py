# SPDX-License-Identifier: Apache-2.0
"""Replay a bag as the live node would receive it: the same readers and synchronizer, on the recorded clock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from mlesam_ros.bags.reader import BagReader, Outage
from mlesam_ros.config import NodeParameters, sync_config
from mlesam_ros.errors import BagError, ConfigError, Problem, format_error
from mlesam_ros.evaluation.bag_sensors import BagRig, Topics
from mlesam_ros.evaluation.ground_truth import GroundTruth, decode_labels
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.label_map import LabelMap
from mlesam_ros.labels import ForeignLabelError, LabelSpace
from mlesam_ros.messages import label_image, stamp_ns
from mlesam_ros.parameter_groups import frame_reader
from mlesam_ros.sync import (
    CLOCK_SAMPLES,
    Account,
    BoundedCounter,
    Clocks,
    ReplayClock,
    Synchronizer,
    judge_clocks,
    ready_sets,
)
from mlesam_ros.types import NANOSECONDS, DetectedProperty, FrameSet, Modality, RawImage, SensorFrame

_DESERIALIZATION_ERROR = "its bytes cannot be deserialized as its type"
_MAX_SENDER_CHANGES = 3
"""Changes of frame_id or image size on a topic, above which it counts as shared by several sensors."""


class Replay:
    """Plays a bag into a synchronizer.

    Attributes:
        synchronizer: counts the outcome of the frames until they are in a set.
        account: counts the outcome of the frames in sets; updated by the caller that segments the sets.
        unreadable: modality → reason for refusing a message's content → messages.
        problems: topic → problem of its newest invalid message.
        warnings: about clocks that differ from the time of recording, one sentence each.
        elapsed: seconds of the bag that are replayed so far.
        label_offset: nanoseconds by which the stamps of ground-truth labels are late: the camera's offset, even if no
            camera is read.
    """

    def __init__(
        self,
        reader: BagReader,
        topics: Topics,
        bag_rig: BagRig,
        space: LabelSpace,
        parameters: NodeParameters | None = None,
        outages: Sequence[Outage] = (),
        event_window: float = 0.0,
        label_map: LabelMap | None = None,
    ) -> None:
        """Create the message readers and compare the sensors' clocks with the time of recording.

        Args:
            reader: the open bag.
            topics: of its sensors.
            bag_rig: receives CameraInfo and TF messages during the replay.
            space: label space of the ground-truth labels.
            parameters: of the sensors.
            outages: outages to simulate.
            event_window: window of events in seconds, as in the checkpoint's training, if the parameters set none.
            label_map: map of the ground-truth labels to the label space; None if they are its ids.

        Raises:
            BagError: the bag has no message of any sensor.
            ConfigError: an outage matches no sensor.
        """
        parameters = parameters or NodeParameters()
        self.synchronizer = Synchronizer(sync_config(parameters, topics.sensors))
        self.account = Account()
        self.unreadable: dict[Modality, BoundedCounter] = defaultdict(BoundedCounter)
        self.problems: dict[str, Problem] = {}
        self.warnings: list[str] = []
        self._senders: dict[str, list[str]] = {}
        self.elapsed = 0.0
        self._reader, self._bag_rig, self._space, self._label_map = reader, bag_rig, space, label_map
        self._outages = _outages_by_topic(outages, topics)
        self._frames = {
            source.topic: frame_reader(parameters.sensor(m), m, source.type, event_window)
            for m, source in topics.sensors.items()
        }
        self.label_offset = round(parameters.camera.offset * NANOSECONDS)
        self._ground_truth_topic = topics.ground_truth
        self._busy_until = self._taken_at = 0
        self._damaged_before = Counter(reader.damaged)
        self._clocks = self._judge_sensor_clocks()

    @property
    def rig(self) -> Rig:
        """The rig learned so far."""
        return self._bag_rig.rig

    def steps(self, start: float = 0.0, duration: float | None = None) -> Iterator[FrameSet | GroundTruth]:
        """Yield frame sets when they become ready, and ground-truth labels when they were recorded.

        Args:
            start: seconds from the bag's beginning.
            duration: seconds; to the end by default.

        Raises:
            ForeignLabelError: ground-truth labels outside the label space, or that the map lacks.
        """
        begin, clock = self._reader.start, ReplayClock(self._clocks)
        first = begin + round(start * NANOSECONDS)
        last = None if duration is None else first + round(duration * NANOSECONDS)
        self._damaged_before = Counter(self._reader.damaged)
        if start > 0:
            self._bag_rig.learn_until(first)
        wanted = {*self._frames, *self._bag_rig.topics, *filter(None, [self._ground_truth_topic])}
        for topic, _, recorded, message in self._reader.messages(wanted, first, last):
            self.elapsed = (recorded - begin) / NANOSECONDS
            if topic in self._bag_rig.topics:
                self._bag_rig.on_message(topic, message)
                continue
            if (frames := self._frames.get(topic)) is None:
                now = clock.advance(recorded)
            else:
                now = clock.advance(recorded, frames.modality, stamp_ns(message.header) - frames.offset)
            yield from self._ready_sets(now)
            if not any(outage.is_active(self.elapsed) for outage in self._outages.get(topic, ())):
                yield from self._on_message(topic, message, now)
        yield from self._ready_sets()
        self.synchronizer.flush()

    def set_busy(self, seconds: float) -> None:
        """Set how long, by the bag's clock, the consumer processes the last set.

        Sets that become ready meanwhile wait, and the newest of them supersedes the others, as in the live node.
        """
        self._busy_until = self._taken_at + round(seconds * NANOSECONDS)

    @property
    def found(self) -> dict[Modality, dict[str, DetectedProperty]]:
        """Modality → detected properties of its data; see `FrameReader.found`."""
        return {frames.modality: frames.found for frames in self._frames.values()}

    @property
    def counters(self) -> dict[Modality, dict[str, int]]:
        """Modality → outcome → messages; see `Account.counters`."""
        refused = self._refused_before_sync
        return self.account.counters(self.synchronizer.counters, {m: why.total() for m, why in refused.items()})

    @property
    def refusals(self) -> dict[Modality, BoundedCounter]:
        """Modality → reason for refusal, worded as in the node → messages."""
        synchronized, reasons = self.synchronizer.refusals, self.account.reasons
        return {
            m: BoundedCounter().add(synchronized[m], why, reasons.get(m, {}))
            for m, why in self._refused_before_sync.items()
        }

    @property
    def _refused_before_sync(self) -> dict[Modality, BoundedCounter]:
        damaged = self._reader.damaged - self._damaged_before
        return {
            frames.modality: BoundedCounter().add(
                self.unreadable.get(frames.modality, {}), {_DESERIALIZATION_ERROR: damaged[topic]}
            )
            for topic, frames in self._frames.items()
        }

    def _on_message(self, topic: str, message: Any, now: int) -> Iterator[FrameSet | GroundTruth]:
        try:
            if topic == self._ground_truth_topic:
                yield self._ground_truth(message)
                return
            frame = self._frames[topic].read(message)
        except ForeignLabelError:
            raise
        except Exception as error:  # as in the node, an invalid message is skipped, whatever it raises
            problem = self.problems[topic] = format_error(error)
            if topic in self._frames:
                self.unreadable[self._frames[topic].modality].count(problem)
            return
        if frame is not None:
            self._check_sender(topic, frame)
            frame = self._bag_rig.bind(frame)
            self.synchronizer.push(frame, now)
            if now >= self._busy_until and (frame_set := self.synchronizer.take(now)) is not None:
                self._taken_at = now
                yield frame_set

    def _check_sender(self, topic: str, frame: SensorFrame) -> None:
        """Record a problem if a topic alternates between frames or image sizes, as two sensors on it would."""
        payload = frame.payload
        size = f" of {payload.width}x{payload.height}" if isinstance(payload, RawImage) else ""
        sender, senders = f"{frame.frame_id!r}{size}", self._senders.setdefault(topic, [])
        if sender not in senders[-1:]:
            senders.append(sender)
        if len(senders) > _MAX_SENDER_CHANGES:
            names = sorted({*senders})
            message = f"its messages alternate between {' and '.join(names)}: {len(names)} sensors share the topic."
            self.problems[topic] = Problem(message, "Record each sensor on a topic of its own.")
            del senders[:-_MAX_SENDER_CHANGES]

    def _ground_truth(self, message: Any) -> GroundTruth:
        stamp, topic = stamp_ns(message.header), self._ground_truth_topic
        source = f"{self._reader.path}: {topic} at {stamp}:"
        labels = decode_labels(label_image(message), self._space, self._label_map, source)
        return GroundTruth(stamp - self.label_offset, labels)

    def _ready_sets(self, until: int | None = None) -> Iterator[FrameSet]:
        """Yield sets that become ready between two messages, when a max_wait ends or the consumer is free again."""
        for taken, frame_set in ready_sets(self.synchronizer, until, lambda: self._busy_until):
            self._taken_at = taken
            yield frame_set

    def _judge_sensor_clocks(self) -> Clocks:
        """Compare the sensors' clocks; warn about each sensor whose messages the synchronizer will refuse."""
        pairs: dict[Modality, list[tuple[int, int]]] = {}
        for topic, frames in self._frames.items():
            for _, _, recorded, message in islice(self._reader.messages([topic]), CLOCK_SAMPLES):
                pairs.setdefault(frames.modality, []).append((stamp_ns(message.header), recorded))
        if not pairs:
            raise BagError(f"{self._reader.path} has no message of any sensor on {', '.join(self._frames)}.")
        offsets = {frames.modality: frames.offset for frames in self._frames.values()}
        clocks = judge_clocks(pairs, offsets, self.synchronizer.config)
        if clocks.leaders:
            self.warnings.append(
                f"the stamps are {abs(clocks.ahead):.3g} s {'behind' if clocks.ahead < 0 else 'ahead of'} the times of "
                "recording; the evaluation uses the stamps as its clock, a live node would refuse these messages."
            )
        for modality, clock in clocks.foreign.items():
            self.warnings.append(
                f"{modality}: its stamps are {clock.distance} the host's clock, and its messages are refused: "
                f"{clock.cause}. {clock.remedy(modality, offsets[modality] / NANOSECONDS)}"
            )
        return clocks


def _outages_by_topic(outages: Sequence[Outage], topics: Topics) -> dict[str, list[Outage]]:
    """Topic → its outages. An outage's target is a modality, which stands for its topic, or matches topic names."""
    sensors = {modality: source.topic for modality, source in topics.sensors.items()}
    found: dict[str, list[Outage]] = {}
    for outage in outages:
        own = sensors.get(outage.target)
        matching = [own] if own is not None else [topic for topic in sensors.values() if outage.matches(topic)]
        if not matching:
            listed = ", ".join(f"{modality} ({topic})" for modality, topic in sensors.items())
            raise ConfigError(f"drop {outage.target!r} matches no sensor of this bag; it has {listed}.")
        for topic in matching:
            found.setdefault(topic, []).append(outage)
    return found
