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

from mlesam_ros.config import CameraParameters, NodeParameters
from mlesam_ros.errors import PacketError, Problem, sentence
from mlesam_ros.frame import MODALITIES, Modality, SensorFrame
from mlesam_ros.geometry.rig import Rig, load_rig
from mlesam_ros.rig_learner import RigLearner
from mlesam_ros.ros.wire import unpack

_INFO, _TRANSFORMS = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage"


class RigFeed:
    """Keeps a `Rig` up to date from the moment it is made until `close`.

    What the calibration file says holds until a message says otherwise.

    Raises:
        MlesamError: the calibration file is not usable.
    """

    def __init__(self, node: Node, parameters: NodeParameters) -> None:
        self._node = node
        self._parameters = parameters
        path = parameters.calibration_file
        rig = load_rig(path) if path else Rig(parameters.camera.frame_id)
        self._learner = RigLearner(rig, parameters, self._report)
        self._subscriptions = [*self._subscribe_infos(), *self._subscribe_transforms()]

    @property
    def rig(self) -> Rig:
        """What is known by now. The worker reads it while callbacks write it."""
        return self._learner.rig

    @property
    def problems(self) -> dict[str, Problem]:
        """Topic → what is wrong with a CameraInfo or a transform."""
        return self._learner.problems

    def bind(self, frame: SensorFrame) -> SensorFrame:
        """See `RigLearner.bind`."""
        return self._learner.bind(frame)

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    @property
    def missing(self) -> Problem | None:
        """Why no mask can be made yet; None once the label camera is known."""
        if self.rig.has_camera:
            return None
        topic = self._node.resolve_topic_name(self._parameters.camera.info_topic)
        if topic in self.problems:
            return self.problems[topic]
        state = "publisher present" if self._node.count_publishers(topic) else "no publisher"
        return Problem(
            f"no CameraInfo yet on {topic}, {state}: masks need the camera's size and lens.",
            "Publish it or set calibration_file.",
        )

    def _subscribe_infos(self) -> list[Subscription]:
        cameras = {m: s for m in MODALITIES if isinstance(s := self._parameters.sensor(m), CameraParameters)}
        return [
            self._node.create_subscription(
                CameraInfo,
                sensor.info_topic,
                partial(self._on_info, modality, sensor),
                qos_profile_sensor_data,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                raw=True,
            )
            for modality, sensor in cameras.items()
            if sensor.info_topic
        ]

    def _subscribe_transforms(self) -> list[Subscription]:
        moving = QoSProfile(depth=100)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        create = self._node.create_subscription
        return [
            create(TFMessage, "/tf", partial(self._on_transforms, "/tf"), moving, raw=True),
            create(TFMessage, "/tf_static", partial(self._on_transforms, "/tf_static"), latched, raw=True),
        ]

    def _on_info(self, modality: Modality, sensor: CameraParameters, raw: bytes) -> None:
        topic = self._node.resolve_topic_name(sensor.info_topic)
        if (info := self._unpacked(topic, raw, _INFO)) is not None:
            self._learner.on_camera_info(topic, modality, info)

    def _on_transforms(self, topic: str, raw: bytes) -> None:
        if (message := self._unpacked(topic, raw, _TRANSFORMS)) is not None:
            self._learner.on_transforms(topic, message)

    def _unpacked(self, topic: str, raw: bytes, type_name: str) -> Any:
        """The message; None for bytes that are none, which is a problem like any other."""
        try:
            return unpack(raw, type_name)
        except PacketError as error:
            self._learner.note(topic, sentence(error))
        return None

    def _report(self, topic: str, problem: Problem) -> None:
        self._node.get_logger().warning(f"{topic}: {problem}")
