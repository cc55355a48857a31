"""Publishers of masks, overlays, point clouds, markers and status, and the conversion of fields to messages."""

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


def header_message(stamp: int, frame_id: str) -> Header:
    """Build a `std_msgs/Header` from a stamp in nanoseconds and a TF frame."""
    return message_from(Header, header(stamp, frame_id))


def byte_array(data: npt.NDArray[Any]) -> array.array[int]:
    """Copy an array once into a byte array that message setters accept without a check of each element."""
    filled = array.array("B")
    fill(filled, data)
    return filled


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
_BALL, _TEXT = 0.12, 0.1  # sphere diameter and text height, m
_LIFE = 3  # s, lifetime of a marker without a new report


def health_markers(reports: Iterable[tuple[DiagnosticStatus, str]]) -> MarkerArray:
    """Build a sphere and a text marker for every sensor with a TF frame.

    Args:
        reports: status and TF frame of each sensor; an empty frame if no message was received.
    """
    markers = []
    for number, (status, frame) in enumerate(reports):
        if frame:
            ball, text = _marker(status, frame, Marker.SPHERE), _marker(status, frame, Marker.TEXT_VIEW_FACING)
            ball.id, text.id = 2 * number, 2 * number + 1
            ball.scale.x = ball.scale.y = ball.scale.z = _BALL
            text.scale.z, text.text = _TEXT, f"{status.name.rpartition(': ')[2]}: {_short(message_of(status).message)}"
            # Stack the texts of sensors in one frame, such as depth registered to the camera.
            text.pose.position.z = _BALL + 1.5 * _TEXT * number
            markers += [ball, text]
    return MarkerArray(markers=markers)


def _marker(status: DiagnosticStatus, frame: str, kind: int) -> Marker:
    red, green, blue = _COLORS[status.level]
    # A zero stamp selects the newest transform.
    marker = Marker(header=header_message(0, frame), ns="sensor_health", type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.pose.orientation.w = 1.0
    marker.lifetime.sec = _LIFE
    marker.frame_locked = True
    return marker


def _short(message: str, most: int = 60) -> str:
    return message if len(message) <= most else message[: most - 1] + "…"


class MaskPublisher:
    """Lifecycle publishers below the node's name, which publish only while the node is active.

    Args:
        node: node that publishes.
        label_space: names, ids and colors of the classes.
    """

    def __init__(self, node: LifecycleNode, label_space: LabelSpace) -> None:
        self._node = node
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
        self._send("label_info", label_space(self._label_space, stamp))
        if "vision_label_info" in self._types:
            self._send("vision_label_info", vision_fields(self._label_space, stamp, threshold))

    def publish(self, segmentation: Segmentation, frame_set: FrameSet, rig: Rig, alpha: float) -> None:
        """Publish one mask on every topic that has a subscription, the labels first.

        Args:
            segmentation: the mask.
            frame_set: frames that the mask was made from.
            rig: intrinsics and extrinsics of the sensors.
            alpha: weight of the colors in the overlay.
        """
        makers = mask_messages(segmentation, frame_set, rig, self._label_space, alpha)
        for name, make in makers.items():
            if self._heard(name):
                self._send(name, make())

    def publish_status(self, make: Callable[[], Fields]) -> None:
        """Publish the status of the newest mask, if the topic has a subscription."""
        if self._heard("status"):
            self._send("status", make())

    def publish_health(self, reports: Iterable[tuple[DiagnosticStatus, str]]) -> None:
        """Publish markers of the sensors' statuses, if the topic has a subscription. See `health_markers`."""
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
    """Return the fields of a `vision_msgs/LabelInfo`."""
    classes = [{"class_id": index, "class_name": name} for index, name in enumerate(space.names)]
    return {"header": header(stamp, ""), "class_map": classes, "threshold": threshold}
