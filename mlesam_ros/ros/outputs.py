"""The node's topics: a picture or a cloud is made only when somebody listens to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mlesam_ros.encoding.picture import to_rgb
from mlesam_ros.frame import CAMERA, LIDAR, Cloud, FrameSet, Segmentation
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace
from mlesam_ros.msg import LabelClass, Status
from mlesam_ros.msg import LabelSpace as LabelSpaceMessage
from mlesam_ros.render import labelled_cloud, overlay, projected_cloud
from mlesam_ros.ros.compat.interfaces import message_class
from mlesam_ros.ros.conversions import header, image_message, points_message
from mlesam_ros.ros.markers import health_markers
from mlesam_ros.ros.topics import OUTPUTS


class Outputs:
    """Lifecycle publishers below the node's name; silent while the node is not active.

    Args:
        node: who publishes.
        label_space: what the labels mean.
    """

    def __init__(self, node: LifecycleNode, label_space: LabelSpace) -> None:
        self._node = node
        self._label_space = label_space
        types = {name: message_class(output.type_name) for name, output in OUTPUTS.items()}
        self._publishers = {name: self._publisher(kind, name) for name, kind in types.items() if kind is not None}
        self._vision_type = types["vision_label_info"]

    def close(self) -> None:
        """Take the topics away."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def announce(self, stamp: int, threshold: float) -> None:
        """Latch what the labels mean.

        Args:
            stamp: nanoseconds.
            threshold: the confidence below which pixels are unlabelled.
        """
        head = header(stamp, "")
        self._publishers["label_info"].publish(label_space_message(self._label_space, head))
        if self._vision_type is not None:
            message = vision_message(self._vision_type, self._label_space, head, threshold)
            self._publishers["vision_label_info"].publish(message)

    def publish(self, segmentation: Segmentation, frame_set: FrameSet, rig: Rig, alpha: float) -> None:
        """Publish one mask in every form that somebody listens to, the labels first.

        Args:
            segmentation: the mask.
            frame_set: what it was made from.
            rig: where the sensors sit.
            alpha: weight of the colours in the overlay.
        """
        head = header(segmentation.stamp, segmentation.frame_id)
        space = self._label_space
        self._when_heard("labels", lambda: image_message(segmentation.labels, "mono8", head))
        self._when_heard("confidence", lambda: image_message(segmentation.confidence, "mono8", head))
        camera, lidar = frame_set.frames.get(CAMERA), frame_set.frames.get(LIDAR)
        picture = cache(lambda: None if camera is None else to_rgb(camera.payload))  # type: ignore[arg-type]

        def colours() -> Image:
            return image_message(overlay(picture(), segmentation.labels, space, alpha), "rgb8", head)

        self._when_heard("overlay", colours)
        if lidar is not None and isinstance(cloud := lidar.payload, Cloud):
            size = rig.camera.height, rig.camera.width
            points_head = header(lidar.stamp, lidar.frame_id)
            self._when_heard(
                "projected_lidar", lambda: image_message(projected_cloud(picture(), lidar, rig, size), "rgb8", head)
            )
            self._when_heard(
                "semantic_points",
                lambda: points_message(labelled_cloud(cloud, segmentation, rig, space, lidar), points_head),
            )

    def publish_status(self, status: Callable[[], Status]) -> None:
        """Publish how the newest mask came about, if somebody listens."""
        self._when_heard("status", status)

    def publish_health(self, reports: Iterable[tuple[DiagnosticStatus, str]]) -> None:
        """Publish how the sensors are doing, if somebody listens; arguments as for `health_markers`."""
        self._when_heard("sensor_health", lambda: health_markers(reports))

    def _publisher(self, message: type, name: str) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        create = self._node.create_lifecycle_publisher
        return create(message, f"~/{name}", OUTPUTS[name].qos, qos_overriding_options=options)

    def _when_heard(self, name: str, make: Callable[[], Any]) -> None:
        publisher = self._publishers[name]
        if publisher.get_subscription_count():
            publisher.publish(make())


def label_space_message(space: LabelSpace, head: Header) -> LabelSpaceMessage:
    """A label space → `mlesam_ros/LabelSpace`."""
    classes = [
        LabelClass(id=index, name=name, red=color[0], green=color[1], blue=color[2])
        for index, (name, color) in enumerate(zip(space.names, space.colors, strict=True))
    ]
    return LabelSpaceMessage(header=head, name=space.name, ignore=space.ignore, classes=classes)


def vision_message(message: type, space: LabelSpace, head: Header, threshold: float) -> Any:
    """A label space → `vision_msgs/LabelInfo`, given that class."""
    entry = message_class("vision_msgs/msg/VisionClass")
    assert entry is not None
    classes = [entry(class_id=index, class_name=name) for index, name in enumerate(space.names)]
    return message(header=head, class_map=classes, threshold=threshold)
