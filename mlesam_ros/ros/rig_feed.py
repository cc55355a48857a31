"""The rig as CameraInfo, TF and the calibration file tell it."""

from __future__ import annotations

from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo
from tf2_msgs.msg import TFMessage

from mlesam_ros.errors import CalibrationError
from mlesam_ros.frame import CAMERA, MODALITIES, Modality
from mlesam_ros.geometry.camera import CameraModel
from mlesam_ros.geometry.rig import Rig, load_rig
from mlesam_ros.messages import transforms
from mlesam_ros.ros.diagnostics import sentence
from mlesam_ros.ros.parameters import NodeParameters, PictureParameters


class RigFeed:
    """Keeps a `Rig` up to date from the moment it is made until `close`.

    What the calibration file says holds until a message says otherwise.

    Attributes:
        rig: what is known by now. The worker reads it while callbacks write it.
        problems: what is wrong with a CameraInfo or a transform, in words, by topic.

    Raises:
        MlesamError: the calibration file is not usable.
    """

    def __init__(self, node: Node, parameters: NodeParameters) -> None:
        self._node = node
        self._parameters = parameters
        path = parameters.calibration_file
        self.rig = load_rig(path) if path else Rig(parameters.camera.frame_id)
        self.problems: dict[str, str] = {}
        self._last_info: dict[Modality, Any] = {}
        self._subscriptions = [*self._subscribe_infos(), *self._subscribe_transforms()]

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    @property
    def missing(self) -> str | None:
        """Why no mask can be made yet, in words; None once the label camera is known."""
        if self.rig.camera_frame in self.rig.models:
            return None
        topic = self._node.resolve_topic_name(self._parameters.camera.info_topic)
        if topic in self.problems:
            return self.problems[topic]
        state = "publisher present" if self._node.count_publishers(topic) else "no publisher"
        return (
            f"no CameraInfo yet on {topic}, {state}: masks need the camera's size and lens; publish it or set "
            "calibration_file."
        )

    def _subscribe_infos(self) -> list[Subscription]:
        cameras = {m: s for m in MODALITIES if isinstance(s := self._parameters.sensor(m), PictureParameters)}
        return [
            self._node.create_subscription(
                CameraInfo,
                sensor.info_topic,
                partial(self._on_info, modality, sensor),
                qos_profile_sensor_data,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for modality, sensor in cameras.items()
            if sensor.info_topic
        ]

    def _subscribe_transforms(self) -> list[Subscription]:
        moving = QoSProfile(depth=100)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        create = self._node.create_subscription
        return [
            create(TFMessage, "/tf", partial(self._on_transforms, "/tf", False), moving),
            create(TFMessage, "/tf_static", partial(self._on_transforms, "/tf_static", True), latched),
        ]

    def _on_info(self, modality: Modality, sensor: PictureParameters, info: CameraInfo) -> None:
        frame = sensor.frame_id or info.header.frame_id.lstrip("/")
        content: tuple[Any, ...] = (frame, info.height, info.width, info.distortion_model, info.binning_x)
        content += (info.binning_y, info.roi, *(tuple(numbers) for numbers in (info.d, info.k, info.r, info.p)))
        if self._last_info.get(modality) == content:
            return
        self._last_info[modality] = content
        topic = self._node.resolve_topic_name(sensor.info_topic)
        try:
            if not frame:
                raise CalibrationError(f"CameraInfo names no frame; fill header.frame_id or set {modality}.frame_id.")
            camera = CameraModel.from_info(info, sensor.rectified)
            if sensor.fit:
                width, height = sensor.picture_size
                camera = camera.fitted(height, width, sensor.fit)
            self.rig.models[frame] = camera
        except Exception as error:  # whatever is in a message, the node lives on
            self._report(topic, sentence(error))
            return
        self.problems.pop(topic, None)
        if modality == CAMERA:
            self.rig.camera_frame = frame

    def _on_transforms(self, topic: str, static: bool, message: TFMessage) -> None:
        for stamped in message.transforms:  # one by one, so that a bad one does not take the others with it
            try:
                for parent, child, transform, stamp in transforms(TFMessage(transforms=[stamped])):
                    self.rig.tree.set(parent, child, transform, None if static else stamp)
            except Exception as error:  # as above
                self._report(topic, sentence(error))

    def _report(self, topic: str, problem: str) -> None:
        if self.problems.get(topic) != problem:
            self._node.get_logger().warning(f"{topic}: {problem}")
        self.problems[topic] = problem
