"""Topics that the node publishes, and suggestions for topics that have no publisher."""

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
        type_name: such as `sensor_msgs/msg/Image`.
        meaning: what it says.
        when: `ON_DEMAND`, or another word on when it is computed.
        latched: transient local, for those who come late.
        rate: when it is published.
    """

    type_name: str
    meaning: str
    rate: str = "per mask"
    when: str = ON_DEMAND
    latched: bool = False

    @property
    def qos(self) -> QoSProfile:
        """Reliable; the newest five, or the last one for ever."""
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
"""Topic below the node's name → what it is."""

DIAGNOSTICS = TopicSpec(
    "diagnostic_msgs/msg/DiagnosticArray",
    "A status for the pipeline and for each sensor, in words.",
    "every second",
    ALWAYS,
)
"""`/diagnostics`, in every state of the lifecycle."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service that the node offers beside those of every lifecycle node."""

    type_name: str
    meaning: str


SERVICES = {
    "save_snapshot": Service(
        "std_srvs/srv/Trigger",
        "Writes the sensor messages, CameraInfo and TF of the last `snapshot_seconds` as a bag and answers with its "
        "path, or with the reason why not.",
    ),
}
"""Service below the node's name → what it does."""


_MOST = 3


def suggest_topics(node: Node, modality: Modality, topic: str, taken: Collection[str]) -> list[str]:
    """Look through the graph.

    Args:
        node: whose graph it is.
        modality: which sensor.
        topic: where it is looked for.
        taken: topics that other sensors are read from.

    Returns:
        topics that somebody publishes with one of its message types, a perception node's own left out; at most three,
        the name that is most alike first.
    """
    pictures = MESSAGE_TYPES[CAMERA] if modality == EVENT else ()  # which can be event pictures, but hardly are
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
    """Such topics as the end of an advice to set a parameter: ` to /points`; empty for none."""
    return f" to {' or '.join(found)}" if found else ""
