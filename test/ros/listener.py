# SPDX-License-Identifier: Apache-2.0
"""Subscriber to the outputs of the node."""

from __future__ import annotations

from collections import defaultdict

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from mlesam_ros.messages import stamp_ns
from mlesam_ros.msg import LabelSpace, Status

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OUTPUTS = {
    **dict.fromkeys(("labels", "confidence", "overlay", "projected_lidar"), Image),
    **dict.fromkeys(("aligned/labels", "aligned/confidence"), Image),
    **dict.fromkeys(("aligned/points", "obstacle_points", "ground_points"), PointCloud2),
    "overlay/compressed": CompressedImage,
    "camera_info": CameraInfo,
    "semantic_points": PointCloud2,
    "status": Status,
    "sensor_health": MarkerArray,
}


class Listener:
    """Subscribes to everything below a node's name.

    Attributes:
        got: topic's last word → messages, in order.
        reports: part of the node, such as `lidar` or `pipeline` → its newest diagnostic status.
    """

    def __init__(self, node, name: str = "mlesam", outputs=tuple(OUTPUTS)) -> None:
        self.got: dict[str, list] = defaultdict(list)
        self.reports: dict[str, object] = {}
        for output in outputs:
            node.create_subscription(OUTPUTS[output], f"/{name}/{output}", self.got[output].append, 20)
        node.create_subscription(LabelSpace, f"/{name}/label_info", self.got["label_info"].append, LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._report, 10)

    def _report(self, message) -> None:
        for status in message.status:
            self.reports[status.name.split(": ")[1]] = status

    def words(self, part: str) -> str:
        """Newest message of /diagnostics on a part of the node."""
        return self.reports[part].message if part in self.reports else ""

    def stamps(self, output: str) -> list[int]:
        """Stamps of the messages received on a topic."""
        return [stamp_ns(message.header) for message in self.got[output]]

    def masks_from(self, *sensors: str) -> list:
        """Statuses of masks that were made from exactly these sensors."""
        return [s for s in self.got["status"] if {x.modality for x in s.sensors if x.used} == set(sensors)]
