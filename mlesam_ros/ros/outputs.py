"""The node's topics: a picture or a cloud is made only when somebody listens to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

from mlesam_ros.encoding.picture import to_rgb
from mlesam_ros.frame import CAMERA, LIDAR, Cloud, FrameSet, Segmentation
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace
from mlesam_ros.msg import LabelClass, Status
from mlesam_ros.msg import LabelSpace as LabelSpaceMessage
from mlesam_ros.render import labelled_cloud, overlay
from mlesam_ros.ros.compat.interfaces import message_class
from mlesam_ros.ros.conversions import header, image_message, points_message

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """Lifecycle publishers below the node's name; silent while the node is not active.

    Args:
        node: who publishes.
        label_space: what the labels mean.
    """

    def __init__(self, node: LifecycleNode, label_space: LabelSpace) -> None:
        self._node = node
        self._label_space = label_space
        self._labels = self._publisher(Image, "labels")
        self._confidence = self._publisher(Image, "confidence")
        self._overlay = self._publisher(Image, "overlay")
        self._points = self._publisher(PointCloud2, "semantic_points")
        self._status = self._publisher(Status, "status")
        self._label_space_info = self._publisher(LabelSpaceMessage, "label_info", _LATCHED)
        self._vision_type = message_class("vision_msgs/msg/LabelInfo")
        self._vision_info: Any = None
        if self._vision_type is not None:
            self._vision_info = self._publisher(self._vision_type, "vision_label_info", _LATCHED)

    def close(self) -> None:
        """Take the topics away."""
        for publisher in (self._labels, self._confidence, self._overlay, self._points, self._status):
            self._node.destroy_lifecycle_publisher(publisher)
        for publisher in (self._label_space_info, self._vision_info):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)

    def announce(self, stamp: int, threshold: float) -> None:
        """Latch what the labels mean.

        Args:
            stamp: nanoseconds.
            threshold: the confidence below which pixels are unlabelled.
        """
        head = header(stamp, "")
        self._label_space_info.publish(label_space_message(self._label_space, head))
        if self._vision_type is not None:
            self._vision_info.publish(vision_message(self._vision_type, self._label_space, head, threshold))

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
        _when_heard(self._labels, lambda: image_message(segmentation.labels, "mono8", head))
        _when_heard(self._confidence, lambda: image_message(segmentation.confidence, "mono8", head))
        camera, lidar = frame_set.frames.get(CAMERA), frame_set.frames.get(LIDAR)

        def colours() -> Image:
            rgb = None if camera is None else to_rgb(camera.payload)  # type: ignore[arg-type]
            return image_message(overlay(rgb, segmentation.labels, space, alpha), "rgb8", head)

        _when_heard(self._overlay, colours)
        if lidar is not None and isinstance(cloud := lidar.payload, Cloud):
            points_head = header(lidar.stamp, lidar.frame_id)
            _when_heard(
                self._points,
                lambda: points_message(labelled_cloud(cloud, segmentation, rig, space, lidar), points_head),
            )

    def publish_status(self, status: Callable[[], Status]) -> None:
        """Publish how the newest mask came about, if somebody listens."""
        _when_heard(self._status, status)

    def _publisher(self, message: type, name: str, qos: QoSProfile | None = None) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        create = self._node.create_lifecycle_publisher
        return create(message, f"~/{name}", qos or QoSProfile(depth=5), qos_overriding_options=options)


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


def _when_heard(publisher: Any, make: Callable[[], Any]) -> None:
    if publisher.get_subscription_count():
        publisher.publish(make())
