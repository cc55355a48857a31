"""Topics and services of the node, and suggestions for sensor topics without a publisher."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import SequenceMatcher

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from mlesam_ros.mask_messages import LABEL_SPACE, MASK_TYPES, STATUS
from mlesam_ros.messages import MESSAGE_TYPES
from mlesam_ros.types import CAMERA, EVENT, Modality

ON_DEMAND = "while somebody listens"
ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic that the node publishes.

    Attributes:
        type_name: message type, such as `sensor_msgs/msg/Image`.
        meaning: description of the content.
        rate: how often it is published.
        when: condition under which it is computed, such as `ON_DEMAND`.
        latched: whether its durability is transient local.
    """

    type_name: str
    meaning: str
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
    "labels": TopicSpec(
        MASK_TYPES["labels"],
        "mono8: class id per pixel, 255 where unlabelled; the camera's stamp and frame, and its size or the network's "
        "(`labels_resolution`).",
    ),
    "confidence": TopicSpec(MASK_TYPES["confidence"], "mono8: probability of that class times 255."),
    "overlay": TopicSpec(MASK_TYPES["overlay"], "rgb8: the classes' colours on the camera's picture, for people."),
    "projected_lidar": TopicSpec(
        MASK_TYPES["projected_lidar"],
        "rgb8: LiDAR points on the camera's picture, red near and blue far: is the calibration right?",
    ),
    "semantic_points": TopicSpec(
        MASK_TYPES["semantic_points"],
        "x y z intensity label rgb: the LiDAR points that the camera sees with their class, in the LiDAR's frame.",
    ),
    "status": TopicSpec(
        STATUS,
        "How the mask came about: sensors used, skews, ages, router weights, counters, latencies.",
    ),
    "sensor_health": TopicSpec(
        "visualization_msgs/msg/MarkerArray",
        "A ball and the words of /diagnostics at each sensor's place: green, yellow or red.",
        "every second",
    ),
    "label_info": TopicSpec(LABEL_SPACE, "Names, ids and colours of the classes.", "at activation", ALWAYS, True),
    "vision_label_info": TopicSpec(
        "vision_msgs/msg/LabelInfo",
        "The same for those who speak vision_msgs.",
        "at activation",
        "where vision_msgs is installed",
        True,
    ),
}
"""Topic below the node's name → its description."""

DIAGNOSTICS = TopicSpec(
    "diagnostic_msgs/msg/DiagnosticArray",
    "A status for the pipeline and for each sensor, in words.",
    "every second",
    ALWAYS,
)
"""`/diagnostics`, in every state of the lifecycle."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the node, beside those of every lifecycle node."""

    type_name: str
    meaning: str


SERVICES = {
    "save_snapshot": Service(
        "std_srvs/srv/Trigger",
        "Writes the sensor messages, CameraInfo and TF of the last `snapshot_seconds` as a bag and answers with its "
        "path, or with the reason why not.",
    ),
}
"""Service below the node's name → its description."""


_MOST = 3


def suggest_topics(node: Node, modality: Modality, topic: str, taken: Collection[str]) -> list[str]:
    """Suggest topics of the graph for a sensor.

    Args:
        node: node that queries the graph.
        modality: modality of the sensor.
        topic: configured topic of the sensor.
        taken: topics of other sensors.

    Returns:
        at most three topics that have a publisher and a message type of the modality, except outputs of a perception
        node, the most similar name first.
    """
    pictures = MESSAGE_TYPES[CAMERA] if modality == EVENT else ()  # images of events are possible, but rare
    types = {*MESSAGE_TYPES[modality]} - {*pictures}
    found = [
        name
        for name, offered in node.get_topic_names_and_types()
        if types & {*offered}
        and name not in taken
        and name.rpartition("/")[2] not in OUTPUTS
        and node.count_publishers(name)
    ]
    return sorted(found, key=lambda name: -SequenceMatcher(None, topic, name).ratio())[:_MOST]


def instead(found: Collection[str]) -> str:
    """Format suggested topics as the end of a remedy, such as ` to /points`; empty for none."""
    return f" to {' or '.join(found)}" if found else ""
