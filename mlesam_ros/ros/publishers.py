# SPDX-License-Identifier: Apache-2.0
"""Topics that the node publishes, their publishers, and publishers of serialized messages."""

from __future__ import annotations

import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from mlesam_ros.bags.serialization import Fields, header
from mlesam_ros.config import NodeParameters
from mlesam_ros.errors import ConfigError, Problem, format_error
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace
from mlesam_ros.mask_messages import LABEL_SPACE, MASK_TOPICS, STATUS, InterfaceSpec, label_space, mask_messages
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.diagnostics import message_of
from mlesam_ros.types import FrameSet, Segmentation

ON_DEMAND = "while it has a subscriber"
ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class TopicSpec(InterfaceSpec):
    """A topic that the node publishes.

    Attributes:
        rate: how often it is published.
        when: condition under which it is computed, such as `ON_DEMAND`.
        latched: whether its durability is transient local.
    """

    rate: str = "per mask"
    when: str = ON_DEMAND
    latched: bool = False

    @property
    def qos(self) -> QoSProfile:
        """Reliable QoS with depth 5, or with depth 1 and transient-local durability if latched."""
        if self.latched:
            return QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return QoSProfile(depth=5)


OUTPUTS = {
    **{name: TopicSpec(topic.type_name, topic.meaning) for name, topic in MASK_TOPICS.items()},
    "status": TopicSpec(
        STATUS,
        "Used sensors, skews, ages, router weights, counters, latencies.",
    ),
    "sensor_health": TopicSpec(
        "visualization_msgs/msg/MarkerArray",
        "A sphere with the message of /diagnostics at each sensor's frame.",
        "every second",
    ),
    "label_info": TopicSpec(LABEL_SPACE, "Names, ids and colors of the classes.", "at activation", ALWAYS, True),
    "vision_label_info": TopicSpec(
        "vision_msgs/msg/LabelInfo",
        "Names and ids of the classes.",
        "at activation",
        "if vision_msgs is installed",
        True,
    ),
}
"""Topic below the node's name → its description."""

DIAGNOSTICS = TopicSpec(
    "diagnostic_msgs/msg/DiagnosticArray",
    "A status for the pipeline and each sensor, with remedy.",
    "every second",
    ALWAYS,
)
"""`/diagnostics`, in every state of the lifecycle."""


T = TypeVar("T")


def message_from(kind: type[T], content: Mapping[str, Any]) -> T:
    """Build a message from the same fields as `mlesam_ros.bags.writer.build`.

    Args:
        kind: message class.
        content: field → value; a dict for a nested message, a list of dicts for a list of them, an array for numbers.
            Omitted fields keep their defaults.

    Raises:
        AttributeError: the message has no such field.
    """
    message = kind()
    _fill_message(message, content)
    return message


def fill(field: array.array[int], data: npt.NDArray[Any]) -> None:
    """Copy the bytes of an array into an empty `uint8[]` field of a message, once.

    Some ROS 2 releases copy every value assigned to such a field, even an `array.array`. Filling the existing array
    avoids that copy.
    """
    field.frombytes(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)


def _fill_message(message: Any, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if isinstance(value, Mapping):
            _fill_message(getattr(message, name), value)
        elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
            fill(getattr(message, name), value)
        elif isinstance(value, np.ndarray):
            setattr(message, name, value.ravel().tolist())
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            element = _element(message.get_fields_and_field_types()[name])
            setattr(message, name, [message_from(element, entry) for entry in value])
        else:
            setattr(message, name, value)


@cache
def _element(sequence: str) -> type:
    """Return the message class of the elements of a sequence type, such as `sequence<sensor_msgs/PointField>`."""
    package, _, short = sequence.partition("<")[2].rstrip(">").partition("/")
    found = message_class(f"{package}/msg/{short}")
    assert found is not None
    return found


_COLORS = {
    DiagnosticStatus.OK: (0.2, 0.8, 0.3),
    DiagnosticStatus.WARN: (1.0, 0.8, 0.1),
    DiagnosticStatus.ERROR: (0.95, 0.2, 0.2),
}
_SPHERE_DIAMETER_M, _TEXT_HEIGHT_M = 0.12, 0.1
_MARKER_LIFETIME_S = 3  # without a new report


def health_markers(reports: Iterable[tuple[DiagnosticStatus, str]]) -> MarkerArray:
    """Build a sphere and a text marker for every sensor with a TF frame.

    Args:
        reports: status and TF frame of each sensor; an empty frame if no message was received.
    """
    markers = []
    for number, (status, frame) in enumerate(reports):
        if frame:
            sphere, text = _marker(status, frame, Marker.SPHERE), _marker(status, frame, Marker.TEXT_VIEW_FACING)
            sphere.id, text.id = 2 * number, 2 * number + 1
            sphere.scale.x = sphere.scale.y = sphere.scale.z = _SPHERE_DIAMETER_M
            text.scale.z = _TEXT_HEIGHT_M
            text.text = f"{status.name.rpartition(': ')[2]}: {_shorten(message_of(status).message)}"
            # Stack the texts of sensors in one frame, such as depth registered to the camera.
            text.pose.position.z = _SPHERE_DIAMETER_M + 1.5 * _TEXT_HEIGHT_M * number
            markers += [sphere, text]
    return MarkerArray(markers=markers)


def _marker(status: DiagnosticStatus, frame: str, kind: int) -> Marker:
    red, green, blue = _COLORS[status.level]
    # A zero stamp selects the newest transform.
    marker = Marker(header=Header(frame_id=frame), ns="sensor_health", type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.pose.orientation.w = 1.0
    marker.lifetime.sec = _MARKER_LIFETIME_S
    marker.frame_locked = True
    return marker


def _shorten(message: str, max_length: int = 60) -> str:
    return message if len(message) <= max_length else message[: max_length - 1] + "…"


class MaskPublisher:
    """Lifecycle publishers of one camera's masks below the node's name, which publish only while the node is active.

    Args:
        node: node that publishes.
        label_space: names, ids and colors of the classes.
        camera: name of the camera, below which the topics are; empty for those of the only camera.
    """

    def __init__(self, node: LifecycleNode, label_space: LabelSpace, camera: str = "") -> None:
        self._node = node
        self._prefix = f"~/{camera}/" if camera else "~/"
        self._label_space = label_space
        types = {name: message_class(output.type_name) for name, output in OUTPUTS.items()}
        self._types = {name: kind for name, kind in types.items() if kind is not None}
        self._publishers = {name: self._publisher(kind, name) for name, kind in self._types.items()}

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def publish_label_info(self, stamp: int, threshold: float) -> None:
        """Publish the latched label space.

        Args:
            stamp: stamp in nanoseconds.
            threshold: confidence below which pixels are unlabeled.
        """
        self._publish_fields("label_info", label_space(self._label_space, stamp))
        if "vision_label_info" in self._types:
            self._publish_fields("vision_label_info", vision_fields(self._label_space, stamp, threshold))

    def messages(
        self, segmentation: Segmentation, frame_set: FrameSet, rig: Rig, parameters: NodeParameters
    ) -> dict[str, Callable[[], Fields]]:
        """Prepare the messages of one mask in the publisher's label space; see `mask_messages`."""
        return mask_messages(segmentation, frame_set, rig, self._label_space, parameters)

    def publish(self, makers: Mapping[str, Callable[[], Fields]]) -> list[Problem]:
        """Publish messages of one mask, each if its topic has a subscription.

        Args:
            makers: topic → function that returns its message, of `messages`.

        Returns:
            a problem for each topic whose message could not be made.
        """
        problems = []
        for name, make in makers.items():
            if self._is_subscribed(name):
                try:
                    self._publish_fields(name, make())
                except Exception as error:
                    problem = format_error(error)
                    problems.append(
                        Problem(f"no {self._prefix}{name} for this mask: {problem.message}", problem.remedy)
                    )
        return problems

    def publish_status(self, make: Callable[[], Fields]) -> None:
        """Publish the status of the newest mask, if the topic has a subscription."""
        if self._is_subscribed("status"):
            self._publish_fields("status", make())

    def publish_health(self, reports: Iterable[tuple[DiagnosticStatus, str]]) -> None:
        """Publish markers of the sensors' statuses, if the topic has a subscription. See `health_markers`."""
        if self._is_subscribed("sensor_health"):
            self._publishers["sensor_health"].publish(health_markers(reports))

    def _publisher(self, message: type, name: str) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        create = self._node.create_lifecycle_publisher
        return create(message, f"{self._prefix}{name}", OUTPUTS[name].qos, qos_overriding_options=options)

    def _is_subscribed(self, name: str) -> bool:
        return bool(self._publishers[name].get_subscription_count())

    def _publish_fields(self, name: str, content: Fields) -> None:
        self._publishers[name].publish(message_from(self._types[name], content))


def vision_fields(space: LabelSpace, stamp: int, threshold: float) -> Fields:
    """Return the fields of a `vision_msgs/LabelInfo`."""
    classes = [{"class_id": index, "class_name": name} for index, name in enumerate(space.names)]
    return {"header": header(stamp, ""), "class_map": classes, "threshold": threshold}


class RawPublisher:
    """Reliable publishers of serialized messages, with their own rclpy context."""

    def __init__(self, types: Mapping[str, str], latched: Collection[str] = (), depth: int = 10) -> None:
        """Create the node and its publishers.

        Args:
            types: topic → message type, such as `sensor_msgs/msg/Image`.
            latched: topics with transient-local durability.
            depth: queue depth.

        Raises:
            ConfigError: the package of a message type is not installed.
        """
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("mlesam_raw_publisher", context=self._context)
        self._publishers = {
            topic: self._publisher(topic, type_name, topic in latched, depth) for topic, type_name in types.items()
        }

    def __enter__(self) -> RawPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the node and its context."""
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def publish(self, topic: str, raw: bytes) -> None:
        """Publish a message.

        Args:
            topic: a key of `types`.
            raw: serialized message, CDR with encapsulation.
        """
        self._publishers[topic].publish(raw)

    def _publisher(self, topic: str, type_name: str, latched: bool, depth: int) -> Any:
        message_type = message_class(type_name)
        if message_type is None:
            raise ConfigError(f"{topic} cannot be published: {type_name} is not installed.", "Install its package.")
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        return self._node.create_publisher(message_type, topic, QoSProfile(depth=depth, durability=durability))
