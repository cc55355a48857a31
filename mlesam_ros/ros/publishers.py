"""Publishers of masks, overlays, point clouds, markers and status."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from mlesam_ros.bags.serialization import Fields, header
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace
from mlesam_ros.mask_messages import label_space, mask_messages
from mlesam_ros.ros.compat import message_class
from mlesam_ros.ros.diagnostics import message_of
from mlesam_ros.ros.topics import OUTPUTS
from mlesam_ros.types import FrameSet, Segmentation

T = TypeVar("T")


def message_from(kind: type[T], content: Mapping[str, Any]) -> T:
    """A message of a class, filled from the same fields as `bags.build.build` takes.

    Args:
        kind: the message's class.
        content: field → value; a dict for a nested message, a list of dicts for a list of them, an array for numbers.
            Fields that are left out keep their defaults.

    Raises:
        AttributeError: the message has no such field.
    """
    message = kind()
    _fill_message(message, content)
    return message


def header_message(stamp: int, frame_id: str) -> Header:
    """Nanoseconds and a TF frame → `std_msgs/Header`."""
    return message_from(Header, header(stamp, frame_id))


def byte_array(data: npt.NDArray[Any]) -> array.array[int]:
    """The bytes of an array, copied once into what message setters take without looking at each element."""
    filled = array.array("B")
    fill(filled, data)
    return filled


def fill(field: array.array[int], data: npt.NDArray[Any]) -> None:
    """Copy the bytes of an array into an empty `uint8[]` field of a message, once.

    Some releases copy what is assigned to such a field, even an `array.array`; what it holds already can be filled.
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
    """The class of the elements of a list of messages, such as that of `sequence<sensor_msgs/PointField>`."""
    package, _, short = sequence.partition("<")[2].rstrip(">").partition("/")
    found = message_class(f"{package}/msg/{short}")
    assert found is not None
    return found


_COLORS = {
    DiagnosticStatus.OK: (0.2, 0.8, 0.3),
    DiagnosticStatus.WARN: (1.0, 0.8, 0.1),
    DiagnosticStatus.ERROR: (0.95, 0.2, 0.2),
}
_BALL, _TEXT = 0.12, 0.1  # m
_LIFE = 3  # s without a report until a marker goes


def health_markers(reports: Iterable[tuple[DiagnosticStatus, str]]) -> MarkerArray:
    """A ball and a text for every sensor whose place is known.

    Args:
        reports: status and TF frame of each sensor; an empty frame for one that was never heard.
    """
    markers = []
    for number, (status, frame) in enumerate(reports):
        if frame:
            ball, text = _marker(status, frame, Marker.SPHERE), _marker(status, frame, Marker.TEXT_VIEW_FACING)
            ball.id, text.id = 2 * number, 2 * number + 1
            ball.scale.x = ball.scale.y = ball.scale.z = _BALL
            text.scale.z, text.text = _TEXT, f"{status.name.rpartition(': ')[2]}: {_short(message_of(status).message)}"
            # Two sensors in one place, such as depth registered to the camera, stand above each other.
            text.pose.position.z = _BALL + 1.5 * _TEXT * number
            markers += [ball, text]
    return MarkerArray(markers=markers)


def _marker(status: DiagnosticStatus, frame: str, kind: int) -> Marker:
    red, green, blue = _COLORS[status.level]
    # Stamp zero is wherever the frame is by now.
    marker = Marker(header=header_message(0, frame), ns="sensor_health", type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.pose.orientation.w = 1.0
    marker.lifetime.sec = _LIFE
    marker.frame_locked = True
    return marker


def _short(message: str, most: int = 60) -> str:
    return message if len(message) <= most else message[: most - 1] + "…"


class MaskPublisher:
    """Lifecycle publishers below the node's name; silent while the node is not active.

    Args:
        node: who publishes.
        label_space: what the labels mean.
    """

    def __init__(self, node: LifecycleNode, label_space: LabelSpace) -> None:
        self._node = node
        self._label_space = label_space
        types = {name: message_class(output.type_name) for name, output in OUTPUTS.items()}
        self._types = {name: kind for name, kind in types.items() if kind is not None}
        self._publishers = {name: self._publisher(kind, name) for name, kind in self._types.items()}

    def close(self) -> None:
        """Take the topics away."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def publish_label_info(self, stamp: int, threshold: float) -> None:
        """Latch what the labels mean.

        Args:
            stamp: nanoseconds.
            threshold: the confidence below which pixels are unlabeled.
        """
        self._send("label_info", label_space(self._label_space, stamp))
        if "vision_label_info" in self._types:
            self._send("vision_label_info", vision_fields(self._label_space, stamp, threshold))

    def publish(self, segmentation: Segmentation, frame_set: FrameSet, rig: Rig, alpha: float) -> None:
        """Publish one mask in every form that somebody listens to, the labels first.

        Args:
            segmentation: the mask.
            frame_set: what it was made from.
            rig: where the sensors sit.
            alpha: weight of the colors in the overlay.
        """
        makers = mask_messages(segmentation, frame_set, rig, self._label_space, alpha)
        for name, make in makers.items():
            if self._heard(name):
                self._send(name, make())

    def publish_status(self, make: Callable[[], Fields]) -> None:
        """Publish the fields of the newest mask's status, if the topic has a subscription."""
        if self._heard("status"):
            self._send("status", make())

    def publish_health(self, reports: Iterable[tuple[DiagnosticStatus, str]]) -> None:
        """Publish how the sensors are doing, if somebody listens; arguments as for `health_markers`."""
        if self._heard("sensor_health"):
            self._publishers["sensor_health"].publish(health_markers(reports))

    def _publisher(self, message: type, name: str) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        create = self._node.create_lifecycle_publisher
        return create(message, f"~/{name}", OUTPUTS[name].qos, qos_overriding_options=options)

    def _heard(self, name: str) -> bool:
        return bool(self._publishers[name].get_subscription_count())

    def _send(self, name: str, content: Fields) -> None:
        self._publishers[name].publish(message_from(self._types[name], content))


def vision_fields(space: LabelSpace, stamp: int, threshold: float) -> Fields:
    """A vision_msgs/LabelInfo."""
    classes = [{"class_id": index, "class_name": name} for index, name in enumerate(space.names)]
    return {"header": header(stamp, ""), "class_map": classes, "threshold": threshold}
