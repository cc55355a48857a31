"""The node's topics: a picture or a cloud is made only when somebody listens to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions

from mlesam_ros.bags.fields import Fields, header
from mlesam_ros.frame import FrameSet, Segmentation
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace
from mlesam_ros.mask_messages import label_space, mask_messages
from mlesam_ros.ros.compat.interfaces import message_class
from mlesam_ros.ros.conversions import message_from
from mlesam_ros.ros.markers import health_markers
from mlesam_ros.ros.topics import OUTPUTS


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
