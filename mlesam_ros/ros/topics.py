"""The topics and services below the node's name, each in one place; `docs/node.md` is made from it."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.qos import DurabilityPolicy, QoSProfile

from mlesam_ros.mask_messages import LABEL_SPACE, MASK_TYPES, STATUS

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
