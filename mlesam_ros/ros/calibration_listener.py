# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to CameraInfo and TF that keep the rig up to date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo
from tf2_msgs.msg import TFMessage

from mlesam_ros.bags.serialization import deserialize
from mlesam_ros.config import NodeParameters, initial_rig
from mlesam_ros.errors import PacketError, Problem, format_error
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.messages import CAMERA_INFO, TF_MESSAGE
from mlesam_ros.parameter_groups import CameraParameters
from mlesam_ros.rig_builder import RigBuilder, is_static
from mlesam_ros.ros.subscribers import endpoint_name
from mlesam_ros.types import MODALITIES, Modality, SensorFrame

_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
_DEFAULT_TOPICS = {False: "/tf", True: "/tf_static"}
"""Whether transforms are static → default topic, used unless the sensors' namespace has its own."""


class TopicListener:
    """Subscriptions to one topic, with a further one for each publisher whose QoS the first does not match.

    A volatile subscription does not receive earlier messages of a transient-local publisher. A transient-local
    subscription receives nothing from a volatile publisher, and a reliable one nothing from a best-effort publisher.

    Args:
        node: node that subscribes.
        topic: topic name, relative or absolute.
        message: message class.
        callback: called with the serialized bytes of each message, possibly twice.
        qos: QoS of the first subscription; `qos_overrides.<topic>.subscription.*` take precedence.
    """

    def __init__(
        self, node: Node, topic: str, message: type, callback: Callable[[bytes], None], qos: QoSProfile
    ) -> None:
        self._node, self._topic, self._depth = node, node.resolve_topic_name(topic), qos.depth
        self._create = partial(node.create_subscription, message, topic, callback, raw=True)
        self._subscriptions: list[Subscription[Any]] = [
            self._create(qos, qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE))
        ]

    def poll(self) -> None:
        """Add a subscription for each publisher that no existing one receives completely."""
        for publisher in self._node.get_publishers_info_by_topic(self._topic):
            offered = publisher.qos_profile
            if not any(_receives_all(subscription.qos_profile, offered) for subscription in self._subscriptions):
                kinds = {"durability": offered.durability, "reliability": offered.reliability}
                self._subscriptions.append(self._create(QoSProfile(depth=self._depth, **kinds)))

    def close(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()


def _receives_all(requested: QoSProfile, offered: QoSProfile) -> bool:
    """Whether a subscription receives all messages of a publisher, latched ones included."""
    latched = offered.durability == DurabilityPolicy.TRANSIENT_LOCAL
    wants_latched = requested.durability == DurabilityPolicy.TRANSIENT_LOCAL
    lossy = offered.reliability == ReliabilityPolicy.BEST_EFFORT
    if latched and not lossy:
        return wants_latched and requested.reliability == ReliabilityPolicy.RELIABLE
    if offered.durability == DurabilityPolicy.VOLATILE and wants_latched:
        return False
    return not (lossy and requested.reliability == ReliabilityPolicy.RELIABLE)


class CalibrationListener:
    """Keeps a `Rig` up to date from its construction until `close`.

    Received messages override values of the calibration file.

    Args:
        node: node that subscribes.
        parameters: parameters at configure.
        keep: called with topic, message type, serialized bytes, and whether the message is a static transform.
        first: listener of another camera of the node, whose transforms this one shares, and the CameraInfo that both
            read; None for its own.

    Raises:
        MlesamError: the calibration file is invalid.
    """

    def __init__(
        self,
        node: Node,
        parameters: NodeParameters,
        keep: Callable[[str, str, bytes, bool], None] = lambda topic, type_name, raw, static: None,
        first: CalibrationListener | None = None,
    ) -> None:
        self._node, self._keep = node, keep
        self._parameters = parameters
        self._is_first = first is None
        topics = {m: node.resolve_topic_name(parameters.sensor(m).topic) for m in MODALITIES}
        rig = initial_rig(parameters)
        self._builder = RigBuilder(
            rig if first is None else replace(rig, tree=first.rig.tree), parameters, self._report, topics
        )
        self._sensors: list[str] = [] if first is None else first._sensors  # topics that the transforms are for
        self._sensors += [topics[modality] for modality in parameters.modalities]
        # topic of CameraInfo → builder and modality of each stream that it describes
        self._readers: dict[str, list[tuple[RigBuilder, Modality]]] = {} if first is None else first._readers
        self._infos = self._info_listeners()
        self._transforms = {
            static: {topic: self._transform_listener(topic, static)} if first is None else {}
            for static, topic in _DEFAULT_TOPICS.items()
        }
        backward = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jumps = node.get_clock().create_jump_callback(backward, post_callback=self._on_clock_jump)

    @property
    def rig(self) -> Rig:
        """Rig learned so far. The worker thread reads it while callbacks write it."""
        return self._builder.rig

    @property
    def problems(self) -> dict[str, Problem]:
        """Topic → problem of its CameraInfo or transforms."""
        return self._builder.problems

    @property
    def received_topics(self) -> set[str]:
        """Transform topics on which a message was received."""
        return self._builder.received

    def bind(self, frame: SensorFrame) -> SensorFrame:
        """See `RigBuilder.bind`."""
        return self._builder.bind(frame)

    @property
    def competing_publishers(self) -> Problem | None:
        """Problem of several nodes that publish one CameraInfo; None otherwise. A restarted driver keeps its name."""
        for modality in MODALITIES:
            sensor = self._parameters.sensor(modality)
            if isinstance(sensor, CameraParameters) and sensor.info_topic:
                topic = self._node.resolve_topic_name(sensor.info_topic)
                infos = self._node.get_publishers_info_by_topic(topic)
                names = sorted({endpoint_name(info) for info in infos})
                if len(names) > 1:
                    message = f"{len(names)} publishers on {topic}: {', '.join(names)}."
                    return Problem(message, f"Stop all but one of them, or set {modality}.info_topic to another topic.")
        return None

    def close(self) -> None:
        """Destroy the subscriptions and remove the jump callback."""
        for listener in self._listeners:
            listener.close()
        self._jumps.unregister()

    def poll(self) -> None:
        """Adapt the subscriptions to new and removed publishers. To be called periodically."""
        if self._is_first:
            self._follow_namespace()
        for listener in self._listeners:
            listener.poll()

    @property
    def _listeners(self) -> list[TopicListener]:
        return [*self._infos, *(one for listeners in self._transforms.values() for one in listeners.values())]

    @property
    def missing(self) -> Problem | None:
        """Problem that prevents masks: missing CameraInfo of the label camera. None once it was received."""
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

    def _info_listeners(self) -> list[TopicListener]:
        """Listeners to the topics that no listener of the node has yet."""
        found, qos = [], QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        for modality in MODALITIES:
            sensor = self._parameters.sensor(modality)
            if not isinstance(sensor, CameraParameters) or not sensor.info_topic:
                continue
            topic = self._node.resolve_topic_name(sensor.info_topic)
            if topic not in self._readers:
                callback = partial(self._on_camera_info, topic)
                found.append(TopicListener(self._node, sensor.info_topic, CameraInfo, callback, qos))
            self._readers.setdefault(topic, []).append((self._builder, modality))
        return found

    def _transform_listener(self, topic: str, static: bool) -> TopicListener:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE
        name = self._node.resolve_topic_name(topic)
        qos = QoSProfile(depth=100, durability=durability)
        return TopicListener(self._node, topic, TFMessage, partial(self._on_transforms, name, static), qos)

    def _follow_namespace(self) -> None:
        """Subscribe to the transforms of the sensors' namespace once they have a publisher.

        A topic that loses its publisher stays subscribed, and its transforms are kept. Topics that /tf or /tf_static
        are remapped to are never replaced.
        """
        node = self._node
        defaults = {
            static: topic for static, topic in _DEFAULT_TOPICS.items() if node.resolve_topic_name(topic) == topic
        }
        available = [t for t, types in node.get_topic_names_and_types() if TF_MESSAGE in types]
        available = [topic for topic in available if node.count_publishers(topic)]
        followed = [topic for static in defaults for topic in self._transforms[static]]
        available += [
            topic for topic in followed if topic in self.received_topics or topic not in _DEFAULT_TOPICS.values()
        ]
        available = [topic for topic in dict.fromkeys(available) if is_static(topic) in defaults]
        chosen = self._builder.choose_topics(available, self._sensors)
        for static, default in defaults.items():
            wanted = [topic for topic in chosen if is_static(topic) == static] or [default]
            listeners = self._transforms[static]
            for topic in [topic for topic in listeners if topic not in wanted]:
                listeners.pop(topic).close()
                self.rig.tree.remove_source(topic)
            for topic in wanted:
                if topic not in listeners:
                    listeners[topic] = self._transform_listener(topic, static)

    def _on_camera_info(self, topic: str, raw: bytes) -> None:
        self._keep(topic, CAMERA_INFO, raw, False)
        readers = self._readers[topic]
        if (info := self._deserialize(topic, raw, CAMERA_INFO, *(builder for builder, _ in readers))) is not None:
            for builder, modality in readers:
                builder.on_camera_info(topic, modality, info)

    def _on_transforms(self, topic: str, static: bool, raw: bytes) -> None:
        self._keep(topic, TF_MESSAGE, raw, static)
        if (message := self._deserialize(topic, raw, TF_MESSAGE, self._builder)) is not None:
            self._builder.on_transforms(topic, message, static)

    def _on_clock_jump(self, jump: TimeJump) -> None:
        self.rig.tree.clock_jumped_to(int(self._node.get_clock().now().nanoseconds))

    def _deserialize(self, topic: str, raw: bytes, type_name: str, *builders: RigBuilder) -> Any:
        """Deserialize a message; on failure note the problem in the builders and return None."""
        try:
            return deserialize(raw, type_name)
        except PacketError as error:
            for builder in builders:
                builder.note(topic, format_error(error))
        return None

    def _report(self, topic: str, problem: Problem) -> None:
        self._node.get_logger().warning(f"{topic}: {problem}")
